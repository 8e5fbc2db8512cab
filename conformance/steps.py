"""What a sequence is made of. The `repr` of steps is Python that makes them again, so a sequence prints as a script.

Rules of this file: values only. A path that begins with `~` is below the node that the run makes for the sequence;
`~` is that node. Numbers that only a server can give (zxids, session ids) never stand in a step.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

__all__ = ["Act", "Auth", "Call", "Drop", "Reattach", "Step", "Unknown"]


class Call(NamedTuple):
    """A request, by the name that it has in `operations`."""

    name: str
    arguments: tuple[Any, ...] = ()
    cut: int | None = None
    """Only so many bytes of its body are sent."""

    def __repr__(self) -> str:
        cut = "" if self.cut is None else f", {self.cut}"
        arguments = f", {self.arguments!r}" if self.arguments or cut else ""
        return f"Call({self.name!r}{arguments}{cut})"


class Auth(NamedTuple):
    """Credentials."""

    scheme: str
    credentials: bytes


class Unknown(NamedTuple):
    """A request that no server knows: it costs the connection."""

    op: int


class Drop(NamedTuple):
    """The connection breaks; the session lives on, and has its watches no more."""


class Reattach(NamedTuple):
    """Another connection for the same session."""

    password_is_right: bool = True
    seen: str = "last"
    """The last zxid that the client says it has seen: `last`, `none`, or one of the `future`."""
    is_taken_over: bool = False
    """The old connection is left for the server to close; otherwise it breaks before."""
    has_read_only_byte: bool = True


Act: TypeAlias = Call | Auth | Unknown | Drop | Reattach


class Step(NamedTuple):
    """One session does something. It opens when its first step comes, and again when it has been closed; it connects
    again when it has lost its connection."""

    session: int
    act: Act

    def __repr__(self) -> str:
        return f"Step({self.session}, {self.act!r})"
