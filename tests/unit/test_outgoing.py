"""A publish is written as pika writes it, or left to pika."""

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import frame, spec
from pika.adapters.utils.io_services_utils import _AsyncPlaintextTransport
from pika.compat import long

from workqueued.amqp import outgoing
from workqueued.amqp.connection import properties_to_pika
from workqueued.amqp.outgoing import frames
from workqueued.delivery import Message, Properties

ROOM = 131_072
TEXTS = (
    *("message_id", "type", "content_type", "content_encoding"),
    *("correlation_id", "reply_to", "app_id", "expiration"),
)


def by_pika(channel: int, way: tuple[str, str], message: Message) -> bytes:
    """The same publish as pika writes it."""
    publish = spec.Basic.Publish(exchange=way[0], routing_key=way[1], mandatory=True)
    parts = [
        frame.Method(channel, publish),
        frame.Header(channel, len(message.body), properties_to_pika(message.properties)),
        frame.Body(channel, message.body),
    ]
    return b"".join(part.marshal() for part in parts)


short = st.text(max_size=60) | st.text(alphabet="a", min_size=255, max_size=255)
numbers = st.integers(-(2**63), 2**63 - 1)
ordinary = st.builds(
    Properties,
    **dict.fromkeys(TEXTS, st.none() | short),
    priority=st.none() | st.integers(0, 255),
    timestamp=st.none() | st.integers(0, 2**64 - 1),
    headers=st.dictionaries(short, st.text() | numbers | numbers.map(long), max_size=5),
)


@given(ordinary, st.binary(min_size=1, max_size=300), st.integers(1, 65_535), short, short)
def test_an_ordinary_message_is_written_as_pika_writes_it(
    properties: Properties, body: bytes, channel: int, exchange: str, key: str
) -> None:
    """Byte for byte."""
    message = Message("q", body, properties)
    assert frames(channel, (exchange, key), message, ROOM) == by_pika(channel, (exchange, key), message)


@pytest.mark.parametrize(
    "properties",
    [
        Properties(headers={"x": True}),
        Properties(headers={"x": None}),
        Properties(headers={"x": [1]}),
        Properties(headers={"x": 2**63}),
        Properties(headers={"x" * 256: 1}),
        Properties(headers={1: 1}),  # type: ignore[dict-item]
        Properties(message_id="x" * 256),
        Properties(message_id=b"bytes"),  # type: ignore[arg-type]
        Properties(type="\ud800"),
        Properties(priority=256),
        Properties(priority=-1),
        Properties(priority=True),
        Properties(timestamp=-1),
        Properties(timestamp=1.5),  # type: ignore[arg-type]
        Properties(headers={"x": "x" * ROOM}),
    ],
    ids=repr,
)
def test_what_is_unusual_is_left_to_pika(properties: Properties) -> None:
    """Whether it can be written at all is for pika to say."""
    assert frames(1, ("", "q"), Message("q", b"x", properties), ROOM) is None


@pytest.mark.parametrize("size", [0, ROOM - 7])
def test_a_body_that_is_not_one_frame_is_left_to_pika(size: int) -> None:
    """None at all, or several."""
    assert frames(1, ("", "q"), Message("q", bytes(size)), ROOM) is None
    assert frames(1, ("", "q"), Message("q", bytes(ROOM - 8)), ROOM) is not None


def test_what_waits_goes_in_one_piece() -> None:
    """On a plain connection; a transport that we do not know is left alone."""
    transport: Any = _AsyncPlaintextTransport.__new__(_AsyncPlaintextTransport)
    transport._tx_buffers = deque([b"a", b"bc", b"d"])
    outgoing.join(SimpleNamespace(_transport=transport))
    assert transport._tx_buffers == deque([b"abcd"])
    other = SimpleNamespace(_tx_buffers=deque([b"a", b"b"]))
    outgoing.join(SimpleNamespace(_transport=other))
    outgoing.join(SimpleNamespace())
    assert len(other._tx_buffers) == 2


def test_a_pika_that_we_do_not_know_writes_itself() -> None:
    """The name that we use is a private one."""
    written: list[bytes] = []
    known = SimpleNamespace(params=SimpleNamespace(frame_max=ROOM), _output_marshaled_frames=written.extend)
    message = Message("q", b"x", Properties())
    assert not outgoing.write(SimpleNamespace(params=known.params), 1, ("", "q"), message)
    assert outgoing.write(known, 1, ("", "q"), message)
    assert written == [by_pika(1, ("", "q"), message)]
