"""`make soak`: an hour at full rate, to see that nothing grows: memory, descriptors, threads.

    python -m chaos.soak --minutes 60

One message in a hundred fails its first attempt, so that copies, delays and their connections are in it. Exit code: 0
when nothing grew and nothing was lost, else 1.
"""

import argparse
import shutil
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from chaos.books import WARM_UP, read_body, read_witness
from chaos.handler import finish
from chaos.world import MAIN, Plan, World, stage
from workqueued import Task
from workqueued.node import Node
from workqueued.scoreboard import Kind

_EVERY = 5.0
#: What a process may seem to grow an hour, KiB: allocators breathe.
_NOISE = 1024.0
#: Before the middle of a run caches fill; the slope is that of the rest.
_SETTLED_AFTER = 0.3


def handle(task: Task) -> None:
    """The handler: no poison, as a worker that dies is not one that grows."""
    if task.body == WARM_UP:
        return
    number, kind = read_body(task.body)
    if kind == "once" and task.attempt == 1:
        raise ValueError("the first attempt fails")
    finish(task.queue, number)


@dataclass(frozen=True)
class Sample:
    """One process at one time: seconds, private memory in KiB, open descriptors, threads."""

    at: float
    memory: float
    descriptors: int
    threads: int


def look(pid: int) -> Sample:
    """What the kernel says; raises OSError when the process is gone."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    private = sum(int(line.split()[1]) for line in rollup if line.startswith("Private_"))
    status = Path(f"/proc/{pid}/status").read_text().split("Threads:")[1]
    return Sample(time.monotonic(), private, len(list(Path(f"/proc/{pid}/fd").iterdir())), int(status.split()[0]))


def slope(samples: Sequence[Sample]) -> float:
    """Growth of the private memory, KiB an hour: least squares over what comes after the warm-up."""
    settled = samples[int(len(samples) * _SETTLED_AFTER) :]
    fit = statistics.linear_regression([one.at for one in settled], [one.memory for one in settled])
    return fit.slope * 3600


def watch(world: World, minutes: float) -> dict[str, list[Sample]]:
    """Sample every process until time is up; keyed by what it is, and its pid."""
    seen: dict[str, list[Sample]] = defaultdict(list)
    until = time.monotonic() + minutes * 60
    while time.monotonic() < until:
        named = {"master": [world.master], "monitor": world.children(Kind.MONITOR), "worker": world.at_work()}
        for name, pids in named.items():
            for pid in pids:
                seen[f"{name} {pid}"].append(look(pid))
        time.sleep(_EVERY)
    return seen


def report(seen: dict[str, list[Sample]]) -> list[str]:
    """Print a line for each process; returns what grew."""
    grew = []
    print("| process | private memory at first, KiB | at last | growth, KiB an hour | descriptors | threads |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, samples in seen.items():
        settled = samples[int(len(samples) * _SETTLED_AFTER) :]
        first, last = settled[0], settled[-1]
        growth = slope(samples)
        most = max(one.descriptors for one in settled[: len(settled) // 2])
        more = max(one.descriptors for one in settled[len(settled) // 2 :])
        print(
            f"| {name.split()[0]} | {first.memory:.0f} | {last.memory:.0f} | {growth:+.0f} "
            f"| {first.descriptors} → {last.descriptors} | {first.threads} → {last.threads} |"
        )
        if growth > _NOISE or more > most + 1 or last.threads > first.threads:
            grew.append(name)
    return grew


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="make soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--type", default="quorum", choices=["quorum", "classic"])
    parser.add_argument("--directory", default=".run/chaos/soak", help="made anew")
    options = parser.parse_args()
    directory = Path(options.directory).absolute()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    plan = Plan(seed=1, type=options.type, rate=5_000, workers=8, handler="chaos.soak:handle", recycle={})
    with stage(directory, Node(directory / "broker"), plan) as world:
        seen = watch(world, options.minutes)
        world.stop_senders()
        world.await_rest(within=300)
    confirmed = {number for number, _ in read_witness((directory / MAIN).glob("confirmed"))}
    finished = {number for number, _ in read_witness((directory / MAIN).glob("finished.*"))}
    grew, lost = report(seen), confirmed - finished
    print(f"\n{len(confirmed):,} confirmed in {options.minutes:g} minutes, {len(lost)} lost; grew: {grew or 'nothing'}")
    if grew or lost:
        return 1
    shutil.rmtree(directory)
    return 0


if __name__ == "__main__":
    sys.exit(main())
