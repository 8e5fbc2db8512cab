"""What stays true of a path, as long as somebody wants to know: subscriptions of states, and what is built on them.

- `path_watch`: tells when something may have changed, by whatever watches the server in use has;
- `feed`: what a path is like, read once for all who subscribe to it; `feeds` has those of one client;
- `reading`: how a node's data and children are read;
- `states`: the subscriptions of a node's data and children, as their users have them;
- `waits`: until a node is there, is gone, or is as somebody wants it.
"""

__all__: list[str] = []
