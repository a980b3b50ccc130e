"""Floats in headers, which pika cuts off on the way in and refuses on the way out.

Runs in: `wq-dead`.
"""

import contextlib
import math
import struct
from collections.abc import Iterator
from typing import Any

import pika.data

_FORMATS = {b"f": (">f", 5), b"d": (">d", 9)}


@contextlib.contextmanager
def exact_floats() -> Iterator[None]:
    """Inside the block pika keeps the fraction of a float header, and can send one.

    By itself it cuts 1.5 to 1 when it decodes, and refuses to encode; a copy by hand would change the message. The
    broker closes the connection of whoever sends an infinite one, so that is None, as everywhere in workqueued.
    """
    decode, encode = pika.data.decode_value, pika.data.encode_value

    def decode_value(encoded: bytes, offset: int) -> tuple[Any, int]:
        found = _FORMATS.get(encoded[offset : offset + 1])
        if found is None:
            value, end = decode(encoded, offset)
            return value, int(end)
        layout, size = found
        number = struct.unpack_from(layout, encoded, offset + 1)[0]
        return (number if math.isfinite(number) else None), offset + size

    def encode_value(pieces: list[bytes], value: Any) -> int:
        if isinstance(value, float):
            pieces.append(struct.pack(">cd", b"d", value))
            return 9
        return int(encode(pieces, value))

    pika.data.decode_value, pika.data.encode_value = decode_value, encode_value
    try:
        yield
    finally:
        pika.data.decode_value, pika.data.encode_value = decode, encode
