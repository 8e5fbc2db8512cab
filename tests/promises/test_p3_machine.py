"""P3 by a machine that Hypothesis drives: it writes, meddles, loses replies and sessions in whatever order breaks it.

The model is the servers' log: `everlatch.testing.simulation.scenarios.written` knows what was applied of each call. A
history that fails is shrunk, and told as the steps that repeat it.
"""

import asyncio
import contextlib
import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from everlatch.errors import EverlatchError
from everlatch.testing.simulation import simulation
from everlatch.testing.simulation.scenarios.outcomes import QUEUES, TOP, Author, meddle, rob
from everlatch.testing.simulation.scenarios.stage import Stage, make
from everlatch.testing.simulation.scenarios.written import WriteLog, Writes

SEEDS = st.integers(0, 9999)
DETAILS = SEEDS.map(random.Random)


class Outcomes(RuleBasedStateMachine):
    """One client that writes, one that meddles."""

    def __init__(self):
        super().__init__()
        self.left = contextlib.ExitStack()
        self.robbed = False

    @initialize(
        seed=SEEDS, servers=st.sampled_from([1, 3]), exactly_once=st.booleans(), receipts=st.sampled_from([1, 3])
    )
    def found(self, seed, servers, exactly_once, receipts):
        self.world = self.left.enter_context(simulation(seed))
        self.log = WriteLog()
        stage = Stage.of(self.world, self.log, size=servers)
        self.app, self.other = self.world.host("app"), self.world.host("other")
        self.exactly_once = exactly_once
        options = {"exactly_once": True, "receipts": receipts} if exactly_once else {}
        self.client = stage.client(self.app, **options)
        self.meddler = stage.client(self.other)
        self.writes = Writes(self.client, self.log)
        self.author = Author(self.client, self.writes, random.Random(seed), name="app", exactly_once=exactly_once)
        self.world.run(self._begin(self.client), on=self.app)
        self.world.run(self._begin(self.meddler), on=self.other)

    async def _begin(self, client):
        await client.start()
        for path in (TOP, *QUEUES):
            await make(client, path)

    def _do(self, action):
        async def now():
            action()

        self.world.run(now(), on=self.app)

    def _pass(self, seconds):
        self.world.run(asyncio.sleep(seconds))

    # -- the client

    @rule(details=DETAILS, kinds=st.lists(st.sampled_from(sorted(Author.KINDS)), min_size=1, max_size=6))
    def write(self, details, kinds):
        self.author.rng = details
        self._do(lambda: [self.author.write(kind) for kind in kinds])

    @precondition(lambda self: hasattr(self, "writes") and self.writes.made)
    @rule(which=st.integers(0, 20))
    def cancel(self, which):
        write = self.writes.made[-1 - which % len(self.writes.made)]
        if not write.call.done():
            write.is_patient = False
            self._do(write.call.cancel)

    @rule(seconds=st.sampled_from([0.0, 0.0005, 0.001, 0.002, 0.005, 0.02, 0.3, 2.0, 8.0]))
    def wait(self, seconds):
        self._pass(seconds)

    # -- others

    @rule(details=DETAILS)
    def meddle(self, details):
        self._interfere(meddle, details)

    @precondition(lambda self: getattr(self, "exactly_once", False))
    @rule(details=DETAILS)
    def rob(self, details):
        self.robbed = True
        self._interfere(rob, details)

    def _interfere(self, how, details):
        async def interfere():
            with contextlib.suppress(EverlatchError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await how(self.meddler, details)

        self.world.run(interfere(), on=self.other)

    # -- the network and the servers

    def _streams(self):
        return [stream for stream in self.world.network.connections if stream.client.name == "app"]

    @rule(after=st.floats(0.0, 0.01))
    def lose_replies(self, after):
        silences = [self.world.network.cut_one_way(stream.server.name, "app") for stream in self._streams()]
        self._pass(after)
        for stream in self._streams():
            stream.reset()
        for silence in silences:
            silence.heal()

    @rule(after=st.integers(0, 600), of_replies=st.booleans())
    def break_off(self, after, of_replies):
        for stream in self._streams():
            stream.truncate(stream.server.name if of_replies else "app", after)

    @rule(seconds=st.sampled_from([0.01, 0.5, 3.0, 12.0]))
    def cut_off(self, seconds):
        cut = self.world.network.isolate("app")
        self._pass(seconds)
        cut.heal()

    @rule(which=st.integers(0, 2), seconds=st.sampled_from([0.01, 1.0, 5.0]), way=st.sampled_from(["crash", "pause"]))
    def hurt_a_server(self, which, seconds, way):
        server = self.world.servers[which % len(self.world.servers)]
        if way == "crash":
            server.crash()
        else:
            server.pause()
        self._pass(seconds)
        server.heal()
        self._pass(0.001)  # what was held is read before anything else happens to it

    @rule(which=st.integers(0, 2), lag=st.sampled_from([0.0, 0.05, 0.5]))
    def lag(self, which, lag):
        self.world.servers[which % len(self.world.servers)].core.lag = lag

    @rule()
    def expire(self):
        leader = self.world.leader()
        if leader is not None and self.client.session_id:
            self.world.run(self._expire(leader, self.client.session_id), on=leader)

    async def _expire(self, leader, session_id):
        leader.core.expire(session_id, self.world.loop.time())
        leader._settle()

    # -- in the end

    def teardown(self):
        with self.left:
            if not hasattr(self, "author"):
                return
            self.world.heal()
            for server in self.world.servers:
                server.core.lag = 0.0
            self._pass(30.0)
            self.world.run(self._end(self.client), on=self.app)
            self.world.run(self.meddler.close(), on=self.other)
            self._pass(10.0)
            self.writes.judge(never_unknown=not self.robbed)

    async def _end(self, client):
        for write in self.writes.made:
            with contextlib.suppress(EverlatchError, asyncio.CancelledError):
                await write.call
        await client.close()


TestOutcomes = Outcomes.TestCase
TestOutcomes.settings = settings(max_examples=3 * settings().max_examples, stateful_step_count=30)
