"""Nothing is lost while all breaks: one minute of `make chaos`, and proof that its books would have told."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from chaos.books import Books, audit, read_body
from chaos.world import MAIN, Plan, stage
from harness import eventually

from workqueued.node import Node

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


def test_one_message_that_is_stolen_is_missed(tmp_path: Path) -> None:
    """The workers are held for a moment, and somebody else takes one of theirs."""
    plan = Plan(seed=5, type="classic", rate=200, workers=2)
    with stage(tmp_path, Node(tmp_path / "broker"), plan) as world:
        eventually(world.finished)
        workers = world.at_work()
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        with world.direct().channel() as channel:
            stolen = eventually(lambda: channel.basic_get(MAIN, auto_ack=True)[2])
        for pid in workers:
            os.kill(pid, signal.SIGCONT)
        world.stop_senders()
        assert world.await_rest(within=60) == ""
        account = audit(Books.read(tmp_path / MAIN, plan.seed, world.take_dead(MAIN)))
    assert [number for number, _ in account.lost] == [read_body(stolen)[0]]
    assert account.confirmed > 1
