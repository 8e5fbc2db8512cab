"""A small child process that ends the sessions of this one when it has died, however that happened (promise P8).

In this process:
- `ward`: one client's place with the guardian; what the engine has.
- `guarded`: what it is told of a session.
- `guardian`: the one guardian of an OS process, for all clients and event loops in it, and its restarts.
- `child`: the guardian's process as its parent sees it.
- `line`: the pipe to it.
- `descriptor`: one that other code may have closed.
- `forks`: what it is told of children that are forked off.

In the guardian's, which are sent to it and import nothing else of this package:
- `process`: the watch.
- `told`: messages; used on both sides.
- `owners`: whose death is waited for.
- `deputy`: another process, for what this one is too small for.
- `farewell`: ends sessions, at whatever server does it.
- `connection`: to one server, by TLS too.
- `exchange`: what is said to it.
- `names`: looking names up.

In the deputy's:
- `kerberized`: ends sessions at servers that demand Kerberos.
"""

__all__: list[str] = []
