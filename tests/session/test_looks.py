import pytest

from everlatch.session.looks import LIST, LOOK, READ, list_body, look_body, read_body
from everlatch.wire.records import (
    decode_exists_request,
    decode_get_children_request,
    decode_get_data_request,
)


@pytest.mark.parametrize(
    ("body", "decode"),
    [
        (look_body, decode_exists_request),
        (read_body, decode_get_data_request),
        (list_body, decode_get_children_request),
    ],
)
def test_nothing_is_watched(body, decode):
    data = body("/a/b")
    assert tuple(decode(data, 0, len(data))) == ("/a/b", False)


def test_a_look_at_a_missing_node_tells_so():
    assert [operation.missing_is_none for operation in (LOOK, READ, LIST)] == [True, False, False]
    assert not any(operation.is_write for operation in (LOOK, READ, LIST))
