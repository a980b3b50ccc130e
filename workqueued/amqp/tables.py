"""Header tables, exactly as they are, and fast.

Runs in: `wq-dead`, which copies the messages of others by the hundred thousand.
"""

import contextlib
import math
import struct
from collections.abc import Iterator
from typing import Any

import pika.data
from pika.compat import long

_FLOATS = {ord("f"): (struct.Struct(">f"), 5), ord("d"): (struct.Struct(">d"), 9)}
_LONG, _INT, _TEXT = ord("l"), ord("I"), ord("S")
_unpack_long, _unpack_int, _unpack_size = struct.Struct(">q"), struct.Struct(">i"), struct.Struct(">I")


@contextlib.contextmanager
def exact_tables() -> Iterator[None]:
    """Inside the block pika keeps the fraction of a float header, and can send one; and it decodes in half the time.

    By itself it cuts 1.5 to 1 when it decodes, and refuses to encode, so that a copy would not be the message. The
    broker closes the connection of whoever sends an infinite one: that is None, as everywhere in workqueued.
    """
    decode_table, decode_value, encode_value = pika.data.decode_table, pika.data.decode_value, pika.data.encode_value

    def exact_value(encoded: bytes, offset: int) -> tuple[Any, int]:
        found = _FLOATS.get(encoded[offset])
        if found is None:
            value, end = decode_value(encoded, offset)  # with the guards of `decoding`
            return value, int(end)
        layout, size = found
        number = layout.unpack_from(encoded, offset + 1)[0]
        return (number if math.isfinite(number) else None), offset + size

    def exact_table(encoded: bytes, offset: int) -> tuple[dict[str, Any], int]:
        table: dict[str, Any] = {}
        limit = offset + 4 + _unpack_size.unpack_from(encoded, offset)[0]
        offset += 4
        while offset < limit:
            start = offset + 1
            offset = start + encoded[offset]
            name = encoded[start:offset].decode("utf-8", "backslashreplace")
            kind = encoded[offset]
            if kind == _TEXT:
                start = offset + 5
                offset = start + _unpack_size.unpack_from(encoded, offset + 1)[0]
                table[name] = _text(encoded[start:offset])
            elif kind == _LONG:
                table[name] = long(_unpack_long.unpack_from(encoded, offset + 1)[0])
                offset += 9
            elif kind == _INT:
                table[name] = _unpack_int.unpack_from(encoded, offset + 1)[0]
                offset += 5
            else:
                table[name], offset = exact_value(encoded, offset)
        return table, offset

    def encode_exactly(pieces: list[bytes], value: Any) -> int:
        if isinstance(value, float):
            pieces.append(struct.pack(">cd", b"d", value))
            return 9
        return int(encode_value(pieces, value))

    pika.data.decode_table, pika.data.decode_value = exact_table, exact_value
    pika.data.encode_value = encode_exactly
    try:
        yield
    finally:
        pika.data.decode_table, pika.data.decode_value = decode_table, decode_value
        pika.data.encode_value = encode_value


def _text(raw: bytes) -> str | bytes:
    """Text, where it is any."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
