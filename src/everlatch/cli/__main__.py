"""`python -m everlatch.cli`."""

from __future__ import annotations

from everlatch.cli import main

__all__: list[str] = []

main()
