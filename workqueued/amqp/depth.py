"""Depth: how many messages are ready in each queue, by passive declares on a connection of its own.

Runs in: monitor (a thread of it), commands.

A passive declare costs 0.3 ms, needs no permission, and tells ready messages and consumers. It says nothing about
unacknowledged messages, and right after a broker's start a quorum queue reports 0 until it has a leader; so a depth is
shown to people, and decides nothing but whether an idle worker connects anew (see `overlooked`).
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from workqueued.amqp.connection import connect, translated
from workqueued.broker_settings import Broker
from workqueued.delays import HIGHEST, level
from workqueued.errors import QueueRefusedError, WorkqueuedError
from workqueued.queue_settings import DEAD_SUFFIX


@dataclass(frozen=True, slots=True)
class Depth:
    """One look at one queue; None: the broker has no such queue."""

    ready: int | None
    consumers: int | None
    dead: int | None


class DepthReader:
    """Asks for depths; connects when needed, and again after a loss."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker = broker
        self._name = name
        self._connection: Any = None
        self._channel: Any = None

    def read(self, queues: Iterable[str]) -> dict[str, Depth]:
        """The depth of each queue.

        May block for two heartbeats when the broker hangs, and longer without a quorum, so not in a loop that must
        keep time.

        Raises:
            ConnectionLostError, RefusedError: no answer; the next call connects anew.
        """
        try:
            self._connect()
            return {queue: self._read_one(queue) for queue in queues}
        except WorkqueuedError:
            self.close()
            raise

    def delayed(self) -> int:
        """How many messages wait in the delay levels of the vhost.

        They are declared from the bottom up, so above one that is not there are none. Errors as for `read`.
        """
        total = 0
        try:
            self._connect()
            for number in range(HIGHEST + 1):
                found = self._count(level(number))
                if found is None:
                    break
                total += found[0]
        except WorkqueuedError:
            self.close()
            raise
        return total

    def _connect(self) -> None:
        if self._connection is None:
            self._connection = connect(self._broker, self._name)

    def _read_one(self, queue: str) -> Depth:
        work, dead = self._count(queue), self._count(queue + DEAD_SUFFIX)
        return Depth(work and work[0], work and work[1], dead and dead[0])

    def _count(self, queue: str) -> tuple[int, int] | None:
        try:
            with translated():
                if self._channel is None or not self._channel.is_open:
                    self._channel = self._connection.channel()
                method = self._channel.queue_declare(queue, passive=True).method
                return method.message_count, method.consumer_count
        except QueueRefusedError:
            return None

    def service(self) -> None:
        """Let the connection live between two questions; a loss shows at the next one. Never raises."""
        if self._connection is not None:
            try:
                with translated():
                    self._connection.process_data_events(0)
            except WorkqueuedError:
                self.close()

    def close(self) -> None:
        """Close the connection. Never raises."""
        connection, self._connection, self._channel = self._connection, None, None
        with contextlib.suppress(Exception):
            if connection is not None and connection.is_open:
                connection.close()
