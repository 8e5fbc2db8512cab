"""Keepers with a bug in them: the scenario `kept` finds each."""

import asyncio
import contextlib

import pytest

from everlatch.engine.engine import Engine
from everlatch.subscriptions.keeper import Keeper
from everlatch.subscriptions.kept_nodes import KeptNode, NamedNode, NumberedNode
from testing.simulation.test_promises_can_break import found

pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def test_nodes_that_are_made_behind_the_queue(monkeypatch):
    monkeypatch.setattr(Engine, "ahead", lambda self: contextlib.nullcontext())
    found("kept", "was not there for a call that waited", first=5)


def test_taking_away_somebody_else_s_node(monkeypatch):
    monkeypatch.setattr(NamedNode, "_meet", NamedNode._replace)
    found("kept", "was deleted by a keeper")


def test_writing_whatever_is_there(monkeypatch):
    rightly = KeptNode.write

    async def write(self, tenure, held, data, number):
        return await rightly(self, tenure, held._replace(version=-1), data, number)

    monkeypatch.setattr(KeptNode, "write", write)
    found("kept", "was overwritten|is occupied by", first=5)


def test_numbered_ones_that_leave_the_last_one_behind(monkeypatch):
    begin = NumberedNode.begin

    def begin_anew(self, tenure, data, number):
        self.forget()
        return begin(self, tenure, data, number)

    monkeypatch.setattr(NumberedNode, "begin", begin_anew)
    found("kept", "two nodes of one keeper", first=2)


def test_data_that_is_forgotten_when_nobody_waits(monkeypatch):
    update = Keeper.update

    async def update_while_waiting(self, data, timeout=None):
        before = self._data
        try:
            await update(self, data, timeout)
        except (TimeoutError, asyncio.CancelledError):
            self._data = before
            raise

    monkeypatch.setattr(Keeper, "update", update_while_waiting)
    found("kept", "was wanted last", first=2)


def test_nodes_that_nobody_watches(monkeypatch):
    monkeypatch.setattr(Keeper, "_on_event", lambda self, event: None)
    found("kept", "is None|is not present|is Stat")


def test_belief_that_outlives_a_session(monkeypatch):
    monkeypatch.setattr(Keeper, "_restore", lambda self, change: None)
    monkeypatch.setattr(Keeper, "is_present", property(lambda self: self._held is not None))
    found("kept", "was not there|is None|is not present|is Stat", first=5)
