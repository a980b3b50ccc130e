"""Measure what a command costs: a worker with `command: [/bin/true]` against amqp-consume of amqp-tools, written in C.

    python bench/command.py [ROUNDS]      on a private broker

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
import time
from collections.abc import Iterator
from pathlib import Path

import pika
import yaml

from workqueued.node import Node
from workqueued.sender import Sender

COMMANDS = Path(sys.executable).parent
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
                    rates.append(drain_rate(node, queue))
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


def drain_rate(node: Node, queue: str) -> float:
    """Messages/s between the first and the last tenth of the backlog."""
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(node.url))) as connection:
        channel = connection.channel()

        def down_to(share: float) -> tuple[float, int]:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                ready = int(channel.queue_declare(queue, passive=True).method.message_count)
                if ready < share * BACKLOG:
                    return time.monotonic(), ready
                time.sleep(0.005)
            raise SystemExit(f"bench: {queue}: not consumed within 120 s")

        began, first = down_to(0.9)
        ended, last = down_to(0.1)
        return (first - last) / (ended - began)


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="wq-bench-") as folder, Node(Path(folder) / "broker") as node:
        ours, theirs = measure_command(node, int(sys.argv[1]) if len(sys.argv) > 1 else 5)
    print(f"command: {PROGRAM}: {ours:.0f}/s; amqp-consume: {theirs:.0f}/s; ratio {ours / theirs:.2f} (goal: ≥ 0.6)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
