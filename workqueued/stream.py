"""A stream: many messages on their way at once, and how many of them are safe without a gap.

Runs in: `Sender.send_many`, `wq-send --lines` and `wq-send --ndjson`.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Protocol

from workqueued.amqp.publisher import Publisher
from workqueued.delivery import Message
from workqueued.errors import ConnectionLostError, WorkqueuedError

#: How many messages are on their way at once: 10 to 13 times the rate of one at a time, and more brings little.
WINDOW = 1000
#: The same in bytes, so that large bodies do not pile up in memory.
WINDOW_BYTES = 16 * 2**20
#: How long published messages may wait for a turn of the loop that sends them, seconds; a turn costs 60 µs.
_UNSENT = 0.001


class Courier(Protocol):
    """What a stream needs of a `Sender`."""

    @property
    def publisher(self) -> Publisher:
        """The publisher underneath."""

    @property
    def timeout(self) -> float:
        """Seconds for one message."""

    @property
    def stale(self) -> bool:
        """Whether nobody served the connection for so long that the broker may have closed it."""

    def open(self, deadline: float) -> None:
        """Connect, if not connected."""

    def ready(self, message: Message) -> bool:
        """Whether the way to the message's queue is known to be there."""

    def deliver(self, message: Message) -> None:
        """Publish one message and wait until the broker holds it."""


class Stream:
    """Many messages on their way, and how many of them, from the first, are safe without a gap.

    Attributes:
        safe: that number.
    """

    def __init__(self, sender: Courier, clock: Callable[[], float] = time.monotonic) -> None:
        self._sender = sender
        self._publisher = sender.publisher
        self._clock = clock
        self._order: deque[tuple[int, Message]] = deque()
        self._settled: dict[int, WorkqueuedError | None] = {}
        self._known_queues: set[str] = set()
        self._delivered = 0
        self._progress_at = clock()
        self.safe = 0

    @property
    def in_flight(self) -> int:
        """Messages that were put and not taken yet."""
        return len(self._order)

    @property
    def full(self) -> bool:
        """Whether to wait before the next `put`."""
        return self._publisher.in_flight >= WINDOW or self._publisher.in_flight_bytes >= WINDOW_BYTES

    def put(self, message: Message) -> None:
        """Publish. The first message to a queue is waited for, which tells whether the queue is there.

        So is one with a delay that needs levels to be declared.

        Raises:
            WorkqueuedError: as for `Sender.send`.
        """
        due = self._clock() - self._publisher.serviced > _UNSENT
        if self._publisher.is_open and self._sender.stale:
            # The caller took its time, and heartbeats were missed.
            self._settle_all()
            self._sender.open(self._clock() + self._sender.timeout)
        if message.queue not in self._known_queues or not self._sender.ready(message):
            self._settle_all()
            self._sender.deliver(message)
            self._known_queues.add(message.queue)
            self._delivered += 1
            ticket = -self._delivered  # it was confirmed already: any number that no publish has
            self._settled[ticket] = None
        else:
            if not self._publisher.in_flight:
                self._progress_at = self._clock()
            ticket = self._publisher.publish(message)
            if due:
                self._publisher.look()  # so that it goes out now: the next call may be long in coming
        self._order.append((ticket, message))

    def turn(self, until: Callable[[], bool] = lambda: False) -> None:
        """Wait for confirms, or for `until()` after a `wake` of the publisher.

        Raises:
            NotConfirmedError: no confirm came for the sender's timeout.
            ConnectionLostError, RefusedError, DataError: the connection or the channel ended.
        """
        confirms = self._publisher.confirms
        waiting = bool(self._publisher.in_flight)
        limit = self._progress_at + self._sender.timeout if waiting else self._clock() + 1.0
        try:
            if not self._publisher.pump_until(lambda: bool(confirms) or until(), limit) and waiting:
                raise self._publisher.late()
        finally:
            if confirms:
                self._progress_at = self._clock()
            while confirms:
                confirm = confirms.popleft()
                self._settled[confirm.ticket] = confirm.error

    def _settle_all(self) -> None:
        """Wait for every confirm. Errors as for `turn`, but a connection that ends after the last confirm is none."""
        while self._publisher.in_flight:
            try:
                self.turn()
            except ConnectionLostError:
                if self._publisher.in_flight:
                    raise

    def take(self) -> Iterator[Message]:
        """Further messages that are safe, in order.

        Raises:
            UnroutableError, NotConfirmedError: the next one in order is not; each further call raises it again.
        """
        while self._order and self._order[0][0] in self._settled:
            ticket, message = self._order[0]
            error = self._settled[ticket]
            if error is not None:
                raise error
            self._order.popleft()
            del self._settled[ticket]
            self.safe += 1
            yield message

    def take_ids(self) -> Iterator[str]:
        """The ids of `take`."""
        for message in self.take():
            yield message.properties.message_id or ""
