"""The delay levels on the broker: declared when first used, and what to say when the broker has them otherwise.

Runs in: whatever publishes with a delay.

    wq.delay.4 ─ waits 16 s ─► wq.delay.3 ─ … ─► wq.delay.0 ─ 1 s ─► wq.delay.deliver ─► wq.delay.to.<queue> ─► queue

Level queues dead-letter at least once: what cannot go on stays, and RabbitMQ tries it again after three minutes. But it
stops reading a queue whose 32 oldest messages cannot go on. So each target has an outbox of its own, in which messages
wait for a target that is full or deleted and nobody else's do; and what has no outbox goes into a dead queue rather
than into the way of all.
"""

import contextlib
import re
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from workqueued import delays
from workqueued.amqp.connection import connect, translated
from workqueued.amqp.topology import DEAD_QUEUE_ARGUMENTS, find_difference
from workqueued.broker_settings import Broker
from workqueued.errors import DataError, QueueRefusedError, UnroutableError

#: How long what was declared is believed to be there, seconds: somebody may delete the target, and a message that
#: waits for it would look as well sent as any other. Declaring again costs some milliseconds.
_BELIEVED = 60.0
#: Of every queue on the way: nothing is lost when it is passed on. Of that kind are quorum queues alone.
_AT_LEAST_ONCE = {
    "x-queue-type": "quorum",
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",  # without it RabbitMQ would fall back to at most once
}
_SHORT_STRING = 255
#: In the broker's words for a difference.
_NAME = re.compile(r" for (?:queue|exchange) '(.+)' in vhost '")


class Levels:
    """Declares levels and outboxes for one process, and remembers which.

    Args:
        broker: whose.
        client: the name of the connection, which lives as long as it takes to declare.
        clock: seconds.
    """

    def __init__(self, broker: Broker, client: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._broker = broker
        self._client = client
        self._clock = clock
        self._highest = -1
        self._believed_until = 0.0
        self._targets: dict[str, float] = {}

    def ready(self, queue: str, seconds: int) -> bool:
        """Whether a message to this queue with this delay would find its way, as far as we know."""
        return self._has_levels(seconds) and self._clock() < self._targets.get(queue, 0.0)

    def _has_levels(self, seconds: int) -> bool:
        return delays.highest(seconds) <= self._highest and self._clock() < self._believed_until

    def prepare(self, queue: str, seconds: int, within: float | None = None) -> None:
        """Declare what a message to this queue with this delay needs, unless that was done lately.

        Args:
            queue: the target.
            seconds: the delay.
            within: seconds that connecting may take, if less than the configuration says.

        Raises:
            UnroutableError: there is no such queue.
            QueueRefusedError: no permission, or the broker has a level otherwise.
            ConnectionLostError, RefusedError: no connection.
            DataError: no queue can have this name.
            ValueError: the delay is too long.
        """
        if self.ready(queue, seconds):
            return
        _check_name(queue)
        broker = self._broker
        if within is not None:
            broker = replace(broker, connect_timeout=min(broker.connect_timeout, within))
        # What was needed once is declared again with the rest, all within the same minute.
        highest = -1 if self._has_levels(seconds) else max(delays.highest(seconds), self._highest)
        until = self._clock() + _BELIEVED
        connection = connect(broker, self._client)
        try:
            with translated():
                channel = connection.channel()
            declare_levels(channel, queue, highest)
        finally:
            with contextlib.suppress(Exception):
                connection.close()
        self._targets[queue] = until
        if highest >= 0:
            self._highest, self._believed_until = highest, until

    def forget(self) -> None:
        """Something is not as it was: declare again before the next message."""
        self._highest = -1
        self._targets.clear()


def _check_name(queue: str) -> None:
    if not queue:
        raise UnroutableError("there is no queue ''")  # to the broker it would mean the queue declared last
    try:
        length = len(queue.encode())
    except UnicodeEncodeError as error:
        raise DataError(f"the queue's name is text that UTF-8 cannot hold: {error}") from error
    if length > _SHORT_STRING:
        raise DataError(f"the queue's name has {length} bytes; AMQP takes {_SHORT_STRING}")


def declare_levels(channel: Any, queue: str, highest: int) -> None:
    """Declare levels up to `highest` (-1: none), and the way from them to a queue, on a BlockingChannel.

    From the bottom up: whoever finds a level finds all below it. Errors as for `Levels.prepare`.
    """
    try:
        with translated():
            channel.queue_declare(queue, passive=True)
    except QueueRefusedError as error:
        if "NOT_FOUND" in str(error):
            raise UnroutableError(f"there is no queue {queue!r}") from error
        raise
    try:
        with translated():
            _declare_delivery(channel)
            _declare_outbox(channel, queue)
            for number in range(highest + 1):
                _declare_level(channel, number)
    except QueueRefusedError as error:
        raise QueueRefusedError(explain_levels(str(error))) from error


def _declare_delivery(channel: Any) -> None:
    channel.exchange_declare(delays.ASTRAY, "fanout", durable=True)
    channel.queue_declare(delays.ASTRAY, durable=True, arguments=DEAD_QUEUE_ARGUMENTS)
    channel.queue_bind(delays.ASTRAY, delays.ASTRAY)
    channel.exchange_declare(delays.DELIVER, "topic", durable=True, arguments={"alternate-exchange": delays.ASTRAY})


def _declare_outbox(channel: Any, queue: str) -> None:
    name = delays.outbox(queue)
    arguments = {"x-message-ttl": 0, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}
    channel.queue_declare(name, durable=True, arguments=_AT_LEAST_ONCE | arguments)
    channel.queue_bind(name, delays.DELIVER, delays.target_pattern(queue))


def _declare_level(channel: Any, number: int) -> None:
    name = delays.level(number)
    arguments = {
        "x-message-ttl": delays.holds(number) * 1000,
        "x-dead-letter-exchange": delays.below(number),
    }
    channel.exchange_declare(name, "topic", durable=True)
    channel.queue_declare(name, durable=True, arguments=_AT_LEAST_ONCE | arguments)
    channel.queue_bind(name, name, delays.pattern(number, 1))
    channel.exchange_bind(delays.below(number), name, delays.pattern(number, 0))


def explain_levels(text: str) -> str:
    """Why the broker refuses a level, in words that show found against wanted and say what can be done."""
    if "ACCESS_REFUSED" in text:
        return (
            f"no permission for delays ({text}). The user needs configure, write and read on {delays.PERMISSION}, and "
            "write on amq.default: rabbitmqctl set_permissions -p VHOST USER CONFIGURE WRITE READ"
        )
    for kind in ("queue", "exchange"):
        difference = find_difference(text, kind)
        if difference is not None:
            return _explain_difference(kind, *difference, text)
    return f"the broker refuses the delay levels: {text}"


def _explain_difference(kind: str, argument: str, wanted: str, found: str, text: str) -> str:
    named = _NAME.search(text)
    name = named[1] if named else "?"
    how = f" (rabbitmqctl delete_queue {name})" if kind == "queue" else ""
    return (
        f"{kind} {name!r} exists with {argument}={found}, and workqueued needs {argument}={wanted} for delays. "
        f"Let the messages in it run out, or move them away, and delete it{how}; it is then declared anew"
    )
