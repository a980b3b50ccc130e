"""The dead queue: locked against others of our kind, counted, and opened for a look.

Runs in: `wq-dead`.
"""

import contextlib
import threading
import time
from collections.abc import Iterator
from hashlib import blake2b
from types import TracebackType
from typing import Any, Self

from workqueued.amqp.connection import connect, translated
from workqueued.amqp.look import PREFETCH, Look
from workqueued.amqp.tables import exact_tables
from workqueued.amqp.topology import DEAD_QUEUE_ARGUMENTS, declare_dead_queue, explain_dead_queue, find_difference
from workqueued.broker_settings import Broker
from workqueued.errors import QueueRefusedError, TemporaryError, WorkqueuedError

#: Seconds the broker may need to put back what a look held; 0.15 for 100,000 messages.
_BACK_WITHIN = 5.0


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

        What a connection held goes back a moment after it was closed, together with its consumer.

        Raises:
            ConnectionLostError, QueueRefusedError: the broker does not say.
            TemporaryError: the queue has messages, and is said to have none.
        """
        deadline = time.monotonic() + _BACK_WITHIN
        ready, consumers = self.counts()
        while consumers or not (ready or self._is_empty()):
            if time.monotonic() >= deadline:
                if consumers:
                    break
                raise TemporaryError(f"queue {self.name!r} has messages and is said to have none: try again soon")
            self.service(0.05)
            ready, consumers = self.counts()
        return ready, bool(consumers)

    def _is_empty(self) -> bool:
        """Whether there really is nothing, by asking for one message, which is given back.

        Of a quorum queue whose leader is busy, or not elected, the broker says 0 (rabbit_quorum_queue:stat/1).
        """
        try:
            with self._channel() as channel:
                method, _, _ = channel.basic_get(self.name)
                if method is not None:
                    channel.basic_nack(method.delivery_tag, requeue=True)
                    channel.queue_declare(self.name, passive=True)  # the queue has the nack when this is answered
                return method is None
        except QueueRefusedError:  # as for a queue with a single active consumer: then its word is all there is
            return True

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

    def look(self, *, bodies: bool, prefetch: int = PREFETCH) -> Look:
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


def lock_name(dead_queue: str) -> str:
    """The exclusive queue that stands for a lock on a dead queue; alike, so that a permission pattern fits both."""
    name = f"{dead_queue}.lock"
    if len(name.encode()) <= 255:  # bytes of an AMQP short string
        return name
    return f"wq-dead.lock.{blake2b(dead_queue.encode(), digest_size=16).hexdigest()}"
