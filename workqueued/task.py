"""Task: what a handler sees of a message."""

import json
import time
from collections.abc import Mapping
from typing import Any

from workqueued.delivery import Delivery
from workqueued.errors import Undecodable


class Task:
    """One message, for the time of one handler call.

    Attributes:
        body: the bytes as they were sent.
        queue: the queue it came from.
    """

    __slots__ = ("_delivery", "_limit", "_log", "_started", "body", "queue")

    def __init__(self, delivery: Delivery, log: Any, limit: float | None = None) -> None:
        self._delivery = delivery
        self._limit = limit
        self._started = time.time()
        self.body = delivery.body
        self.queue = delivery.queue
        self._log = log

    def __repr__(self) -> str:
        return f"<Task {self.message_id or '(no id)'} from {self.queue}, {len(self.body)} bytes>"

    @property
    def log(self) -> Any:
        """A structlog logger that carries the message id: `task.log.info("image.resized", width=100)`."""
        return self._log.bind(message_id=self.message_id)

    @property
    def text(self) -> str:
        """The body as UTF-8 text.

        Raises:
            Undecodable: it is none. Not caught, it sends the message to the dead queue.
        """
        try:
            return self.body.decode()
        except UnicodeDecodeError as error:
            raise Undecodable(f"the body is no UTF-8 text: {error}") from error

    def json(self) -> Any:
        """The body parsed as JSON.

        Raises:
            Undecodable: it is none; a ValueError, too. Not caught, it sends the message to the dead queue.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise Undecodable(f"the body is no JSON: {error}") from error

    @property
    def headers(self) -> Mapping[str, Any]:
        """The message's headers."""
        return self._delivery.properties.headers

    @property
    def message_id(self) -> str | None:
        """The id that stays the same however often the message is handled: the key for idempotency."""
        return self._delivery.properties.message_id

    @property
    def type(self) -> str | None:
        """The AMQP type property."""
        return self._delivery.properties.type

    @property
    def content_type(self) -> str | None:
        """The AMQP content type property."""
        return self._delivery.properties.content_type

    @property
    def correlation_id(self) -> str | None:
        """The AMQP correlation id property."""
        return self._delivery.properties.correlation_id

    @property
    def attempt(self) -> int:
        """Which try this is, 1 for the first, counted by our own copies; for the broker's see `redelivered`."""
        return self._delivery.attempt

    @property
    def deadline(self) -> float | None:
        """When the time limit will be over, seconds since the epoch; None without a limit."""
        return None if self._limit is None else self._started + self._limit

    @property
    def redelivered(self) -> bool:
        """Whether this message was given out before: it may have been handled, in part or whole."""
        return self._delivery.given_before
