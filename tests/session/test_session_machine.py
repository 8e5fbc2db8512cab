"""Whatever happens to a session, and in whatever order: what must always hold, holds."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from everlatch.errors import NotReadOnlyError, QueueFullError, SessionExpiredError
from everlatch.paths import Endpoint
from everlatch.session.actions import Closed
from everlatch.session.draining import Step as DrainStep
from everlatch.session.requests import Operation
from everlatch.session.retry import AttemptPlan, RetryForever
from everlatch.session.rivals import MOST_RIVALS
from everlatch.session.servers import Address
from everlatch.session.session import Phase
from everlatch.session.states import TRANSITIONS
from everlatch.session.watches import CHILD, DATA, PERSISTENT, RECURSIVE, _each
from everlatch.types import EventType, State, WatchKind
from everlatch.wire.codes import Op
from everlatch.wire.framing import frame
from everlatch.wire.headers import encode_reply
from everlatch.wire.watch_records import encode_add_watch_request, encode_remove_watches_request
from session.driver import EXISTS, GET, SET, Driver, path_in

ADD = {kind: Operation("add_watch", Op.ADD_WATCH, lambda *_: 0, watch=kind) for kind in (PERSISTENT, RECURSIVE)}
PLACES = ("/p", "/p/q")
LINKED = (Phase.HANDSHAKE, Phase.AUTHENTICATING, Phase.SERVING, Phase.LEAVING)
IPS = ("10.0.1.1", "10.0.1.2", "10.0.0.1", "10.0.0.2", "10.0.0.3")
LISTS = ("10.0.0.1", "10.0.0.1,10.0.0.2", "10.0.0.2,10.0.0.3", "zk.example,10.0.0.1,10.0.0.2")
SOME = st.lists(st.sampled_from(IPS), unique=True, max_size=3)


def address(ip, host=None):
    return Address(ip, 2181, Endpoint(host or ip, 2181))


def in_phase(*phases):
    return precondition(lambda self: self.driver.session.phase in phases)


def session_drains(driver):
    """Whether the server is drained, and has something to answer that is not the handshake."""
    step = driver.session._draining.step
    return step in (DrainStep.CREDENTIALS, DrainStep.COMMIT) and bool(driver.unanswered)


serving = in_phase(*LINKED[1:])
rivalled = precondition(lambda self: self.driver.rivals)
asked = precondition(lambda self: self.driver.session.phase in LINKED[1:] and self.driver.unanswered)
taking = precondition(lambda self: self.driver.session._ended is None)


class SessionMachine(RuleBasedStateMachine):
    """Drives a session at random. Each call has a path of its own, by which the server's side is counted."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.listeners = []
        self.granted = set()
        self.seen_changes = 0
        self.state = State.CONNECTING
        self.ids = iter(range(1, 10_000))
        self.leases = 0
        self.offered_alone = set()

    @initialize(
        hosts=st.sampled_from(LISTS),
        seed=st.integers(0, 3),
        well=st.booleans(),
        options=st.fixed_dictionaries(
            {"max_in_flight": st.integers(1, 4)},
            optional={
                "warm_spare": st.just(True),
                "renew": st.just(False),
                "link_check_interval": st.sampled_from([0.3, 2.0]),
                "silence_budget": st.sampled_from([0.02, 1.0, 50.0]),
                "retry_policy": st.sampled_from([RetryForever(0.0), RetryForever(9.0), AttemptPlan(0.1, 2)]),
                "read_only": st.just(True),
                "read_only_writes": st.just("queue"),
                "read_write_search_interval": st.just(0.7),
            },
        ),
    )
    def start(self, hosts, seed, well, options):
        self.driver = Driver(hosts, seed=seed, max_queued_calls=8, max_reply_size=4096, shuffle=True, **options)
        if well:
            self.all_goes_well()

    # -- time

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.04, 0.1, 0.3, 1.0, 2.1]))
    def time_passes(self, seconds):
        self.driver.tick(seconds)
        self.check_deadline()

    @rule(seconds=st.sampled_from([0.06, 0.5, 3.0]))
    def the_loop_stands_still(self, seconds):
        self.driver.now += seconds

    @precondition(lambda self: self.driver.session.next_deadline() is not None)
    @rule()
    def the_timer_fires(self):
        self.driver.wake()
        self.check_deadline()

    def check_deadline(self):
        """The timer was handled, and so nothing is due any more."""
        session = self.driver.session
        deadline = session.next_deadline()
        assert deadline is None or deadline > self.driver.now, f"a busy loop in {session.phase}"

    # -- connections

    @in_phase(Phase.RESOLVING)
    @rule(ips=SOME)
    def a_name_is_resolved(self, ips):
        self.driver.resolve(*ips)

    @in_phase(Phase.DIALING)
    @rule()
    def an_attempt_succeeds(self):
        self.driver.made()

    @in_phase(Phase.RESOLVING, Phase.DIALING)
    @rule()
    def an_attempt_fails(self):
        self.driver.refuse()

    def a_rival(self, data, *, is_name=None, is_made=None):
        rivals = [
            rival
            for rival in self.driver.session._rivals
            if is_name in (None, rival.is_name) and is_made in (None, rival.is_made)
        ]
        return data.draw(st.sampled_from(rivals)).conn if rivals else None

    @rivalled
    @rule(data=st.data(), ips=SOME)
    def a_rivals_name_is_resolved(self, data, ips):
        conn = self.a_rival(data, is_name=True)
        if conn is not None:
            self.driver.resolve(*ips, conn=conn)

    @rivalled
    @rule(data=st.data())
    def a_rival_succeeds(self, data):
        conn = self.a_rival(data, is_name=False, is_made=False)
        if conn is not None:
            self.driver.made(conn)

    @rivalled
    @rule(data=st.data())
    def a_rival_is_lost(self, data):
        self.driver.lose(conn=self.a_rival(data))

    @in_phase(Phase.HANDSHAKE)
    @rule(how=st.sampled_from(["same", "same", "same", "other", "refused", "tiny", "read-only"]))
    def the_handshake_is_answered(self, how):
        driver = self.driver
        self.granted.add(driver.session.conn)
        fresh = 0x1000 + next(self.ids)
        if how == "refused":
            driver.expire()
        elif how == "other":
            driver.grant(fresh)
        else:
            offered = driver.handshakes[-1].session_id
            driver.grant(offered or fresh, timeout_ms=1 if how == "tiny" else 6000, read_only=how == "read-only")

    @precondition(lambda self: session_drains(self.driver))
    @rule(err=st.sampled_from([0, 0, 0, -6, -102, -112, -115, -124]), count=st.integers(1, 2))
    def a_drain_goes_on(self, err, count):
        driver = self.driver
        driver.feed(*[driver.reply_to(request, err) for request in list(driver.unanswered)[:count]])

    @precondition(lambda self: self.driver.session._ended is None and self.driver.session.phase is not Phase.SERVING)
    @rule()
    def all_goes_well(self):
        """The way to where most of it happens."""
        driver = self.driver
        for _ in range(20):
            match driver.session.phase:
                case Phase.IDLE if driver.session._awaits_renewal:
                    self.a_new_session_may_begin()
                case Phase.IDLE:
                    driver.wake()
                case Phase.RESOLVING:
                    driver.resolve("10.0.1.1")
                case Phase.DIALING:
                    driver.made()
                case Phase.HANDSHAKE if session_drains(driver):
                    driver.answer()
                case Phase.HANDSHAKE:
                    self.the_handshake_is_answered("same")
                case Phase.AUTHENTICATING:
                    driver.answer()
                case Phase.LEAVING if driver.unanswered:
                    driver.answer()
                case Phase.LEAVING:  # what it waits for was refused out of turn
                    driver.wake()
                case Phase.SERVING:
                    return

    @in_phase(*LINKED)
    @rule()
    def the_link_breaks(self):
        self.driver.lose()

    @rule(age=st.integers(-1, 4), data=st.binary(max_size=40))
    def an_abandoned_connection_speaks(self, age, data):
        session, now = self.driver.session, self.driver.now
        before = session.statistics()
        old = session.conn - age
        if old in self.driver.open or old == session.conn:
            return
        assert not session.is_wanted(old)
        session.server_answered(old, address("10.0.0.2"), now)
        session.bytes_received(old, data, now)
        session.connection_made(old, now)
        session.resolved(old, ["10.6.6.6"], now)
        session.connection_lost(old, OSError("late"), now)
        assert session.statistics() == before

    # -- what is found out about the servers

    @precondition(lambda self: self.driver.session.doubts_link)
    @rule(ip=st.sampled_from(IPS))
    def another_server_lives(self, ip):
        self.driver.lives(ip)

    @rule(serving=SOME, others=SOME)
    def the_servers_are_searched(self, serving, others):
        others = [ip for ip in others if ip not in serving]
        self.driver.session.prefer(map(address, serving), map(address, others))
        self.driver.pump()

    @rule(
        ip=st.sampled_from(IPS),
        mode=st.sampled_from([None, "leader", "standalone", "follower", "read-only"]),
        zxid=st.sampled_from([None, 3, 1 << 40]),
    )
    def a_server_tells_what_it_is(self, ip, mode, zxid):
        self.driver.session.server_is(address(ip), mode, zxid, self.driver.now)
        self.driver.pump()

    @rule(hosts=st.sampled_from(LISTS))
    def the_servers_change(self, hosts):
        self.driver.update(hosts)
        session = self.driver.session
        if session.phase in (Phase.RESOLVING, Phase.DIALING, Phase.HANDSHAKE, Phase.AUTHENTICATING, Phase.SERVING):
            assert session._rounds.servers.has(session._address) or session.is_closing

    @rule()
    def it_goes_to_another_server(self):
        self.driver.session.leave(self.driver.now)
        self.driver.pump()

    # -- the server

    @asked
    @rule(count=st.integers(1, 6))
    def requests_are_answered(self, count):
        conn = self.driver.session.conn
        while count and self.driver.unanswered and self.driver.session.conn == conn:
            self.driver.answer()
            count -= 1

    @asked
    @rule(err=st.sampled_from([-5, -6, -101, -102, -115, -121, -4242]))
    def a_request_is_refused(self, err):
        self.driver.feed(self.driver.reply_to(self.driver.unanswered[0], err=err))

    @asked
    @rule(err=st.sampled_from([-6, -124, 0]))
    def a_reply_overtakes(self, err):
        self.driver.feed(self.driver.reply_to(self.driver.unanswered[-1], err=err))

    @asked
    @rule(zxid=st.sampled_from([0, 5, 1001]), body=st.sampled_from([None, b"", b"\xff" * 30]))
    def a_reply_is_odd(self, zxid, body):
        self.driver.feed(self.driver.reply_to(self.driver.unanswered[0], zxid=zxid, body=body))

    @serving
    @rule(event=st.sampled_from([*EventType, 77]), data=st.data())
    def an_event_comes(self, event, data):
        watched = [path for kind in self.driver.session.watching._one_shot._watches for path in kind]
        path = data.draw(st.sampled_from(["/elsewhere", *PLACES, *watched]))
        self.driver.event(event, path, data.draw(st.sampled_from([-1, 7])))

    @in_phase(*LINKED)
    @rule(data=st.one_of(st.binary(max_size=60), st.binary(min_size=16, max_size=40).map(frame)))
    def anything_comes(self, data):
        self.granted.add(self.driver.session.conn)  # who knows what it says
        self.driver.session.bytes_received(self.driver.session.conn, data, self.driver.now)
        self.driver.pump()

    @serving
    @rule(xid=st.integers(-9, 9))
    def a_reply_to_nothing_comes(self, xid):
        self.driver.feed(encode_reply(xid, 0, 0))

    # -- the application

    @taking
    @rule(
        operation=st.sampled_from([GET, EXISTS, SET]),
        count=st.integers(1, 4),
        timeout=st.sampled_from([None, None, 0.0, 0.5, 3.0]),
        bound=st.booleans(),
        watched=st.booleans(),
        at_once=st.booleans(),
    )
    def calls_are_made(self, operation, count, timeout, bound, watched, at_once):
        more = {
            "at_once": at_once,
            "generation": self.driver.session.generation if bound else 0,
            "timeout": timeout,
            "watch": print if watched else None,
        }
        for _ in range(count):
            try:
                self.calls.append(self.driver.submit(operation, f"/{next(self.ids)}", **more))
            except (QueueFullError, SessionExpiredError):  # the latter: there is no session, and it is bound
                return
            except NotReadOnlyError:
                assert self.driver.session.state is State.CONNECTED_READ_ONLY
                return

    @taking
    @rule(kind=st.sampled_from([PERSISTENT, RECURSIVE]), place=st.sampled_from(PLACES))
    def a_persistent_watch_is_asked_for(self, kind, place):
        def listener(event):
            """One of its own for each."""

        self.driver.session.want_watch(kind, place, listener)
        self.listeners.append((kind, place, listener))
        try:
            body = encode_add_watch_request(place, kind - PERSISTENT)
            self.calls.append(self.driver.submit(ADD[kind], place, body, watch=listener))
        except QueueFullError:
            self.who_listens_leaves(-1)

    @precondition(lambda self: self.listeners)
    @rule(index=st.just(0))
    def who_listens_leaves(self, index):
        self.driver.session.leave_watch(*self.listeners.pop(index))
        self.driver.pump()

    @taking
    @rule(which=st.sampled_from(WatchKind), place=st.sampled_from(PLACES))
    def one_shot_watches_are_removed(self, which, place):
        operation = self.driver.session.removal(which, place)
        try:
            body = encode_remove_watches_request(place, which.value)
            self.calls.append(self.driver.submit(operation, place, body))
        except QueueFullError:
            return

    @rule(kind=st.sampled_from([DATA, CHILD]), place=st.sampled_from(PLACES))
    def a_one_shot_watch_is_left(self, kind, place):
        self.driver.session.leave_one_shot(kind, place, print)
        self.driver.pump()

    @rule()
    def a_new_session_may_begin(self):
        self.driver.session.renew(self.driver.now)
        self.driver.pump()

    @rule()
    def somebody_rests_on_the_lease(self):
        self.leases += 1
        self.driver.session.hold_lease(self.driver.now)
        self.driver.pump()

    @precondition(lambda self: self.leases)
    @rule()
    def who_rests_on_the_lease_leaves(self):
        self.leases -= 1
        self.driver.session.release_lease()

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def a_call_is_cancelled(self, data):
        call, request = data.draw(st.sampled_from(self.calls))
        if not call.done():
            self.driver.cancel(call, request)

    @taking
    @rule(timeout=st.sampled_from([None, 1.0]))
    def an_identity_is_added(self, timeout):
        self.calls.append(self.driver.add_identity(f"{next(self.ids)}".encode(), timeout=timeout))

    @precondition(lambda self: len(self.calls) > 15)
    @rule(end=st.sampled_from([Driver.close, Driver.abort]))
    def it_is_closed(self, end):
        end(self.driver)

    # -- what must always hold

    @invariant()
    def states_follow_the_table(self):
        for change in self.driver.changes[self.seen_changes :]:
            assert change.previous is self.state
            assert change.state in TRANSITIONS[self.state]
            self.state = change.state
        self.seen_changes = len(self.driver.changes)
        assert self.driver.session.state is self.state is not State.RENEWED

    @invariant()
    def every_call_ends_at_most_once_and_none_is_forgotten(self):
        session = self.driver.session
        kept = {id(request.call) for request in _kept(session.requests)}
        kept |= {id(request.call) for known in session.credentials._all.values() for request in known.waiting}
        for call, _ in self.calls:
            assert call.ends <= (0 if call.cancelled else 1)
            assert call.done() or id(call) in kept

    @invariant()
    def nothing_is_sent_before_the_response(self):
        assert {request.conn for request in self.driver.sent} <= self.granted
        assert len(self.driver.handshakes) >= len(self.granted)

    @invariant()
    def no_session_is_offered_to_who_may_hold_writes_of_it(self):
        session = self.driver.session
        if session.phase is Phase.HANDSHAKE and session._draining.is_tainted(session._address):
            # One that was alone when it was offered the session may not be alone any more.
            assert not self.driver.handshakes[-1].session_id or session.conn in self.offered_alone
        elif session.phase is Phase.HANDSHAKE and session._rounds.servers.has_one_address:
            self.offered_alone.add(session.conn)

    @invariant()
    def each_is_sent_once(self):
        """On each connection; and a write on another one only behind a commit and a look at its node."""
        before, settled, sent = set(), {}, set()
        for request in self.driver.sent:
            if request.xid <= 0 or request.op not in (SET.op, GET.op, EXISTS.op, Op.MULTI):
                continue
            on_this = settled.setdefault(request.conn, set())
            path = "commit" if request.op == Op.MULTI else path_in(request.body)
            if request.op == Op.MULTI or (request.op == EXISTS.op and not request.body.startswith(b"/")):
                on_this.add(path)  # our own
                continue
            assert (request.conn, path) not in sent, "each path is that of one call"
            sent.add((request.conn, path))
            if request.op == SET.op:
                assert path not in before or {path, "commit"} <= on_this
                before.add(path)

    @invariant()
    def requests_in_flight_are_in_order(self):
        xids = [request.xid for request in self.driver.session.requests.in_flight]
        assert xids == sorted(set(xids))
        if self.driver.session.phase in (Phase.SERVING, Phase.LEAVING):
            unanswered = [request.xid for request in self.driver.unanswered if request.xid > 0]
            assert not xids or xids == unanswered[-len(xids) :]
        else:
            assert xids == []

    @invariant()
    def the_counts_match(self):
        requests = self.driver.session.requests
        waiting = [request for request in requests._waiting if request.call is not None]
        assert requests.queued_calls == len(waiting)
        assert requests.queued_bytes == sum(len(request.body) + 12 for request in waiting)
        assert requests._withdrawn == len(requests._waiting) - len(waiting)

    @invariant()
    def who_hears_listens(self):
        persistent = self.driver.session.watching._persistent
        heard = [(*place, callback) for place, callbacks in persistent._heard.items() for callback in callbacks]
        assert len(heard) == len(set(heard))
        assert set(heard) <= set(self.listeners)
        wanted = [(*place, callback) for place, callbacks in persistent._wanted.items() for callback in callbacks]
        assert sorted(map(hash, wanted)) == sorted(map(hash, self.listeners))

    @invariant()
    def one_shot_watches_are_counted(self):
        watches = self.driver.session.watching._one_shot
        assert len(watches) == sum(len(_each(watchers)) for kind in watches._watches for watchers in kind.values())

    @invariant()
    def a_removal_is_held_back_only_for_an_answer_to_come(self):
        session = self.driver.session
        left = {path for _, path in session.watching.left}
        assert session.phase is not Phase.SERVING or left <= session._coming_one_shots()

    @invariant()
    def attempts_beside_one_that_serves_are_spares(self):
        session = self.driver.session
        if session.phase is Phase.SERVING:
            assert len(self.driver.rivals) <= (1 if session._options.warm_spare else 0)
        elif session.phase is Phase.IDLE:
            assert self.driver.rivals == []
        assert len(self.driver.open) <= MOST_RIVALS + 1

    @invariant()
    def doubts_end(self):
        session = self.driver.session
        if session.doubts_link:
            assert session.phase in (Phase.SERVING, Phase.LEAVING)
            assert session.next_deadline() <= self.driver.now + session.liveness.timeout

    @invariant()
    def credentials_are_unanswered_only_on_a_connection(self):
        if self.driver.session.phase not in LINKED[1:]:
            assert not self.driver.session.credentials or session_drains(self.driver)

    @invariant()
    def it_ends_once(self):
        ends = sum(isinstance(action, Closed) for action in self.driver.actions)
        assert ends == (1 if self.driver.session.state is State.CLOSED else 0)
        if ends:
            assert self.driver.session.next_deadline() is None

    def teardown(self):
        if not hasattr(self, "driver"):
            return
        self.driver.close()
        for _ in range(20):
            if self.state_is_closed():
                break
            if self.driver.unanswered:
                self.driver.answer()
        self.driver.abort()
        assert self.state_is_closed()
        assert len(self.driver.session.requests) == 0
        for call, _ in self.calls:
            assert call.ends == (0 if call.cancelled else 1), "exactly once, in the end"

    def state_is_closed(self):
        return self.driver.session.state is State.CLOSED


def _kept(requests):
    return [*requests.unsettled, *requests.in_flight, *requests._waiting]


TestSessionMachine = SessionMachine.TestCase
