"""Level 3: the whole client, first among bad servers, then with a healthy one.

What is promised: every call ends, with a value or an `EverlatchError`; when the servers are healthy again the client
is connected, and its calls are answered rightly; `close` ends, whatever the servers do, and leaves no task and no
connection; nothing reaches the event loop's exception handler. With SASL nobody is told a secret, in logs neither.

Rules of this file: a case is made from its seed and number alone; it runs on a `VirtualLoop`, in no time. A client
whose credentials a mutant has refused may stay away: that is what `AUTH_FAILED` is for. Its calls must end all the
same.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import random
from typing import TYPE_CHECKING, Any

from everlatch import Client
from everlatch.errors import EverlatchError
from everlatch.types import State
from fuzz.findings import BrokenPromiseError, Finding, described
from fuzz.line import Line
from fuzz.secrecy import Eavesdropper, Mechanism, Secrets
from fuzz.server import World
from fuzz.shields import Shields
from fuzz.virtual import StuckError, VirtualLoop
from fuzz.watchdog import Hang

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fuzz.findings import Findings
    from fuzz.recordings import Corpus
    from fuzz.shields import ShieldedLine
    from fuzz.virtual import MemoryTransport
    from fuzz.watchdog import Watchdog

__all__ = ["Clients", "TlsClients"]

_SERVERS = ("10.0.0.1:2181", "10.0.0.1:2181,10.0.0.2:2181", "10.0.0.1:2181,10.0.0.2:2181,named:2181")
_PATIENCE = 10_000.0
"""Virtual seconds in which a client must find a healthy server, and its calls must end."""
_CLOSING = 30.0
"""Virtual seconds that closing may take: its own limit is 5."""
_WATCHED = ("/", "/n1", "/n2")
_PIECES = (1, 5, 20, 200, 5000, 100_000, 100_000)
_REPLY_LIMIT = 1 << 16
_WITH_SASL = 5
"""In one case of so many the client authenticates by SASL."""
_COLLECTED = 32
"""In one case of so many the garbage collector runs: errors that nobody has fetched are told then."""


class _Connection:
    """The server's end: delivers what its `Line` has, in pieces, now and later."""

    def __init__(self, case: _Case, line: Line | ShieldedLine, transport: MemoryTransport) -> None:
        self._case = case
        self._line = line
        self._transport = transport
        self._scheduled = False
        transport.on_write = self._written
        transport.on_close = lambda: case.connections.discard(self)
        case.connections.add(self)

    def end(self) -> None:
        self._transport.lose(ConnectionResetError("the server is gone"))

    def _written(self, data: bytes) -> None:
        self._line.receive(data)
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled and self._line.waiting and not self._transport.is_closing():
            self._scheduled = True
            delay = self._case.rng.choice((0.0, 0.0, 0.001, 0.05)) * self._case.rng.random()
            self._case.loop.call_later(delay, self._deliver)

    def _deliver(self) -> None:
        self._scheduled = False
        if self._transport.is_closing():
            return
        data, _ = self._line.take(self._case.rng.choice(_PIECES))
        self._case.delivered += data
        if self._case.is_bad and self._case.rng.random() < 0.01:
            self.end()
        else:
            self._transport.deliver(data)
        if self._line.ends and not self._line.waiting:
            self._transport.lose(None)
        self._schedule()


class _Case:
    """One client, from its start to its end."""

    def __init__(
        self,
        rng: random.Random,
        corpus: Corpus,
        pool: list[bytes],
        mechanism: Mechanism | None,
        shields: Shields | None,
    ) -> None:
        self.rng = rng
        self._mechanism = mechanism
        self.secrets = None if mechanism is None and shields is None else Secrets(Shields.secret)
        self._shields = shields
        self.delivered = bytearray()
        """All that the servers sent: the input of this case."""
        self.connections: set[_Connection] = set()
        self.is_bad = True
        self._corpus = corpus
        self._pool = pool
        self._world = World()
        self._healed = asyncio.Event()
        self._calls: list[asyncio.Future[Any]] = []
        self._watchers: list[asyncio.Task[None]] = []
        """Who reads persistent watches: until the client's end."""
        self._serial = 0
        self.loop = VirtualLoop(self._connect)

    def run(self, *, collect: bool) -> None:
        """Raises what must not happen; `collect`: also what only the garbage collector brings to light."""
        try:
            self.loop.run_until_complete(self._main())
            if collect:
                gc.collect()
            self._check_leftovers()
        except Exception:
            self._tell_hang()
            raise
        finally:
            self._clean_up()

    # -- the servers

    async def _connect(self, address: tuple[str, int]) -> Callable[[Any], object]:
        await asyncio.sleep(self.rng.random() * 0.01)
        if self.is_bad:
            choice = self.rng.random()
            if choice < 0.1:
                raise ConnectionRefusedError(f"nobody listens on {address}")
            if choice < 0.15:
                await self._healed.wait()
        secrets = None if self._mechanism is None else self.secrets
        line = Line(self.rng, self._corpus, self._pool, self._world, healthy=not self.is_bad, secrets=secrets)
        ends = line if self._shields is None else self._shields.around(line, self.rng, is_bad=self.is_bad)
        return lambda transport: _Connection(self, ends, transport)

    def _heal(self) -> None:
        self.is_bad = False
        self._healed.set()
        for connection in [*self.connections]:
            connection.end()

    # -- the application

    async def _main(self) -> None:
        rng = self.rng
        client = Client(
            rng.choice(_SERVERS) + rng.choice(("", "", "/app")),
            session_timeout=rng.choice((1.0, 10.0)),
            max_in_flight=rng.choice((1, 5, 1000)),
            max_queued_calls=rng.choice((5, 1000)),
            max_reply_size=_REPLY_LIMIT,
            auth=[("digest", b"me:secret")] if rng.random() < 0.1 else (),
            rng=random.Random(rng.random()),
            sasl=self._mechanism,
            **({} if self._shields is None else self._shields.client_options),
        )
        client.add_listener(lambda change: self._listen(change.reason or repr(change)))
        await client.start(wait=False)
        for _ in range(rng.randint(1, 6)):
            await self._use(client)
        if rng.random() < 0.8:
            self._heal()
            await self._use_healthy(client)
        async with asyncio.timeout(_CLOSING):
            await client.close()
        if self._watchers:
            await asyncio.wait(self._watchers, timeout=_CLOSING)
        self._check_ended(client)

    async def _use(self, client: Client) -> None:
        rng = self.rng
        if rng.random() < 0.3:
            self._watchers.append(asyncio.create_task(self._watch(client)))
        made = [call for _ in range(rng.choice((0, 1, 5, 30))) if (call := self._call(client)) is not None]
        self._calls += made
        if rng.random() < 0.05:  # a mutant may refuse it, and end the client: not too often
            with contextlib.suppress(EverlatchError):
                self._calls.append(client.add_auth("digest", b"you:secret"))
        if made and rng.random() < 0.3:
            rng.choice(made).cancel()
        if made and rng.random() < 0.3:
            await asyncio.gather(made[-1], return_exceptions=True)
        await asyncio.sleep(rng.choice((0.0, 0.01, 0.2, 3.0, 30.0)) * rng.random())

    def _call(self, client: Client) -> asyncio.Future[Any] | None:
        """One call of any kind; `None` if it was refused at once, as some must be."""
        self._serial += 1
        path = f"/n{self._serial}"
        timeout = self.rng.choice((None, 1.0, 20.0))
        watch = repr if self.rng.random() < 0.5 else None
        bound: Any = client
        try:
            if client.generation and self.rng.random() < 0.1:
                bound = client.in_session()
            made = self.rng.choice(_CALLS)(bound, path, watch, timeout)
        except EverlatchError:
            return None
        call: asyncio.Future[Any] = asyncio.ensure_future(made)
        return call

    async def _watch(self, client: Client) -> None:
        rng = self.rng
        path, recursive = rng.choice(_WATCHED), rng.random() < 0.5
        left = rng.choice((1, 5, 1_000_000))
        async with client.add_watch(path, recursive=recursive, max_events=rng.choice((1, 10_000))) as events:
            async for event in events:
                repr(event)
                left -= 1
                if not left:
                    break

    async def _use_healthy(self, client: Client) -> None:
        async with asyncio.timeout(_PATIENCE):
            await asyncio.gather(*self._calls, return_exceptions=True)
        if client.state is not State.AUTH_FAILED:
            await client.wait_connected(timeout=_PATIENCE)
            node = await client.get("/healthy", timeout=_PATIENCE)
            if not node.data.endswith(b"/healthy"):
                raise BrokenPromiseError(f"a healthy server's answer came as {node!r}")

    # -- what must hold

    def _listen(self, said: str | BaseException | None) -> None:
        """Nobody may be told a secret."""
        if self.secrets is None:
            return
        if isinstance(said, str):
            self.secrets.check(said, "a text")
        else:
            self.secrets.check_error(said)

    def _check_ended(self, client: Client) -> None:
        self._listen(f"{client!r} {client._engine.session.failures()} {client.statistics()}")
        if client.state is not State.CLOSED:
            raise BrokenPromiseError(f"a closed client is {client.state.name}")
        for call in [*self._calls, *self._watchers]:
            if not call.done():
                raise BrokenPromiseError(f"the client is closed, and a call has not ended: {call!r}")
            if not call.cancelled() and not isinstance(call.exception(), EverlatchError | None):
                raise BrokenPromiseError(f"a call ended with {call.exception()!r}") from call.exception()
            self._listen(None if call.cancelled() else call.exception())
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            raise BrokenPromiseError(f"the client is closed, and a task is left: {left.pop().get_coro()!r:.200}")

    def _tell_hang(self) -> None:
        """A callback that was interrupted is the reason for whatever went wrong after it."""
        for context in self.loop.errors:
            if isinstance(hang := context.get("exception"), Hang):
                raise hang

    def _check_leftovers(self) -> None:
        if self.connections:
            raise BrokenPromiseError(f"the client is closed, and {len(self.connections)} connections are open")
        if self.loop.errors:
            context = self.loop.errors[0]
            raise BrokenPromiseError(f"in the event loop: {context.get('message')}") from context.get("exception")

    def _clean_up(self) -> None:
        """So that a finding leaves nothing behind that would be told as another one."""
        loop = self.loop
        loop.allow_more()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            with contextlib.suppress(StuckError):
                loop.run_until_complete(asyncio.wait(tasks, timeout=_CLOSING))
        loop.close()


def _transaction(client: Any, path: str, _watch: Any, timeout: float | None) -> Any:
    parts = client.transaction()
    parts.check(path)
    parts.create(path, b"x")
    parts.set(path, b"y")
    parts.delete(path)
    return parts.commit(timeout=timeout)


def _multi_read(client: Any, path: str, _watch: Any, timeout: float | None) -> Any:
    reads = client.multi_read()
    reads.get(path)
    reads.children(path)
    return reads.commit(timeout=timeout)


_CALLS: tuple[Callable[[Any, str, Any, float | None], Any], ...] = (
    lambda client, path, watch, timeout: client.get(path, watch=watch, timeout=timeout),
    lambda client, path, watch, timeout: client.get(path, watch=watch, timeout=timeout),
    lambda client, path, watch, timeout: client.exists(path, watch=watch, timeout=timeout),
    lambda client, path, watch, timeout: client.children(path, watch=watch, timeout=timeout),
    lambda client, path, watch, timeout: client.children_and_stat(path, watch=watch, timeout=timeout),
    lambda client, path, watch, timeout: client.get_acl(path, timeout=timeout),
    lambda client, path, watch, timeout: client.sync(path, timeout=timeout),
    lambda client, path, watch, timeout: client.create(path, b"x", timeout=timeout),
    lambda client, path, watch, timeout: client.create(path, ephemeral=True, sequential=True, timeout=timeout),
    lambda client, path, watch, timeout: client.create(path, container=True, timeout=timeout),
    lambda client, path, watch, timeout: client.create(path, ttl=5.0, timeout=timeout),
    lambda client, path, watch, timeout: client.set(path, b"y", timeout=timeout),
    lambda client, path, watch, timeout: client.delete(path, timeout=timeout),
    lambda client, path, watch, timeout: client.ensure_path(path, timeout=timeout),
    lambda client, path, watch, timeout: client.count_descendants(path, timeout=timeout),
    lambda client, path, watch, timeout: client.ephemerals(path, timeout=timeout),
    lambda client, path, watch, timeout: client.who_am_i(timeout=timeout),
    lambda client, path, watch, timeout: client.get_config(watch=watch, timeout=timeout),
    lambda client, path, watch, timeout: client.reconfig(leaving="7", timeout=timeout),
    lambda client, path, watch, timeout: client.remove_watches(path, timeout=timeout),
    lambda client, path, watch, timeout: client.check_watches(path, timeout=timeout),
    _transaction,
    _multi_read,
)


class Clients:
    """Level 3."""

    name = "clients"
    _shields: Shields | None = None

    def __init__(self, corpus: Corpus, watchdog: Watchdog) -> None:
        self._corpus = corpus
        self._pool = corpus.payloads
        self._watchdog = watchdog
        self._logger = logging.getLogger("everlatch")

    def run(self, seed: int, number: int, findings: Findings) -> int:
        """One case; returns 1."""
        mechanism = Mechanism(f"{number}") if number % _WITH_SASL == 0 else None
        rng = random.Random(f"{seed} {self.name} {number}")
        case = _Case(rng, self._corpus, self._pool, mechanism, self._shields)
        self._watchdog.start()
        try:
            with self._listening(case.secrets):
                case.run(collect=number % _COLLECTED == 0)
        except (Exception, Hang) as error:
            self._watchdog.stop()
            what, trace = described(error)
            where = "" if isinstance(error, Hang) else trace
            replay = f"{self.name}/{seed}/{number}"
            findings.add(Finding(self.name, f"case {number}", what, where, bytes(case.delivered), replay))
        finally:
            self._watchdog.stop()
        return 1

    @contextlib.contextmanager
    def _listening(self, secrets: Secrets | None) -> Iterator[None]:
        """To what is logged, and nobody else hears it: a client that is treated so badly says so all the time."""
        logger = self._logger
        before = logger.level, logger.propagate
        eavesdropper = None if secrets is None else Eavesdropper(secrets)
        logger.setLevel(logging.CRITICAL if eavesdropper is None else logging.DEBUG)
        if eavesdropper is not None:
            logger.propagate = False
            logger.addHandler(eavesdropper)
        try:
            yield
        finally:
            logger.propagate = before[1]
            logger.setLevel(before[0])
            if eavesdropper is not None:
                logger.removeHandler(eavesdropper)
        if eavesdropper is not None:
            eavesdropper.judge()


class TlsClients(Clients):
    """Level 3, over TLS."""

    name = "tls"

    def __init__(self, corpus: Corpus, watchdog: Watchdog) -> None:
        super().__init__(corpus, watchdog)
        self._shields: Shields = Shields()

    def run(self, seed: int, number: int, findings: Findings) -> int:
        """One case; returns how many connections it had: on each, something else is done to TLS."""
        before = self._shields.count
        super().run(seed, number, findings)
        return self._shields.count - before
