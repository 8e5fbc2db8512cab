"""A Stat of which only a part is known."""

from __future__ import annotations

from typing import Any, Final

from everlatch.errors import ResultLostError
from everlatch.types import Stat

__all__ = ["UNKNOWN", "PartialStat"]

UNKNOWN: Final = -(1 << 62)
"""Stands for what isn't known. No call takes it for a version: those have 32 bits."""
_FIELDS: Final = frozenset(Stat._fields)


class PartialStat(Stat):
    """What `set` returns if it was applied, its reply was lost, and somebody has changed the node since.

    `mzxid`, `mtime` and `data_length` are known, `version` if the call demanded one; `czxid`, `ctime` and
    `ephemeral_owner` if the node could be looked at. Any other field raises `ResultLostError` when it is read; as an
    item of the tuple it is a number (`UNKNOWN`) that no call takes for a version.
    """

    __slots__ = ()

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if name in _FIELDS and value == UNKNOWN:
            zxid = super().__getattribute__("mzxid")
            raise ResultLostError("set", "", zxid, f"the {name} of its node at that time is not known")
        return value

    def __repr__(self) -> str:
        fields = (
            f"{name}={'?' if value == UNKNOWN else value}" for name, value in zip(Stat._fields, self, strict=True)
        )
        return f"PartialStat({', '.join(fields)})"
