"""How costs grow on one host: with workers, with queues, with the depth of a queue; and where one queue tops out.

    make bench-scale        ten minutes on a private broker; writes its tables into docs/scaling.md

The cost of what changes must not grow with what exists. The master is looked at apart from its workers, as it is one
thread for all of them.
"""

import argparse
import contextlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import yaml

from bench import machine
from bench.results import row
from bench.rig import Rig
from bench.systems import BENCH, INFO, C
from workqueued.node import Node

_BIN = Path(sys.executable).parent
_BEGIN, _END = "<!-- written by make bench-scale -->\n", "<!-- end -->\n"
#: Workers, queues.
_FLEETS = [(1, 1), (8, 1), (64, 1), (512, 1), (64, 16), (512, 16), (512, 128)]


@dataclass(slots=True)
class Fleet:
    """A daemon with workers over some queues."""

    process: subprocess.Popen[bytes]
    folder: Path
    workers: int
    started: float

    def says(self, event: str) -> int:
        """How often it logged that."""
        return (self.folder / "log").read_bytes().count(f'"event": "{event}"'.encode())

    def master_cpu(self) -> float:
        """Seconds of the master."""
        return machine.cpu_seconds([self.process.pid])

    @property
    def monitor(self) -> int:
        """The monitor's pid: it is the first child."""
        return list(machine.tree(self.process.pid))[1]


@contextlib.contextmanager
def fleet(rig: Rig, workers: int, queues: list[str]) -> Iterator[Fleet]:
    """A fleet for the length of a block, once all its workers consume."""
    folder = Path(tempfile.mkdtemp(dir=rig.scratch))
    each = {"handler": "idle:nothing", "type": "classic", "workers": workers // len(queues)}
    settings = {
        "broker": {"url": rig.node.url},
        "queues": dict.fromkeys(queues, each),
        "run_directory": "run",
        "pythonpath": str(folder),
        "log": {"format": "json", "settled": "debug"},
        "monitor": {"listen": "none"},
    }
    (folder / "idle.py").write_text("def nothing(task):\n    pass\n")
    (folder / "workqueued.yaml").write_text(yaml.safe_dump(settings))
    command = [str(_BIN / "workqueued"), "--config", str(folder / "workqueued.yaml")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    one = Fleet(process, folder, workers, time.monotonic())
    try:
        rig.wait(lambda: one.says("worker.consuming") >= workers, f"{workers} workers", within=240)
        yield one
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(120)


# --- measurements ----------------------------------------------------------------------------------------------------


def measure_fleets(rig: Rig, fleets: list[tuple[int, int]], rest: float) -> Iterator[str]:
    """A row for each: start, idle, memory, reload."""
    titles = ("start, s", "master CPU in it, s", "idle CPU, % of a core: master", "monitor", "workers")
    memory_titles = ("PSS of a worker, MiB", "of master and monitor")
    yield row("workers", "queues", *titles, *memory_titles, "reload, s", "master CPU in it, s")
    yield "|---" * 11 + "|"
    for workers, queues in fleets:
        with fleet(rig, workers, [f"scale.{number}" for number in range(queues)]) as one:
            start, starting = time.monotonic() - one.started, one.master_cpu()
            time.sleep(2)
            pids = list(machine.tree(one.process.pid))
            groups = ([one.process.pid], [one.monitor], [pid for pid in pids[1:] if pid != one.monitor])
            before = [machine.cpu_seconds(group) for group in groups]
            time.sleep(rest)
            idle = [100 * (machine.cpu_seconds(g) - was) / rest for g, was in zip(groups, before, strict=True)]
            memory = statistics.mean(machine.pss_mib(pid) for pid in groups[2])
            above = sum(machine.pss_mib(pid) for group in groups[:2] for pid in group)
            began, cpu = time.monotonic(), one.master_cpu()
            one.process.send_signal(signal.SIGHUP)
            rig.wait(lambda: one.says("reload.finished") > 0, "the end of a reload", within=240)
            reload, reloading = time.monotonic() - began, one.master_cpu() - cpu
        figures = (f"{start:.2f}", f"{starting:.2f}", *(f"{percent:.2f}" for percent in idle), f"{memory:.1f}")
        yield row(str(workers), str(queues), *figures, f"{above:.1f}", f"{reload:.2f}", f"{reloading:.2f}")


def measure_depth(rig: Rig, depth: int) -> Iterator[str]:
    """A queue without messages beside one with a million: what of ours grows?"""
    yield row("ready messages", "master PSS, MiB", "monitor PSS", "worker PSS", "monitor CPU, %", "wq-status, s")
    yield "|---" * 6 + "|"
    for ready in (0, depth):
        queue = rig.declare(INFO, "classic", f"depth.{ready}")
        rig.fill(INFO, queue, ready, [b"x" * 100])
        with fleet(rig, 1, [queue]) as one:
            time.sleep(3)
            pids = [one.process.pid, one.monitor, *list(machine.tree(one.process.pid))[2:3]]
            before = machine.cpu_seconds([one.monitor])
            time.sleep(10)
            idle = 10 * (machine.cpu_seconds([one.monitor]) - before)
            began = time.monotonic()
            command = [str(_BIN / "wq-status"), "--config", str(one.folder / "workqueued.yaml")]
            subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
            asked = time.monotonic() - began
            sizes = [f"{machine.pss_mib(pid):.1f}" for pid in pids]
        yield row(f"{ready:,}", *sizes, f"{idle:.2f}", f"{asked:.2f}")
        rig.channel.queue_delete(queue)


def measure_one_queue(rig: Rig, seconds: float) -> Iterator[str]:
    """Messages/s of 8 consumers in C, who need next to nothing themselves, on one queue and over several."""
    yield row("8 consumers in C over so many queues", "classic, tasks/s", "quorum, tasks/s")
    yield "|---|---|---|"
    for count in (1, 2, 4, 8):
        rates = [f"{_shared_rate(rig, kind, count, seconds):,.0f}" for kind in ("classic", "quorum")]
        yield row(str(count), *rates)


def _shared_rate(rig: Rig, kind: str, count: int, seconds: float) -> float:
    queues = [rig.declare(C, kind, f"shard.{number}") for number in range(count)]
    with contextlib.ExitStack() as stack:
        for queue in queues:
            rig.fill(C, queue, int(16000 * (seconds + 1)) // count - rig.look(queue)[0], [b"x" * 100])
        running = [stack.enter_context(rig.run(C, queue, kind, 8 // count)) for queue in queues]
        rig.wait(lambda: all(one.done for one in running), "consumers")
        time.sleep(0.3)
        began, before = time.monotonic(), sum(one.done for one in running)
        time.sleep(seconds)
        return (sum(one.done for one in running) - before) / (time.monotonic() - began)


def measure_broker(rig: Rig, count: int = 200) -> Iterator[str]:
    """What the broker keeps for each, KiB: after a collection in all of its processes, and with all that lingers."""
    yield row("KiB for each", "in Erlang's processes", "in Erlang's memory", "resident")
    yield "|---|---|---|---|"
    queue = rig.declare(C, "classic", "broker")
    before = _broker_kib(rig)
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.callback(_connect(rig, queue).close)
        yield _growth(rig, "connection, with a channel and a consumer", before, count)
    for kind, arguments in (("classic", {}), ("quorum", {"x-queue-type": "quorum"})):
        before = _broker_kib(rig)
        for number in range(count):
            rig.channel.queue_declare(f"broker.{number}", durable=True, arguments=arguments)
        yield _growth(rig, f"{kind} queue, empty", before, count)
        for number in range(count):
            rig.channel.queue_delete(f"broker.{number}")


def _connect(rig: Rig, queue: str) -> Any:
    parameters = pika.URLParameters(rig.node.url)
    parameters.heartbeat = 0  # nobody would answer
    connection = pika.BlockingConnection(parameters)
    connection.channel().basic_consume(queue, lambda *_: None)
    return connection


def _growth(rig: Rig, what: str, before: list[float], count: int) -> str:
    return row(what, *(f"{(now - was) / count:.0f}" for was, now in zip(before, _broker_kib(rig), strict=True)))


def _broker_kib(rig: Rig) -> list[float]:
    """Of its processes, of its whole memory, and resident."""
    time.sleep(1)
    collect = "[erlang:garbage_collect(P) || P <- processes()], [erlang:memory(T) || T <- [processes, total]]."
    processes, total = map(int, rig.node.ctl("eval", collect).strip().strip("[]").split(","))
    return [processes / 1024, total / 1024, machine.pss_mib(rig.node.pid) * 1024]


# --- the document ----------------------------------------------------------------------------------------------------


def main() -> int:
    """Measure, and put the tables into the document."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale")
    parser.add_argument("--quick", action="store_true", help="small figures, printed only")
    quick = parser.parse_args().quick
    lines = [f"{machine.describe()}; {time.strftime('%Y-%m-%d', time.gmtime())}."]
    with tempfile.TemporaryDirectory(prefix="wq-bench-") as folder, Node(Path(folder) / "broker") as node:
        rig = Rig(Path(folder), node)
        parts = {
            "Workers and queues": measure_fleets(rig, _FLEETS[:3] if quick else _FLEETS, 2 if quick else 20),
            "Depth": measure_depth(rig, 10_000 if quick else 1_000_000),
            "One queue, several queues": measure_one_queue(rig, 0.5 if quick else 3),
            "The broker's memory": measure_broker(rig),
        }
        for title, rows in parts.items():
            lines += ["", f"### {title}", ""]
            print(lines[-2], flush=True)
            for line in rows:
                print(line, flush=True)
                lines.append(line)
    if not quick:
        document = BENCH.parent / "docs" / "scaling.md"
        before, rest = document.read_text().split(_BEGIN)
        document.write_text(before + _BEGIN + "\n" + "\n".join(lines) + "\n\n" + _END + rest.split(_END)[1])
    return 0


if __name__ == "__main__":
    sys.exit(main())
