"""Where the microseconds of a worker go: cProfile over 10,000 of its tasks, processor time by part of the program.

    python -m bench.profile [--tree DIR] [--settled debug]     of this tree, or of another checkout

cProfile makes every call dearer, so its times are shares and no prices; the numbers of calls are exact.
"""

import argparse
import pstats
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import yaml

from bench.results import row
from bench.rig import Rig
from bench.systems import BENCH, INFO
from workqueued.node import Node

_SKIPPED, _TASKS = 2000, 10_000
#: What belongs to what, by the beginnings of a file's name in the package or of a library; the first that fits.
_PARTS = {
    "pika": ("pika/",),
    "reading and acking": ("workqueued/amqp/", "workqueued/delivery.py"),
    "log line": ("workqueued/logs.py", "workqueued/outlet.py", "structlog/", "json/"),
    "counts, evidence": ("workqueued/scoreboard.py", "workqueued/timings.py", "workqueued/settle.py"),
    "handling, safety": ("workqueued/",),
    "rest of Python": ("",),
}
#: Put before the daemon's own start; the worker is profiled from within, as its main thread does all the work.
_WRAPPER = """
import cProfile, os, sys, time
sys.path.insert(0, {tree!r})
from workqueued.worker import Worker
whole = Worker._work
profile, tasks = cProfile.Profile(time.thread_time_ns, 1e-9), [0]
def work(self, consumer, delivery):
    tasks[0] += 1
    if tasks[0] == {skipped}:
        profile.enable()
    elif tasks[0] == {skipped} + {tasks}:
        profile.disable()
        profile.dump_stats({output!r})
        os.kill(os.getppid(), 15)
    return whole(self, consumer, delivery)
Worker._work = work
from workqueued.cli.daemon import main
sys.exit(main())
"""


def main() -> int:
    """Profile and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile")
    parser.add_argument("--tree", type=Path, default=BENCH.parent, help="a checkout; its version may be an older one")
    parser.add_argument("--settled", help="log.settled, where that version has it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wq-bench-") as folder, Node(Path(folder) / "broker") as node:
        output = Path(folder) / "profile"
        _run(Rig(Path(folder), node), options.tree.resolve(), options.settled, output)
        print(row("part", "calls a task", "share of the time"))
        print("|---|---|---|")
        calls, times = _sum_up(output)
        for part in _PARTS:
            print(row(part, f"{calls[part] / _TASKS:.0f}", f"{100 * times[part] / times.total():.0f} %"))
        print(row("all", f"{calls.total() / _TASKS:.0f}", f"{1e6 * times.total() / _TASKS:.0f} µs with cProfile"))
    return 0


def _run(rig: Rig, tree: Path, settled: str | None, output: Path) -> None:
    """Let one worker have all its tasks; it ends its daemon itself."""
    queue = rig.declare(INFO, "classic", "profile")
    rig.fill(INFO, queue, _SKIPPED + _TASKS + 1000, [b"x" * 100])
    config, script = rig.scratch / "workqueued.yaml", rig.scratch / "wrapped.py"
    log = {"format": "json", **({"settled": settled} if settled else {})}
    queues = {queue: {"handler": "builtins:id", "type": "classic"}}
    settings = {"broker": {"url": rig.node.url}, "queues": queues, "run_directory": "run", "log": log}
    config.write_text(yaml.safe_dump(settings))
    script.write_text(_WRAPPER.format(tree=str(tree), skipped=_SKIPPED, tasks=_TASKS, output=str(output)))
    with (rig.scratch / "log").open("wb") as lines:
        words = [sys.executable, str(script), "--config", str(config)]
        subprocess.run(words, check=False, timeout=300, stdout=lines, stderr=lines)


def _sum_up(output: Path) -> tuple[Counter[str], Counter[str]]:
    """Calls and seconds by part; what is written in C counts for those who call it."""
    calls: Counter[str] = Counter()
    times: Counter[str] = Counter()
    stats = pstats.Stats(str(output)).stats  # type: ignore[attr-defined]  # typeshed does not know it
    for (file, _, _), (_, count, own, _, callers) in stats.items():
        if file != "~":
            calls[_part(file)] += count
            times[_part(file)] += own
            continue
        for (caller, _, _), (_, count_from, own_from, _) in callers.items():
            calls[_part(caller)] += count_from
            times[_part(caller)] += own_from
    return calls, times


def _part(file: str) -> str:
    name = file.rpartition("site-packages/")[2] if "site-packages/" in file else file
    name = name[name.rindex("workqueued/") :] if "workqueued/" in name else name
    name = "json/" if name.endswith("json/encoder.py") else name
    return next(part for part, beginnings in _PARTS.items() if name.startswith(beginnings))


if __name__ == "__main__":
    sys.exit(main())
