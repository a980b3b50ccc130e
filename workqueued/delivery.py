"""What travels: the properties of a message, a message on its way out, a delivery on its way in.

Plain values; the AMQP library's own types stay behind `amqp/`.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

#: Milliseconds since the epoch at which `wq-send` handed the message over.
ENQUEUED_AT = "x-wq-enqueued-at"
#: Which try this is, 1 for the first; strangers may forge it, so it is read with care.
ATTEMPT = "x-wq-attempt"

#: A forged attempt beyond this is not believed.
_MOST_ATTEMPTS = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Properties:
    """The AMQP properties we read or write. `timestamp` is in seconds since the epoch."""

    message_id: str | None = None
    type: str | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    correlation_id: str | None = None
    reply_to: str | None = None
    app_id: str | None = None
    priority: int | None = None
    timestamp: int | None = None
    expiration: str | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Message:
    """A message to publish: persistent and mandatory, through the default exchange, to one queue."""

    queue: str
    body: bytes = field(repr=False)
    properties: Properties = Properties()


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message that the broker handed to us and that is not settled yet.

    Attributes:
        tag: the delivery tag; it means something on its own channel only.
        redelivered: the broker gave the message out before.
    """

    queue: str
    tag: int
    body: bytes = field(repr=False)
    properties: Properties
    redelivered: bool = False

    @property
    def attempt(self) -> int:
        """Which try this is, 1 for the first."""
        value = self.properties.headers.get(ATTEMPT)
        if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST_ATTEMPTS:
            return value
        return 1

    def waited_ms(self, now: float) -> int | None:
        """Milliseconds from enqueueing to `now` (seconds since the epoch); None when nobody says when that was."""
        since = self.properties.headers.get(ENQUEUED_AT)
        if not isinstance(since, int) or isinstance(since, bool):
            if self.properties.timestamp is None:
                return None
            since = self.properties.timestamp * 1000
        waited = int(now * 1000) - since
        return waited if 0 <= waited < 10**11 else None  # three years: a clock or a header that lies


def new_message_id() -> str:
    """A time-ordered UUID, version 7 of RFC 9562: 48 bits of milliseconds, then 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    value = bytearray(milliseconds.to_bytes(6, "big") + os.urandom(10))
    value[6] = value[6] & 0x0F | 0x70
    value[8] = value[8] & 0x3F | 0x80
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
