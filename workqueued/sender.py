"""Sender: enqueue from Python.

Runs in: any program that wants work done, and `wq-send`.

    with Sender(config="/etc/workqueued/workqueued.yaml") as sender:
        message_id = sender.send(b"First message.", queue="task_queue")

When `send` returns, the broker holds the message: persistent, in its queue, confirmed.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from workqueued.amqp.publisher import Publisher
from workqueued.amqp.refusals import LevelsGoneError
from workqueued.amqp.topology import declare_once
from workqueued.broker_settings import Broker
from workqueued.config import Config, read_config
from workqueued.delivery import DUE_AT, ENQUEUED_AT, EXPIRES_AT, Message, Properties, new_message_id
from workqueued.durations import parse_duration
from workqueued.errors import (
    ConfigError,
    DataError,
    NotConfirmedError,
    UnroutableError,
    UsageError,
    WorkqueuedError,
)
from workqueued.paths import find_config
from workqueued.queue_settings import Queue
from workqueued.schema import redact
from workqueued.stream import Stream
from workqueued.urls import BrokerUrl

if TYPE_CHECKING:
    from workqueued.amqp.levels import Levels
    from workqueued.due import Due

#: Seconds, a duration such as `10m`, or a timedelta.
Delay = float | str | timedelta
_FIELDS = frozenset(Properties._fields)
#: The longest expiration that RabbitMQ takes, ms: 49.7 days.
_LONGEST_EXPIRATION = 2**32 - 1


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
        self._known_levels: Levels | None = None

    @classmethod
    def from_config(cls, config: Config, timeout: float = 30.0) -> Self:
        """A sender for a configuration that was read already."""
        sender = cls(url="amqp://localhost", timeout=timeout)
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

    def message(
        self,
        body: bytes | str,
        *,
        queue: str | None = None,
        delay: Delay | None = None,
        at: datetime | str | None = None,
        **properties: Any,
    ) -> Message:
        """A message as `send` would publish it.

        Args:
            body: bytes, or text that is sent as UTF-8.
            queue: may be left out when the configuration has exactly one.
            delay: how long it waits on the broker before a worker gets it: seconds (rounded up to whole ones), a
                duration such as `10m`, or a timedelta; at most 194 days.
            at: when it is due, instead: a datetime or ISO 8601 text, with an offset from UTC. Counted from this call,
                as is a delay, so a message that is kept for a while before it is sent will be as late.
            properties: fields of `delivery.Properties`: headers, type, message_id, content_type, priority, expiration
                (milliseconds, as text; counted from when it is due), correlation_id, reply_to, app_id,
                content_encoding.

        Raises:
            UsageError: no queue is named, and there is not exactly one; or delay or at makes no sense.
            DataError: text that UTF-8 cannot hold.
            TypeError: a body that is neither bytes nor text, or an unknown property.
        """
        if not properties.keys() <= _FIELDS:
            unknown = ", ".join(sorted(properties.keys() - _FIELDS))
            raise TypeError(f"no such property: {unknown}; there are {', '.join(Properties._fields)}")
        now = time.time()
        headers = {ENQUEUED_AT: int(now * 1000), **(properties.pop("headers", None) or {})}
        wait = 0
        if delay is not None or at is not None:
            due = _due(delay, at, now)
            wait = due.delay
            if wait:
                headers |= _due_headers(due, properties.pop("expiration", None))
        properties.setdefault("timestamp", int(now))
        if properties.get("message_id") is None:
            properties["message_id"] = new_message_id()
        return Message(self.queue(queue), _data(body), Properties(headers=headers, **properties), wait)

    def queue(self, name: str | None) -> str:
        """The queue that is meant.

        Raises:
            UsageError: none is named, and the configuration has not exactly one.
        """
        if name is not None:
            return name
        if len(self._queues) == 1:
            return next(iter(self._queues))
        there = ", ".join(self._queues)
        known = f"there are {there}" if there else "with a URL (or $WQ_URL) there is no default"
        raise UsageError(f"which queue? Name one with --queue (queue= in Python): {known}")

    def send(
        self,
        body: bytes | str,
        *,
        queue: str | None = None,
        delay: Delay | None = None,
        at: datetime | str | None = None,
        **properties: Any,
    ) -> str:
        """Publish one message and wait until the broker holds it; returns its id. See `message` for the arguments.

        Raises:
            UsageError: no queue is named, and there is not exactly one; or delay or at makes no sense.
            UnroutableError: there is no such queue, and the configuration does not say how to declare it.
            NotConfirmedError, ConnectionLostError: not known to be safe; send it again (with the same message_id).
            RefusedError: password, vhost or permission.
            DataError: the broker or AMQP cannot take this message.
        """
        message = self.message(body, queue=queue, delay=delay, at=at, **properties)
        self.deliver(message)
        return message.properties.message_id or ""

    def deliver(self, message: Message) -> None:
        """Publish a message made by `message`, and wait until the broker holds it. Errors as for `send`."""
        deadline = time.monotonic() + self._timeout
        self.open(deadline)
        try:
            try:
                self._publish(message, deadline)
            except LevelsGoneError:
                self._levels.forget()
                self._publish(message, deadline)
            except UnroutableError:
                self._declare(message.queue, deadline)
                self._publish(message, deadline)
        except NotConfirmedError:
            self._publisher.close()  # its confirm may still come, and would be taken for the next one's
            raise

    def _publish(self, message: Message, deadline: float) -> None:
        if message.delay:
            self._levels.prepare(message.queue, message.delay, max(0.1, deadline - time.monotonic()))
        if not self._publisher.is_open:
            self.open(deadline)  # a missing level closed the channel
        self._publisher.send(message, deadline)

    def ready(self, message: Message) -> bool:
        """Whether the way to the message's queue is known to be there, if it takes one that must be declared."""
        return not message.delay or self._levels.ready(message.queue, message.delay)

    @property
    def _levels(self) -> "Levels":
        if self._known_levels is None:
            from workqueued.amqp.levels import Levels  # noqa: PLC0415 - most programs send without delays

            self._known_levels = Levels(self._broker, "wq-send")
        return self._known_levels

    def send_many(self, messages: Iterable[Message]) -> Iterator[str]:
        """Publish messages with many on their way at once; yields each id, in order, once all up to it are safe.

        What comes in quick succession goes out together, so the last message before a pause of the iterable's may wait
        until it ends; where there are long ones, use `send`.

        Args:
            messages: made by `message`.

        Raises:
            WorkqueuedError: as for `send`; what was yielded before is safe, the rest is not known to be.
        """
        stream = Stream(self)
        try:
            for message in messages:
                stream.put(message)
                while stream.full:
                    stream.turn()
                yield from stream.take_ids()
            while stream.in_flight:
                stream.turn()
                yield from stream.take_ids()
        except WorkqueuedError:
            yield from stream.take_ids()  # what was confirmed before it broke
            raise

    def open(self, deadline: float) -> None:
        """Connect, if not connected; also when the connection was idle so long that the broker may have closed it."""
        publisher = self._publisher
        if publisher.is_open and not self.stale:
            with contextlib.suppress(WorkqueuedError):
                publisher.look()  # a broker that was restarted meanwhile has told us
        if publisher.is_open and not self.stale:
            return
        publisher.close()
        publisher.open(deadline)

    @property
    def stale(self) -> bool:
        """Whether nobody served the connection for so long that the broker may have closed it."""
        return time.monotonic() - self._publisher.serviced > self._broker.rhythm / 2

    def _declare(self, queue: str, deadline: float) -> None:
        """Declare a queue as a worker would, if the configuration has it; the first to come makes it.

        Raises:
            UnroutableError: it is not for us to declare; says who could.
        """
        known = self._queues.get(queue)
        if known is None or known.declare != "plain":
            raise UnroutableError(f"there is no queue {queue!r} on {self._broker.url[0]}; {self._who_declares(queue)}")
        left = max(0.1, deadline - time.monotonic())
        broker = dataclasses.replace(self._broker, connect_timeout=min(self._broker.connect_timeout, left))
        declare_once(broker, queue, known, "wq-send")

    def _who_declares(self, queue: str) -> str:
        if queue in self._queues:
            return "its declare: false says that somebody else makes it"
        if self._queues:
            return f"the configuration has {', '.join(self._queues)}"
        return "its consumer declares it (or wq-send with --config, for the queues that are in the file)"

    @property
    def publisher(self) -> Publisher:
        """The publisher underneath."""
        return self._publisher

    @property
    def timeout(self) -> float:
        """Seconds for one message."""
        return self._timeout


def _data(body: Any) -> bytes:
    if isinstance(body, str):
        try:
            return body.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"the body is text that UTF-8 cannot hold: {error}") from error
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body)
    raise TypeError(f"the body is {type(body).__name__}, expected bytes or str; for other data json.dumps() it")


def _due(delay: Delay | None, at: datetime | str | None, now: float) -> "Due":
    from workqueued import due  # noqa: PLC0415 - most programs send without delays

    if delay is not None and at is not None:
        raise UsageError("delay and at exclude each other: the one is how long, the other until when")
    name = "at" if delay is None else "delay"
    try:
        return due.after(delay, now) if delay is not None else due.at(at or "", now)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"{name}: {error}") from error
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from error


def _due_headers(due: "Due", expires: str | None) -> dict[str, int]:
    """Headers of a message that waits: in a delay level an AMQP expiration would fire."""
    if expires is None:
        return {DUE_AT: due.at}
    if not expires.isdecimal():
        raise UsageError(f"expiration: found {expires!r}, expected milliseconds as text")
    return {DUE_AT: due.at, EXPIRES_AT: due.at + int(expires)}


def expiration(duration: str) -> str:
    """AMQP's expiration (milliseconds, as text) from a duration such as `10m`.

    Raises:
        ValueError: it is none, or longer than RabbitMQ takes.
    """
    milliseconds = int(parse_duration(duration) * 1000)
    if milliseconds > _LONGEST_EXPIRATION:
        raise ValueError(f"{duration!r} is too long; RabbitMQ takes at most 49d")
    return str(milliseconds)


def _parse_urls(url: str | Iterable[str]) -> tuple[BrokerUrl, ...]:
    texts = [url] if isinstance(url, str) else list(url)
    urls = []
    for text in texts:
        try:
            urls.append(BrokerUrl.parse(text))
        except ValueError as error:
            raise ConfigError(
                f"url: found {redact(text)!r}, expected amqp://user:password@host:5672/%2F ({error})"
            ) from error
    if not urls:
        raise ConfigError("url: an empty list, expected at least one URL")
    return tuple(urls)
