"""Outgoing: a publish as bytes in one piece.

Runs in: whoever publishes many messages: `wq-send`, `Sender`, and workers with their copies.

pika makes some twenty objects of a message, and a send(2) of each of its three frames: half of the time of a bulk.
Nearly all messages have a body that fits into one frame, and properties and headers that are text and whole numbers.
These are written here, byte for byte as pika would (a test compares); anything else is left to pika, which writes it or
says what is wrong with it.
"""

import functools
import struct
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport
from pika.compat import long

from workqueued.delivery import Message, Properties

_FRAME = struct.Struct(">BHI")
#: Type, channel and length of a header frame; class, weight, size of the body, flags of the properties.
_HEADER = struct.Struct(">BHIHHQH")
_END = b"\xce"
_BYTES = [bytes((number,)) for number in range(256)]
_PERSISTENT, _PERSISTENT_FLAG = b"\x02", 1 << 12


class _UnusualError(Exception):
    """pika knows what to do with it."""


def write(connection: Any, channel: int, way: tuple[str, str], message: Message) -> bool:
    """Publish on a connection; False: pika has to, as the message is unusual, or this pika is. See `frames`."""
    output: Callable[[list[bytes]], None] | None = getattr(connection, "_output_marshaled_frames", None)
    data = frames(channel, way, message, connection.params.frame_max)
    if output is None or data is None:
        return False
    output([data])
    return True


def frames(channel: int, way: tuple[str, str], message: Message, longest: int) -> bytes | None:
    """A mandatory, persistent publish on a channel; None when pika has to write it.

    Args:
        channel: its number.
        way: exchange and routing key.
        message: what to publish.
        longest: bytes that a frame may have, its eight own ones included.
    """
    body = message.body
    try:
        flags, properties = _properties(message.properties)
        if not 0 < len(body) <= longest - 8 or len(properties) > longest - 22:
            return None
        return b"".join(
            (
                _method(channel, *way),
                _HEADER.pack(2, channel, 14 + len(properties), 60, 0, len(body), flags),
                properties,
                _END,
                _FRAME.pack(3, channel, len(body)),
                body,
                _END,
            )
        )
    except (_UnusualError, IndexError, UnicodeEncodeError, struct.error):
        return None


@functools.lru_cache(maxsize=64)
def _method(channel: int, exchange: str, routing_key: str) -> bytes:
    """The frame of Basic.Publish, mandatory."""
    arguments = b"\x00\x3c\x00\x28\x00\x00" + _short(exchange) + _short(routing_key) + b"\x01"
    return _FRAME.pack(1, channel, len(arguments)) + arguments + _END


def _properties(ours: Properties) -> tuple[int, bytes]:
    """Flags and bytes of the properties, in the order of AMQP 0-9-1, 4.2.6.1."""
    flags, pieces = 0, []
    for flag, name, write in _PROPERTIES:
        value = getattr(ours, name)
        if value is not None and (value or flag != _HEADERS_FLAG):
            flags |= flag
            pieces.append(write(value))
        if flag == _HEADERS_FLAG:
            flags |= _PERSISTENT_FLAG
            pieces.append(_PERSISTENT)
    return flags, b"".join(pieces)


def _short(value: object) -> bytes:
    """Text of at most 255 bytes."""
    if type(value) is not str:
        raise _UnusualError
    data = value.encode()
    return _BYTES[len(data)] + data


def _octet(value: object) -> bytes:
    if type(value) is not int or value < 0:
        raise _UnusualError
    return _BYTES[value]


def _timestamp(value: object) -> bytes:
    if type(value) is not int:
        raise _UnusualError
    return struct.pack(">Q", value)


def _table(headers: Mapping[str, Any]) -> bytes:
    pieces = []
    for name, value in headers.items():
        kind = type(value)
        pieces.append(_short(name))
        if kind is str:
            data = value.encode()
            pieces.append(b"S%b%b" % (len(data).to_bytes(4, "big"), data))
        elif kind is int and -(2**31) <= value < 2**31:
            pieces.append(struct.pack(">ci", b"I", value))
        elif kind is int or kind is long:
            pieces.append(struct.pack(">cq", b"l", value))
        else:
            raise _UnusualError
    table = b"".join(pieces)
    return len(table).to_bytes(4, "big") + table


_HEADERS_FLAG = 1 << 13
_PROPERTIES: tuple[tuple[int, str, Callable[[Any], bytes]], ...] = (
    (1 << 15, "content_type", _short),
    (1 << 14, "content_encoding", _short),
    (_HEADERS_FLAG, "headers", _table),
    (1 << 11, "priority", _octet),
    (1 << 10, "correlation_id", _short),
    (1 << 9, "reply_to", _short),
    (1 << 8, "expiration", _short),
    (1 << 7, "message_id", _short),
    (1 << 6, "timestamp", _timestamp),
    (1 << 5, "type", _short),
    (1 << 3, "app_id", _short),
)


def join(connection: Any) -> None:
    """Let what a SelectConnection has to send go in one piece: pika makes a send(2) of each."""
    transport = getattr(connection, "_transport", None)
    if type(transport) is not _AsyncPlaintextTransport:
        return
    waiting = getattr(transport, "_tx_buffers", None)
    if isinstance(waiting, deque) and len(waiting) > 1:
        data = b"".join(waiting)
        waiting.clear()
        waiting.append(data)
