"""What travels: the properties of a message, a message on its way out, a delivery on its way in.

Plain values; the AMQP library's own types stay behind `amqp/`.
"""

import hashlib
import os
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple

#: Milliseconds since the epoch at which `wq-send` handed the message over.
ENQUEUED_AT = "x-wq-enqueued-at"
#: Which try this is, 1 for the first; strangers may forge it, so it is read with care.
ATTEMPT = "x-wq-attempt"

#: How many workers it took down with it, counted by copies.
CRASHES = "x-wq-crashes"
#: How often it was given out again without proof of a crash, counted by copies; for classic queues, which do not count.
REDELIVERIES = "x-wq-redeliveries"
#: Milliseconds since the epoch before which it is not to be handled: it waits in the delay levels until then.
DUE_AT = "x-wq-due-at"
#: Milliseconds since the epoch after which it is not to be handled: the AMQP expiration of a message that was copied.
EXPIRES_AT = "x-wq-expires-at"
#: Milliseconds since the epoch at which it was taken out of the dead queue to be handled again.
REPLAYED = "x-wq-replayed"

_NUMBERS = frozenset({ENQUEUED_AT, ATTEMPT, CRASHES, REDELIVERIES, DUE_AT, EXPIRES_AT, REPLAYED})
#: Those that count something, and what a delivery calls it.
_COUNTS = {ATTEMPT: "attempt", CRASHES: "crashes", REDELIVERIES: "redeliveries"}
#: A forged count beyond this is not believed.
_MOST = 1_000_000
#: How much of a body is looked at to tell messages apart, bytes.
_TELLING = 65_536


class Properties(NamedTuple):
    """The AMQP properties we read or write. `timestamp` is in seconds since the epoch.

    Named tuples are made in a third of the time of a frozen dataclass, once for each message.
    """

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
    headers: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Message:
    """A message to publish: persistent and mandatory, to one queue.

    Attributes:
        delay: whole seconds that it waits in the delay levels before the queue gets it (see `delays`).
    """

    queue: str
    body: bytes = field(repr=False)
    properties: Properties = Properties()
    delay: int = 0


@dataclass(slots=True)
class Delivery:
    """A message that the broker handed to us and that is not settled yet. Nothing of it is ever changed.

    Attributes:
        tag: the delivery tag; it means something on its own channel only.
        redelivered: the broker gave the message out before.
        attempt: which try this is, 1 for the first.
        crashes: how many workers it has taken down, as far as its copies tell.
        redeliveries: how often it was given out again for no known reason, as far as its copies tell.
    """

    queue: str
    tag: int
    body: bytes = field(repr=False)
    properties: Properties
    redelivered: bool = False
    attempt: int = field(default=1, init=False, compare=False)
    crashes: int = field(default=0, init=False, compare=False)
    redeliveries: int = field(default=0, init=False, compare=False)
    #: Our headers that are numbers.
    _numbers: dict[str, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Read our headers once, as each is asked for several times."""
        for name, value in self.properties.headers.items():
            # pika has a class of its own for 64 bits, so the type alone would not tell.
            if name in _NUMBERS and isinstance(value, int) and value is not True and value is not False:
                self._numbers[name] = value
                if name in _COUNTS and 1 <= value <= _MOST:  # else no count of ours can be meant
                    setattr(self, _COUNTS[name], value)

    @property
    def given_before(self) -> bool:
        """Whether a worker had it before and did not settle it; also when it was copied since, to count that."""
        return self.redelivered or self.crashes > 0 or self.redeliveries > 0

    def expired(self, now: float) -> bool:
        """Whether it was to be handled before `now` (seconds since the epoch), going by the header of a copy."""
        until = self._numbers.get(EXPIRES_AT)
        return until is not None and 0 < until <= now * 1000

    @property
    def identity(self) -> str:
        """What tells it from other messages of its queue: its id, or where a stranger gave none, its content."""
        if self.properties.message_id:
            return self.properties.message_id
        digest = hashlib.blake2b(self.body[:_TELLING], digest_size=16)
        return f"body:{len(self.body)}:{digest.hexdigest()}"

    @property
    def life(self) -> int:
        """Tells its lives apart, 32 bits: senders may use an id again for something else, and a replay begins anew."""
        replayed = self._numbers.get(REPLAYED, 0)
        return zlib.crc32(self.body[:_TELLING], replayed & 0xFFFFFFFF)

    def waited_ms(self, now: float) -> int | None:
        """Milliseconds from when it could be handled to `now` (seconds since the epoch).

        That is when it was enqueued, when a delay ended, or when it was replayed; None when nobody says when that was.
        """
        since = self._numbers.get(ENQUEUED_AT)
        if since is None and self.properties.timestamp is not None:
            since = self.properties.timestamp * 1000
        for header in (DUE_AT, REPLAYED):
            if header in self._numbers:
                since = max(since or 0, self._numbers[header])
        if since is None:
            return None
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
