"""Footprint: how soon workers are there, also after one was killed, what they weigh, and what they burn when idle."""

import contextlib
import os
import signal
import statistics
import time

from bench import machine
from bench.rig import Rig
from bench.systems import CELERY, DRAMATIQ, INFO

_NAMED = [INFO, DRAMATIQ, CELERY]


def measure_start(rig: Rig, rounds: int) -> dict[str, list[float]]:
    """Seconds from the start of the command until 8 workers consume, by system."""
    found: dict[str, list[float]] = {f"start {system.name}": [] for system in _NAMED}
    for number in range(rounds):
        for system in _NAMED[:: -1 if number % 2 else 1]:
            queue = rig.declare(system, "quorum", "start")
            with rig.run(system, queue, "quorum", 8) as running:
                found[f"start {system.name}"].append(rig.await_workers(running, system, queue, 8))
    return found


def measure_replacement(rig: Rig) -> dict[str, list[float]]:
    """Seconds from kill -9 of a worker of ours until its replacement consumes; each of 8 once."""
    queue = rig.declare(INFO, "quorum", "replace")
    found = []
    with rig.run(INFO, queue, "quorum", 8) as running:
        rig.await_workers(running, INFO, queue, 8)
        rig.fill(INFO, queue, 4000, [b"x" * 100])
        rig.wait(lambda: running.done == 4000, "tasks")  # who has worked is replaced at once, whoever has not later
        for victim in running.counters.pids[:8]:
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()
            rig.wait(lambda: rig.look(queue)[1] < 8, "a worker's death", pause=0)
            rig.wait(lambda: rig.look(queue)[1] == 8, "a replacement", pause=0.001)
            found.append(time.monotonic() - killed)
    return {"replacement": found}


def measure_memory(rig: Rig, workers: int) -> dict[str, list[float]]:
    """PSS of a worker (MiB, mean) after 1,000 tasks and full collections: of ours, and of 8 processes of others."""
    found = {}
    for system, count in ((INFO, workers), (DRAMATIQ, 8), (CELERY, 8)):
        queue = rig.declare(system, "classic", "memory")
        rig.fill(system, queue, 1000 * count, [b"x" * 100])
        with rig.run(system, queue, "classic", count, "collect") as running:
            rig.await_workers(running, system, queue, count)
            rig.wait(lambda: running.done == 1000 * count, "tasks", within=120)  # noqa: B023 - called here
            found[f"memory {system.name}"] = [statistics.mean(map(machine.pss_mib, running.counters.pids))]
    return found


def measure_idle(rig: Rig, seconds: float) -> dict[str, list[float]]:
    """Percent of a processor that 8 idle workers use, with all that stands above them; all systems at the same time."""
    with contextlib.ExitStack() as stack:
        live = []
        for system in _NAMED:
            queue = rig.declare(system, "quorum", "idle")
            live.append((system, stack.enter_context(rig.run(system, queue, "quorum", 8))))
            rig.await_workers(live[-1][1], system, queue, 8)
        time.sleep(2)  # what belongs to the start
        before = [machine.cpu_seconds(running.processes) for _, running in live]
        time.sleep(seconds)
        after = [machine.cpu_seconds(running.processes) for _, running in live]
    spent = [late - early for early, late in zip(before, after, strict=True)]
    return {f"idle {system.name}": [100 * s / seconds] for (system, _), s in zip(live, spent, strict=True)}
