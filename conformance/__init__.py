"""Is the dev server like ZooKeeper? Random sequences of requests go to both, and what they say is compared field by
field: `python -m conformance`. Run from a checkout; not part of the installed package.

    steps        what a sequence is made of; its `repr` is a script
    operations   every operation: how it is sent, and what its answer says
    guess        what probably is on a server, so that most steps make sense
    generation   sequences, from a seed and a number
    links        one connection, and all that came on it
    control      who prepares a server for a sequence, looks at it, and cleans up
    running      a sequence on one server
    transcripts  what a server has said during a sequence
    normal       what differs between any two servers (zxids, times, ids) as what it means
    comparison   the first difference between what two servers have said
    differences  the differences that are known, each with its reason
    shrinking    a sequence that shows a difference, made as short as it can be
    servers      a dev server and a real one, with the same settings
    campaign     how many sequences, and what was found
    replay       a sequence again, as a script

Rules: one thread of control sends everything, and waits before it turns to another session, so that both servers see
the same requests in the same order; nothing that a server says is ignored, what must differ is translated; a difference
that is neither fixed nor in `differences` is a finding.
"""

from __future__ import annotations

__all__ = [
    "campaign",
    "comparison",
    "control",
    "differences",
    "generation",
    "guess",
    "links",
    "normal",
    "operations",
    "replay",
    "running",
    "servers",
    "shrinking",
    "steps",
    "transcripts",
]
