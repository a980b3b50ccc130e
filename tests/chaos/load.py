"""The load of a chaos run: sends numbered messages at a steady rate, and writes down which were confirmed.

    python -m chaos.load URL DIRECTORY QUEUE SEED RATE TASKS BACKLOG

A process of its own, so that nothing that happens to the stage holds it up. What was not confirmed is not sent again:
its number is spent, and it may turn up or not. Ends at SIGTERM, or when TASKS were confirmed (0: never).
"""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pika

from chaos.books import Witness, write_body
from workqueued.delivery import Message, Properties
from workqueued.errors import WorkqueuedError
from workqueued.sender import Sender

_BATCHES_PER_SECOND = 20


class Depth:
    """How many messages wait in a queue, by plain pika; the last known number while the broker does not say."""

    def __init__(self, url: str, queue: str) -> None:
        self._parameters = pika.URLParameters(url)
        self._parameters.socket_timeout = self._parameters.stack_timeout = 2
        self._queue = queue
        self._connection: pika.BlockingConnection | None = None
        self._known, self._asked = 0, 0.0

    def __call__(self) -> int:
        """Ask, at most twice a second."""
        if time.monotonic() - self._asked > 0.5:
            self._asked = time.monotonic()
            try:
                if self._connection is None:
                    self._connection = pika.BlockingConnection(self._parameters)
                with self._connection.channel() as channel:
                    self._known = channel.queue_declare(self._queue, passive=True).method.message_count
            except (pika.exceptions.AMQPError, OSError, ValueError):
                self._connection = None
        return self._known


class Load:
    """The sender and its witnesses."""

    def __init__(self, url: str, directory: Path, queue: str, seed: int) -> None:
        self._url, self._queue, self._seed = url, queue, seed
        self._attempted = Witness(directory / "attempted")
        self._confirmed = Witness(directory / "confirmed")
        self._sender = Sender(url, timeout=8)
        self._next = 0
        self.confirmed = 0

    def send(self, count: int) -> None:
        """Send so many; returns when each is confirmed, or at the first trouble."""
        numbers = range(self._next, self._next + count)
        self._next += count
        self._attempted.note((numbers[-1], time.monotonic()))
        messages = [
            Message(self._queue, write_body(self._seed, number), Properties(message_id=f"{self._queue}-{number}"))
            for number in numbers
        ]
        try:
            for message_id in self._sender.send_many(messages):
                self._confirmed.note((int(message_id.rpartition("-")[2]), time.monotonic()))
                self.confirmed += 1
        except WorkqueuedError:
            self._sender.close()
            self._sender = Sender(self._url, timeout=8)
            time.sleep(0.2)


def run(load: Load, rate: float, tasks: int, wait: Callable[[], bool], stopped: Callable[[], bool]) -> None:
    """Send until told to stop, or until so many were confirmed; not while told to wait."""
    due = time.monotonic()
    while not stopped() and not (tasks and load.confirmed >= tasks):
        due = max(due + 1 / _BATCHES_PER_SECOND, time.monotonic() - 0.5)
        if not wait():
            load.send(max(1, round(rate / _BATCHES_PER_SECOND)))
        time.sleep(max(0.0, due - time.monotonic()))


def main(url: str, directory: str, queue: str, seed: str, rate: str, tasks: str, backlog: str) -> None:
    """The process."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    depth = Depth(url, queue)
    load = Load(url, Path(directory), queue, int(seed))
    run(load, float(rate), int(tasks), lambda: depth() > int(backlog), lambda: bool(ended))


if __name__ == "__main__":
    main(*sys.argv[1:])
