"""Sender: enqueue from Python.

Runs in: any program that wants work done, and `wq-send`.

    with Sender(config="/etc/workqueued/workqueued.yaml") as sender:
        message_id = sender.send(b"First message.", queue="task_queue")

When `send` returns, the broker holds the message: persistent, in its queue, confirmed.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from workqueued.amqp.publisher import Publisher
from workqueued.amqp.topology import declare_once
from workqueued.config import Broker, BrokerUrl, Config, Queue, find_config, read_config
from workqueued.delivery import ENQUEUED_AT, Message, Properties, new_message_id
from workqueued.errors import ConfigError, NotConfirmedError, UnroutableError, UsageError, WorkqueuedError
from workqueued.schema import redact

#: How many messages are on their way at once: 10 to 13 times the rate of one at a time, and more brings little.
WINDOW = 1000
#: The same in bytes, so that large bodies do not pile up in memory.
WINDOW_BYTES = 16 * 2**20


class Sender:
    """Publishes messages, each confirmed. Not to be shared between threads or over a fork.

    Args:
        url: broker URL, or several; instead of `config`.
        config: path of a workqueued.yaml; by default the one that `wq-send` would read.
        timeout: seconds for one message, from connecting to its confirm.

    Raises:
        ConfigError: the configuration or a URL is wrong.
    """

    def __init__(
        self,
        url: str | Iterable[str] | None = None,
        *,
        config: Path | str | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._timeout = timeout
        self._queues: Mapping[str, Queue] = {}
        if url is not None:
            self._broker = Broker(url=_parse_urls(url))
        else:
            loaded = read_config(Path(config) if config is not None else find_config())
            self._broker, self._queues = loaded.broker, loaded.queues
        self._publisher = Publisher(self._broker, "wq-send")

    @classmethod
    def from_config(cls, config: Config, timeout: float = 30.0) -> Self:
        """A sender for a configuration that was read already."""
        sender = cls(url=(), timeout=timeout)
        sender._broker, sender._queues = config.broker, config.queues
        sender._publisher = Publisher(config.broker, "wq-send")
        return sender

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Everything that `send` returned for is safe already."""
        self._publisher.close()

    def message(self, body: bytes | str, *, queue: str | None = None, **properties: Any) -> Message:
        """A message as `send` would publish it.

        Args:
            body: bytes, or text that is sent as UTF-8.
            queue: may be left out when the configuration has exactly one.
            properties: fields of `delivery.Properties`: headers, type, message_id, content_type, priority, expiration
                (milliseconds, as text), correlation_id, reply_to, app_id, content_encoding.

        Raises:
            UsageError: no queue is named, and there is not exactly one.
        """
        now = time.time()
        headers = {ENQUEUED_AT: int(now * 1000), **(properties.pop("headers", None) or {})}
        properties.setdefault("timestamp", int(now))
        if properties.get("message_id") is None:
            properties["message_id"] = new_message_id()
        data = body.encode() if isinstance(body, str) else bytes(body)
        return Message(self.queue(queue), data, Properties(headers=headers, **properties))

    def queue(self, name: str | None) -> str:
        """The queue that is meant.

        Raises:
            UsageError: none is named, and the configuration has not exactly one.
        """
        if name is not None:
            return name
        if len(self._queues) == 1:
            return next(iter(self._queues))
        known = f"there are {', '.join(self._queues)}" if self._queues else "with a URL there is no default"
        raise UsageError(f"which queue? Name one with --queue (queue= in Python): {known}")

    def send(self, body: bytes | str, *, queue: str | None = None, **properties: Any) -> str:
        """Publish one message and wait until the broker holds it; returns its id. See `message` for the arguments.

        Raises:
            UnroutableError: there is no such queue, and the configuration does not say how to declare it.
            NotConfirmedError, ConnectionLostError: not known to be safe; send it again (with the same message_id).
            RefusedError: password, vhost or permission.
            DataError: the broker or AMQP cannot take this message.
        """
        message = self.message(body, queue=queue, **properties)
        self.deliver(message)
        return message.properties.message_id or ""

    def deliver(self, message: Message) -> None:
        """Publish a message made by `message`, and wait until the broker holds it. Errors as for `send`."""
        deadline = time.monotonic() + self._timeout
        self.open(deadline)
        try:
            try:
                self._publisher.send(message, deadline)
            except UnroutableError:
                if not self._declare(message.queue):
                    raise
                self._publisher.send(message, deadline)
        except NotConfirmedError:
            self._publisher.close()  # its confirm may still come, and would be taken for the next one's
            raise

    def send_many(self, messages: Iterable[Message]) -> Iterator[str]:
        """Publish messages with many on their way at once; yields each id, in order, once all up to it are safe.

        Args:
            messages: made by `message`.

        Raises:
            WorkqueuedError: as for `send`; what was yielded before is safe, the rest is not known to be.
        """
        stream = Stream(self)
        for message in messages:
            stream.put(message)
            while stream.full:
                stream.turn()
            yield from stream.take()
        while stream.in_flight:
            stream.turn()
            yield from stream.take()

    def open(self, deadline: float) -> None:
        """Connect, if not connected; also when the connection was idle so long that the broker may have closed it."""
        publisher = self._publisher
        stale = time.monotonic() - publisher.last_used > self._broker.heartbeat / 2
        if publisher.is_open and not stale:
            return
        publisher.close()
        publisher.open(deadline)

    def _declare(self, queue: str) -> bool:
        """Declare a queue as a worker would, if the configuration has it; the first to come makes it."""
        known = self._queues.get(queue)
        if known is None or known.declare != "plain":
            return False
        declare_once(self._broker, queue, known, "wq-send")
        return True

    @property
    def publisher(self) -> Publisher:
        """The publisher underneath."""
        return self._publisher

    @property
    def timeout(self) -> float:
        """Seconds for one message."""
        return self._timeout


def _parse_urls(url: str | Iterable[str]) -> tuple[BrokerUrl, ...]:
    texts = [url] if isinstance(url, str) else list(url)
    try:
        return tuple(BrokerUrl.parse(text) for text in texts)
    except ValueError as error:
        raise ConfigError(
            f"url: found {redact(' '.join(texts))!r}, expected amqp://user:password@host:5672/%2F ({error})"
        ) from error


class Stream:
    """Many messages on their way, and how many of them, from the first, are safe without a gap.

    Attributes:
        safe: that number.
    """

    def __init__(self, sender: Sender, clock: Callable[[], float] = time.monotonic) -> None:
        self._sender = sender
        self._publisher = sender.publisher
        self._clock = clock
        self._order: deque[tuple[int, Message]] = deque()
        self._settled: dict[int, WorkqueuedError | None] = {}
        self._known_queues: set[str] = set()
        self._bytes = 0
        self._progress_at = clock()
        self.safe = 0

    @property
    def in_flight(self) -> int:
        """Messages that were put and not taken yet."""
        return len(self._order)

    @property
    def full(self) -> bool:
        """Whether to wait before the next `put`."""
        return self._publisher.in_flight >= WINDOW or self._bytes >= WINDOW_BYTES

    def put(self, message: Message) -> None:
        """Publish. The first message to a queue is waited for, which tells whether the queue is there.

        Raises:
            WorkqueuedError: as for `Sender.send`.
        """
        if message.queue not in self._known_queues:
            while self._publisher.in_flight:
                self.turn()
            self._sender.deliver(message)
            self._known_queues.add(message.queue)
            ticket = -len(self._known_queues)  # it was confirmed already: any number that no publish has
            self._settled[ticket] = None
        else:
            if not self._publisher.in_flight:
                self._progress_at = self._clock()
            ticket = self._publisher.publish(message)
        self._order.append((ticket, message))
        self._bytes += len(message.body)

    def turn(self, until: Callable[[], bool] = lambda: False) -> None:
        """Wait for confirms, or for `until()` after a `wake` of the publisher.

        Raises:
            NotConfirmedError: no confirm came for the sender's timeout.
            ConnectionLostError, RefusedError, DataError: the connection or the channel ended.
        """
        confirms = self._publisher.confirms
        waiting = bool(self._publisher.in_flight)
        limit = self._progress_at + self._sender.timeout if waiting else self._clock() + 1.0
        if not self._publisher.pump_until(lambda: bool(confirms) or until(), limit) and waiting:
            raise self._publisher.late()
        if confirms:
            self._progress_at = self._clock()
        while confirms:
            confirm = confirms.popleft()
            self._settled[confirm.ticket] = confirm.error

    def take(self) -> Iterator[str]:
        """The ids of further messages that are safe, in order.

        Raises:
            UnroutableError, NotConfirmedError: the next one in order is not.
        """
        while self._order and self._order[0][0] in self._settled:
            ticket, message = self._order.popleft()
            self._bytes -= len(message.body)
            error = self._settled.pop(ticket)
            if error is not None:
                raise error
            self.safe += 1
            yield message.properties.message_id or ""
