"""Messages as strangers may put them on the wire, for Hypothesis to draw: what pika would never encode as well."""

import struct

import pika
from hypothesis import strategies as st

#: AMQP's types of a fixed width, and that width.
WIDTHS = {
    b"t": 1, b"b": 1, b"B": 1, b"U": 2, b"u": 2, b"s": 2, b"I": 4, b"i": 4, b"L": 8, b"l": 8, b"f": 4, b"d": 8, b"T": 8,
    b"D": 5, b"V": 0,
}  # fmt: skip
#: Headers that mean something to us or to the broker.
NAMES = (
    "x-wq-attempt", "x-wq-crashes", "x-wq-redeliveries", "x-wq-due-at", "x-wq-expires-at", "x-wq-replayed",
    "x-wq-reason", "x-wq-enqueued-at", "x-wq-error", "x-wq-exit", "x-wq-signal", "x-wq-stderr", "x-wq-first-failed-at",
    "x-wq-queue", "x-wq-last-failed-at", "x-wq-host", "x-wq-handler", "x-wq-headers-left-out", "x-delivery-count",
    "x-death", "x-acquired-count", "x-first-death-reason", "$bytes", "$timestamp", "$decimal", "$object", "n" * 255,
)  # fmt: skip


class Raw(pika.BasicProperties):  # type: ignore[misc]  # pika has no types
    """Properties as they go over the wire: pika could not encode these."""

    def __init__(self, encoded: bytes) -> None:
        super().__init__()
        self._encoded = encoded

    def encode(self) -> list[bytes]:
        """They are encoded."""
        return [self._encoded]


def short(data: bytes) -> bytes:
    """A short string."""
    return bytes([len(data)]) + data


def long(data: bytes) -> bytes:
    """A long string, or what a container holds."""
    return struct.pack(">I", len(data)) + data


def integer(number: int) -> bytes:
    """A number of 64 bits."""
    return b"l" + struct.pack(">q", number)


names = (st.sampled_from(NAMES).map(str.encode) | st.binary(max_size=6)).map(short)
numbers = (st.integers(-3, 3) | st.integers(0, 2**42)).map(integer)
strings = st.builds(lambda kind, data: kind + long(data), st.sampled_from((b"S", b"x")), st.binary(max_size=12))
shorts = st.binary(max_size=12).map(short) | st.just(short(b"\xff" * 255))


def fixed(kinds: str) -> st.SearchStrategy[bytes]:
    """A value of one of these types of a fixed width, whatever its bytes mean."""
    return st.sampled_from([kind.encode() for kind in kinds]).flatmap(
        lambda kind: st.binary(min_size=WIDTHS[kind], max_size=WIDTHS[kind]).map(kind.__add__)
    )


def entries(values: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """A table, without its type's letter."""
    return st.lists(st.tuples(names, values).map(b"".join), max_size=6).map(lambda found: long(b"".join(found)))


def properties(scalars: st.SearchStrategy[bytes], shortest_ms: int) -> st.SearchStrategy[bytes]:
    """The properties of a message, with headers of these scalars, or of tables and arrays of them.

    Args:
        scalars: beside texts and the numbers that counts and times are likely to be.
        shortest_ms: the shortest expiration.
    """
    values = st.recursive(
        scalars | numbers | strings,
        lambda inner: entries(inner).map(b"F".__add__)
        | st.lists(inner, max_size=3).map(lambda found: b"A" + long(b"".join(found))),
    )
    octets = st.binary(min_size=1, max_size=1)
    return st.fixed_dictionaries(
        {12: st.sampled_from((b"\x01", b"\x02")), 13: entries(values)},
        optional={
            15: shorts, 14: shorts, 11: octets, 10: shorts, 9: shorts,
            8: st.integers(shortest_ms, 2**32 - 1).map(lambda ms: short(b"%d" % ms)), 7: shorts,
            6: st.binary(min_size=8, max_size=8), 5: shorts, 3: shorts,
        },
    ).map(_in_order)  # fmt: skip


def _in_order(found: dict[int, bytes]) -> bytes:
    """Behind their flags, the highest first."""
    flags = sum(1 << bit for bit in found)
    return struct.pack(">H", flags) + b"".join(found[bit] for bit in sorted(found, reverse=True))
