"""The publisher: persistent, mandatory, confirmed, with a deadline.

Runs in: the commands and `Sender` (many messages in flight), workers (one dead letter at a time).

pika's BlockingConnection has neither pipelined confirms nor a deadline on one, so this drives a SelectConnection, one
turn of its loop at a time. What the broker confirmed and did not return is safe; everything else is not known to be.
"""

import contextlib
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pika

from workqueued.amqp import outgoing
from workqueued.amqp.connection import (
    MOST_HEADER_BYTES,
    encoded_size,
    may_overflow_a_frame,
    parameters,
    properties_to_pika,
    translate,
    translated,
    worst,
)
from workqueued.amqp.refusals import LevelsGoneError, explain_channel_close, explain_encoding
from workqueued.broker_settings import Broker
from workqueued.delivery import Message
from workqueued.errors import (
    ConnectionLostError,
    DataError,
    NotConfirmedError,
    UnroutableError,
    WorkqueuedError,
)
from workqueued.urls import BrokerUrl

#: Largest body of RabbitMQ 3.10; a larger one is refused before it is sent.
MOST_BYTES = 128 * 2**20
#: How long the broker has to answer a close, seconds.
_CLOSE_WITHIN = 1.0


@dataclass(frozen=True, slots=True)
class Confirm:
    """What became of one published message: `error` is None when the broker holds it."""

    ticket: int
    error: WorkqueuedError | None


class Publisher:
    """Publishes on a connection of its own, opened by `open`.

    A broker alarm blocks only connections that publish, and a publish error closes the channel it happened on; so a
    worker never publishes on the connection that it consumes from.

    Attributes:
        confirms: outcomes in the order in which the broker told them; the caller takes them off.
        last_used: seconds on the clock of the last publish or confirm.
        serviced: seconds on the clock at which the connection was last given a turn, and so its heartbeats.
    """

    def __init__(self, broker: Broker, name: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._broker = broker
        self._name = name
        self._clock = clock
        self._connection: Any = None
        self._channel: Any = None
        self._failure: WorkqueuedError | None = None
        self._blocked: str | None = None
        self._next_tag = 1
        self._tickets_before = 0
        self._unconfirmed: OrderedDict[int, Message] = OrderedDict()
        self._unconfirmed_bytes = 0
        self._returned: set[int] = set()
        self._url: BrokerUrl | None = None
        self.confirms: deque[Confirm] = deque()
        self.last_used = 0.0
        self.serviced = 0.0

    @property
    def is_open(self) -> bool:
        """Whether a message can be published now, as far as we know."""
        return self._channel is not None and self._failure is None

    @property
    def in_flight(self) -> int:
        """How many messages are published and not yet confirmed."""
        return len(self._unconfirmed)

    @property
    def in_flight_bytes(self) -> int:
        """The size of their bodies."""
        return self._unconfirmed_bytes

    @property
    def blocked(self) -> str | None:
        """Why the broker blocks publishers now (an alarm), or None."""
        return self._blocked

    def open(self, deadline: float) -> None:
        """Connect to the first address that answers, and ask for confirms.

        Args:
            deadline: on the clock, seconds.

        Raises:
            ConnectionLostError, RefusedError: no address answered, or one said no.
        """
        failures: list[WorkqueuedError] = []
        for url in self._broker.url:
            if failures and self._clock() >= deadline:
                break
            try:
                self._open_one(url, deadline)
            except WorkqueuedError as error:
                failures.append(error)
                self.close()
            else:
                return
        raise worst(failures)

    def _open_one(self, url: BrokerUrl, deadline: float) -> None:
        # The broker counts each channel's messages from 1; a ticket is never given twice.
        self._tickets_before += self._next_tag - 1
        self._url, self._failure, self._blocked, self._next_tag = url, None, None, 1
        self._unconfirmed.clear()
        self._unconfirmed_bytes = 0
        self._returned.clear()
        ready: list[bool] = []
        with translated(url):
            self._connection = pika.SelectConnection(
                parameters(self._broker, url, self._name, publishes=True),
                on_open_callback=lambda connection: connection.channel(on_open_callback=on_channel),
                on_open_error_callback=self._on_connection_closed,
                on_close_callback=self._on_connection_closed,
            )
            self._connection.add_on_connection_blocked_callback(self._on_blocked)
            self._connection.add_on_connection_unblocked_callback(self._on_unblocked)
            self._connection.ioloop.activate_poller()

        def on_channel(channel: Any) -> None:
            channel.add_on_close_callback(self._on_channel_closed)
            channel.add_on_return_callback(self._on_return)
            channel.confirm_delivery(self._on_confirm, callback=lambda _: ready.append(True))
            self._channel = channel

        limit = min(deadline, self._clock() + self._broker.connect_timeout)
        if not self.pump_until(lambda: bool(ready), limit):
            raise ConnectionLostError(f"no connection to the broker {url}: it did not answer in time")
        self.last_used = self._clock()

    # --- callbacks of pika, all called inside `pump` ---

    def _on_connection_closed(self, _connection: Any, error: BaseException) -> None:
        if self._connection is not None:  # not by our own close
            self._fail(translate(error, self._url))

    def _on_channel_closed(self, _channel: Any, error: BaseException) -> None:
        if not isinstance(error, pika.exceptions.ChannelClosedByClient | pika.exceptions.ConnectionClosedByClient):
            self._fail(explain_channel_close(error, self._url, self._unconfirmed.values()))

    def _fail(self, error: WorkqueuedError) -> None:
        if self._failure is None:
            self._failure = error

    def _on_blocked(self, _connection: Any, frame: Any) -> None:
        self._blocked = str(frame.method.reason) or "alarm"

    def _on_unblocked(self, _connection: Any, _frame: Any) -> None:
        self._blocked = None

    def _on_return(self, _channel: Any, method: Any, properties: Any, _body: bytes) -> None:
        """The broker returns a message before it confirms it: the oldest on that way, with that id, it is."""
        way = (method.exchange, method.routing_key)
        for tag, message in self._unconfirmed.items():
            same = message.properties.message_id == properties.message_id and _way(message) == way
            if same and tag not in self._returned:
                self._returned.add(tag)
                return
        # Its confirm will come, and must not be taken for a success.
        what = f"the delay levels are not all there ({way[0]})" if way[0] else f"there is no queue {way[1]!r}"
        self._fail(UnroutableError(f"a message came back from {self._url}: {what}"))

    def _on_confirm(self, frame: Any) -> None:
        method = frame.method
        accepted = isinstance(method, pika.spec.Basic.Ack)
        if method.multiple:
            tags = []
            for tag in self._unconfirmed:
                if tag > method.delivery_tag:
                    break
                tags.append(tag)
        else:
            tags = [method.delivery_tag]
        for tag in tags:
            self._settle(tag, accepted=accepted)

    def _settle(self, tag: int, *, accepted: bool) -> None:
        message = self._unconfirmed.pop(tag, None)
        if message is None:
            return
        self._unconfirmed_bytes -= len(message.body)
        error: WorkqueuedError | None = None
        if tag in self._returned:
            self._returned.discard(tag)
            error = self._explain_return(message)
        elif not accepted:
            error = NotConfirmedError(
                f"the broker did not take the message for queue {message.queue!r}: it is full (overflow: "
                "reject-publish) or has no leader"
            )
        self.last_used = self._clock()
        self.confirms.append(Confirm(self._tickets_before + tag, error))

    def _explain_return(self, message: Message) -> WorkqueuedError:
        if message.delay:
            return LevelsGoneError(
                f"the delay levels on {self._url} are not all there for a message to queue {message.queue!r}"
            )
        return UnroutableError(f"there is no queue {message.queue!r} on {self._url}")

    # --- what a caller does ---

    def publish(self, message: Message) -> int:
        """Put one message on its way; returns the ticket that its Confirm will carry.

        Raises:
            ConnectionLostError: not open (any more).
            DataError: AMQP cannot carry it: too large, or a property of a wrong type. The publisher stays open.
        """
        self.check()
        _check_size_of(message.properties.headers)
        if len(message.body) > MOST_BYTES:
            raise DataError(
                f"the message has {len(message.body)} bytes and no broker takes more than {MOST_BYTES}; "
                "put the data elsewhere and send a reference to it"
            )
        try:
            self._write(message)
        except pika.exceptions.AMQPConnectionError as error:
            raise translate(error, self._url) from error
        except Exception as error:
            # pika encodes before it sends: the channel stays usable and no tag was used up.
            self.check()
            raise DataError(explain_encoding(error)) from error
        tag = self._next_tag
        self._next_tag += 1
        self._unconfirmed[tag] = message
        self._unconfirmed_bytes += len(message.body)
        self.last_used = self._clock()
        return self._tickets_before + tag

    def _write(self, message: Message) -> None:
        way, channel = _way(message), self._channel
        if not self._broker.hot_path or not outgoing.write(self._connection, channel.channel_number, way, message):
            channel.basic_publish(*way, message.body, properties_to_pika(message.properties), mandatory=True)

    def check(self) -> None:
        """Raise what ended the connection or the channel, if something did."""
        if self._failure is not None:
            raise self._failure
        if self._channel is None:
            raise ConnectionLostError("the publisher is not open")

    def pump(self) -> None:
        """One turn of the loop: waits for the socket, at most 5 s (pika's own limit) or until `wake`.

        Raises:
            WorkqueuedError: what ended the connection or the channel.
        """
        if self._failure is not None:
            raise self._failure
        if self._broker.hot_path:
            outgoing.join(self._connection)
        with translated(self._url):
            self._connection.ioloop.poll()
            self._connection.ioloop.process_timeouts()
        self.serviced = self._clock()
        if self._failure is not None:
            raise self._failure

    def look(self) -> None:
        """One turn of the loop without waiting. Errors as for `pump`."""
        if self._connection is not None:
            self._connection.ioloop.call_later(0, _nothing)
            self.pump()

    def pump_until(self, done: Callable[[], bool], deadline: float) -> bool:
        """Turn the loop until `done()`; False when the deadline came first. Errors as for `pump`."""
        if done():
            return True
        timer = self._connection.ioloop.call_later(max(0.0, deadline - self._clock()), _nothing)
        try:
            while not done():
                if self._clock() >= deadline:
                    return False
                self.pump()
            return True
        finally:
            self._connection.ioloop.remove_timeout(timer)

    def wake(self) -> None:
        """End a wait in `pump`; another thread may call it."""
        connection = self._connection
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.ioloop.add_callback_threadsafe(_nothing)

    def send(self, message: Message, deadline: float) -> None:
        """Publish one message and wait until it is safe.

        Raises:
            NotConfirmedError: the broker did not confirm by the deadline, or refused; it may still hold the message.
            UnroutableError: there is no such queue; LevelsGoneError: there are not all delay levels.
            DataError, ConnectionLostError, RefusedError: as they say.
        """
        ticket = self.publish(message)
        found: list[Confirm] = []

        def confirmed() -> bool:
            while self.confirms:
                confirm = self.confirms.popleft()
                if confirm.ticket == ticket:
                    found.append(confirm)
            return bool(found)

        if not self.pump_until(confirmed, deadline):
            raise self.late()
        if found[0].error is not None:
            raise found[0].error

    def late(self) -> NotConfirmedError:
        """The error for a deadline that passed: with the broker's reason, if it blocks us."""
        if self._blocked:
            return NotConfirmedError(
                f"the broker {self._url} blocks publishers ({self._blocked}): memory or disk alarm; not "
                "confirmed in time"
            )
        return NotConfirmedError(f"the broker {self._url} did not confirm in time")

    def close(self) -> None:
        """Close the connection without waiting long; what is not confirmed by now stays unknown. Never raises."""
        connection, self._connection, self._channel = self._connection, None, None
        if connection is None:
            return
        with contextlib.suppress(Exception):
            if not (connection.is_closed or connection.is_closing):
                connection.close()  # if it is still being opened, this drops it at once
            if not _turn_until_closed(connection, _CLOSE_WITHIN):
                # The broker hangs or does not read. pika has no public way to drop the socket.
                connection._terminate_stream(None)  # noqa: SLF001
                _turn_until_closed(connection, _CLOSE_WITHIN)
        with contextlib.suppress(Exception):
            connection.ioloop.close()


def _way(message: Message) -> tuple[str, str]:
    """The exchange and the routing key by which a message gets to its queue."""
    if not message.delay:
        return "", message.queue
    from workqueued import delays  # noqa: PLC0415 - most commands send at once, and start sooner without it

    return delays.route(message.queue, message.delay)


def _turn_until_closed(connection: Any, seconds: float) -> bool:
    limit = time.monotonic() + seconds
    timer = connection.ioloop.call_later(seconds, _nothing)
    while not connection.is_closed and time.monotonic() < limit:
        connection.ioloop.poll()
        connection.ioloop.process_timeouts()
    connection.ioloop.remove_timeout(timer)
    return bool(connection.is_closed)


def _nothing() -> None:
    pass


def _check_size_of(headers: Mapping[str, Any]) -> None:
    """The broker would close the connection (501), and with it all that is on its way."""
    if not may_overflow_a_frame(headers):
        return
    try:
        size = encoded_size(headers)
    except ValueError:
        return  # told when it is encoded
    if size > MOST_HEADER_BYTES:
        raise DataError(
            f"its headers take {size} bytes, and all must fit into one AMQP frame, {MOST_HEADER_BYTES} bytes; "
            "put what is large into the body"
        )
