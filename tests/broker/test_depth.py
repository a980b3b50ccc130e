"""`DepthReader`: what the monitor shows."""

from collections.abc import Callable, Iterator

import pytest
from harness import Vhost, eventually

from workqueued.amqp.consumer import Consumer
from workqueued.amqp.depth import Depth, DepthReader
from workqueued.broker_settings import Broker
from workqueued.errors import ConnectionLostError, RefusedError
from workqueued.node import Node
from workqueued.queue_settings import Queue
from workqueued.sender import Sender

CLASSIC = Queue(handler="a:b", type="classic")


@pytest.fixture
def reader(broker: Broker) -> Iterator[DepthReader]:
    """A reader that is closed at the end."""
    reader = DepthReader(broker, "test")
    yield reader
    reader.close()


def test_ready_messages_consumers_and_dead_letters_are_counted(
    reader: DepthReader, broker: Broker, vhost: Vhost
) -> None:
    """A message that a worker holds is not ready."""
    consumer = Consumer(broker, "q", CLASSIC, "test")
    vhost.publish("q", "1", "2", "3")
    vhost.publish("q.dead", "x")
    assert reader.read(["q"]) == {"q": Depth(ready=3, consumers=0, dead=1)}
    consumer.start()
    eventually(lambda: reader.read(["q"]) == {"q": Depth(ready=2, consumers=1, dead=1)})
    consumer.close()


def test_a_missing_queue_does_not_hide_the_others(reader: DepthReader, vhost: Vhost) -> None:
    """The broker closes the channel on each of them."""
    with vhost.channel() as channel:
        channel.queue_declare("b", durable=True)
    depths = reader.read(["a", "b", "c"])
    assert depths == {"a": Depth(None, None, None), "b": Depth(0, 0, None), "c": Depth(None, None, None)}


def test_no_permission_is_needed(broker: Broker, vhost: Vhost, make_user: Callable[..., str]) -> None:
    """A user for the monitor may have none at all."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True)
    url = broker.url[0].parse(make_user("watcher", "^$", "^$", "^$"))
    reader = DepthReader(Broker(url=(url,)), "test")
    assert reader.read(["q"])["q"].ready == 0
    reader.close()


def test_a_lost_connection_is_an_error_once(reader: DepthReader, vhost: Vhost, node: Node) -> None:
    """The next question connects again."""
    reader.read(["q"])
    node.ctl("close_all_connections", "--vhost", vhost.name, "maintenance")
    with pytest.raises(ConnectionLostError):
        reader.read(["q"])
    assert reader.read(["q"]) == {"q": Depth(None, None, None)}


def test_a_loss_that_is_noticed_in_between_is_no_error(reader: DepthReader, vhost: Vhost, node: Node) -> None:
    """`service` finds it, and the next question connects again."""
    reader.service()
    reader.read(["q"])
    node.ctl("close_all_connections", "--vhost", vhost.name, "maintenance")

    def noticed() -> bool:
        reader.service()
        return reader._connection is None

    eventually(noticed)
    assert reader.read(["q"]) == {"q": Depth(None, None, None)}


def test_no_broker_and_no_access_are_told_apart(vhost: Vhost) -> None:
    """Each connects anew at the next question."""
    for url, error in (
        ("amqp://127.0.0.1:1", ConnectionLostError),
        (vhost.url.replace(":guest@", ":wrong@"), RefusedError),
    ):
        reader = DepthReader(Broker(url=(Broker().url[0].parse(url),)), "test")
        for _ in range(2):
            with pytest.raises(error):
                reader.read(["q"])
        reader.close()


def test_delayed_messages_are_counted_in_all_levels(reader: DepthReader, broker: Broker, vhost: Vhost) -> None:
    """Whoever declared none has none; above the highest that there is there are none."""
    assert reader.delayed() == 0
    with Sender(url=vhost.url) as sender:
        Consumer(broker, "q", CLASSIC, "test").close()
        for delay in ("1h", "2h", "10s"):
            sender.send("x", queue="q", delay=delay)
    eventually(lambda: reader.delayed() == 3)
    assert reader.read(["q"]) == {"q": Depth(ready=0, consumers=0, dead=0)}
