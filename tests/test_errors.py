import asyncio
import inspect

import pytest

from everlatch import errors
from everlatch.errors import (
    SERVER_ERRORS,
    CallTimeoutError,
    CertificateFileError,
    EverlatchError,
    FrameTooLargeError,
    LinkError,
    MemberInTheWayError,
    NoAuthError,
    NodeOccupiedError,
    NoNodeError,
    NotEmptyError,
    OutcomeUnknownError,
    ProtocolError,
    ReceiptsError,
    ReplyTooLargeError,
    RequestKillsConnectionError,
    ResultLostError,
    ServerError,
    StaleLeaderError,
    StartError,
    TransactionFailedError,
    UnimplementedError,
    UnknownServerError,
    UnsupportedByServerError,
    WriteNotAppliedError,
    WriteTimeoutError,
    describe,
    server_error,
)
from everlatch.types import Outcome, Sighting, Stat

CODES = {
    -1: "SystemZookeeperError",
    -2: "RuntimeInconsistencyError",
    -3: "DataInconsistencyError",
    -4: "ConnectionLossError",
    -5: "MarshallingError",
    -6: "UnimplementedError",
    -7: "OperationTimeoutError",
    -8: "BadArgumentsError",
    -9: "InvalidStateError",
    -12: "UnknownSessionError",
    -13: "NewConfigNoQuorumError",
    -14: "ReconfigInProgressError",
    -15: "SSLConnectionError",
    -100: "APIError",
    -101: "NoNodeError",
    -102: "NoAuthError",
    -103: "BadVersionError",
    -108: "NoChildrenForEphemeralsError",
    -110: "NodeExistsError",
    -111: "NotEmptyError",
    -112: "SessionExpiredError",
    -113: "InvalidCallbackError",
    -114: "InvalidACLError",
    -115: "AuthFailedError",
    -116: "ClosingError",
    -117: "NothingError",
    -118: "SessionMovedError",
    -119: "NotReadOnlyError",
    -120: "EphemeralOnLocalSessionError",
    -121: "NoWatcherError",
    -122: "RequestTimeoutError",
    -123: "ReconfigDisabledError",
    -124: "SessionClosedRequireAuthError",
    -125: "QuotaExceededError",
    -127: "ThrottledOpError",
}
"""Every code that ZooKeeper has ever assigned."""

TREE = """
EverlatchError Exception
InvalidArgumentError EverlatchError ValueError
InvalidPathError InvalidArgumentError
InvalidConnectStringError InvalidArgumentError
InvalidACLArgumentError InvalidArgumentError
InvalidTypeError InvalidArgumentError TypeError
RequestTooLargeError InvalidArgumentError
CertificateFileError InvalidArgumentError
ClientStateError EverlatchError RuntimeError
NotStartedError ClientStateError
AlreadyStartedError ClientStateError
ClientClosedError ClientStateError
GaveUpError ClientStateError
GuardianUnavailableError ClientStateError
WrongLoopError ClientStateError
QueueFullError EverlatchError
StartError EverlatchError ConnectionError
CallTimeoutError EverlatchError TimeoutError
WriteTimeoutError OutcomeUnknownError CallTimeoutError
OutcomeUnknownError EverlatchError
WriteNotAppliedError EverlatchError
ResultLostError EverlatchError
NodeOccupiedError EverlatchError
ReceiptsError EverlatchError
RequestKillsConnectionError EverlatchError ConnectionError
ReplyTooLargeError EverlatchError ConnectionError
TransactionFailedError EverlatchError
NotLeaderError EverlatchError
StaleLeaderError NotLeaderError
HandOverError EverlatchError
NoSuchMemberError HandOverError
MemberInTheWayError HandOverError
HistoryResetError EverlatchError
LinkError EverlatchError ConnectionError
ConnectionClosedByServerError LinkError
ConnectFailedError LinkError
TlsError ConnectFailedError
ServerCertificateError TlsError
ClientCertificateError TlsError
NoTlsError TlsError
HandshakeTimeoutError LinkError TimeoutError
HandshakeRefusedError LinkError
SilentLinkError LinkError
SaslError LinkError
ServerLeftError LinkError
ProtocolError LinkError
TruncatedError ProtocolError
InvalidLengthError ProtocolError
FrameTooLargeError ProtocolError
UnexpectedReplyError ProtocolError
ServerError EverlatchError
UnknownServerError ServerError
ConnectionLossError ServerError ConnectionError
OperationTimeoutError ServerError TimeoutError
SSLConnectionError ServerError ConnectionError
UnsupportedByServerError UnimplementedError
RequestTimeoutError ServerError TimeoutError
"""

PUBLIC = [getattr(errors, name) for name in errors.__all__]
CLASSES = [each for each in PUBLIC if inspect.isclass(each)]

SAMPLES = [
    StartError([("h1:2181", LinkError("refused"))]),
    CallTimeoutError("get", "/a", 1.5, sent=True),
    OutcomeUnknownError("set", "/a", LinkError("gone")),
    WriteTimeoutError("set", "/a", 1.5),
    WriteNotAppliedError("set", "/a", "the servers refused it"),
    ResultLostError("create", "/a-", 0x1F, "its number is not known"),
    NodeOccupiedError("/a", 5),
    ReceiptsError("/receipts", NoAuthError("create", "/receipts")),
    RequestKillsConnectionError("get", "/a", 3, LinkError("gone")),
    ReplyTooLargeError("get", "/a", 20, 10),
    TransactionFailedError(1, "/a", NoNodeError("delete", "/a")),
    StaleLeaderError("/latch/_c_1-latch-0000000000", 7, NoNodeError("check", "/latch/_c_1-latch-0000000000")),
    MemberInTheWayError("/latch", "b", ("java-1", "java-2")),
    FrameTooLargeError(20, 10),
    CertificateFileError("ca", "/etc/ca.pem", "No such file or directory"),
    UnknownServerError(-126, "get", "/a"),
    UnsupportedByServerError("who_am_i", "3.6.2", "3.7.0", "/"),
    NoNodeError("get", "/a"),
    EverlatchError("anything"),
]
NEEDS_ARGUMENTS = {type(sample) for sample in SAMPLES} - {NoNodeError, EverlatchError}


def sample(kind):
    """One error of a kind."""
    for each in SAMPLES:
        if type(each) is kind:
            return each
    return kind()


def test_every_public_error_is_listed():
    defined = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and value.__module__ == errors.__name__ and not name.startswith("_")
    }
    assert defined == {kind.__name__ for kind in CLASSES}
    assert {kind.__name__ for kind in CLASSES if not issubclass(kind, EverlatchError)} == set()


@pytest.mark.parametrize("line", TREE.split("\n")[1:-1])
def test_tree(line):
    name, *parents = line.split()
    assert [parent.__name__ for parent in getattr(errors, name).__bases__] == parents


def test_all_others_are_server_errors():
    described = {line.split()[0] for line in TREE.split("\n")[1:-1]}
    for kind in CLASSES:
        if kind.__name__ not in described:
            assert kind.__bases__ == (ServerError,)


@pytest.mark.parametrize(("code", "name"), CODES.items())
def test_every_code_has_its_error(code, name):
    error = server_error(code, "get", "/a")
    assert type(error) is getattr(errors, name)
    assert (error.code, error.operation, error.path) == (code, "get", "/a")
    assert str(error) == f"get '/a': {error.meaning} ({code})"
    assert error.meaning != ServerError.meaning
    assert str(server_error(code)) == f"{error.meaning} ({code})"


def test_no_other_codes():
    assert {code: kind.__name__ for code, kind in SERVER_ERRORS.items()} == CODES
    assert set(ServerError.__subclasses__()) == {*SERVER_ERRORS.values(), UnknownServerError}


@pytest.mark.parametrize("code", [-126, -128, -10, -109, 1, 7, -(2**31), 2**31 - 1])
def test_unknown_codes(code):
    error = server_error(code, "get", "/a")
    assert type(error) is UnknownServerError
    assert isinstance(error, ServerError)
    assert error.code == code
    assert str(error) == f"get '/a': unknown error code ({code})"
    assert str(server_error(code)) == f"unknown error code ({code})"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_outcomes(kind):
    unknown = {"OutcomeUnknownError", "WriteTimeoutError", "ConnectionLossError", "OperationTimeoutError"}
    unknown.add("RequestTimeoutError")
    expected = Outcome.UNKNOWN if kind.__name__ in unknown else Outcome.NOT_APPLIED
    if kind is ResultLostError:
        expected = Outcome.HAPPENED
    assert kind.outcome is expected
    assert sample(kind).outcome is expected


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_errors_can_be_made_raised_and_shown(kind):
    error = sample(kind)
    with pytest.raises(kind) as caught:
        raise error
    assert caught.value is error
    # OSErrors of Python show numbers and file names; ours must not, whatever they inherit from.
    assert "Errno" not in str(error)
    assert isinstance(error, EverlatchError)
    assert not isinstance(error, asyncio.CancelledError)


def test_messages():
    assert {type(error): str(error) for error in SAMPLES} == {
        StartError: "no ZooKeeper server could be reached: h1:2181: refused",
        CallTimeoutError: "get '/a' timed out after 1.5 s (sent, no answer)",
        OutcomeUnknownError: "set '/a' was sent and its reply was lost (gone): it may or may not have been applied; "
        "read the node before repeating it, or use exactly_once",
        WriteTimeoutError: "set '/a' timed out after 1.5 s (sent, no answer)",
        WriteNotAppliedError: "set '/a' was not applied: the servers refused it; call it again if it is still wanted",
        ResultLostError: "create '/a-' was applied (zxid 0x1f), but its reply was lost, and its number is not known",
        NodeOccupiedError: "'/a' is occupied by session 0x5: it is left alone, and waited for",
        ReceiptsError: "receipts for exactly-once writes can't be kept below '/receipts': create '/receipts': "
        f"{NoAuthError.meaning} (-102); it takes CREATE there (and on its parent, if it is to be made), and an acl of "
        "the client that lets it READ and WRITE what it creates",
        RequestKillsConnectionError: "get '/a' was the first unanswered request in 3 lost connections and is not sent "
        "again; the last one ended because gone",
        ReplyTooLargeError: "the reply to get '/a' has 20 bytes, over the limit of 10",
        TransactionFailedError: "transaction refused at part 1 ('/a'), nothing was applied: "
        "delete '/a': no such node (-101)",
        StaleLeaderError: "the term of the leader '/latch/_c_1-latch-0000000000' (token 7) is over, nothing was "
        "applied: check '/latch/_c_1-latch-0000000000': no such node (-101)",
        MemberInTheWayError: "'/latch' can't be handed over to 'b': 'java-1', 'java-2' stand before it and can't step "
        "aside",
        FrameTooLargeError: "frame of 20 bytes, over the limit of 10",
        CertificateFileError: "ca '/etc/ca.pem': No such file or directory",
        UnknownServerError: "get '/a': unknown error code (-126)",
        UnsupportedByServerError: "who_am_i needs ZooKeeper 3.7.0, the server in use is 3.6.2: nothing was sent; "
        "upgrade the servers (-6)",
        NoNodeError: "get '/a': no such node (-101)",
        EverlatchError: "anything",
    }


def test_an_operation_that_a_server_turned_out_not_to_know():
    error = UnsupportedByServerError("who_am_i", None, "3.7.0", "/")
    assert (error.operation, error.version, error.since, error.path, error.code) == ("who_am_i", None, "3.7.0", "/", -6)
    assert str(error) == (
        "who_am_i needs ZooKeeper 3.7.0, the server in use does not know it; upgrade the servers (-6)"
    )


@pytest.mark.parametrize(("operation", "remedy"), [("create", "extendedTypesEnabled=true"), ("reconfig", "standalone")])
def test_what_is_switched_off_comes_with_a_remedy(operation, remedy):
    error = UnimplementedError(operation, "/a")
    assert str(error).startswith(f"{operation} '/a': {UnimplementedError.meaning} (-6): ")
    assert remedy in str(error)


def test_start_error_names_every_server():
    refused, timed_out = ConnectionRefusedError("refused"), TimeoutError()
    error = StartError([("h1:1", refused), ("[::1]:2", timed_out)])
    assert error.failures == [("h1:1", refused), ("[::1]:2", timed_out)]
    assert str(error).endswith("reached: h1:1: refused; [::1]:2: TimeoutError")
    assert str(StartError([])).endswith("none was tried in time")


def test_a_timeout_says_whether_it_was_sent():
    error = CallTimeoutError("get", "/a", 0.25, sent=False)
    assert (error.operation, error.path, error.timeout, error.sent) == ("get", "/a", 0.25, False)
    assert str(error) == "get '/a' timed out after 0.25 s (never sent)"


def test_a_write_that_timed_out_is_both():
    error = WriteTimeoutError("set", "/a", 2)
    assert isinstance(error, TimeoutError)
    assert isinstance(error, OutcomeUnknownError)
    assert (error.operation, error.path, error.timeout, error.sent, error.reason) == ("set", "/a", 2, True, None)


def test_what_was_seen_of_a_write_in_doubt_is_told():
    stat = Stat(0x10, 0x2A, 0, 0, 4, 0, 0, 0, 0, 0, 0x11)
    seen = [Sighting("/a", stat), Sighting("/b", None), Sighting("/c", None, NoAuthError("exists", "/c"))]
    error = OutcomeUnknownError("transaction", "/a", LinkError("gone"), seen)
    assert error.seen == tuple(seen)
    assert "('/a' has version 4, czxid 0x10, mzxid 0x2a, pzxid 0x11; '/b' does not exist; '/c' could not be " in str(
        error
    )
    assert WriteTimeoutError("set", "/a", 1).seen == ()


def test_fields():
    reason = LinkError("gone")
    lost = OutcomeUnknownError("set", "/a", reason)
    assert (lost.operation, lost.path, lost.reason, lost.seen) == ("set", "/a", reason, ())
    unapplied = WriteNotAppliedError("set", "/a", "refused")
    assert (unapplied.operation, unapplied.path, unapplied.why) == ("set", "/a", "refused")
    nameless = ResultLostError("create", "/a-", 31, "its number is not known")
    assert (nameless.operation, nameless.path, nameless.zxid) == ("create", "/a-", 31)
    error = NoAuthError("create", "/receipts")
    receipts = ReceiptsError("/receipts", error, "set", "/a")
    assert (receipts.place, receipts.error, receipts.operation, receipts.path) == ("/receipts", error, "set", "/a")
    assert str(receipts).startswith("set '/a': receipts ")
    killer = RequestKillsConnectionError("get", "/a", 3, reason)
    assert (killer.operation, killer.path, killer.losses, killer.reason) == ("get", "/a", 3, reason)
    large = ReplyTooLargeError("get", "/a", 20, 10)
    assert (large.operation, large.path, large.size, large.limit) == ("get", "/a", 20, 10)
    frame = FrameTooLargeError(20, 10)
    assert "is that a port for TLS?" in str(FrameTooLargeError(int.from_bytes(b"\x15\x03\x03\0"), 10))
    assert (frame.size, frame.limit) == (20, 10)
    part = NotEmptyError("delete", "/a")
    refused = TransactionFailedError(2, "/a", part)
    assert (refused.index, refused.path, refused.error) == (2, "/a", part)


def test_why_a_connection_ended_never_looks_like_a_server_error():
    for kind in CLASSES:
        assert not (issubclass(kind, LinkError) and issubclass(kind, ServerError))
    assert issubclass(ProtocolError, ConnectionError)


def test_no_error_takes_a_secret():
    """What an error can show is what it is given; nothing that it is given by name is a password."""
    for kind in CLASSES:
        parameters = inspect.signature(kind.__init__).parameters if kind in NEEDS_ARGUMENTS else {}
        assert not {"password", "credentials", "auth", "data", "token", "secret"} & set(parameters)


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (None, "no reason is known"),
        (LinkError("gone"), "gone"),
        (TimeoutError(), "TimeoutError"),
        (LinkError(), "LinkError"),
    ],
)
def test_describe(reason, text):
    assert describe(reason) == text


def test_a_missing_parent_is_named_as_such() -> None:
    assert "its parent, or the chroot, is missing" in str(server_error(-101, "create", "/a/b"))
    assert "parent" not in str(server_error(-101, "get", "/a/b"))
