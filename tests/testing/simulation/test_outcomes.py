"""The scenario of P3, as `scripts/sim` reports it."""

import json
import re

from everlatch.testing.simulation import __main__ as sim
from everlatch.testing.simulation import simulation
from everlatch.testing.simulation.scenarios import SCENARIOS


def test_how_writes_in_doubt_have_ended_is_reported_by_mode(tmp_path, capsys):
    report = tmp_path / "report.json"
    assert sim.main(["--seeds", "4", "--name", "outcomes", "--json", str(report)]) == 0
    assert re.search(r"4 seeds, \d+ faults, .* 0 failures", capsys.readouterr().out)
    counts = json.loads(report.read_text())["counts"]["outcomes"]
    modes = {name.partition(":")[0] for name in counts}
    assert modes == {"plain", "idempotent", "protect", "exactly once"}
    assert {"exactly once: result", "exactly once: not applied", "plain: unknown"} <= counts.keys()


def test_the_same_seed_is_the_same_run():
    def digest():
        with simulation(3) as world:
            SCENARIOS["outcomes"](world)
            return world.digest(), dict(world.counts)

    assert digest() == digest()
