"""One measurement in a process of its own: `python -m bench.contestant NAME OPERATION WINDOW ADDRESS COUNT`.

Prints one line of JSON. The nodes that `bench.server.prepare` makes must be there; what `create` makes is removed
again before the process ends, after the clock has stopped.
"""

from __future__ import annotations

import argparse
import json
from contextlib import nullcontext

from bench.contestants import CONTESTANTS, load
from bench.server import fresh_parent
from bench.workload import OPERATIONS, Job

__all__ = ["main"]


def main() -> None:
    """Measure what the arguments say."""
    parser = argparse.ArgumentParser(prog="python -m bench.contestant", description="One measurement.")
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("operation", choices=OPERATIONS)
    parser.add_argument("window", type=int)
    parser.add_argument("address", help="host:port")
    parser.add_argument("count", type=int)
    parser.add_argument("--ca", default="", metavar="FILE", help="by TLS, to a server of this authority")
    chosen = parser.parse_args()
    measure = load(chosen.contestant)
    with fresh_parent(chosen.address) if chosen.operation == "create" else nullcontext("") as parent:
        sample = measure(Job(chosen.operation, chosen.window, chosen.address, chosen.count, parent, chosen.ca))
    print(json.dumps(sample._asdict()))


if __name__ == "__main__":
    main()
