"""What users need to test their own code against ZooKeeper: real servers, and their faults.

    from everlatch.testing import Ensemble

Only names are gathered here; each module says what it promises.
"""

from __future__ import annotations

from everlatch.testing.builds import Build, ZooKeeperNotFoundError, find_build
from everlatch.testing.ensemble import Ensemble, EnsembleError, Server

__all__ = ["Build", "Ensemble", "EnsembleError", "Server", "ZooKeeperNotFoundError", "find_build"]
