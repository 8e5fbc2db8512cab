"""Clients that compete for a few nodes: each creates, writes to, deletes and reads all of them, all the time.

Rules of this file: nothing but these calls makes such a node or removes it, and each call concerns one of them, so that
it can be judged whether they are linearizable. A read comes behind a sync, or behind something that is committed first;
both are called at once, and nothing in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from everlatch.types import Stat
from torture.history import CHECK, Ending, Part, told
from torture.workload import Worker

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from torture.history import Call
    from torture.recorder import Submitted
    from torture.workload import Plan

__all__ = ["Rival", "worker_of"]

_REGISTERS: Final = 4


def worker_of(plan: Plan) -> type[Worker]:
    """Who does the work of this plan."""
    return Rival if plan.registers else Worker


class Rival(Worker):
    """One of them. It guesses versions from what it saw last, which somebody else may have changed since."""

    def _tasks(self) -> list[Coroutine[Any, Any, None]]:
        return [self._work(self._bursts), self._work(self._chains)]

    def _kinds(self) -> dict[Callable[[], Submitted], float]:
        return {
            self._get: 20,
            self._exists: 8,
            self._set: 24,
            self._set_version: 14,
            self._create: 12,
            self._delete: 6,
            self._delete_version: 5,
        }

    async def _read_and_write(self) -> None:
        """As who counts something does."""
        path = self._register()
        call = await self._read(self.recorder.get, path).end()
        if call.ending is Ending.OK:
            self._learn(await self.recorder.set(path, version=call.result.stat.version).end())
            self._learn(await self._read(self.recorder.get, path).end())

    def _register(self) -> str:
        return f"{self._plan.registers}{int(self._rng.random() * _REGISTERS)}"

    def _read(self, read: Callable[..., Submitted], path: str) -> Submitted:
        """Up to date."""
        recorder = self.recorder
        front = recorder.sync() if self._rng.random() < 0.5 else recorder.transaction([Part(CHECK, "/")])
        return read(path, behind=front.note().number)

    def _get(self) -> Submitted:
        return self._read(self.recorder.get, self._register())

    def _exists(self) -> Submitted:
        return self._read(self.recorder.exists, self._register())

    def _set(self) -> Submitted:
        return self.recorder.set(self._register(), timeout=self._timeout())

    def _set_version(self) -> Submitted:
        path = self._register()
        return self.recorder.set(path, version=self._versions.get(path, 0), timeout=self._timeout())

    def _create(self) -> Submitted:
        return self.recorder.create(self._register(), timeout=self._timeout())

    def _delete(self) -> Submitted:
        return self.recorder.delete(self._register(), timeout=self._timeout())

    def _delete_version(self) -> Submitted:
        path = self._register()
        return self.recorder.delete(path, version=self._versions.get(path, 0), timeout=self._timeout())

    def _learn(self, call: Call) -> None:
        stat = getattr(call.result, "stat", call.result)
        if call.ending is Ending.OK and isinstance(stat, Stat):
            version = told(stat, "version")
            self._versions[call.path] = self._versions.get(call.path, 0) if version is None else version
