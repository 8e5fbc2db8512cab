"""The corpus: dialogues of real servers, as they were recorded, and taken apart.

Rules of this file: frames are kept without their lengths. A reply belongs to the request with its xid; the first frame
each way is the handshake.
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from everlatch.wire.codes import XID_NOTIFICATION
from everlatch.wire.headers import REPLY_HEADER, decode_reply_header, decode_request_header

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["DIRECTORY", "Corpus", "Dialogue", "Frame", "load", "save"]

DIRECTORY = Path(__file__).parent / "corpus"
_REQUEST_HEADER_SIZE = 8
_ARROWS = {True: "<", False: ">"}


class Frame(NamedTuple):
    """One payload, and whether the server sent it."""

    from_server: bool
    payload: bytes


class Dialogue(NamedTuple):
    """One connection, from the handshake to its end."""

    server: str
    """The version of the server."""
    name: str
    frames: list[Frame]

    @property
    def from_server(self) -> list[bytes]:
        """What the server sent, in order."""
        return [frame.payload for frame in self.frames if frame.from_server]


class Corpus:
    """All dialogues, and what is in them by operation: the bodies of requests and of replies without an error."""

    def __init__(self, dialogues: Iterable[Dialogue]) -> None:
        self.dialogues = list(dialogues)
        self.requests: dict[int, list[bytes]] = defaultdict(list)
        self.replies: dict[int, list[bytes]] = defaultdict(list)
        self.events: list[bytes] = []
        """The bodies of notifications."""
        self.connect_requests: list[bytes] = []
        self.connect_responses: list[bytes] = []
        self.errors: set[int] = set()
        """The error codes that replies have."""
        for dialogue in self.dialogues:
            self._take_apart(dialogue)

    @property
    def payloads(self) -> list[bytes]:
        """Every frame of all dialogues."""
        return [frame.payload for dialogue in self.dialogues for frame in dialogue.frames]

    def _take_apart(self, dialogue: Dialogue) -> None:
        asked: dict[int, deque[int]] = defaultdict(deque)
        requests = [frame.payload for frame in dialogue.frames if not frame.from_server]
        self.connect_requests.append(requests[0])
        for payload in requests[1:]:
            xid, op = decode_request_header(payload, 0, len(payload))
            asked[xid].append(op)
            self.requests[op].append(payload[_REQUEST_HEADER_SIZE:])
        if dialogue.from_server:
            self.connect_responses.append(dialogue.from_server[0])
        for payload in dialogue.from_server[1:]:
            self._take_reply(payload, asked)

    def _take_reply(self, payload: bytes, asked: dict[int, deque[int]]) -> None:
        xid, _, err = decode_reply_header(payload, 0, len(payload))
        body = payload[REPLY_HEADER.size :]
        if xid == XID_NOTIFICATION:
            self.events.append(body)
            return
        op = asked[xid].popleft()
        if err:
            self.errors.add(err)
        else:
            self.replies[op].append(body)


def save(dialogues: list[Dialogue], directory: Path = DIRECTORY) -> None:
    """Writes one file for each version; a frame is a line, so that changes can be read."""
    for server in sorted({dialogue.server for dialogue in dialogues}):
        parts = [_written(dialogue) for dialogue in dialogues if dialogue.server == server]
        (directory / f"zookeeper-{server}.json").write_text("{\n" + ",\n".join(parts) + "\n}\n")


def _written(dialogue: Dialogue) -> str:
    lines = (json.dumps(f"{_ARROWS[frame.from_server]} {frame.payload.hex()}") for frame in dialogue.frames)
    return f"{json.dumps(dialogue.name)}: [\n" + ",\n".join(lines) + "\n]"


def load(directory: Path = DIRECTORY) -> Corpus:
    """What was recorded. Raises `FileNotFoundError` if nothing was."""
    files = sorted(directory.glob("zookeeper-*.json"))
    if not files:
        raise FileNotFoundError(f"no dialogues in {directory}: `scripts/fuzz record` writes them")
    return Corpus(
        Dialogue(file.stem.removeprefix("zookeeper-"), name, [_read(line) for line in lines])
        for file in files
        for name, lines in json.loads(file.read_text()).items()
    )


def _read(line: str) -> Frame:
    arrow, _, payload = line.partition(" ")
    return Frame(arrow == _ARROWS[True], bytes.fromhex(payload))
