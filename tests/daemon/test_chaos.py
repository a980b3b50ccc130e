"""Nothing is lost while all breaks: one minute of `make chaos`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(400)
def test_nothing_is_lost_while_processes_links_and_the_broker_die(tmp_path: Path) -> None:
    """Drawn by a seed; its log stays in the test's folder when it fails."""
    words = ["--seed", "3", "--minutes", "1", "--directory", str(tmp_path / "run")]
    done = subprocess.run(
        [sys.executable, "-m", "chaos.run", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}"},
        capture_output=True,
        check=False,
        text=True,
        timeout=390,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the promise was kept" in done.stdout
