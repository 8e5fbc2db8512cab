"""Recipes: what services build on ZooKeeper, one a file, built on the client alone.

    leader_latch   one of several members leads (Curator's LeaderLatch; members of both kinds share an election)

Rules for all: a grant is given only for a node whose `ephemeral_owner` is the present session; whoever holds something
watches its own node too; one change wakes one waiter; names carry a GUID by which a node is found again after a lost
reply; calls are bound to the session; cancellation leaves no node behind; `timeout` is for the whole.
"""

from everlatch.recipes.leader_latch import LeaderLatch, Participant
from everlatch.recipes.terms import Term

__all__ = ["LeaderLatch", "Participant", "Term"]
