"""`Consumer`: one message at a time, nothing lost, and no silence when something ended it."""

import contextlib
import dataclasses
import struct
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pika.data
import pytest
from harness import Vhost, eventually

from workqueued.amqp.consumer import Consumer, ConsumerCancelledError
from workqueued.broker_settings import Broker
from workqueued.delivery import Delivery
from workqueued.errors import ConnectionLostError, QueueRefusedError
from workqueued.node import Node
from workqueued.queue_settings import Queue

CLASSIC = Queue(handler="a:b", type="classic")


@pytest.fixture(params=[True, False], ids=["hot path", "pika"])
def consumer(broker: Broker, request: pytest.FixtureRequest) -> Iterator[Consumer]:
    """A consumer of the classic queue `q` that takes no message yet, each way."""
    consumer = Consumer(dataclasses.replace(broker, hot_path=request.param), "q", CLASSIC, "test")
    yield consumer
    consumer.close()


def take(consumer: Consumer) -> Delivery:
    """The next delivery; fails when there is none within some seconds."""
    timer = threading.Timer(10, consumer.wake)
    timer.start()
    try:
        delivery = consumer.next()
        assert delivery is not None
        return delivery
    finally:
        timer.cancel()


def serviced(consumer: Consumer) -> Consumer:
    """The consumer, after it read what has come."""
    consumer.service()
    return consumer


def await_end(consumer: Consumer) -> None:
    """Wait in `next` as a worker does; fails when it says nothing within some seconds."""
    limit = time.monotonic() + 10
    timer = threading.Timer(10, consumer.wake)
    timer.start()
    try:
        while time.monotonic() < limit:
            consumer.next()
    finally:
        timer.cancel()
    pytest.fail("the consumer went on as if nothing had happened")


def test_a_consumer_holds_one_message_and_gets_the_next_after_the_ack(consumer: Consumer, vhost: Vhost) -> None:
    """Prefetch 1: the others stay in the queue for other workers."""
    vhost.publish("q", "1", "2", "3", message_id="id", type="t", headers={"a": 1})
    consumer.start()
    first = take(consumer)
    assert (first.body, first.queue, first.redelivered) == (b"1", "q", False)
    assert (first.properties.message_id, first.properties.type, first.properties.headers) == ("id", "t", {"a": 1})
    consumer.service(0.1)
    assert vhost.count("q") == 2
    consumer.ack(first)
    assert take(consumer).body == b"2"


def test_a_message_that_is_handed_back_comes_again_marked(consumer: Consumer, vhost: Vhost) -> None:
    """It is at its old place, and `redelivered`."""
    vhost.publish("q", "1", "2")
    consumer.start()
    consumer.hand_back(take(consumer))
    again = take(consumer)
    assert (again.body, again.redelivered) == (b"1", True)


def test_no_message_is_taken_before_start(consumer: Consumer, vhost: Vhost) -> None:
    """Connecting and declaring is all that a new consumer does."""
    vhost.publish("q", "1")
    consumer.service(0.1)
    assert vhost.count("q") == 1
    assert vhost.count("q.dead") == 0


@pytest.mark.parametrize("seen", [True, False], ids=["in the inbox", "on the wire"])
def test_stop_gives_back_what_came_meanwhile(consumer: Consumer, vhost: Vhost, seen: bool) -> None:
    """A message that no handler saw is for another worker, at once, while this connection lives on."""
    consumer.start()
    vhost.publish("q", "1")
    eventually(lambda: vhost.count("q") == 0)  # it is on its way to us
    if seen:
        eventually(lambda: serviced(consumer)._inbox)
    consumer.stop()
    eventually(lambda: vhost.count("q") == 1)
    vhost.publish("q", "2")
    consumer.service(0.1)
    assert vhost.count("q") == 2


def test_what_is_being_handled_can_be_acknowledged_after_stop(consumer: Consumer, vhost: Vhost) -> None:
    """A drain: no further message, and the current one to its end."""
    vhost.publish("q", "1", "2")
    consumer.start()
    delivery = take(consumer)
    consumer.stop()
    consumer.ack(delivery)
    consumer.close()
    assert vhost.get("q")[1] == b"2"
    assert vhost.count("q") == 0


@pytest.mark.parametrize("hot", [True, False], ids=["hot path", "pika"])
def test_what_is_abandoned_is_redelivered_once_and_nothing_else_is(broker: Broker, vhost: Vhost, hot: bool) -> None:
    """No message is given to one that is about to go: a quorum queue would count that, too."""
    broker = dataclasses.replace(broker, hot_path=hot)
    with contextlib.closing(Consumer(broker, "q", Queue(handler="a:b"), "test")) as consumer:
        vhost.publish("q", "1", "2")
        consumer.start()
        consumer.abandon(take(consumer))
        eventually(lambda: vhost.count("q") == 2)
    found = [vhost.get("q") for _ in range(2)]
    counts = {body: (properties.headers or {}).get("x-delivery-count", 0) for properties, body in found}
    assert counts == {b"1": 1, b"2": 0}


def test_an_ack_that_was_written_before_close_arrives(consumer: Consumer, vhost: Vhost) -> None:
    """Close flushes."""
    vhost.publish("q", "1")
    consumer.start()
    consumer.ack(take(consumer))
    consumer.close()
    consumer.close()
    with vhost.channel() as channel:
        eventually(lambda: not channel.queue_declare("q", passive=True).method.consumer_count)
    assert vhost.count("q") == 0


def test_wake_ends_a_wait_at_once(consumer: Consumer) -> None:
    """From another thread, as at a SIGTERM."""
    consumer.start()
    woken: list[float] = []

    def wake() -> None:
        woken.append(time.monotonic())
        consumer.wake()

    threading.Timer(0.2, wake).start()
    assert consumer.next() is None
    assert 0 <= time.monotonic() - woken[0] < 0.5


def test_waking_a_closed_consumer_is_harmless(consumer: Consumer) -> None:
    """The other thread cannot know."""
    consumer.close()
    consumer.wake()


def test_a_deleted_queue_ends_the_consumer(consumer: Consumer, vhost: Vhost) -> None:
    """The broker cancels it; pika by itself would wait for ever."""
    consumer.start()
    with vhost.channel() as channel:
        channel.queue_delete("q")
    with pytest.raises(ConsumerCancelledError, match="cancelled the consumer of queue 'q'"):
        await_end(consumer)


def test_a_channel_that_the_broker_closed_ends_the_consumer(consumer: Consumer, vhost: Vhost) -> None:
    """Here by an ack too many; a delivery that was not acknowledged in half an hour ends the same way."""
    vhost.publish("q", "1")
    consumer.start()
    delivery = take(consumer)
    consumer.ack(delivery)
    consumer.ack(delivery)
    with pytest.raises(ConnectionLostError, match="unknown delivery tag"):
        await_end(consumer)
    with pytest.raises(ConnectionLostError):
        consumer.ack(delivery)


def test_a_connection_that_the_broker_closed_ends_the_consumer(consumer: Consumer, vhost: Vhost, node: Node) -> None:
    """With the broker's words; afterwards every call fails and none hangs."""
    vhost.publish("q", "1")
    consumer.start()
    delivery = take(consumer)
    node.ctl("close_all_connections", "--vhost", vhost.name, "maintenance")
    with pytest.raises(ConnectionLostError, match="maintenance"):
        await_end(consumer)
    calls: list[Callable[[], Any]] = [
        consumer.next,
        consumer.service,
        lambda: consumer.ack(delivery),
        lambda: consumer.hand_back(delivery),
    ]
    for call in calls:
        with pytest.raises(ConnectionLostError):
            call()
    eventually(lambda: vhost.count("q") == 1)


def test_stop_on_a_lost_connection_is_a_lost_connection(consumer: Consumer, vhost: Vhost, node: Node) -> None:
    """A drain that begins while the broker is away."""
    consumer.start()
    node.ctl("close_all_connections", "--vhost", vhost.name, "maintenance")
    with pytest.raises(ConnectionLostError):
        await_end(consumer)
    with pytest.raises(ConnectionLostError):
        consumer.stop()


def test_no_permission_to_read_is_said_before_work_begins(broker: Broker, make_user: Callable[..., str]) -> None:
    """As a refusal of the queue, with what the user needs."""
    url = broker.url[0].parse(make_user("unread", read="^$"))
    consumer = Consumer(Broker(url=(url,)), "q", CLASSIC, "test")
    with pytest.raises(QueueRefusedError, match=r"no permission on queue 'q' .*set_permissions"):
        consumer.start()
    consumer.close()


def test_an_exclusive_consumer_of_somebody_else_is_a_refusal(consumer: Consumer, vhost: Vhost) -> None:
    """The queue is there, and another program has it for itself."""
    with vhost.channel() as channel:
        channel.basic_consume("q", lambda *_: None, exclusive=True)
        with pytest.raises(QueueRefusedError, match=r"queue 'q' in vhost .* in exclusive use"):
            consumer.start()


# --- what strangers send ---


class Raw(bytes):
    """A field value as it goes over the wire, type byte first."""


@pytest.fixture
def raw_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the test publish header names and values that pika would not encode."""
    encode_value, encode_short_string = pika.data.encode_value, pika.data.encode_short_string

    def value(pieces: list[bytes], item: Any) -> int:
        if isinstance(item, Raw):
            pieces.append(item)
            return len(item)
        return int(encode_value(pieces, item))

    def short_string(pieces: list[bytes], item: Any) -> int:
        if isinstance(item, Raw):
            pieces.extend([bytes([len(item)]), item])
            return len(item) + 1
        return int(encode_short_string(pieces, item))

    monkeypatch.setattr(pika.data, "encode_value", value)
    monkeypatch.setattr(pika.data, "encode_short_string", short_string)


MILLISECONDS = 1_700_000_000_000


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"headers": {"at": Raw(b"T" + struct.pack(">Q", MILLISECONDS))}}, {"at": MILLISECONDS}),
        ({"headers": {"at": Raw(b"T" + b"\xff" * 8)}}, {"at": 2**64 - 1}),
        ({"headers": {Raw(b"k\xff"): 1}}, {"k\\xff": 1}),
        ({"headers": {"x": Raw(b"S" + struct.pack(">I", 2) + b"\xff\xfe")}}, {"x": b"\xff\xfe"}),
        ({"headers": {"big": "x" * 100_000}}, {"big": "x" * 100_000}),
        ({"headers": {"deep": {"list": [{"a": [None, True, -1]}]}}}, {"deep": {"list": [{"a": [None, True, -1]}]}}),
        ({"message_id": Raw(b"id\xff" * 80)}, {}),
        ({"timestamp": MILLISECONDS}, {}),
    ],
    ids=["milliseconds", "end of time", "name", "text", "100 KB", "nested", "message id", "timestamp"],
)
def test_a_message_that_pika_cannot_decode_is_delivered_all_the_same(
    consumer: Consumer, vhost: Vhost, raw_headers: None, properties: dict[str, Any], expected: dict[str, Any]
) -> None:
    """It would end the connection, be delivered again, and stop the queue for good."""
    vhost.publish("q", "strange", **properties)
    vhost.publish("q", "ordinary")
    consumer.start()
    strange = take(consumer)
    assert strange.body == b"strange"
    assert strange.properties.headers == expected
    consumer.ack(strange)
    assert take(consumer).body == b"ordinary"
