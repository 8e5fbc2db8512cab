"""What a guardian is told, and what it says: for both sides.

A message is a tuple: its kind, and what belongs to it. `marshal` makes bytes of it, with their number before them, in
four bytes; it is built in, and both sides are the same interpreter.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Message: TypeAlias = tuple[Any, ...]

__all__ = ["CHILD", "DEPUTY", "DIGEST_MD5", "FORK", "OVER", "SESSION", "UP", "Message"]

SESSION = "session"
"""`(SESSION, key, *about)`: a client's session, from now on. `about` is what `exchange.Session` is made of."""
OVER = "over"
"""`(OVER, key)`: the client is closed; its session is nobody's concern any more."""
FORK = "fork"
"""`(FORK, number)`: an owner is about to fork."""
CHILD = "child"
"""`(CHILD, number, pid, start)`: the child that came of it, and when it started, in clock ticks since boot."""
DIGEST_MD5 = "digest-md5"
"""`(DIGEST_MD5, code)`: the module that sessions will need which have SASL."""
DEPUTY = "deputy"
"""`(DEPUTY, command, environment, places)`: how to start what sessions with Kerberos may need. See `deputy`."""
UP = b"u"
"""What the guardian says when it has begun."""
