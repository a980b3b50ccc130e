"""A consumer: one connection, one channel, one queue, one message at a time.

Runs in: workers. Whoever calls must own the connection at that moment (see `keeper`).
"""

import contextlib
from collections import deque
from typing import Any

from pika.spec import Basic

from workqueued.amqp import topology
from workqueued.amqp.connection import PIKA_ERRORS, connect, properties_from_pika, translate, translated, why_closed
from workqueued.amqp.hotpath import HotPath
from workqueued.broker_settings import Broker
from workqueued.delivery import Delivery
from workqueued.errors import ConnectionLostError, QueueRefusedError, WorkqueuedError
from workqueued.queue_settings import Queue


class ConsumerCancelledError(ConnectionLostError):
    """The broker cancelled our consumer: the queue was deleted, or its leader or home node went away."""


class Consumer:
    """Consumes a queue with prefetch 1 and manual acknowledgement.

    A delivery tag belongs to this one channel of this one connection. After any ConnectionLostError the consumer is
    useless: close it and make another.
    """

    def __init__(self, broker: Broker, queue_name: str, queue: Queue, name: str) -> None:
        """Connect and declare; no message is taken before `start`.

        Raises:
            ConnectionLostError, RefusedError: no connection.
            QueueRefusedError: the broker refuses this queue.
        """
        self._queue_name = queue_name
        self._queue = queue
        self._inbox: deque[Delivery] = deque()
        self._cancelled = False
        self._wants_hot_path = broker.hot_path
        self._hot: HotPath | None = None
        self._connection: Any = connect(broker, name)
        try:
            with translated():
                self._channel: Any = self._connection.channel()
            topology.declare(self._channel, queue_name, queue)
        except BaseException:
            self.close()
            raise

    def start(self) -> None:
        """Begin to take messages.

        Raises:
            ConnectionLostError: the connection is gone.
            QueueRefusedError: no permission to read, or an exclusive consumer holds the queue.
        """
        try:
            with translated():
                # Per consumer, not global: global QoS on a quorum queue closes the whole connection (540).
                self._channel.basic_qos(prefetch_count=1)
                self._channel.add_on_cancel_callback(self._on_cancel)
                self._channel.basic_consume(self._queue_name, self._on_message)
            if self._wants_hot_path:
                self._hot = HotPath.attach(self._connection, self._channel, self._queue_name)
        except QueueRefusedError as error:
            raise QueueRefusedError(topology.explain_refusal(self._queue_name, self._queue, str(error))) from error

    def _on_message(self, _channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._inbox.append(
            Delivery(
                self._queue_name,
                method.delivery_tag,
                body,
                properties_from_pika(properties),
                bool(method.redelivered),
            )
        )

    def _on_cancel(self, _frame: Any) -> None:
        self._cancelled = True

    def next(self) -> Delivery | None:
        """The next delivery, or None when `wake` was called; waits for either.

        Raises:
            ConnectionLostError: connection, channel or consumer is gone; pika would go on returning normally from a
                channel that the broker closed.
        """
        if not self._inbox:
            self._check()
            if self._hot is not None:
                delivery = self._hot.take()
                if delivery is not None:
                    return delivery
            self.service(None)  # without a limit, as each limit costs a timer in pika
        return self._inbox.popleft() if self._inbox else None

    def service(self, seconds: float | None = 0) -> None:
        """Let the connection live: heartbeats, frames. Errors as for `next`.

        Args:
            seconds: at most so long; None until something comes, or `wake` is called.
        """
        try:  # rather than `translated`, here and in `ack`: a context manager is a noticeable part of a short task
            self._connection.process_data_events(seconds)
        except PIKA_ERRORS as error:
            raise translate(error) from error
        self._check()

    def _check(self) -> None:
        if self._cancelled:
            raise ConsumerCancelledError(f"the broker cancelled the consumer of queue {self._queue_name!r}")
        if not self._channel.is_open:
            raise why_closed(self._channel)

    def ack(self, delivery: Delivery) -> None:
        """Tell the broker that the message is done with. Errors as for `next`."""
        if self._hot is not None and self._channel.is_open and self._hot.ack(delivery.tag):
            return
        try:
            self._channel.basic_ack(delivery.tag)
        except PIKA_ERRORS as error:
            raise translate(error) from error

    def hand_back(self, delivery: Delivery) -> None:
        """Give the message back, unblamed: a nack is not counted as a failed delivery by RabbitMQ 4.3."""
        with translated():
            self._channel.basic_nack(delivery.tag, requeue=True)

    def abandon(self, delivery: Delivery) -> None:
        """Give the message back and take no further one, without waiting for a word of the broker's.

        Else it would give us one more until the connection is closed, which a quorum queue counts as a redelivery.
        Errors as for `next`.
        """
        with translated():
            for tag in self._channel.consumer_tags:
                # pika's own waits for the answer, and a BlockingChannel fails when what is below it does not.
                self._channel._impl._send_method(Basic.Cancel(consumer_tag=tag, nowait=True))  # noqa: SLF001
            self._channel.basic_nack(delivery.tag, requeue=True)

    def wake(self) -> None:
        """End a wait in `next`; the one method that another thread may call at any time."""
        with contextlib.suppress(Exception):  # closed, or closing at this moment: then nobody waits
            if self._hot is not None:
                self._hot.wake()
            self._connection.add_callback_threadsafe(_nothing)

    def stop(self) -> None:
        """Take no further message and give back any that came meanwhile. Errors as for `next`."""
        self._check()
        with translated():
            for tag in self._channel.consumer_tags:
                self._channel.basic_cancel(tag)
        while self._inbox:
            self.hand_back(self._inbox.popleft())

    def close(self) -> None:
        """Close the connection; what was written before (acks) is flushed. Never raises."""
        with contextlib.suppress(WorkqueuedError), translated():
            if self._connection.is_open:
                self._connection.close()


def _nothing() -> None:
    pass
