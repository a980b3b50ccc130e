"""Consume rates: every system on every cell, in interleaved windows.

The queue is laid in first, and the systems are started on it, one after the other; each is stopped (SIGSTOP) when all
its workers work. Then one at a time goes on for a moment, in turns, and the shared counters are read at both ends of a
window. So start-up is left out, nobody publishes meanwhile, and a ratio is one of neighbours in time: on a machine that
shares its processors with others, what a second's rate says changes from one second to the next. Processor time is the
scheduler's.
"""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from bench import machine, systems
from bench.rig import Rig, Running
from bench.systems import System

#: Seconds from going on to the window, and of the window. What waits for a timer comes due all at once at first.
_WARM, _WINDOW = 0.15, 0.35


@dataclass(frozen=True, slots=True)
class Cell:
    """A queue and how many work on it; in each of so many rounds all are started, and each has so many windows."""

    kind: str
    size: int
    workers: int
    rounds: int = 1
    windows: int = 6
    group: str = "handlers"

    @property
    def systems(self) -> list[System]:
        """Who is measured on it."""
        return systems.HANDLERS if self.group == "handlers" else systems.COMMANDS


#: Not the full product, which would take an hour: what the goals ask for, and how rates grow with workers and size.
CELLS = [
    Cell("classic", 100, 1, 2, 12),
    Cell("classic", 100, 2),
    Cell("classic", 100, 4),
    Cell("classic", 100, 8),
    Cell("quorum", 100, 1, 1, 12),
    Cell("quorum", 100, 8, 1, 12),
    Cell("classic", 10240, 1),
    Cell("quorum", 10240, 1),
    Cell("classic", 100, 1, group="commands"),
]
QUICK_CELLS = [Cell("classic", 100, 1, 1, 1), Cell("quorum", 100, 8, 1, 1), Cell("classic", 100, 1, 1, 1, "commands")]


@dataclass(frozen=True, slots=True)
class Sample:
    """One window: tasks/s, µs of processor time for each, processors that others used meanwhile."""

    kind: str
    size: int
    workers: int
    group: str
    round: int
    window: int
    system: str
    rate: float
    client_us: float
    broker_us: float
    others: float


@dataclass(frozen=True, slots=True)
class Contender:
    """A system that is started, and stopped until it is its turn."""

    system: System
    queue: str
    running: Running


def measure(rig: Rig, cells: list[Cell], deadline: float) -> Iterator[dict[str, Any]]:
    """Samples of all windows, or of those that fit before the deadline (monotonic seconds), round by round."""
    for number in range(max(cell.rounds for cell in cells)):
        for cell in (cell for cell in cells if cell.rounds > number):
            with contextlib.ExitStack() as stack:
                contenders = [_start(rig, cell, system, stack) for system in cell.systems]
                for window in range(cell.windows):
                    for contender in contenders[:: -1 if window % 2 else 1]:
                        if time.monotonic() > deadline:
                            print("bench: the time is over; the last windows are left out")
                            return
                        yield asdict(_measure_one(rig, cell, contender, (number, window)))


def _start(rig: Rig, cell: Cell, system: System, stack: contextlib.ExitStack) -> Contender:
    queue = rig.declare(system, cell.kind, f"consume.{cell.size}")
    rig.fill(system, queue, _guess(cell, system, cell.windows + 1), [b"x" * cell.size])
    running = stack.enter_context(rig.run(system, queue, cell.kind, cell.workers))
    rig.await_workers(running, system, queue, cell.workers)
    ready = rig.look(queue)[0]
    rig.wait(lambda: _done(rig, running, system, queue, ready) >= 3 * cell.workers, f"tasks of {system.name}")
    running.pause()
    return Contender(system, queue, running)


def _guess(cell: Cell, system: System, windows: int) -> int:
    """Messages for so many windows."""
    scale = min(cell.workers, 3) * (0.7 if cell.kind == "quorum" else 1)
    return int(windows * system.rate * scale * (_WARM + _WINDOW))


def _measure_one(rig: Rig, cell: Cell, contender: Contender, turn: tuple[int, int]) -> Sample:
    system, queue, running = contender.system, contender.queue, contender.running
    while rig.look(queue)[0] < _guess(cell, system, 3):
        rig.fill(system, queue, _guess(cell, system, cell.windows), [b"x" * cell.size])
        time.sleep(0.5)  # the broker writes
    running.resume()
    time.sleep(_WARM)
    ready = rig.look(queue)[0]
    before, done, began = _read(rig, running), _done(rig, running, system, queue, ready), time.monotonic()
    time.sleep(_WINDOW)
    tasks, seconds = _done(rig, running, system, queue, ready) - done, time.monotonic() - began
    after = _read(rig, running)
    running.pause()
    if tasks <= 0:
        raise SystemExit(f"bench: {system.name} did nothing in {seconds:.1f} s on {queue}")
    client, broker, busy = (late - early for early, late in zip(before, after, strict=True))
    others = max(0.0, busy - client - broker) / seconds
    # A program's time is gone with it before it can be read.
    client_us = 1e6 * client / tasks if system.counts else 0.0
    return Sample(
        cell.kind, cell.size, cell.workers, cell.group, *turn, system.name,
        tasks / seconds, client_us, 1e6 * broker / tasks, others,
    )  # fmt: skip


def _done(rig: Rig, running: Running, system: System, queue: str, ready: int) -> int:
    return running.done if system.counts else ready - rig.look(queue)[0]


def _read(rig: Rig, running: Running) -> tuple[float, float, float]:
    client = machine.cpu_seconds(running.processes)
    return client, machine.cpu_seconds([rig.node.pid]), machine.busy_seconds()
