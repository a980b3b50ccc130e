"""A look through a dead queue: letter by letter, without taking anything out but what is settled meanwhile.

Runs in: `wq-dead`.

A look is a consumer that acknowledges nothing: when its channel closes, everything goes back. A consumer without a
prefetch gets at most 2000 messages of a quorum queue (RabbitMQ 3.10), and with one there is a limit as well, so a look
goes on with another consumer on the same channel when all that the one before was given is held.
"""

import contextlib
import time
from collections import deque
from typing import Any, Protocol

from workqueued.amqp.connection import PIKA_ERRORS, properties_from_pika, translate, translated, why_closed
from workqueued.delivery import Delivery
from workqueued.errors import ConnectionLostError, TemporaryError, WorkqueuedError
from workqueued.letters import Letter
from workqueued.queue_settings import ACK_TIMEOUT

#: Messages that a consumer is given before the next one takes over; far less is read ahead, some 100 kB a turn.
PREFETCH = 10_000
#: Seconds that a look may hold messages, well before the broker takes them back and closes the channel.
LONGEST_HOLD = ACK_TIMEOUT / 2
#: A look that ends early goes on to the end where no more is left than this, messages and bytes.
_READ_ON, _READ_ON_BYTES = 10_000, 16 * 2**20
#: After so long without a message, the queue is asked whether there is any, seconds.
_QUIET = 0.5


class Queue(Protocol):
    """What a look needs of its queue."""

    name: str
    timeout: float

    def settled(self) -> tuple[int, bool]:
        """How many messages there are once nobody of ours holds any, and whether somebody else consumes."""

    def service(self, seconds: float = 0) -> None:
        """Let the connection live for so long, at most."""


class Look:
    """One pass through a dead queue. Everything that was not acknowledged goes back when it ends.

    Attributes:
        total: how many messages were there at its beginning; it ends after as many.
        seen: how many were taken so far.
        quiet: nothing came at the last `take`.
        shared: somebody else consumes from the queue, and what they hold is not seen.
    """

    def __init__(
        self, queue: Queue, channel: Any, total: int, *, shared: bool, bodies: bool, prefetch: int
    ) -> None:
        self.total, self.shared, self.seen, self.quiet = total, shared, 0, False
        self._queue, self._channel = queue, channel
        self._bodies, self._prefetch = bodies, prefetch
        self._inbox: deque[Letter] = deque()
        self._consumer: str | None = None
        self._consumers = 0
        self._cancelled = self._finished = False
        self._given = self._held = 0  # to this consumer and not acked; of these, what stays
        self._first_held: int | None = None
        self._acked = 0  # every tag up to here
        self._to_ack: set[int] = set()
        self._gone: set[int] = set()  # acked one by one, before any that is held
        self._ended = total == 0
        self._began = self._heard = time.monotonic()
        with translated():
            channel.basic_qos(prefetch_count=prefetch)
            channel.add_on_cancel_callback(self._on_cancel)

    @property
    def ended(self) -> bool:
        """Whether there is no more to take."""
        return self._ended or self.seen >= self.total

    @property
    def old(self) -> bool:
        """Whether it holds messages for so long that the broker will soon take them back."""
        return time.monotonic() - self._began > LONGEST_HOLD

    def take(self, wait: float) -> list[Letter]:
        """The next letters; none if none came within `wait` seconds.

        Raises:
            ConnectionLostError: connection, channel or consumer is gone.
            TemporaryError: the queue has messages and gives none out.
        """
        if self._consumer is None or self._held >= self._prefetch:
            self._consume()
        if not self._inbox:
            self._queue.service(wait)
        self._check()
        letters = [self._inbox.popleft() for _ in range(min(len(self._inbox), self.total - self.seen))]
        self.seen += len(letters)
        self._given += len(letters)
        self.quiet = not letters
        if letters:
            self._heard = time.monotonic()
        elif wait:
            self._doubt()
        return letters

    def service(self) -> None:
        """Let the connection live without waiting. Errors as for `take`."""
        self._queue.service()
        self._check()

    def _consume(self) -> None:
        """The first consumer, or the next: the one before has used up its prefetch, so nothing is on its way to it."""
        self._consumers += 1
        # What consumers held goes back in the order of their tags (RabbitMQ 3.10, as long as there are at most 32).
        tag = f"look.{self._consumers:06}"
        with translated():
            if self._consumer is not None:
                self._channel.basic_cancel(self._consumer)
            self._consumer = self._channel.basic_consume(self._queue.name, self._on_message, consumer_tag=tag)
        self._given = self._held = 0
        self._heard = time.monotonic()

    def _doubt(self) -> None:
        """Nothing came for a while: somebody may have taken the rest, or the queue is out of order."""
        quiet = time.monotonic() - self._heard
        if quiet < _QUIET:
            return
        ready, consumers = self._count()
        if self._inbox:
            return
        if not ready and consumers:
            self._ended = True
        elif quiet > self._queue.timeout:
            raise TemporaryError(
                f"queue {self._queue.name!r} has messages and gave out none for {quiet:.0f} s: it may have lost its "
                "leader (rabbitmq-queues quorum_status)"
            )

    def _count(self) -> tuple[int, int]:
        """Messages that the queue has not given out, and consumers; what it gave to us is in the inbox then.

        Given out is not arrived. The answer to a first question may overtake deliveries, as the broker's channel leaves
        them lying while it waits for the queue's word; the answer to a second one cannot. Where we are not counted, the
        word is worth nothing: of a quorum queue whose leader is busy, or not elected, the broker says 0 messages and 0
        consumers (rabbit_quorum_queue:stat/1).
        """
        with translated():
            for _ in range(2):
                found = self._channel.queue_declare(self._queue.name, passive=True).method
        self._queue.service()
        return int(found.message_count), int(found.consumer_count)

    def _on_message(self, _channel: Any, method: Any, raw: Any, body: bytes) -> None:
        properties = properties_from_pika(raw)
        tag = method.delivery_tag
        identity = properties.message_id or Delivery(self._queue.name, tag, body, properties).identity
        self._inbox.append(Letter(tag, identity, properties, len(body), body if self._bodies else None))

    def _on_cancel(self, _frame: Any) -> None:
        self._cancelled = True

    def _check(self) -> None:
        """Raise what ended the look."""
        if self._cancelled:
            raise ConnectionLostError(f"queue {self._queue.name!r} was deleted, or lost its leader")
        if not self._channel.is_open:
            raise why_closed(self._channel)

    def hold(self, letter: Letter) -> None:
        """It stays in the queue."""
        self._held += 1
        if self._first_held is None:
            self._first_held = letter.tag

    def ack(self, letter: Letter) -> None:
        """It may go; `flush` tells the broker."""
        self._to_ack.add(letter.tag)
        self._given -= 1

    def flush(self) -> None:
        """Tell the broker what was acknowledged: in one word as far as nothing before it stays.

        Raises:
            ConnectionLostError: the connection or the channel is gone.
        """
        upto, last = self._acked, 0
        while (found := upto + 1 in self._to_ack) or upto + 1 in self._gone:
            upto += 1
            last = upto if found else last
            self._to_ack.discard(upto)
            self._gone.discard(upto)
        try:  # pika writes to the socket at each of these
            if last:
                # Every tag up to this one is settled, so "multiple" takes nothing that is not meant.
                self._channel.basic_ack(last, multiple=True)
            for tag in self._to_ack:
                self._channel.basic_ack(tag)
        except PIKA_ERRORS as error:
            raise translate(error) from error
        self._acked = upto
        self._gone |= {tag for tag in self._to_ack if self._first_held is None or tag < self._first_held}
        self._to_ack.clear()

    def sync(self) -> None:
        """Flush, and wait until the broker has taken the acks. Errors as for `flush`."""
        self._check()
        self.flush()
        with translated():
            self._channel.queue_declare(self._queue.name, passive=True)  # answered in turn, which an ack never is

    def finish(self) -> None:
        """Acknowledge what may go, let everything else go back, and wait until the broker has done both.

        Raises:
            ConnectionLostError: it is not known to have done so; what was not acknowledged goes back all the same.
        """
        if self._finished:
            return
        self._check()
        self._finished = True
        self._read_on()
        self.flush()
        with translated():
            # Not by the BlockingChannel, which nacks first what it has not shown us. Answered when the acks were taken.
            self._channel._impl.close()  # noqa: SLF001
            while not self._channel.is_closed:
                self._queue.service(0.01)
        self._queue.settled()

    def _read_on(self) -> None:
        """Take the rest too, where it is little: RabbitMQ 3.10 puts what comes back behind what came back before."""
        left, self._held = _READ_ON_BYTES, self._given  # nothing is on its way any more
        while not self.ended and left > 0 and self.total - self.seen <= _READ_ON:
            for letter in self.take(0.2):
                self.hold(letter)
                left -= letter.size

    def abandon(self) -> None:
        """Let everything go back, whatever happened before. Never raises."""
        with contextlib.suppress(WorkqueuedError, *PIKA_ERRORS):
            self.finish()
