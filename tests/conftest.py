"""What all tests share.

Hypothesis has two profiles: `fast`, the default, tries the same few examples every time; `thorough` tries many and
other ones each time. Choose with the environment variable EVERLATCH_HYPOTHESIS. What takes minutes on real servers
(long outages, both versions, every fault) runs in the thorough profile only, too.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Servers that a whole run shares, whatever directory the test is in.
pytest_plugins = ["real_servers"]

# No deadline and no complaint about slowness: how fast a machine is says nothing about the code.
_ANY_SPEED = (HealthCheck.too_slow,)

settings.register_profile(
    "fast", max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=_ANY_SPEED
)
settings.register_profile(
    "thorough", max_examples=500, deadline=None, database=None, print_blob=True, suppress_health_check=_ANY_SPEED
)
settings.load_profile(os.environ.get("EVERLATCH_HYPOTHESIS", "fast"))
