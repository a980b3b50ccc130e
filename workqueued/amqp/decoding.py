"""Decode what strangers send without losing the connection over it.

Runs in: workers.

pika lets an exception out of its frame decoder for header values it has no Python value for. That ends the connection,
the broker delivers the message again, and so on for ever: one message would stop a queue. These guards stand around
two functions of pika's and answer where pika raises.
"""

from typing import Any

import pika.data

#: AMQP field types whose value pika cannot always represent, and the bytes each takes: a timestamp beyond the calendar
#: (some clients send milliseconds or nanoseconds) is shown as its number, a float that is infinite or not a number as
#: None.
_WIDTHS = {b"T": 8, b"f": 4, b"d": 8}
#: Field types that hold others, after four bytes of length; what lies deeper than Python can follow is shown as None.
_CONTAINERS = (b"A", b"F")

_decode_value = pika.data.decode_value
_decode_short_string = pika.data.decode_short_string


def guard() -> None:
    """Put the guards in place; doing it twice changes nothing."""
    pika.data.decode_value = _guarded_value
    pika.data.decode_short_string = _guarded_short_string


def _guarded_value(encoded: bytes, offset: int) -> tuple[Any, int]:
    try:
        value, end = _decode_value(encoded, offset)
    except RecursionError:
        length = int.from_bytes(encoded[offset + 1 : offset + 5], "big")
        if encoded[offset : offset + 1] not in _CONTAINERS:
            raise
        return None, offset + 5 + length
    except (ValueError, OverflowError, OSError):  # OSError: gmtime(3) gives up before the calendar does
        kind = encoded[offset : offset + 1]
        if kind not in _WIDTHS:
            raise
        end = offset + 1 + _WIDTHS[kind]
        return (int.from_bytes(encoded[offset + 1 : end], "big") if kind == b"T" else None), end
    return value, int(end)


def _guarded_short_string(encoded: bytes, offset: int) -> tuple[str, int]:
    # pika gives bytes where it cannot decode; a name or an id must be text everywhere else.
    value, end = _decode_short_string(encoded, offset)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    return str(value), int(end)
