"""What is promised, rule by rule. Each module says which promise it judges, and how it knows.

writes         exactly once, not at all, at most once; in the order of the calls
reads          every earlier write is seen, and no read goes back in time
watches        one-shot watches
subscriptions  persistent watches
registers      nodes that many write to are linearizable
leaders        elections, tokens, fenced writes
clients        connected, every call ends, nothing is left behind
"""

from __future__ import annotations

__all__ = ["clients", "leaders", "reads", "registers", "subscriptions", "watches", "writes"]
