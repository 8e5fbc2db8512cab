from everlatch.session.credentials import Credentials
from everlatch.session.requests import Request
from everlatch.wire.auth_records import decode_auth_request, encode_auth_request
from everlatch.wire.codes import XID_AUTH, Op
from everlatch.wire.headers import frame_request
from session.driver import ADD_AUTH, Call

ME = encode_auth_request("digest", b"me:secret")
YOU = encode_auth_request("digest", b"you:secret")


def waiting():
    return Request(Call(), ADD_AUTH, "digest", b"")


def test_the_frame_is_an_auth_request():
    credential = Credentials().add("digest", ME)
    assert credential.frame() == frame_request(XID_AUTH, Op.AUTH, ME)
    assert decode_auth_request(credential.frame(), 12, 12 + len(ME)) == ("digest", b"me:secret")


def test_all_are_replayed_in_the_order_in_which_they_were_added():
    credentials = Credentials()
    first, second = credentials.add("digest", YOU), credentials.add("digest", ME)
    assert credentials.replay() == [first.frame(), second.frame()]
    assert credentials.replay() == [first.frame(), second.frame()], "on every connection"


def test_nothing_to_replay():
    credentials = Credentials()
    assert credentials.replay() == []
    assert not credentials


def test_answers_come_in_order():
    credentials = Credentials()
    first, second = credentials.add("digest", ME), credentials.add("digest", YOU)
    credentials.replay()
    assert credentials
    assert [credentials.answered() for _ in range(3)] == [first, second, None]
    assert not credentials


def test_the_same_identity_is_kept_once_with_all_its_callers():
    credentials = Credentials()
    one, two = waiting(), waiting()
    first = credentials.add("digest", ME, one)
    assert credentials.add("digest", ME, two) is first
    assert len(credentials.replay()) == 1
    assert first.waiting == [one, two]


def test_a_lost_reply_is_not_an_answer():
    credentials = Credentials()
    request = waiting()
    credential = credentials.add("digest", ME, request)
    credentials.send(credential)
    credentials.disconnected()
    assert not credentials
    assert credentials.answered() is None
    assert credential.waiting == [request], "the next connection answers"


def test_a_replay_forgets_what_an_earlier_connection_left_unanswered():
    credentials = Credentials()
    credential = credentials.add("digest", ME)
    credentials.replay()
    credentials.replay()
    assert [credentials.answered() for _ in range(2)] == [credential, None]


def test_all_callers_can_be_taken_out():
    credentials = Credentials()
    requests = [waiting(), waiting()]
    credentials.add("digest", ME, requests[0])
    credentials.add("digest", YOU, requests[1])
    assert credentials.take_waiting() == requests
    assert credentials.take_waiting() == []


def test_no_repr_shows_a_secret():
    credential = Credentials().add("digest", ME)
    assert repr(credential) == "<Credential digest>"


def test_the_frames_for_whoever_else_authenticates():
    credentials = Credentials()
    first, second = credentials.add("digest", b"1"), credentials.add("digest", b"2")
    assert credentials.frames() == [first.frame(), second.frame()]
    assert not credentials, "nothing was sent here"
