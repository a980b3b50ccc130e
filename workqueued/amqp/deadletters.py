"""The dead queue: look through it without taking anything out, and take out what is settled.

Runs in: `wq-dead`.

A look is a consumer that acknowledges nothing: when its channel closes, everything goes back. A consumer without a
prefetch gets at most 2000 messages of a quorum queue (RabbitMQ 3.10), and with one there is a limit as well, so a look
goes on with another consumer on the same channel when all that the one before was given is held.
"""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from hashlib import blake2b
from types import TracebackType
from typing import Any, Self

from workqueued.amqp.connection import PIKA_ERRORS, connect, properties_from_pika, translate, translated
from workqueued.amqp.tables import exact_tables
from workqueued.amqp.topology import DEAD_QUEUE_ARGUMENTS, declare_dead_queue, explain_dead_queue, find_difference
from workqueued.broker_settings import Broker
from workqueued.delivery import Delivery
from workqueued.errors import ConnectionLostError, QueueRefusedError, TemporaryError, WorkqueuedError
from workqueued.letters import Letter
from workqueued.queue_settings import ACK_TIMEOUT

#: Messages that a consumer is given before the next one takes over; far less is read ahead, some 100 kB a turn.
PREFETCH = 10_000
#: Seconds that a look may hold messages, well before the broker takes them back and closes the channel.
LONGEST_HOLD = ACK_TIMEOUT / 2
#: Seconds the broker may need to put back what a look held; 0.15 for 100,000 messages.
_BACK_WITHIN = 5.0
#: A look that ends early goes on to the end where no more is left than this, messages and bytes.
_READ_ON, _READ_ON_BYTES = 10_000, 16 * 2**20
#: After so long without a message, the queue is asked whether there is any, seconds.
_QUIET = 0.5


class DeadQueue:
    """A dead queue that nobody else looks through, on a connection of its own.

    Args:
        broker: where.
        name: of the dead queue.
        timeout: seconds without a sign of life from the queue before giving up.

    Attributes:
        exists: whether the broker has it.
    """

    def __init__(self, broker: Broker, name: str, timeout: float = 30.0) -> None:
        self.name = name
        self.timeout = timeout
        self.exists = False
        self._broker = broker
        self._tables = contextlib.ExitStack()
        self._connection: Any = None
        self._control: Any = None

    def __enter__(self) -> Self:
        """Connect, and lock the queue against others of our kind.

        Raises:
            TemporaryError: one of them is there.
            ConnectionLostError, RefusedError: no connection.
            QueueRefusedError: no permission, or looking through this queue would lose messages.
        """
        self._tables.enter_context(exact_tables())
        try:
            self._connection = connect(self._broker, "wq-dead")
            with translated():
                self._control = self._connection.channel()
            self._lock()
            self.exists = self.has_queue(self.name)
            if self.exists:
                self._check_arguments()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tables.close()
        with contextlib.suppress(Exception):
            if self._connection.is_open:
                self._connection.close()  # written acks are flushed before

    def _lock(self) -> None:
        """Hold an exclusive queue for as long as the connection lives.

        An exclusive consumer would be the obvious lock, but quorum queues do not enforce it (RabbitMQ 3.10, 4.0).
        """
        name = lock_name(self.name)
        try:
            with translated():
                self._control.queue_declare(name, exclusive=True, arguments={"x-queue-type": "classic"})
        except QueueRefusedError as error:
            if "RESOURCE_LOCKED" in str(error):
                raise TemporaryError(
                    f"another wq-dead is at {self.name!r}; wait for its end, or end it (one whose host is gone is "
                    "noticed by the broker after two heartbeats)"
                ) from error
            raise QueueRefusedError(
                f"cannot lock {self.name!r} against a second wq-dead: {error}; the user needs configure on {name!r}"
            ) from error

    def has_queue(self, name: str) -> bool:
        """Whether there is such a queue."""
        try:
            with self._channel() as channel:
                channel.queue_declare(name, passive=True)
        except QueueRefusedError as error:
            if "NOT_FOUND" in str(error):
                return False
            raise
        return True

    def declare(self) -> None:
        """Declare the dead queue as a worker would. Errors as for `topology.declare_dead_queue`."""
        with self._channel() as channel:
            declare_dead_queue(channel, self.name)
        self.exists = True

    def _check_arguments(self) -> None:
        """Refuse a quorum queue with another delivery limit: RabbitMQ 4 drops a message after 20 looks by default."""
        try:
            with self._channel() as channel:
                channel.queue_declare(self.name, durable=True, arguments=DEAD_QUEUE_ARGUMENTS)
        except QueueRefusedError as error:
            difference = find_difference(str(error))
            if difference is not None and difference[0] == "x-delivery-limit":
                raise QueueRefusedError(explain_dead_queue(self.name, str(error))) from error
            # A classic queue counts nothing, and who may not declare may look all the same.

    def counts(self) -> tuple[int, int]:
        """Messages that nobody holds, and consumers. Errors as for `service`."""
        with translated():
            method = self._control.queue_declare(self.name, passive=True).method
        return int(method.message_count), int(method.consumer_count)

    def settled(self) -> tuple[int, bool]:
        """How many messages there are once nobody holds any, and whether somebody else goes on consuming.

        What a connection held goes back a moment after it was closed, together with its consumer. Errors as for
        `service`.
        """
        deadline = time.monotonic() + _BACK_WITHIN
        ready, consumers = self.counts()
        while consumers and time.monotonic() < deadline:
            self.service(0.05)
            ready, consumers = self.counts()
        return ready, bool(consumers)

    def service(self, seconds: float = 0) -> None:
        """Let the connection live for so long, at most: heartbeats, deliveries.

        Raises:
            ConnectionLostError: it is gone.
        """
        with translated():
            self._connection.process_data_events(seconds)

    @contextlib.contextmanager
    def kept_alive(self) -> Iterator[None]:
        """A block in which a thread keeps the connection, and so the lock, alive; nobody else may use it then."""
        done = threading.Event()

        def serve() -> None:
            with contextlib.suppress(WorkqueuedError):
                while not done.is_set():
                    self.service(0.5)

        thread = threading.Thread(target=serve, name="lock", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    @contextlib.contextmanager
    def _channel(self) -> Iterator[Any]:
        """A channel for a question that the broker may answer by closing it."""
        with translated():
            channel = self._connection.channel()
            yield channel
            channel.close()

    def look(self, *, bodies: bool, prefetch: int = PREFETCH) -> "Look":
        """Begin to look through the queue, from its head to what is its end now.

        Args:
            bodies: whether the letters are to have them.
            prefetch: how many messages may wait here for the caller.

        Raises:
            ConnectionLostError, QueueRefusedError: the broker does not let us.
        """
        ready, shared = self.settled()
        with translated():
            channel = self._connection.channel()
        return Look(self, channel, ready, shared=shared, bodies=bodies, prefetch=min(prefetch, PREFETCH))


class Look:
    """One pass through a dead queue. Everything that was not acknowledged goes back when it ends.

    Attributes:
        total: how many messages were there at its beginning; it ends after as many.
        seen: how many were taken so far.
        quiet: nothing came at the last `take`.
        shared: somebody else consumes from the queue, and what they hold is not seen.
    """

    def __init__(
        self, queue: DeadQueue, channel: Any, total: int, *, shared: bool, bodies: bool, prefetch: int
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

    def _doubt(self) -> None:
        """Nothing came for a while: somebody may have taken the rest, or the queue is out of order."""
        quiet = time.monotonic() - self._heard
        if quiet < _QUIET:
            return
        if self._queue.counts()[0] == 0:
            self._ended = True
        elif quiet > self._queue.timeout:
            raise TemporaryError(
                f"queue {self._queue.name!r} has messages and gave out none for {quiet:.0f} s: it may have lost its "
                "leader (rabbitmq-queues quorum_status)"
            )

    def _on_message(self, _channel: Any, method: Any, raw: Any, body: bytes) -> None:
        properties = properties_from_pika(raw)
        tag = method.delivery_tag
        identity = properties.message_id or Delivery(self._queue.name, tag, body, properties).identity
        self._inbox.append(Letter(tag, identity, properties, len(body), body if self._bodies else None))

    def _on_cancel(self, _frame: Any) -> None:
        self._cancelled = True

    def _check(self) -> None:
        """Raise what ended the look: pika itself says nothing of a closed channel or a cancelled consumer."""
        if self._cancelled:
            raise ConnectionLostError(f"queue {self._queue.name!r} was deleted, or lost its leader")
        if not self._channel.is_open:
            reason = getattr(self._channel, "_closing_reason", None)
            raise translate(reason) if reason else ConnectionLostError("the broker closed the channel")

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


def lock_name(dead_queue: str) -> str:
    """The exclusive queue that stands for a lock on a dead queue; alike, so that a permission pattern fits both."""
    name = f"{dead_queue}.lock"
    if len(name.encode()) <= 255:  # bytes of an AMQP short string
        return name
    return f"wq-dead.lock.{blake2b(dead_queue.encode(), digest_size=16).hexdigest()}"
