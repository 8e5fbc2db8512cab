"""The yardstick: the election on a plain socket, by `bench.wire_session`, with nothing that makes it safe.

Its node is ephemeral and sequential; it watches the one before. When that is deleted it lists the members once more,
and leads if it is first. It resigns by deleting its node.
"""

from __future__ import annotations

import contextlib
import select
import sys
import time
from typing import TYPE_CHECKING

from bench.members import say
from bench.wire_session import WireSession
from everlatch.errors import NodeExistsError, NoNodeError
from everlatch.types import OPEN_ACL_UNSAFE
from everlatch.wire.codes import CreateMode, Op
from everlatch.wire.records import (
    decode_create_reply,
    decode_get_children_reply,
    encode_create_request,
    encode_delete_request,
    encode_get_children_request,
    encode_get_data_request,
)

if TYPE_CHECKING:
    from bench.members import MemberJob

__all__ = ["take_part"]


def take_part(job: MemberJob) -> None:
    """Until the end of the input."""
    with WireSession([job.server], job.timeout_s, patience_s=job.timeout_s) as session:
        member = _Member(session, job.path)
        while True:
            readable, _, _ = select.select([session, sys.stdin], [], [], job.timeout_s / 3)
            if session in readable or session.has_events:
                if session.take_events():
                    member.look()
            elif sys.stdin in readable:
                line = sys.stdin.readline()
                if not line:
                    return
                member.do(line.strip())
            else:
                session.ping()


class _Member:
    def __init__(self, session: WireSession, path: str) -> None:
        self._session = session
        self._path = path
        self._node = ""

    def do(self, order: str) -> None:
        if order == "join":
            self._join()
            self.look()
        else:
            began = time.monotonic_ns()
            self._session.call(Op.DELETE, encode_delete_request(self._node, -1))
            say("resigned", began)

    def _join(self) -> None:
        with contextlib.suppress(NodeExistsError):
            self._create(self._path, CreateMode.PERSISTENT)
        self._node = self._create(f"{self._path}/member-", CreateMode.EPHEMERAL_SEQUENTIAL)

    def _create(self, path: str, mode: CreateMode) -> str:
        reply = self._session.call(Op.CREATE, encode_create_request(path, b"", OPEN_ACL_UNSAFE, mode))
        return decode_create_reply(reply, 0, len(reply))

    def look(self) -> None:
        """Leads, or watches the member before."""
        while True:
            reply = self._session.call(Op.GET_CHILDREN, encode_get_children_request(self._path, False))
            before = [name for name in decode_get_children_reply(reply, 0, len(reply)) if name < self._own_name]
            if not before:
                say("leads", time.monotonic_ns())
                return
            try:
                self._session.call(Op.GET_DATA, encode_get_data_request(f"{self._path}/{max(before)}", True))
                return
            except NoNodeError:
                continue

    @property
    def _own_name(self) -> str:
        return self._node.rpartition("/")[2]
