"""Measure what a command costs: a worker with `command: [/bin/true]` against amqp-consume of amqp-tools, written in C.

    python -m bench.command: on a private broker

Both take one message at a time from a classic queue, start /bin/true for it, and acknowledge when it has ended well.
Ours also gives it a group, facts, pipes for its output and a deadline, and writes a line into the log.

The bodies are empty: amqp-consume writes a body into a pipe, and dies of SIGPIPE (of four messages of 100 bytes, in one
try) when the program ends before it reads; which does not happen to us, but cannot be measured against.
"""

import contextlib
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import yaml

from bench.common import COMMANDS, drain_rate, print_row
from workqueued.node import Node
from workqueued.sender import Sender

BACKLOG = 2000
PROGRAM = "/bin/true"


def measure_command(node: Node, rounds: int = 5) -> tuple[float, float]:
    """Median messages/s of one worker of ours, and of amqp-consume; interleaved rounds."""
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory(prefix="wq-bench-") as folder:
        for round_ in range(rounds):
            for name, rates in (("ours", ours), ("theirs", theirs)):
                queue = f"command.{name}.{round_}"
                file = Path(folder) / f"{queue}.yaml"
                settings = {
                    "broker": {"url": node.url},
                    "queues": {queue: {"command": [PROGRAM], "type": "classic"}},
                    "run_directory": f"run-{round_}",
                    "log": {"format": "json"},
                }
                file.write_text(yaml.safe_dump(settings))
                fill(file, queue)
                with consumer(name, node, queue, file):
                    rates.append(drain_rate(node, queue, BACKLOG))
    return statistics.median(ours), statistics.median(theirs)


def fill(config: Path, queue: str) -> None:
    """Put messages without a body into a new queue."""
    with Sender(config=config) as sender:
        for _ in sender.send_many(sender.message(b"", queue=queue) for _ in range(BACKLOG)):
            pass


@contextlib.contextmanager
def consumer(name: str, node: Node, queue: str, config: Path) -> Iterator[None]:
    """One of the two, for the length of a block; its log goes into a file as under a supervisor."""
    if name == "ours":
        words = [str(COMMANDS / "workqueued"), "--config", str(config)]
    else:
        words = ["amqp-consume", f"--url={node.url}", f"--queue={queue}", "--prefetch-count=1", PROGRAM]
    with config.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(words, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="wq-bench-") as folder, Node(Path(folder) / "broker") as node:
        report(node)
    return 0


def report(node: Node) -> None:
    """Measure, and print a row of the table."""
    ours, theirs = measure_command(node)
    ratio = f"{ours:.0f}/s / {theirs:.0f}/s = {ours / theirs:.2f}"
    print_row(f"one worker, command: [{PROGRAM}], classic, against amqp-consume of amqp-tools", ratio, "≥ 0.6")


if __name__ == "__main__":
    sys.exit(main())
