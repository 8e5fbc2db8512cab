"""Keepers with a bug in them: the scenario `kept` finds each."""

import asyncio
import contextlib

import pytest

from everlatch.engine.engine import Engine
from everlatch.session.requests import Requests
from everlatch.subscriptions.keeper import Keeper
from everlatch.subscriptions.kept_nodes import KeptNode, NamedNode, NumberedNode
from testing.simulation.test_promises_can_break import found

pytestmark = pytest.mark.filterwarnings(
    "ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def test_nodes_that_are_made_behind_the_queue(monkeypatch):
    monkeypatch.setattr(Engine, "ahead", lambda self: contextlib.nullcontext())
    found("kept", "was not there for a call that waited")


def test_nodes_that_are_made_when_the_queue_has_moved(monkeypatch):
    restore = Engine._restore
    monkeypatch.setattr(Engine, "_restore", lambda self, change: self._loop.call_later(0.05, restore, self, change))
    found("kept", "was not there for a call that waited")


def test_taking_away_somebody_else_s_node(monkeypatch):
    monkeypatch.setattr(NamedNode, "_meet", NamedNode._replace)
    found("kept", "was deleted by a keeper")


def test_writing_whatever_is_there(monkeypatch):
    rightly = KeptNode.write

    async def write(self, tenure, held, data, number):
        return await rightly(self, tenure, held._replace(version=-1), data, number)

    monkeypatch.setattr(KeptNode, "write", write)
    found("kept", "was overwritten", seeds=40)


def test_numbered_ones_that_leave_the_last_one_behind(monkeypatch):
    begin = NumberedNode.begin

    def forget(self, tenure, data, number):
        self._last = ""
        return begin(self, tenure, data, number)

    monkeypatch.setattr(NumberedNode, "begin", forget)
    found("kept", "two nodes of one keeper")


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
    found("kept", "was wanted last")


def test_nodes_that_nobody_watches(monkeypatch):
    monkeypatch.setattr(Keeper, "_on_event", lambda self, event: None)
    found("kept", "is None|is not present|is Stat")


def test_belief_that_outlives_a_session(monkeypatch):
    monkeypatch.setattr(Keeper, "_restore", lambda self, change: None)
    monkeypatch.setattr(Keeper, "is_present", property(lambda self: self._held is not None))
    found("kept", "was not there|is None|is not present|is Stat")


def test_requests_that_are_not_put_ahead(monkeypatch):
    submit = Requests.submit

    def behind(self, request, now=None):
        request.ahead = False
        submit(self, request, now)

    monkeypatch.setattr(Requests, "submit", behind)
    found("kept", "was not there for a call that waited")
