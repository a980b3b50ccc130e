"""The hot path reads what pika reads, or leaves it to pika."""

import string
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pika import frame, spec

from workqueued.amqp.connection import properties_from_pika, properties_to_pika
from workqueued.amqp.hotpath import HotPath, parse
from workqueued.delivery import Delivery, Properties

FULL = Properties(
    message_id="0190163d-8694-739b-aea5-966c26f8ad91",
    type="mail",
    content_type="text/plain",
    content_encoding="utf-8",
    correlation_id="c" * 255,
    reply_to="ä",
    app_id="",
    priority=9,
    timestamp=2**40,
    expiration="60000",
    headers={"x-wq-enqueued-at": 1_700_000_000_000, "text": "ß", "deep": {"a": [1, None, True]}, "n": -(2**63)},
)


def wire(properties: Any, body: bytes, *, channel: int = 1, tag: int = 7, redelivered: bool = False) -> bytes:
    """A delivery as a broker sends it; properties are pika's."""
    frames = frame.Method(channel, spec.Basic.Deliver("ctag1.5", tag, redelivered, "ex", "key")).marshal()
    frames += frame.Header(channel, len(body), properties).marshal()
    return bytes(frames + (frame.Body(channel, body).marshal() if body else b""))


def by_pika(data: bytes) -> Delivery:
    """The same data as pika decodes them."""
    at, method = frame.decode_frame(data)
    header_at, header = frame.decode_frame(data[at:])
    body = frame.decode_frame(data[at + header_at :])[1].fragment if len(data) > at + header_at else b""
    deliver = method.method
    return Delivery(
        "q", deliver.delivery_tag, body, properties_from_pika(header.properties), bool(deliver.redelivered)
    )


@pytest.mark.parametrize("redelivered", [True, False])
@pytest.mark.parametrize("body", [b"", b"x", b"\xce" * 5000])
@pytest.mark.parametrize("properties", [Properties(), FULL], ids=["bare", "full"])
def test_a_delivery_is_read_as_pika_reads_it(properties: Properties, body: bytes, redelivered: bool) -> None:
    """Body, tag, flag, and every property."""
    data = wire(properties_to_pika(properties), body, tag=2**63 + 5, redelivered=redelivered)
    read, same = parse(data, 1, "q"), by_pika(data)
    assert read == same
    assert read is not None
    kinds = [[type(value) for value in one.properties.headers.values()] for one in (read, same)]
    assert kinds[0] == kinds[1], "a copy would write them as something else"


def test_properties_that_are_not_ours_are_passed_over() -> None:
    """user_id, cluster_id and the delivery mode stand between the others."""
    theirs = spec.BasicProperties(user_id="guest", cluster_id="c", delivery_mode=2, app_id="a", type="t")
    data = wire(theirs, b"x")
    read = parse(data, 1, "q")
    assert read == by_pika(data)
    assert read is not None
    assert (read.properties.type, read.properties.app_id) == ("t", "a")


short = st.text(string.ascii_letters + "äß€", max_size=60)
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=50) | st.binary(max_size=50),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(short, inner, max_size=3),
    max_leaves=8,
)
properties = st.builds(
    spec.BasicProperties,
    content_type=st.none() | short,
    content_encoding=st.none() | short,
    headers=st.none() | st.dictionaries(short, values, max_size=4),
    delivery_mode=st.none() | st.sampled_from([1, 2]),
    priority=st.none() | st.integers(0, 255),
    correlation_id=st.none() | short,
    reply_to=st.none() | short,
    expiration=st.none() | short,
    message_id=st.none() | short,
    timestamp=st.none() | st.integers(0, 2**63 - 1),
    type=st.none() | short,
    user_id=st.none() | short,
    app_id=st.none() | short,
    cluster_id=st.none() | short,
)


@settings(max_examples=300, deadline=None)
@given(properties, st.binary(max_size=200), st.booleans())
def test_whatever_a_client_can_send_is_read_as_pika_reads_it(
    theirs: spec.BasicProperties, body: bytes, redelivered: bool
) -> None:
    """And what a client of pika's can send is always read, but for a table that only pika knows."""
    data = wire(theirs, body, redelivered=redelivered)
    assert parse(data, 1, "q") == by_pika(data)


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 400), st.integers(0, 255), st.booleans())
def test_a_damaged_byte_is_never_read_as_something_else(place: int, value: int, cut: bool) -> None:
    """Where the hot path reads it at all, pika would have read the same."""
    data = bytearray(wire(properties_to_pika(FULL), b"body" * 10))
    place %= len(data)
    if cut:
        del data[place:]
    else:
        data[place] = value
    read = parse(bytes(data), 1, "q")
    if read is not None:
        assert read == by_pika(bytes(data))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\x00\x00\x00\x00\x00\x00\xce",
        wire(spec.BasicProperties(), b"x", channel=2),
        wire(spec.BasicProperties(), b"x") + b"\x08\x00\x00\x00\x00\x00\x00\xce",
        wire(spec.BasicProperties(), b"x")[:-1],
        wire(spec.BasicProperties(), b"x") * 2,
        frame.Method(1, spec.Basic.Cancel("ctag")).marshal(),
        frame.Method(1, spec.Channel.Close(406, "no", 0, 0)).marshal(),
        wire(spec.BasicProperties(), b"xyz").replace(b"\x00\x00\x03xyz", b"\x00\x00\x02xy\xce"),
    ],
    ids=["end", "heartbeat", "channel", "more", "less", "two", "cancel", "close", "parts"],
)
def test_anything_but_one_whole_delivery_of_ours_is_pikas(data: bytes) -> None:
    """It stays on the socket, as it was only looked at."""
    assert parse(data, 1, "q") is None


def test_a_body_that_is_still_on_its_way_is_pikas() -> None:
    """Method and header have come; a whole delivery would have the body's first frame."""
    data = wire(spec.BasicProperties(), b"body")
    assert parse(data[: data.index(b"\x03\x00\x01\x00\x00\x00\x04body")], 1, "q") is None


def test_a_pika_that_is_not_as_we_know_it_gets_no_hot_path() -> None:
    """A name that is gone, or something else under it: then all goes pika's way."""

    class Stranger:
        """Has nothing."""

    changed = SimpleNamespace(_impl=SimpleNamespace(_transport=Stranger(), _frame_buffer=bytearray()))
    assert HotPath.attach(Stranger(), None, "q") is None
    assert HotPath.attach(changed, None, "q") is None
