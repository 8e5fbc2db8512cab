import java.io.IOException;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import org.apache.zookeeper.KeeperException;
import org.apache.zookeeper.Watcher.Event.KeeperState;
import org.apache.zookeeper.ZooKeeper;

/**
 * ZooKeeper's own client as a reader of bench.failover, all settings but the session timeout its defaults:
 * java Reader SERVERS FIRST TIMEOUT_MS PATH READS_BEFORE READS_AFTER SHORTEST_GAP_NS
 *
 * What it says and is told, and when, is written in bench/reading.py.
 */
public final class Reader {
    private static volatile boolean faultIsOver;

    /** Only a subclass may ask where the connection leads. */
    private static final class Client extends ZooKeeper {
        private Client(String servers, int timeoutMs, CountDownLatch connected) throws IOException {
            super(servers, timeoutMs, event -> {
                if (event.getState() == KeeperState.SyncConnected) {
                    connected.countDown();
                }
            });
        }

        private boolean isAt(String address) {
            return String.valueOf(testableRemoteSocketAddress()).endsWith(address);
        }
    }

    private static Client clientAt(String first, String servers, int timeoutMs) throws Exception {
        while (true) {
            CountDownLatch connected = new CountDownLatch(1);
            Client client = new Client(servers, timeoutMs, connected);
            if (connected.await(30, TimeUnit.SECONDS) && client.isAt(first)) {
                return client;
            }
            client.close();
        }
    }

    public static void main(String[] arguments) throws Exception {
        String path = arguments[3];
        int readsBefore = Integer.parseInt(arguments[4]);
        int readsAfter = Integer.parseInt(arguments[5]);
        long shortest = Long.parseLong(arguments[6]);
        Client client = clientAt(arguments[1], arguments[0], Integer.parseInt(arguments[2]));
        listen();

        byte[] expected = null;
        List<long[]> gaps = new ArrayList<>();
        long last = 0;
        int before = 0;
        int after = 0;
        while (after < readsAfter) {
            boolean beganAfter = faultIsOver;
            byte[] data;
            try {
                data = client.getData(path, false, null);
            } catch (KeeperException error) {
                continue;
            }
            long now = System.nanoTime();
            if (expected == null) {
                expected = data;
            } else if (now - last >= shortest) {
                gaps.add(new long[] {last, now});
            }
            last = now;
            if (!Arrays.equals(data, expected)) {
                throw new IllegalStateException("another value was read");
            }
            after += beganAfter ? 1 : 0;
            if (++before == readsBefore) {
                System.out.println("ready " + client.getSessionId());
            }
        }
        for (long[] gap : gaps) {
            System.out.println("gap " + gap[0] + " " + gap[1]);
        }
        System.out.println("done");
        client.close();
        System.exit(0);
    }

    private static void listen() {
        Thread listener = new Thread(() -> {
            try {
                System.in.read();
            } catch (IOException error) {
                throw new IllegalStateException(error);
            }
            faultIsOver = true;
        });
        listener.setDaemon(true);
        listener.start();
    }
}
