"""Benchmarks of everlatch against other clients, run from a checkout: `python -m bench throughput`, `… failover`, ….

Not part of the installed package. What is compared with what, and how, is written in `bench.throughput`,
`bench.failover` and `bench.handover`.
"""

from __future__ import annotations

__all__: list[str] = []
