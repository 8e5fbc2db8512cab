"""One member of `bench.handover`: `python -m bench.member CONTESTANT SERVER PATH NAME TIMEOUT`; see `bench.members`."""

from __future__ import annotations

import argparse

from bench.members import GUARDED, MEMBERS, MemberJob, load

__all__ = ["main"]


def main() -> None:
    """Take part."""
    parser = argparse.ArgumentParser(prog="python -m bench.member", description="A member of an election.")
    parser.add_argument("contestant", choices=(*MEMBERS, GUARDED))
    parser.add_argument("server", help="host:port")
    parser.add_argument("path")
    parser.add_argument("name")
    parser.add_argument("timeout", type=float, help="of the session, seconds")
    chosen = parser.parse_args()
    load(chosen.contestant)(MemberJob(chosen.server, chosen.path, chosen.name, chosen.timeout))


if __name__ == "__main__":
    main()
