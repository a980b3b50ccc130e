"""The hot path on a real connection: taken in a stream, left whenever anything else than a delivery comes."""

import dataclasses
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness import Vhost, eventually

from workqueued.amqp.consumer import Consumer, ConsumerCancelledError
from workqueued.broker_settings import Broker
from workqueued.delivery import Delivery
from workqueued.errors import ConnectionLostError
from workqueued.node import Node
from workqueued.queue_settings import Queue

CLASSIC = Queue(handler="a:b", type="classic")


class Watched:
    """A consumer of `q` that counts how often pika's loop is asked."""

    def __init__(self, broker: Broker) -> None:
        self.consumer = Consumer(broker, "q", CLASSIC, "test")
        self.turns = 0
        connection: Any = self.consumer._connection
        loop = connection.process_data_events

        def count(seconds: float | None = 0) -> None:
            self.turns += 1
            loop(seconds)

        connection.process_data_events = count
        self.consumer.start()

    def take(self) -> Delivery:
        """The next delivery."""
        limit = time.monotonic() + 10
        while time.monotonic() < limit:
            delivery = self.consumer.next()
            if delivery is not None:
                return delivery
        raise AssertionError("no message within 10 s")

    def go_on(self, held: Delivery) -> None:
        """Settle what is held, and what comes."""
        for _ in range(100):
            self.consumer.ack(held)
            held = self.take()


@pytest.fixture
def watched(broker: Broker) -> Iterator[Watched]:
    """One that consumes."""
    one = Watched(broker)
    yield one
    one.consumer.close()


def test_a_stream_goes_the_short_way(watched: Watched, vhost: Vhost) -> None:
    """Every delivery and every ack: pika is asked twice a second, for its heartbeats."""
    vhost.publish("q", *[f"{number}" for number in range(300)], message_id="m", headers={"n": 1})
    began = time.monotonic()
    bodies = []
    for _ in range(300):
        delivery = watched.take()
        bodies.append(int(delivery.body))
        watched.consumer.ack(delivery)
    assert bodies == list(range(300))
    assert watched.turns <= 2 + 2 * (time.monotonic() - began)
    watched.consumer.close()
    assert vhost.count("q") == 0


def test_large_and_small_bodies_alternate(watched: Watched, vhost: Vhost) -> None:
    """What does not fit into one look goes pika's way, and nothing gets out of order or lost between the two."""
    bodies = [bytes([number]) * size for number, size in enumerate([1, 300_000, 5, 70_000, 0, 65_000, 131_072, 2] * 5)]
    vhost.publish("q", *bodies)
    for body in bodies:
        delivery = watched.take()
        assert delivery.body == body
        watched.consumer.ack(delivery)
    watched.consumer.close()
    assert vhost.count("q") == 0


def test_heartbeats_flow_in_a_stream(broker: Broker, vhost: Vhost, node: Node) -> None:
    """Pika gets its turn: with a heartbeat of 2 s the broker would end a silent connection after 4."""
    one = Watched(dataclasses.replace(broker, heartbeat=2.0))
    end = time.monotonic() + 7
    while time.monotonic() < end:
        vhost.publish("q", *["x"] * 50)
        for _ in range(50):
            delivery = one.take()
            time.sleep(0.01)
            one.consumer.ack(delivery)
    one.consumer.stop()  # raises when the connection is gone
    one.consumer.close()


def test_a_wait_ends_when_it_is_told_to(watched: Watched, vhost: Vhost) -> None:
    """In the short way as well as in pika's loop; and messages go on afterwards."""
    for pause in (0.1, 0.8):
        waits = []
        for _ in range(3):  # the best of them is ours, the others may be the machine's; unheard, each would be too long
            vhost.publish("q", "x")
            watched.consumer.ack(watched.take())
            timer = threading.Timer(pause, watched.consumer.wake)
            timer.start()
            began = time.monotonic()
            assert watched.consumer.next() is None
            waits.append(time.monotonic() - began)
            timer.join()
        assert min(waits) < pause + 0.4


@pytest.mark.parametrize("what", ["connection", "queue"])
def test_an_end_in_the_middle_of_a_stream_is_told(watched: Watched, vhost: Vhost, node: Node, what: str) -> None:
    """The connection is closed by the broker, or the queue is deleted, while messages flow."""
    vhost.publish("q", *["x"] * 200)
    for _ in range(100):
        watched.consumer.ack(watched.take())
    held = watched.take()
    if what == "queue":
        with vhost.channel() as channel:
            channel.queue_delete("q")
    else:
        node.ctl("close_all_connections", "--vhost", vhost.name, "test")
    with pytest.raises(ConsumerCancelledError if what == "queue" else ConnectionLostError):
        watched.go_on(held)
    if what == "connection":
        watched.consumer.close()
        eventually(lambda: vhost.count("q") >= 99)


def test_an_ack_on_a_connection_that_is_gone_is_an_error(watched: Watched, vhost: Vhost, node: Node) -> None:
    """The message was given to somebody else: it is never taken for settled."""
    vhost.publish("q", *["x"] * 3)
    watched.consumer.ack(watched.take())
    held = watched.take()
    node.ctl("close_all_connections", "--vhost", vhost.name, "test")
    eventually(lambda: vhost.count("q") == 2)
    # The ack may still be sent: the socket is open until its end was read.
    with pytest.raises(ConnectionLostError):
        watched.go_on(held)
    watched.consumer.close()
    assert vhost.count("q") == 2
