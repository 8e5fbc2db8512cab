"""A small child process that closes the sessions of this one when it has died, however that happened (promise P8).

Modules:
- `process`: the child itself, a program of its own; imports nothing of this package.
- `child`: that process as its parent sees it.
- `line`: the pipe to it.
- `forks`: what children that are forked off tell it.
- `guardian`: the one guardian of an OS process, for all clients and event loops in it, and its restarts.
- `ward`: one client's place with it; what the engine has.
- `guarded`: what it is told of a session.
"""

__all__: list[str] = []
