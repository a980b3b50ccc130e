"""The hot path: a whole delivery read from pika's socket at once, and its ack written there.

Runs in: workers, in a stream of messages. Whoever calls must own the connection at that moment (see `keeper`).

pika spends some 200 µs of processor time on a delivery and its ack: a general loop, frame after frame, event after
event. Nearly every delivery arrives as three whole frames in one piece, and can be read in a few lines. So we look at
what has come without taking it (MSG_PEEK). Is it exactly one delivery of ours, it is taken; anything else, and whatever
we do not know, stays where it is for pika: heartbeats, cancellations, errors, large bodies, the end of the connection.

Some private names of pika's are used, see `attach`: where one is missing, or TLS is between, there is no hot path.
"""

import contextlib
import functools
import os
import select
import socket
import struct
import time
from collections import deque
from typing import Any, Self

from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport
from pika.compat import long
from pika.data import decode_table

from workqueued.delivery import Delivery, Properties

#: What is looked at; a delivery that is larger goes pika's way.
_MOST = 65_536
#: A quiet connection is left to pika after so long, seconds, and pika gets a turn so often in a stream (its heartbeats
#: need one every second or more).
_QUIET = 0.5
_END = 0xCE
_DELIVER = b"\x00\x3c\x00\x3c"
#: Type, channel and length of a header frame; class, weight, size of the body, flags of the properties.
_HEADER = struct.Struct(">BHIHHQH")
_BODY = struct.Struct(">BHI")
#: Kinds of fields in a table: a signed number of 64 bits, a long string.
_LONG, _TEXT = ord("l"), ord("S")
_ACK = struct.Struct(">BHIHHQBB")

#: The properties in the order of their flags, from the highest (AMQP 0-9-1, 4.2.6.1): name and kind. Those without a
#: name are passed over.
_PROPERTIES = (
    ("content_type", "text"),
    ("content_encoding", "text"),
    ("headers", "table"),
    ("", "octet"),
    ("priority", "octet"),
    ("correlation_id", "text"),
    ("reply_to", "text"),
    ("expiration", "text"),
    ("message_id", "text"),
    ("timestamp", "timestamp"),
    ("type", "text"),
    ("", "text"),
    ("app_id", "text"),
    ("", "text"),
)


class HotPath:
    """The short way on one channel of one BlockingConnection."""

    def __init__(self, impl: Any, transport: Any, channel: Any, queue: str) -> None:
        """See `attach`."""
        self._impl = impl
        self._transport = transport
        self._socket: socket.socket = transport._sock  # noqa: SLF001
        self._unsent: deque[bytes] = transport._tx_buffers  # noqa: SLF001
        self._channel = channel.channel_number
        self._queue = queue
        self._bell = _make_bell()
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._poll.register(self._bell, select.POLLIN)
        self._pika_due = 0.0

    @classmethod
    def attach(cls, connection: Any, channel: Any, queue: str) -> Self | None:
        """The short way, or None where there is none: pika is another than we know, or TLS is between."""
        try:
            impl = connection._impl  # noqa: SLF001
            transport = impl._transport  # noqa: SLF001
            known = (
                type(transport) is _AsyncPlaintextTransport
                and type(transport._sock) is socket.socket  # noqa: SLF001
                and isinstance(transport._tx_buffers, deque)  # noqa: SLF001
                and isinstance(impl._frame_buffer, bytes)  # noqa: SLF001
                and isinstance(impl.bytes_received, int)
                and isinstance(impl.bytes_sent, int)
            )
        except AttributeError:
            return None
        return cls(impl, transport, channel, queue) if known else None

    def take(self) -> Delivery | None:
        """Wait for the next delivery; None: it is pika's turn, as something else came, nothing came, or `wake`."""
        now = time.monotonic()
        if now >= self._pika_due:
            self._pika_due = now + _QUIET
            return None
        if self._unsent or self._impl._frame_buffer or self._transport._sock is None:  # noqa: SLF001
            return None
        events = self._poll.poll(_QUIET * 1000)
        if len(events) != 1 or events[0][0] == self._bell:
            with contextlib.suppress(OSError):
                os.eventfd_read(self._bell)
            return None
        try:
            data = self._socket.recv(_MOST, socket.MSG_PEEK)
            delivery = parse(data, self._channel, self._queue)
            if delivery is None or len(self._socket.recv(len(data))) != len(data):
                return None
        except OSError:  # pika meets it as well, and says what it means
            return None
        self._impl.bytes_received += len(data)  # pika's heartbeat looks at it
        return delivery

    def ack(self, tag: int) -> bool:
        """Acknowledge; False: pika must do it."""
        if self._unsent or self._transport._sock is None:  # noqa: SLF001
            return False
        frame = _ACK.pack(1, self._channel, 13, 60, 80, tag, 0, _END)
        try:
            sent = self._socket.send(frame)
        except OSError:
            return False
        self._impl.bytes_sent += sent
        if sent < len(frame):
            self._transport.write(frame[sent:])
        return True

    def wake(self) -> None:
        """End a wait in `take`; from any thread."""
        os.eventfd_write(self._bell, 1)


@functools.cache
def _make_bell() -> int:
    """What ends a wait: one for the whole process and never closed, as a thread may be about to ring it."""
    return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)


def parse(data: bytes, channel: int, queue: str) -> Delivery | None:
    """A delivery, when the data are exactly one, whole, on this channel, and nothing in it is unusual; else None."""
    try:
        kind, number, length = _BODY.unpack_from(data)
        if kind != 1 or number != channel or data[7:11] != _DELIVER:
            return None
        header = length + 8
        kind, number, length, class_id, _, size, flags = _HEADER.unpack_from(data, header)
        if kind != 2 or number != channel or class_id != 60 or data[header - 1] != _END:
            return None
        after = header + length + 8
        if len(data) != (after + size + 8 if size else after) or data[after - 1] != _END or data[-1] != _END:
            return None
        if size and _BODY.unpack_from(data, after) != (3, channel, size):
            return None
        tag = 12 + data[11]
        key = tag + 10 + data[tag + 9]  # after the flag and the exchange
        if key + 1 + data[key] != header - 1:
            return None
        return Delivery(
            queue,
            int.from_bytes(data[tag : tag + 8], "big"),
            data[after + 7 : -1] if size else b"",
            _read_properties(data, header + _HEADER.size, after - 1, flags),
            bool(data[tag + 8] & 1),
        )
    except Exception:  # noqa: BLE001 - too short, no UTF-8, a table that cannot be read: pika knows what to do
        return None


_plans: dict[int, tuple[tuple[str, str], ...]] = {}


def _plan(flags: int) -> tuple[tuple[str, str], ...]:
    """The properties that are there."""
    if flags & 0b11:
        raise ValueError("more flags than AMQP has")
    plan = tuple(one for place, one in enumerate(_PROPERTIES) if flags & (1 << (15 - place)))
    _plans[flags] = plan
    return plan


def _read_properties(data: bytes, at: int, end: int, flags: int) -> Properties:
    found: dict[str, Any] = {}
    for name, kind in _plans.get(flags) or _plan(flags):
        if kind == "text":
            value: Any = None
            start = at + 1
            at = start + data[at]
            if name:
                value = str(data[start:at], "utf-8")
        elif kind == "table":
            value, at = _read_table(data, at)
        elif kind == "octet":
            value = data[at]
            at += 1
        else:
            value = int.from_bytes(data[at : at + 8], "big")
            at += 8
        if name:
            found[name] = value
    if at != end:
        raise ValueError("the properties do not end where their frame does")
    return Properties(**found)


def _read_table(data: bytes, at: int) -> tuple[dict[str, Any], int]:
    """A table of headers; pika reads those with anything in them but whole numbers and text."""
    end = at + 4 + int.from_bytes(data[at : at + 4], "big")
    found: dict[str, Any] = {}
    here = at + 4
    while here < end:
        start = here + 1
        here = start + data[here]
        name, kind = str(data[start:here], "utf-8"), data[here]
        if kind == _LONG:
            # pika's own class, which it writes as 64 bits again: a copy's headers keep their types.
            value: Any = long(int.from_bytes(data[here + 1 : here + 9], "big", signed=True))
            here += 9
        elif kind == _TEXT:
            start = here + 5
            here = start + int.from_bytes(data[here + 1 : start], "big")
            value = str(data[start:here], "utf-8")
        else:
            return decode_table(data, at)  # type: ignore[no-any-return]
        found[name] = value
    if here != end:
        raise ValueError("a header does not end in its table")
    return found, end
