"""Measure `wq-dead` on a dead queue of 100,000 letters: how fast a replay is, and how much memory a list takes.

`python -m bench.dead`: about a minute, on a private broker; prints two rows of a Markdown table.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika

from bench.results import row
from workqueued.amqp.publisher import Publisher
from workqueued.amqp.topology import declare_dead_queue
from workqueued.broker_settings import Broker
from workqueued.delivery import Message, Properties, new_message_id
from workqueued.node import Node
from workqueued.urls import BrokerUrl

LETTERS = 100_000
QUEUE = "bench.letters"
COMMAND = [sys.executable, "-m", "workqueued.cli.dead", "--queue", QUEUE]


def measure_replay(url: str) -> float:
    """Letters/s of `wq-dead replay --all --yes`, from its start to its end, quorum queue to quorum queue."""
    with _filled(url) as channel:
        began = time.monotonic()
        subprocess.run([*COMMAND, "replay", "--all", "--yes", "--url", url], check=True, stdout=subprocess.DEVNULL)
        took = time.monotonic() - began
        arrived = int(channel.queue_declare(QUEUE, passive=True).method.message_count)
        if arrived != LETTERS:
            raise SystemExit(f"bench: {arrived} of {LETTERS} letters arrived")
    return LETTERS / took


def measure_list(url: str) -> float:
    """MB of memory of `wq-dead list` at its peak (resident; for every letter a line into a pipe)."""
    with _filled(url), subprocess.Popen([*COMMAND, "list", "--url", url], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101 - for mypy
        lines = sum(1 for _ in process.stdout)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or lines != LETTERS + 1:
        raise SystemExit(f"bench: wq-dead list ended with {process.returncode} after {lines} lines")
    return usage.ru_maxrss / 1024


@contextlib.contextmanager
def _filled(url: str) -> Iterator[Any]:
    """A dead queue with so many letters of 100 bytes, as a worker writes them; both queues are deleted at the end."""
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        channel = connection.channel()
        channel.queue_declare(QUEUE, durable=True, arguments={"x-queue-type": "quorum"})
        declare_dead_queue(channel, f"{QUEUE}.dead")
        publisher = Publisher(Broker(url=(BrokerUrl.parse(url),)), "bench")
        publisher.open(time.monotonic() + 30)
        for _ in range(LETTERS):
            publisher.publish(_letter())
            while publisher.in_flight >= 1000:
                publisher.pump()
            publisher.confirms.clear()
        while publisher.in_flight:
            publisher.pump()
        publisher.close()
    # Opened anew: nobody sent heartbeats for the first one meanwhile, nor does anybody for this one, but it asks none.
    parameters = pika.URLParameters(url)
    parameters.heartbeat = 0
    with contextlib.closing(pika.BlockingConnection(parameters)) as connection:
        channel = connection.channel()
        yield channel
        channel.queue_delete(QUEUE)
        channel.queue_delete(f"{QUEUE}.dead")


def _letter() -> Message:
    now = int(time.time() * 1000)
    headers = {
        "x-wq-enqueued-at": now,
        "x-wq-attempt": 3,
        "x-wq-reason": "failed",
        "x-wq-error": "ValueError: no such picture",
        "x-wq-first-failed-at": now,
        "x-wq-last-failed-at": now,
        "x-wq-host": "worker-1.example",
        "x-wq-queue": QUEUE,
        "x-wq-handler": "myapp.tasks:resize",
    }
    properties = Properties(message_id=new_message_id(), timestamp=now // 1000, headers=headers)
    return Message(f"{QUEUE}.dead", b"x" * 100, properties)


def main() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="wq-bench-") as folder, Node(Path(folder) / "broker") as node:
        print(row(f"`wq-dead replay` of {LETTERS:,} letters", f"{measure_replay(node.url):,.0f}/s", "≥ 5,000/s"))
        memory = f"{measure_list(node.url):.0f} MB"
        print(row(f"`wq-dead list` of {LETTERS:,} letters, memory at its peak", memory, "< 100 MB"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
