"""Measure what the project promises in figures: start, replacement, memory, idle CPU, wq-send, throughput.

    make bench            about ten minutes, on a private broker; prints a Markdown table

Times of one run may be compared with each other, hardly with those of another day: machines are noisy, so what matters
is given as a ratio within the run, from interleaved rounds.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from bench import command, dead, retries
from bench.common import BENCH, COMMANDS, daemon, drain_rate, epoch, fill, print_row
from workqueued.node import Node
from workqueued.sender import Sender

HANDLER = "bench_handler:nothing"

PIKA_SEND = """
import pika, sys
c = pika.BlockingConnection(pika.URLParameters(sys.argv[1])); ch = c.channel(); ch.confirm_delivery()
ch.basic_publish("", sys.argv[2], b"hello", pika.BasicProperties(delivery_mode=2), mandatory=True); c.close()
"""
PIKA_CONSUME = """
import pika, sys, time
from bench_handler import nothing
c = pika.BlockingConnection(pika.URLParameters(sys.argv[1])); ch = c.channel(); ch.basic_qos(prefetch_count=1)
def on_message(ch, method, properties, body):
    nothing(None)
    ch.basic_ack(method.delivery_tag)
ch.basic_consume(sys.argv[2], on_message)
ch.start_consuming()
"""


# --- what is measured ------------------------------------------------------------------------------------------------


def measure_start(scratch: Path, url: str) -> tuple[float, float]:
    """Median ms to the first worker consuming: since the master started, since the command was run."""
    since_master, since_command = [], []
    for round_ in range(5):
        with daemon(scratch / f"start{round_}", url, {"bench": {"handler": HANDLER, "workers": 8}}) as one:
            first = epoch(one.await_events("worker.consuming", 1)[0])
            since_master.append(1000 * (first - epoch(one.events("master.started")[0])))
            since_command.append(1000 * (first - one.started))
            one.await_events("worker.consuming", 8)
    return statistics.median(since_master), statistics.median(since_command)


def measure_replacement(scratch: Path, url: str) -> list[float]:
    """Ms from kill -9 of a worker to its replacement consuming, each."""
    times = []
    with daemon(scratch / "kill", url, {"bench": {"handler": HANDLER, "workers": 4}}) as one:
        one.await_events("worker.consuming", 4)
        for kills in range(15):
            with Sender(url) as sender:  # each worker has worked: its death is no crash loop
                for _ in range(12):
                    sender.send("x", queue="bench")
            one.await_events("delivery.settled", 12 * (kills + 1))
            # Each slot in turn: five deaths of one within a minute would be a crash loop.
            victim = [e["pid"] for e in one.events("worker.consuming") if e["slot"] == f"bench/{kills % 4}"][-1]
            killed = time.time()
            os.kill(victim, signal.SIGKILL)
            times.append(1000 * (epoch(one.await_events("worker.consuming", 5 + kills)[-1]) - killed))
    return times


def measure_idle(scratch: Path, url: str, workers: int) -> tuple[float, float]:
    """(PSS per worker in MB, CPU of the whole daemon in percent of a core) with idle workers."""
    with daemon(scratch / "idle", url, {"bench": {"handler": HANDLER, "workers": workers}}) as one:
        pids = [event["pid"] for event in one.await_events("worker.consuming", workers)]
        time.sleep(3)  # let the start-up end
        everybody = [one.process.pid, *children_of(one.process.pid)]
        before, began = sum(map(cpu_seconds, everybody)), time.monotonic()
        time.sleep(20)
        cpu = (sum(map(cpu_seconds, everybody)) - before) / (time.monotonic() - began)
        pss = statistics.mean(map(pss_kib, pids)) / 1024
    return pss, 100 * cpu


def measure_send(scratch: Path, url: str) -> tuple[float, float]:
    """Median wall ms of `wq-send hello` and of the shortest pika script, interleaved."""
    script = scratch / "shortest.py"
    script.write_text(PIKA_SEND)
    config = scratch / "send.yaml"
    config.write_text(yaml.safe_dump({"broker": {"url": url}, "queues": {"bench": {"handler": HANDLER}}}))
    ours = [str(COMMANDS / "wq-send"), "--config", str(config), "hello"]
    theirs = [sys.executable, str(script), url, "bench"]
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    for _ in range(15):
        for name, words in (("ours", ours), ("theirs", theirs)):
            began = time.monotonic()
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
            times[name].append(1000 * (time.monotonic() - began))
    return statistics.median(times["ours"]), statistics.median(times["theirs"])


def measure_rate(
    scratch: Path, node: Node, queue_type: str, rounds: int = 3, backlog: int = 12_000
) -> dict[str, float]:
    """Median messages/s of one worker with a handler that does nothing: ours (info, warning) and pika's loop."""
    script = scratch / "consume.py"
    script.write_text(PIKA_CONSUME)
    rates: dict[str, list[float]] = {"info": [], "warning": [], "pika": []}
    for round_ in range(rounds):
        for name, found in rates.items():
            queue = f"rate.{queue_type}.{name}.{round_}"
            fill(node, queue, queue_type, backlog)
            if name == "pika":
                command = [sys.executable, str(script), node.url, queue]
                process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(BENCH)})
                found.append(drain_rate(node, queue, backlog))
                process.terminate()
                process.wait()
            else:
                queues = {queue: {"handler": HANDLER, "workers": 1, "type": queue_type}}
                with daemon(scratch / queue, node.url, queues, name):
                    found.append(drain_rate(node, queue, backlog))
    return {name: statistics.median(found) for name, found in rates.items()}


# --- /proc -----------------------------------------------------------------------------------------------------------


def children_of(pid: int) -> list[int]:
    """The direct children of a process."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its threads, from the scheduler's own nanoseconds."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def pss_kib(pid: int) -> int:
    """Proportional set size of a process, KiB."""
    rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(row.split()[1]) for row in rows if row.startswith("Pss:"))


# --- report ----------------------------------------------------------------------------------------------------------


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="wq-bench-") as folder, Node(Path(folder) / "broker") as node:
        scratch = Path(folder)
        fill(node, "bench", "quorum", 1)
        since_master, since_command = measure_start(scratch, node.url)
        kills = measure_replacement(scratch, node.url)
        pss, cpu = measure_idle(scratch, node.url, 64)
        ours, theirs = measure_send(scratch, node.url)
        rates = {queue_type: measure_rate(scratch, node, queue_type) for queue_type in ("classic", "quorum")}
        print_row("figure", "measured", "goal")
        print_row("---", "---", "---")
        retries.report(scratch, node)
        command.report(node)
        dead.report(node)
    print_row("first worker consuming after the master started (median of 5)", f"{since_master:.0f} ms", "≤ 1000 ms")
    print_row("… after the command was run", f"{since_command:.0f} ms", "")
    replaced = f"{statistics.median(kills):.0f} ms; {max(kills):.0f} ms"
    print_row("replacement consuming after kill -9 of a worker (median of 15; worst)", replaced, "≤ 300 ms")
    print_row("64 idle workers: PSS of one", f"{pss:.1f} MB", "≤ 7 MB")
    print_row("64 idle workers: CPU of the whole daemon", f"{cpu:.2f} % of a core", "≤ 1 %")
    ratio = f"{ours:.0f} ms / {theirs:.0f} ms = {ours / theirs:.2f}"
    print_row("`wq-send hello`, wall, against the shortest pika script", ratio, "≤ 1.5")
    for queue_type, rate in rates.items():
        for level in ("info", "warning"):
            ratio = f"{rate[level]:.0f}/s / {rate['pika']:.0f}/s = {rate[level] / rate['pika']:.2f}"
            print_row(f"one worker, no-op handler, {queue_type}, log {level}, against pika's own loop", ratio, "")
    return 0


if __name__ == "__main__":
    sys.exit(main())
