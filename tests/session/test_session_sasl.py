"""SASL in the session: before everything else on every connection, whatever servers make of it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everlatch.errors import SaslError, SessionClosedRequireAuthError, UnexpectedReplyError
from everlatch.sasl import DigestMd5, SaslRefusedError, SaslTokenError
from everlatch.session.actions import ComputeToken
from everlatch.session.sasl import XID_SASL
from everlatch.session.session import Phase
from everlatch.types import State
from everlatch.wire.auth_records import decode_sasl_request, encode_sasl_reply
from everlatch.wire.codes import XID_AUTH, XID_PING, Op
from everlatch.wire.digest_md5 import challenge, verify
from everlatch.wire.headers import encode_reply
from session.driver import GET, SET, Driver

PASSWORD = "correct horse"
USERS = {"bob": PASSWORD}
PAIR = "10.0.0.1,10.0.0.2"


class Server:
    """What a server makes of the tokens that a driver gets."""

    def __init__(self, driver, users=USERS):
        self.driver = driver
        self.users = users
        self.tokens = []

    def take(self):
        """The unanswered token."""
        request = self.driver.unanswered[0]
        assert (request.xid, request.op) == (XID_SASL, Op.SASL)
        token = decode_sasl_request(request.body, 0, len(request.body))
        self.tokens.append(token)
        return token

    def say(self, token, err=0):
        self.driver.unanswered.popleft()
        self.driver.feed(encode_reply(XID_SASL, 0, err, encode_sasl_reply(token)))

    def challenge(self):
        assert self.take() == b""
        self.say(challenge("n0nce"))

    def prove(self):
        user, proof = verify(self.take(), "n0nce", self.users)
        assert user == "bob"
        self.say(proof)

    def authenticate(self):
        self.challenge()
        self.prove()


def offered(hosts="10.0.0.1", **options):
    """A client whose handshake is answered: it begins."""
    driver = Driver(hosts, **{"sasl": DigestMd5("bob", PASSWORD)} | options)
    driver.made()
    driver.grant()
    return driver, Server(driver)


def serving(hosts="10.0.0.1", **options):
    driver, server = offered(hosts, **options)
    server.authenticate()
    assert driver.states == [State.CONNECTED]
    return driver, server


def failures(driver):
    return {server: reason for server, reason in driver.session.failures() if isinstance(reason, SaslError)}


def test_first_of_all_and_one_token_at_a_time():
    driver, server = offered()
    driver.authenticate()
    driver.call(GET)
    assert driver.ops() == [Op.SASL]
    server.challenge()
    assert driver.ops() == [Op.SASL, Op.SASL]
    assert driver.session.phase is Phase.AUTHENTICATING
    assert driver.states == []
    server.prove()
    assert driver.ops() == [Op.SASL, Op.SASL, Op.AUTH], "identities come behind it, once"
    driver.answer()
    assert driver.ops() == [Op.SASL, Op.SASL, Op.AUTH, Op.GET_DATA]
    assert driver.states == [State.CONNECTED]


def test_on_every_connection_anew():
    driver, server = serving()
    driver.lose()
    driver.connect()
    server.authenticate()
    assert driver.states == [State.CONNECTED, State.SUSPENDED, State.CONNECTED]
    assert server.tokens[1] != server.tokens[3], "another client nonce"


@pytest.mark.parametrize("at", ["the first token", "the response"])
def test_a_lost_answer_refuses_nothing(at):
    driver, server = offered(PAIR)
    if at == "the response":
        server.challenge()
    driver.lose()
    driver.connect()
    server.authenticate()
    assert driver.states == [State.CONNECTED]


@pytest.mark.parametrize("err", [-115, -124])
def test_refused_credentials_end_it_all(err):
    driver, server = offered(PAIR)
    server.challenge()
    server.say(None, err)
    assert driver.states == [State.AUTH_FAILED]
    reason = driver.changes[-1].reason
    assert str(reason) == "sasl 'DIGEST-MD5': the credentials were refused (-115)"
    assert driver.open == set()


class Stale:
    """Thinks that another attempt may do better, once."""

    name = "STALE"
    is_blocking = False

    def __init__(self, *answers):
        self.answers = list(answers)

    def begin(self, host):
        return self

    def step(self, challenge):
        return b"token"

    def refused(self):
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_a_refusal_that_is_not_final_passes_the_server_over():
    driver, server = offered(PAIR, sasl=Stale(True, False))
    server.say(None, -115)
    assert "refused" in str(failures(driver)["10.0.0.1:2181"])
    driver.connect()
    server.say(None, -115)
    assert driver.states == [State.AUTH_FAILED]


def test_a_mechanism_that_fails_when_it_is_refused():
    driver, server = offered(PAIR, sasl=Stale(RuntimeError("a bug of its own")))
    server.say(None, -115)
    assert "a bug of its own" in str(failures(driver)["10.0.0.1:2181"])


def test_other_errors_refuse_nothing():
    driver, server = offered(PAIR)
    server.challenge()
    server.say(None, -5)
    assert failures(driver).keys() == {"10.0.0.1:2181"}
    driver.connect()
    server.authenticate()
    assert driver.states == [State.CONNECTED]


def test_a_server_that_is_not_set_up_for_it_is_passed_over():
    driver, server = offered(PAIR)
    server.say(None)
    assert "not set up for SASL" in str(failures(driver)["10.0.0.1:2181"])
    driver.connect()
    server.authenticate()
    assert driver.states == [State.CONNECTED]


@pytest.mark.parametrize(
    ("token", "told"),
    [
        (b"", "without a proof"),
        (b"garbage", "malformed"),
        (b'nonce="n"', "algorithm"),
        (b'realm="r",algorithm=md5-sess', "no nonce"),
    ],
)
def test_a_challenge_that_is_none(token, told):
    driver, server = offered(PAIR)
    server.take()
    server.say(token)
    assert told in str(failures(driver)["10.0.0.1:2181"])
    driver.connect()
    server.authenticate()
    assert driver.states == [State.CONNECTED]


@pytest.mark.parametrize("proof", [None, b"", b"rspauth=0123456789abcdef0123456789abcdef", challenge("again")])
def test_a_server_that_does_not_know_the_password_is_not_believed(proof):
    driver, server = offered(PAIR)
    server.challenge()
    server.say(proof)
    assert failures(driver).keys() == {"10.0.0.1:2181"}
    assert driver.states == []
    driver.connect()
    server.authenticate()
    assert driver.states == [State.CONNECTED]


def test_an_answer_to_no_token():
    driver, _server = serving()
    driver.feed(encode_reply(XID_SASL, 0, 0, encode_sasl_reply(b"more")))
    assert isinstance(driver.changes[-1].reason, UnexpectedReplyError)


def test_other_replies_meanwhile_end_the_connection():
    for xid in (1, XID_AUTH, XID_PING):
        driver, _server = offered(PAIR)
        driver.feed(encode_reply(xid, 0, 0, b""))
        assert driver.session.phase is Phase.DIALING


def test_a_token_that_does_not_end():
    driver, server = offered(PAIR)
    server.take()
    driver.feed(encode_reply(XID_SASL, 0, 0, b"\x00\x00\xff\xffabc"))
    assert driver.session.phase is Phase.DIALING


def test_silence_costs_the_budget():
    driver, server = offered(PAIR)
    conn = driver.session.conn
    driver.until_hung_up()
    assert driver.session.conn != conn
    driver.connect()
    server.authenticate()
    assert driver.states == [State.CONNECTED]


def test_identities_that_are_added_meanwhile_are_sent_once():
    driver, server = offered()
    first = driver.authenticate(b"one:1")
    server.challenge()
    second = driver.authenticate(b"two:2")
    server.prove()
    assert driver.ops()[-2:] == [Op.AUTH, Op.AUTH]
    driver.answer(2)
    assert (first.ends, second.ends) == (1, 1)


def test_who_demands_it_without_getting_it():
    """It is no refusal of credentials: they may still be added."""
    driver = Driver()
    driver.connect()
    call = driver.call(GET)
    driver.feed(driver.reply_to(driver.unanswered[0], -124))
    assert isinstance(call.error, SessionClosedRequireAuthError)
    assert driver.states[-1] is State.SUSPENDED


def test_a_read_only_server_is_told_as_well():
    driver = Driver(sasl=DigestMd5("bob", PASSWORD), read_only=True)
    driver.refuse()
    driver.tells("10.0.0.1", "read-only", 0)
    driver.made()
    driver.grant(0x77, read_only=True)
    Server(driver).authenticate()
    assert driver.states == [State.CONNECTED_READ_ONLY]


# --- draining -------------------------------------------------------------------------------------------------------


def about_to_drain(at_last=None, **options):
    """The first server holds a write, the second has served, and the first is offered a session to be drained with;
    `at_last`: another mechanism then."""
    driver, server = serving(PAIR, **options)
    driver.call(SET, "/old")
    driver.now += 2.0
    driver.lose()
    driver.connect()
    server.authenticate()
    while driver.unanswered:
        driver.answer()
    driver.now += 2.0
    driver.lose()
    driver.made()
    assert driver.handshakes[-1].session_id == 0
    began = len(driver.sent)
    driver.session._sasl.mechanism = at_last or driver.session._sasl.mechanism
    driver.grant(0x9999)
    return driver, server, began


def test_a_server_is_drained_by_who_has_authenticated():
    driver, server, began = about_to_drain()
    assert driver.ops(began) == [Op.SASL]
    server.authenticate()
    assert driver.ops(began) == [Op.SASL, Op.SASL, Op.MULTI, Op.CLOSE_SESSION]
    assert driver.session.phase is Phase.HANDSHAKE
    driver.answer()
    driver.connect()
    server.authenticate()
    assert driver.states[-1] is State.CONNECTED


def test_identities_come_behind_it_there_too():
    driver, server, began = about_to_drain()
    driver.authenticate()
    server.authenticate()
    assert driver.ops(began) == [Op.SASL, Op.SASL, Op.AUTH]
    driver.answer()
    assert driver.ops(began)[3:] == [Op.MULTI, Op.CLOSE_SESSION]


def test_a_refusal_there_is_one():
    driver, server, _ = about_to_drain()
    server.challenge()
    server.say(None, -115)
    assert driver.states[-1] is State.AUTH_FAILED


def test_a_failure_there_passes_it_over():
    driver, server, _ = about_to_drain()
    server.say(None)
    assert driver.session.phase is Phase.DIALING


# --- steps that take their time -------------------------------------------------------------------------------------


class Slow:
    """A mechanism whose steps are made elsewhere: by the test."""

    name = "SLOW"
    is_blocking = True

    def begin(self, host):
        assert host.startswith("10.0.0.")
        return self

    def step(self, challenge):
        raise AssertionError("never by the session")


def computing(hosts="10.0.0.1"):
    driver, server = offered(hosts, sasl=Slow())
    return driver, server, steps(driver)[-1]


def steps(driver):
    return [action for action in driver.actions if isinstance(action, ComputeToken)]


def compute(driver, step, token):
    driver.session.token_computed(step.conn, token, driver.now)
    driver.pump()


def test_steps_are_made_elsewhere():
    driver, server, step = computing()
    assert driver.ops() == []
    compute(driver, step, b"one")
    assert server.take() == b"one"
    server.say(b"two")
    assert steps(driver)[-1].step.challenge == b"two"
    compute(driver, steps(driver)[-1], None)
    assert driver.states == [State.CONNECTED]
    compute(driver, step, b"late")
    assert driver.ops() == [Op.SASL]


def test_one_that_fails_is_no_refusal():
    driver, server, step = computing(PAIR)
    driver.session.token_failed(step.conn, SaslTokenError("no ticket"), driver.now)
    driver.pump()
    assert str(failures(driver)["10.0.0.1:2181"]) == "SLOW with 10.0.0.1:2181 failed: no ticket"
    driver.connect()
    compute(driver, step, b"of a connection that is gone")
    driver.session.token_failed(step.conn, SaslTokenError("late"), driver.now)
    assert driver.ops() == []
    compute(driver, steps(driver)[-1], b"one")
    assert server.take() == b"one"


def test_one_that_was_refused_elsewhere_ends_it_all():
    driver, _server, step = computing(PAIR)
    driver.session.token_failed(step.conn, SaslRefusedError("the KDC refuses the password"), driver.now)
    driver.pump()
    assert driver.states == [State.AUTH_FAILED]
    assert "the KDC refuses the password" in str(driver.changes[-1].reason)


def test_the_time_that_it_takes_is_not_the_servers():
    driver, _server, step = computing(PAIR)
    driver.run(2.5)
    assert driver.session.conn == step.conn
    compute(driver, step, b"one")
    driver.until_hung_up()
    assert driver.session.conn != step.conn, "this is"


def test_but_the_session_does_not_wait_for_ever():
    driver, _server, step = computing(PAIR)
    driver.run(3.5)
    assert driver.session.conn != step.conn


class Raising(Slow):
    is_blocking = False

    def step(self, challenge):
        raise RuntimeError("a bug of its own")


def test_a_mechanism_that_raises_anything():
    driver, _server = offered(PAIR, sasl=Raising())
    assert "a bug of its own" in str(failures(driver)["10.0.0.1:2181"])
    assert driver.session.phase is Phase.DIALING


class Unbeginnable(Slow):
    """A bug of somebody's own, elsewhere."""

    def begin(self, host):
        raise RuntimeError("a bug of its own")


def test_a_mechanism_that_does_not_even_begin():
    driver, _server = offered(PAIR, sasl=Unbeginnable())
    assert "a bug of its own" in str(failures(driver)["10.0.0.1:2181"])
    assert driver.session.phase is Phase.DIALING


def test_nor_where_a_server_is_to_be_drained():
    driver, _server, began = about_to_drain(at_last=Unbeginnable())
    assert driver.ops(began) == []
    assert any("a bug of its own" in str(reason) for reason in failures(driver).values())


class Told(Slow):
    """Says always the same."""

    is_blocking = False

    def __init__(self, token):
        self.token = token

    def step(self, challenge):
        return self.token


@pytest.mark.parametrize("token", ["text", 7, bytearray(b"no"), [b""]])
def test_a_token_that_is_none(token):
    driver, _server = offered(PAIR, sasl=Told(token))
    assert "is bytes" in str(failures(driver)["10.0.0.1:2181"])
    assert driver.ops() == []
    driver, _server, step = computing(PAIR)
    compute(driver, step, token)
    assert "is bytes" in str(failures(driver)["10.0.0.1:2181"])


def test_a_token_that_no_server_would_take():
    """It would close the connection without a word."""
    driver, _server = offered(PAIR, sasl=Told(bytes(1 << 20)))
    assert "1048576 bytes" in str(failures(driver)["10.0.0.1:2181"])
    assert driver.ops() == []


@pytest.mark.parametrize("is_blocking", [False, True])
def test_tokens_without_end(is_blocking):
    """Between a server and a mechanism that never come to one, each in no time."""
    driver, server = offered(PAIR, sasl=Slow() if is_blocking else Told(b"and"))
    conn, rounds = driver.session.conn, 0
    while driver.session.conn == conn:
        rounds += 1
        assert rounds < 200
        if is_blocking:
            compute(driver, steps(driver)[-1], b"and")
        if driver.session.conn == conn:
            server.take()
            server.say(b"so")
    assert "does not come to an end" in str(failures(driver)["10.0.0.1:2181"])


def test_slow_steps_without_end():
    """All of them together must leave some of the session's time: tokens don't prolong it."""
    driver, server, _step = computing(PAIR)
    conn, began = driver.session.conn, driver.now
    while driver.session.conn == conn:
        driver.run(1.0)
        if driver.session.conn == conn:
            compute(driver, steps(driver)[-1], b"and")
            server.take()
            server.say(b"so")
    assert driver.now - began <= 6.0


def test_whose_fault_it_is_that_it_takes_so_long():
    driver, _server, step = computing(PAIR)
    assert "no token of SLOW so far" in str(dict(driver.session.failures())["10.0.0.1:2181"])
    driver.until_hung_up()
    assert "SLOW had no token in 3 s" in str(dict(driver.session.failures())["10.0.0.1:2181"])
    assert step.conn != driver.session.conn


# --- whatever comes -------------------------------------------------------------------------------------------------


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([XID_SASL, XID_SASL, XID_SASL, XID_AUTH, XID_PING, -1, 1, 2]),
            st.sampled_from([0, 0, 0, -115, -124, -6, -5]),
            st.none() | st.binary(max_size=60) | st.sampled_from([challenge("n"), b"rspauth=1"]),
        ),
        max_size=6,
    )
)
def test_hostile_servers_learn_nothing_and_break_nothing(replies):
    driver, _ = offered(PAIR)
    for xid, err, token in replies:
        if driver.session.phase in (Phase.DIALING, Phase.IDLE):
            break
        driver.feed(encode_reply(xid, 0, err, encode_sasl_reply(token)))
    told = [repr(driver.changes), repr(driver.session.failures()), repr(driver.actions)]
    assert not [text for text in told if PASSWORD in text]
    assert State.CONNECTED not in driver.states
    for sent in driver.sent:
        assert PASSWORD.encode() not in sent.body
