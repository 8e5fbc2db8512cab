import os
import pathlib
import re
import subprocess
import sys

PAGE = pathlib.Path(__file__).parents[3] / "docs" / "how-to" / "simulate-failures.md"


def test_the_example_runs(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(example)
    command = [sys.executable, "-W", "error", str(script)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "a frozen leader does not work on\n"


def test_the_example_can_fail(tmp_path):
    """Without the latch's look at the clock, somebody would work who must not; here: without the latch."""
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(example.replace("while latch.is_leader:", "while True:"))
    command = [sys.executable, str(script)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTEST_CURRENT_TEST"}
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "AssertionError" in done.stderr
    assert f"replay: EVERLATCH_SEED=7 python {script}" in done.stderr
