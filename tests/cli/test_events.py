"""Events as lines."""

from __future__ import annotations

import pytest

from everlatch.cli.events import Event, Kind, decode, encode


@pytest.mark.parametrize("kind", Kind)
def test_an_event_survives_its_line(kind: Kind) -> None:
    event = Event("instance-1", kind, 12345.678901234567, -(2**63), 2**63 - 1)
    line = encode(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode(line) == event


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"hello\n",
        b"[]\n",
        b'{"kind": "leading"}\n',
        b'{"member": "a", "kind": "dancing", "at": 1}\n',
        b'{"member": "a", "kind": "leading", "at": 1, "size": 2}\n',
        b"\xff\n",
    ],
)
def test_anything_else_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="not an event"):
        decode(line)
