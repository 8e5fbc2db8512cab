"""The command line: `everlatch`, or `python -m everlatch.cli`. It needs the extra `everlatch[cli]` (typer and rich).

    app        the commands and their options
    demo       the demonstration: starts the members, watches them, ends them
    member     one member of it, a process of its own
    events     what a member tells, as lines of JSON
    observer   what an independent client sees in the election's nodes
    election   judges what was told and seen. Pure
    board      what is known of each member. Pure
    render     shows it: a live table, or plain lines
    devserver  the server of `everlatch.devserver`, until a signal ends it

Rule of this file and of `member`: neither typer nor rich is imported; the first so that a missing extra is one line
and no traceback, the second so that members start fast.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

_EXTRA = frozenset({"typer", "rich"})


def main() -> None:
    """The entry point of the command `everlatch`."""
    try:
        from everlatch.cli.app import app
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        message = f'everlatch: the command line needs {error.name}, which is missing: pip install "everlatch[cli]"'
        print(message, file=sys.stderr)
        sys.exit(2)
    app(prog_name="everlatch")
