"""Consume rates: every system on every cell, in interleaved rounds.

The queue is laid in first and the system started on it; when all workers work, the shared counters are read at both
ends of a window. So start-up is left out, and nobody publishes meanwhile. Processor time is the scheduler's.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from bench import machine, systems
from bench.rig import Rig, Running
from bench.systems import System

#: Seconds from the first tasks to the window, and of the window.
_WARM, _WINDOW = 0.3, 0.8


@dataclass(frozen=True, slots=True)
class Cell:
    """A queue and how many work on it; measured in so many rounds."""

    kind: str
    size: int
    workers: int
    rounds: int
    group: str = "handlers"

    @property
    def systems(self) -> list[System]:
        """Who is measured on it."""
        return systems.HANDLERS if self.group == "handlers" else systems.COMMANDS


#: Not the full product, which would take an hour: what the goals ask for, and how rates grow with workers and size.
CELLS = [
    Cell("classic", 100, 1, 5),
    Cell("classic", 100, 2, 3),
    Cell("classic", 100, 4, 3),
    Cell("classic", 100, 8, 3),
    Cell("quorum", 100, 1, 5),
    Cell("quorum", 100, 8, 5),
    Cell("classic", 10240, 1, 3),
    Cell("quorum", 10240, 1, 3),
    Cell("classic", 100, 1, 3, "commands"),
]
QUICK_CELLS = [Cell("classic", 100, 1, 1), Cell("quorum", 100, 8, 1), Cell("classic", 100, 1, 1, "commands")]


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement: tasks/s, µs of processor time for each, processors that others used meanwhile."""

    kind: str
    size: int
    workers: int
    group: str
    round: int
    system: str
    rate: float
    client_us: float
    broker_us: float
    others: float


def measure(rig: Rig, cells: list[Cell], deadline: float) -> Iterator[dict[str, Any]]:
    """Samples of all rounds, or of those that fit before the deadline (monotonic seconds), round by round."""
    for number in range(max(cell.rounds for cell in cells)):
        for cell in (cell for cell in cells if cell.rounds > number):
            for system in cell.systems[:: -1 if number % 2 else 1]:
                if time.monotonic() > deadline:
                    print("bench: the time is over; the last rounds are left out")
                    return
                yield asdict(_measure_one(rig, cell, system, number))


def _measure_one(rig: Rig, cell: Cell, system: System, number: int) -> Sample:
    queue = rig.declare(system, cell.kind, f"consume.{cell.size}")
    scale = min(cell.workers, 3) * (0.7 if cell.kind == "quorum" else 1)
    want = int(system.rate * scale * (_WARM + _WINDOW + 0.7))
    rig.fill(system, queue, want - rig.look(queue)[0], [b"x" * cell.size])
    with rig.run(system, queue, cell.kind, cell.workers) as running:
        rig.await_workers(running, system, queue, cell.workers)
        ready = rig.look(queue)[0]
        rig.wait(lambda: _done(rig, running, system, queue, ready) >= 3 * cell.workers, f"tasks of {system.name}")
        time.sleep(_WARM)
        ready = rig.look(queue)[0]
        before = _read(rig, running)
        done, began = _done(rig, running, system, queue, ready), time.monotonic()
        while time.monotonic() < began + _WINDOW and rig.look(queue)[0] > 0.04 * want:
            time.sleep(0.04)
        tasks, seconds = _done(rig, running, system, queue, ready) - done, time.monotonic() - began
        after = _read(rig, running)
    if tasks <= 0:
        raise SystemExit(f"bench: {system.name} did nothing in {seconds:.1f} s on {queue}")
    client, broker, busy = (late - early for early, late in zip(before, after, strict=True))
    others = max(0.0, busy - client - broker) / seconds
    # A program's time is gone with it before it can be read.
    client_us = 1e6 * client / tasks if system.counts else 0.0
    return Sample(
        cell.kind, cell.size, cell.workers, cell.group, number, system.name,
        tasks / seconds, client_us, 1e6 * broker / tasks, others,
    )  # fmt: skip


def _done(rig: Rig, running: Running, system: System, queue: str, ready: int) -> int:
    return running.done if system.counts else ready - rig.look(queue)[0]


def _read(rig: Rig, running: Running) -> tuple[float, float, float]:
    client = machine.cpu_seconds(running.processes)
    return client, machine.cpu_seconds([rig.node.pid]), machine.busy_seconds()
