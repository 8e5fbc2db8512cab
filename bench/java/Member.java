import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.leader.LeaderLatch;
import org.apache.curator.framework.recipes.leader.LeaderLatchListener;
import org.apache.curator.retry.ExponentialBackoffRetry;

/**
 * Curator's LeaderLatch as a member of bench.handover: java Member SERVER PATH NAME TIMEOUT_MS
 *
 * What it says and is told, and when, is written in bench/members/__init__.py.
 */
public final class Member {
    private static final int CONNECTION_TIMEOUT_MS = 15_000;

    private static LeaderLatch join(CuratorFramework client, String path, String name) throws Exception {
        LeaderLatch latch = new LeaderLatch(client, path, name);
        latch.addListener(new LeaderLatchListener() {
            @Override
            public void isLeader() {
                System.out.println("leads " + System.nanoTime());
            }

            @Override
            public void notLeader() {
                // It was told to resign.
            }
        });
        latch.start();
        return latch;
    }

    private static void resign(LeaderLatch latch) throws IOException {
        long began = System.nanoTime();
        latch.close();
        System.out.println("resigned " + began);
    }

    public static void main(String[] arguments) throws Exception {
        CuratorFramework client = CuratorFrameworkFactory.newClient(
                arguments[0],
                Integer.parseInt(arguments[3]),
                CONNECTION_TIMEOUT_MS,
                new ExponentialBackoffRetry(1000, 3));
        client.start();
        client.blockUntilConnected();
        LeaderLatch latch = null;
        BufferedReader orders = new BufferedReader(new InputStreamReader(System.in));
        for (String order = orders.readLine(); order != null; order = orders.readLine()) {
            if (order.equals("join")) {
                latch = join(client, arguments[1], arguments[2]);
            } else {
                resign(latch);
            }
        }
        client.close();
        System.exit(0);
    }
}
