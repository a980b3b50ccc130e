"""Decoding what strangers send: an exception here ends the connection on every delivery of the message, for ever."""

import struct
from datetime import UTC, datetime
from typing import Any

import pika.data
import pika.spec
import pytest

from workqueued.amqp import decoding
from workqueued.amqp.connection import encoded_size, properties_from_pika
from workqueued.delivery import Properties

#: Property flags of AMQP's content header.
_HEADERS, _MESSAGE_ID, _TIMESTAMP = 1 << 13, 1 << 7, 1 << 6


def short(data: bytes) -> bytes:
    """A short string: one byte of length."""
    return bytes([len(data)]) + data


def long(data: bytes) -> bytes:
    """A long string, or what a container holds: four bytes of length."""
    return struct.pack(">I", len(data)) + data


def field(value: bytes, name: bytes = b"field") -> bytes:
    """An entry of a table; the value begins with its type's letter."""
    return short(name) + value


def decoded(*fields: bytes) -> Any:
    """The headers that a worker sees of a message whose header table has these entries and one more."""
    raw = struct.pack(">H", _HEADERS) + long(b"".join(fields) + field(b"t\x01", b"after"))
    headers = dict(properties_from_pika(pika.spec.BasicProperties().decode(raw)).headers)
    assert headers.pop("after") is True
    return headers


@pytest.fixture(autouse=True)
def guarded() -> None:
    """The guards are in place; twice is the same as once."""
    decoding.guard()
    decoding.guard()


@pytest.mark.parametrize(
    "number",
    [
        1_700_000_000_000,
        1_700_000_000_000_000,
        1_700_000_000_000_000_000,
        2**63 - 1,
        2**63,
        2**64 - 1,
    ],
    ids=["ms", "us", "ns", "most signed", "least unsigned", "most unsigned"],
)
def test_a_timestamp_beyond_the_calendar_is_its_number(number: int) -> None:
    """Some clients send milliseconds, microseconds or nanoseconds. pika raises three different errors for these."""
    value = b"T" + struct.pack(">Q", number)
    assert decoded(field(value)) == {"field": number}
    with pytest.raises((ValueError, OverflowError, OSError)):
        decoding._decode_value(value, 0)  # once pika does not raise, the guard can go


def test_a_timestamp_of_seconds_is_a_time() -> None:
    """As AMQP means it."""
    seconds = 1_700_000_000
    assert decoded(field(b"T" + struct.pack(">Q", seconds))) == {"field": datetime.fromtimestamp(seconds, UTC)}


@pytest.mark.parametrize("number", [float("inf"), -float("inf"), float("nan")])
def test_a_float_that_is_no_number_is_none(number: float) -> None:
    """There is no integer for these, and that is what pika makes of a float."""
    assert decoded(field(b"d" + struct.pack(">d", number))) == {"field": None}
    assert decoded(field(b"f" + struct.pack(">f", number))) == {"field": None}
    with pytest.raises((ValueError, OverflowError)):
        decoding._decode_value(b"d" + struct.pack(">d", number), 0)


def test_what_is_guarded_is_guarded_inside_of_tables_and_lists() -> None:
    """And what comes after it is read from the right place."""
    bad = b"T" + b"\xff" * 8 + b"d" + struct.pack(">d", float("nan"))
    table = field(b"T" + b"\xff" * 8) + field(b"A" + long(bad + b"V" + b"l" + struct.pack(">q", -5)), b"list")
    assert decoded(field(b"F" + long(table))) == {"field": {"field": 2**64 - 1, "list": [2**64 - 1, None, None, -5]}}


def test_a_key_that_is_not_utf_8_is_text_all_the_same() -> None:
    """Bytes are what pika gives, and everything after it expects text."""
    assert decoded(field(b"t\x01", b"caf\xe9")) == {"caf\\xe9": True}


def test_a_message_id_that_is_not_utf_8_is_text_all_the_same() -> None:
    """It goes into the log, the scoreboard and the dead letter."""
    raw = struct.pack(">H", _MESSAGE_ID) + short(b"caf\xe9")
    assert properties_from_pika(pika.spec.BasicProperties().decode(raw)).message_id == "caf\\xe9"


def test_text_that_is_utf_8_stays_as_it_is() -> None:
    """In keys and in ids."""
    raw = struct.pack(">H", _MESSAGE_ID) + short("café".encode())
    assert properties_from_pika(pika.spec.BasicProperties().decode(raw)).message_id == "café"
    assert decoded(field(b"S" + long("é".encode()), "é".encode())) == {"é": "é"}


def test_a_text_value_that_is_not_utf_8_is_bytes() -> None:
    """A header's value may be anything; nobody but the handler looks at it."""
    assert decoded(field(b"S" + long(b"\xff"))) == {"field": b"\xff"}


@pytest.mark.parametrize("kind", [b"A", b"F"])
def test_nesting_without_end_is_cut_and_not_fatal(kind: bytes) -> None:
    """15,000 levels fit into one frame, and Python follows a few hundred; RabbitMQ delivers them all."""
    value = b"V"
    for _ in range(5000):
        value = kind + long(value if kind == b"A" else field(value))
    depth, inner = 0, decoded(field(value))["field"]
    while inner:
        depth, inner = depth + 1, inner[0] if kind == b"A" else inner["field"]
    assert 50 < depth < 5000
    assert inner is None


def test_a_type_that_nobody_knows_is_still_an_error() -> None:
    """What follows it cannot be found; RabbitMQ would not have let it in."""
    with pytest.raises(pika.exceptions.InvalidFieldTypeException):
        decoded(field(b"!\x00"))


def test_a_huge_timestamp_property_is_a_number() -> None:
    """It is read as seconds; who sends milliseconds gets a wait that is not told."""
    raw = struct.pack(">HQ", _TIMESTAMP, 2**64 - 1)
    assert properties_from_pika(pika.spec.BasicProperties().decode(raw)) == Properties(timestamp=2**64 - 1)


def test_what_was_decoded_can_be_sent_on_in_a_dead_letter() -> None:
    """Number, none, bytes, escaped key: none of them may be the reason why a copy cannot be published."""
    headers = decoded(
        field(b"T" + struct.pack(">Q", 1_700_000_000_000), b"ms"),
        field(b"d" + struct.pack(">d", float("nan")), b"nan"),
        field(b"S" + long(b"\xff"), b"bytes"),
        field(b"V", b"caf\xe9"),
        field(b"D\x02" + struct.pack(">i", -314), b"decimal"),
        field(b"A" + long(b"s" + struct.pack(">h", -3)), b"list"),
    )
    assert {name: encoded_size({name: value}) > 0 for name, value in headers.items()} == dict.fromkeys(headers, True)
