"""Whole frames, byte for byte: what the protocol says, independent of how this package builds them."""

import pytest

from everlatch.types import OPEN_ACL_UNSAFE
from everlatch.wire import auth_records, codes, framing, handshake, headers, multi, records, watch_records
from everlatch.wire.codes import Op

ZXID = 0x100000005
PASSWORD = bytes.fromhex("7f7606d8a0bfdff4f522ef58e948b8fc")
TRANSACTION = [multi.CheckPart("/a", 0), multi.DeletePart("/a", -1)]

REQUESTS = [
    (
        1,
        Op.EXISTS,
        records.encode_exists_request("/a", True),
        records.decode_exists_request,
        records.PathAndWatch("/a", True),
        "0000000f 00000001 00000003 00000002 2f61 01",
    ),
    (
        2,
        Op.CREATE,
        records.encode_create_request("/a", b"hi", OPEN_ACL_UNSAFE, 0),
        records.decode_create_request,
        records.CreateRequest("/a", b"hi", list(OPEN_ACL_UNSAFE), 0),
        "00000033 00000002 00000001 00000002 2f61 00000002 6869 00000001 0000001f 00000005 776f726c64 "
        "00000006 616e796f6e65 00000000",
    ),
    (codes.XID_PING, Op.PING, b"", None, None, "00000008 fffffffe 0000000b"),
    (
        codes.XID_AUTH,
        Op.AUTH,
        auth_records.encode_auth_request("digest", b"bob:secret"),
        auth_records.decode_auth_request,
        auth_records.AuthRequest("digest", b"bob:secret"),
        "00000024 fffffffc 00000064 00000000 00000006 646967657374 0000000a 626f623a736563726574",
    ),
    (
        codes.XID_SET_WATCHES,
        Op.SET_WATCHES,
        watch_records.encode_set_watches_request(ZXID, ["/a"], [], []),
        watch_records.decode_set_watches_request,
        watch_records.SetWatchesRequest(ZXID, ["/a"], [], []),
        "00000022 fffffff8 00000065 0000000100000005 00000001 00000002 2f61 00000000 00000000",
    ),
    (
        4,
        Op.MULTI,
        multi.encode_multi_request(TRANSACTION),
        multi.decode_multi_request,
        TRANSACTION,
        "00000037 00000004 0000000e 0000000d 00 ffffffff 00000002 2f61 00000000 "
        "00000002 00 ffffffff 00000002 2f61 ffffffff ffffffff 01 ffffffff",
    ),
    (3, Op.CLOSE_SESSION, b"", None, None, "00000008 00000003 fffffff5"),
]


def only_frame(stream):
    ((buf, start, end),) = framing.FrameReader(1_048_575).feed(stream)
    return buf, start, end


@pytest.mark.parametrize(("xid", "op", "body", "decode", "value", "golden"), REQUESTS)
def test_requests(xid, op, body, decode, value, golden):
    wire = bytes.fromhex(golden)
    assert headers.frame_request(xid, op, body) == wire

    buf, start, end = only_frame(wire)
    assert headers.decode_request_header(buf, start, end) == (xid, op)
    if decode is None:
        assert end - start == 8
    else:
        assert decode(buf, start + 8, end) == value


def test_connect_request():
    request = handshake.ConnectRequest(0, 0, 10_000, 0, bytes(16), False)
    golden = "0000002d 00000000 0000000000000000 00002710 0000000000000000 00000010 00000000000000000000000000000000 00"
    wire = bytes.fromhex(golden)
    assert framing.frame(handshake.encode_connect_request(request)) == wire
    assert handshake.decode_connect_request(*only_frame(wire)) == request


def test_connect_response():
    response = handshake.ConnectResponse(0, 10_000, 0x100000FDEE30000, PASSWORD, False)
    wire = bytes.fromhex("00000025 00000000 00002710 0100000fdee30000 00000010 7f7606d8a0bfdff4f522ef58e948b8fc 00")
    assert framing.frame(handshake.encode_connect_response(response)) == wire
    assert handshake.decode_connect_response(*only_frame(wire)) == response


def test_expired():
    expired = handshake.ConnectResponse(0, 0, 0, bytes(16), None)
    wire = bytes.fromhex("00000024 00000000 00000000 0000000000000000 00000010") + bytes(16)
    assert framing.frame(handshake.encode_connect_response(expired)) == wire
    assert handshake.decode_connect_response(*only_frame(wire)) == expired


def test_error_reply():
    wire = bytes.fromhex("00000010 00000001 0000000100000005 ffffff9b")
    assert framing.frame(headers.encode_reply(1, ZXID, -101)) == wire
    assert headers.decode_reply_header(*only_frame(wire)) == (1, ZXID, -101)


def test_event():
    wire = bytes.fromhex("0000001e ffffffff ffffffffffffffff 00000000 00000003 00000003 00000002 2f61")
    event = watch_records.encode_watcher_event(3, codes.KEEPER_STATE_SYNC_CONNECTED, "/a")
    assert framing.frame(headers.encode_reply(codes.XID_NOTIFICATION, -1, 0, event)) == wire

    buf, start, end = only_frame(wire)
    assert headers.decode_reply_header(buf, start, end) == (-1, -1, 0)
    assert watch_records.decode_watcher_event(buf, start + headers.REPLY_HEADER.size, end) == (3, 3, "/a")
