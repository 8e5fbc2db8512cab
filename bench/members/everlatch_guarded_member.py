"""everlatch's member with a guardian, which ends its session when it is killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.members import everlatch_member

if TYPE_CHECKING:
    from bench.members import MemberJob

__all__ = ["take_part"]


def take_part(job: MemberJob) -> None:
    """Until the end of the input."""
    everlatch_member.take_part(job, guardian=True)
