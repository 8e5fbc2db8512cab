"""What stays true of a path, as long as somebody wants to know: subscriptions of states, and what is built on them.

- `path_watch`: tells when something may have changed, by whatever watches the server in use has;
- `feed`: what a path is like, read once for all who subscribe to it; `feeds` has those of one client;
- `reading`: how a node's data and children are read;
- `states`: the subscriptions of a node's data and children, as their users have them;
- `tree`: a live copy of a subtree, as its users have it; `tree_copy` is that copy, `tree_reader` decides what has to be
  read for it, `tree_feed` reads it, `tree_changes` has what is told of it,
  `tree_batch` reads many nodes by one request;
- `waits`: until a node is there, is gone, or is as somebody wants it.
"""

__all__: list[str] = []
