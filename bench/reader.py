"""One reader of `bench.failover`: `python -m bench.reader CONTESTANT SERVERS FIRST TIMEOUT`.

It reads `bench.workload.NODE`, at the server at FIRST to begin with, and ends when `bench.reading` says so.
"""

from __future__ import annotations

import argparse

from bench.readers import READERS, ReaderJob, load

__all__ = ["main"]


def main() -> None:
    """Read."""
    parser = argparse.ArgumentParser(prog="python -m bench.reader", description="A reader that survives a fault.")
    parser.add_argument("contestant", choices=READERS)
    parser.add_argument("servers", help="host:port,host:port,…")
    parser.add_argument("first", help="host:port")
    parser.add_argument("timeout", type=float, help="of the session, seconds")
    parser.add_argument("--ca", default="", metavar="FILE", help="by TLS, to servers of this authority")
    chosen = parser.parse_args()
    load(chosen.contestant)(ReaderJob(chosen.servers, chosen.first, chosen.timeout, chosen.ca))


if __name__ == "__main__":
    main()
