"""Publish a copy of a message until the broker holds it: dead letters, retries.

Runs in: workers, on a connection of their own that is opened when first needed and closed when idle.

What is tried again is the publish, never the handler; meanwhile the delivery stays unacknowledged, so that the broker
still has the message whatever happens to us.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from workqueued import delays
from workqueued.amqp.connection import MOST_HEADER_BYTES, connect, encoded_size, translated
from workqueued.amqp.levels import Levels
from workqueued.amqp.publisher import Publisher
from workqueued.amqp.refusals import LevelsGoneError
from workqueued.amqp.topology import declare_dead_queue
from workqueued.backoff import Backoff
from workqueued.broker_settings import Broker
from workqueued.delivery import Message, Properties
from workqueued.errors import UnroutableError, WorkqueuedError
from workqueued.queue_settings import DEAD_SUFFIX

#: Time for one confirm before the copy is published again, seconds.
_CONFIRM_WITHIN = 10.0
#: And for each so many bytes of the body a second more.
_SLOWEST_LINK = 1_000_000
#: Ceilings of the waits between two publishes, seconds.
_AGAIN_FIRST, _AGAIN_MOST = 0.2, 10.0
#: Bytes of the largest header that we set, `x-wq-stderr`, generously.
_LARGEST_OF_OURS = 5_120
#: Bytes of an AMQP short string. A stranger's property that is no UTF-8 was made longer when it was decoded.
_SHORT_STRING = 255


class Copies:
    """Sends copies; one instance per worker."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker = broker
        self._name = name
        self._publisher = Publisher(broker, name)
        self._levels = Levels(broker, name)

    def send(
        self,
        message: Message,
        *,
        give_up: Callable[[], bool],
        pause: Callable[[float], None],
        complain: Callable[[WorkqueuedError], None],
    ) -> bool:
        """Publish until confirmed; False when `give_up()` said so before.

        Args:
            message: for a dead queue, which is declared if it is not there; or for a work queue, at once or through the
                delay levels, which are declared when first used.
            give_up: asked between two tries.
            pause: waits so many seconds between two tries.
            complain: hears each failure.

        A message that the broker can never take, such as one of 20 MB after an upgrade to a RabbitMQ that takes 16,
        stays with us and is complained about until somebody raises the broker's limit.
        """
        message = fit(message)
        backoff = Backoff(_AGAIN_FIRST, _AGAIN_MOST)
        while not give_up():
            try:
                self._send_once(message)
            except WorkqueuedError as error:
                complain(error)
                # A confirm that is late may still come: only a fresh connection makes the tickets unambiguous.
                self._publisher.close()
                self._levels.forget()  # whatever it was, what is there may not be what was there
                pause(backoff.next_delay())
            else:
                return True
        return False

    def _send_once(self, message: Message) -> None:
        self.close_if_idle()  # on a busy queue nobody had the time to
        if self._publisher.is_open:
            with contextlib.suppress(WorkqueuedError):
                self._publisher.look()  # a broker that was restarted meanwhile has told us
        deadline = time.monotonic() + _CONFIRM_WITHIN + len(message.body) / _SLOWEST_LINK
        try:
            self._publish(message, deadline)
        except LevelsGoneError:
            self._levels.forget()
            self._publish(message, deadline)
        except UnroutableError:
            if not message.queue.endswith(DEAD_SUFFIX):
                raise  # a work queue is for its workers to declare
            self._declare(message.queue)
            self._publish(message, deadline)

    def _publish(self, message: Message, deadline: float) -> None:
        if message.delay:
            self._levels.prepare(message.queue, message.delay)
        if not self._publisher.is_open:
            self._publisher.close()
            self._publisher.open(deadline)
        self._publisher.send(message, deadline)

    def _declare(self, dead_queue: str) -> None:
        """The dead queue was deleted under us."""
        connection = connect(self._broker, self._name)
        try:
            with translated():
                channel = connection.channel()
            declare_dead_queue(channel, dead_queue)
        finally:
            with contextlib.suppress(Exception):
                connection.close()

    def close_if_idle(self) -> None:
        """Close the connection when it was not used for half a heartbeat: nobody services it in between."""
        if self._publisher.is_open and time.monotonic() - self._publisher.last_used > self._broker.rhythm / 2:
            self._publisher.close()

    def close(self) -> None:
        """Close the connection."""
        self._publisher.close()


def fit(message: Message) -> Message:
    """The message with properties that AMQP can carry, or its copy would be refused for ever.

    Text that is too long is cut. A header that cannot be encoded, then the largest, is left out and named. A delay is
    what the levels can hold.
    """
    delay = min(max(message.delay, 0), delays.LONGEST)
    message = replace(message, properties=_cut(message.properties), delay=delay)
    headers = dict(message.properties.headers)
    sizes = {name: size for name, value in headers.items() if (size := _size(name, value)) is not None}
    left_out = [name for name in headers if name not in sizes]
    total = sum(sizes.values())
    for name in sorted(sizes, key=lambda name: (_is_ours(name, sizes[name]), -sizes[name])):
        if total <= MOST_HEADER_BYTES:
            break
        left_out.append(name)
        total -= sizes[name]
    if not left_out:
        return message
    kept = {name: value for name, value in headers.items() if name not in left_out}
    kept["x-wq-headers-left-out"] = ", ".join(left_out)[:500]
    return replace(message, properties=message.properties._replace(headers=kept))


def _is_ours(name: str, size: int) -> bool:
    """Whether it tells why the message is dead: those go last. A stranger may use our names for something huge."""
    return name.startswith("x-wq-") and size <= _LARGEST_OF_OURS


def _cut(properties: Properties) -> Properties:
    short: dict[str, Any] = {
        name: value.encode("utf-8", "replace")[:_SHORT_STRING].decode("utf-8", "ignore")
        for name, value in properties._asdict().items()
        if isinstance(value, str)
    }
    return properties._replace(**short)


def _size(name: str, value: object) -> int | None:
    try:
        return encoded_size({name: value})
    except ValueError:
        return None
