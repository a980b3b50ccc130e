"""What the benchmarks have in common: a daemon with a JSON log, a backlog, rows of a table."""

import contextlib
import datetime as dt
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import yaml

from workqueued.node import Node
from workqueued.sender import Sender

BENCH = Path(__file__).parent
COMMANDS = Path(sys.executable).parent


class Daemon:
    """`workqueued` with a configuration and a JSON log."""

    def __init__(self, folder: Path, url: str, queues: dict[str, Any], level: str = "info") -> None:
        folder.mkdir()
        self.log = folder / "log"
        file = folder / "workqueued.yaml"
        settings = {
            "broker": {"url": url},
            "queues": queues,
            "run_directory": "run",
            "pythonpath": str(BENCH),
            "log": {"format": "json", "level": level},
        }
        file.write_text(yaml.safe_dump(settings))
        self.started = time.time()
        with self.log.open("wb") as log:
            command = [str(COMMANDS / "workqueued"), "--config", str(file)]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def events(self, name: str) -> list[dict[str, Any]]:
        """Events of a name, oldest first."""
        lines = self.log.read_bytes().split(b"\n")[:-1]
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def await_events(self, name: str, count: int, within: float = 60) -> list[dict[str, Any]]:
        """Wait until there are so many."""
        eventually(lambda: len(self.events(name)) >= count, within, f"{count} {name}")
        return self.events(name)

    def stop(self) -> None:
        """Stop, and wait."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@contextlib.contextmanager
def daemon(folder: Path, url: str, queues: dict[str, Any], level: str = "info") -> Iterator[Daemon]:
    """A daemon for the length of a block."""
    running = Daemon(folder, url, queues, level)
    try:
        yield running
    finally:
        running.stop()


def eventually(condition: Callable[[], bool], within: float, what: str) -> None:
    """Wait for a condition; give up loudly."""
    deadline = time.monotonic() + within
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: {what}: not within {within:g} s")
        time.sleep(0.005)


def epoch(event: dict[str, Any]) -> float:
    """Seconds since the epoch of a log line."""
    return dt.datetime.fromisoformat(event["time"]).timestamp()


def fill(node: Node, queue: str, queue_type: str, backlog: int) -> None:
    """Put messages of 100 bytes into a new queue."""
    config = Path(node.directory) / "fill.yaml"
    queues = {queue: {"handler": "x:y", "type": queue_type}}
    config.write_text(yaml.safe_dump({"broker": {"url": node.url}, "queues": queues}))
    with Sender(config=config) as sender:
        for _ in sender.send_many(sender.message(b"x" * 100) for _ in range(backlog)):
            pass


def drain_rate(node: Node, queue: str, backlog: int) -> float:
    """Messages/s between the first and the last tenth of a backlog."""
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(node.url))) as connection:
        channel = connection.channel()

        def ready() -> int:
            return int(channel.queue_declare(queue, passive=True).method.message_count)

        eventually(lambda: ready() < 0.9 * backlog, 60, f"{queue} being consumed")
        began, first = time.monotonic(), ready()
        eventually(lambda: ready() < 0.1 * backlog, 120, f"{queue} being emptied")
        return (first - ready()) / (time.monotonic() - began)


def print_row(*cells: str) -> None:
    """A row of a Markdown table."""
    print(f"| {' | '.join(cells)} |")
