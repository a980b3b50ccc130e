"""`Publisher`: which message a confirm is for, and how long anything may take."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

import pytest
from harness import Vhost

from workqueued.amqp.publisher import Confirm, Publisher
from workqueued.broker_settings import Broker
from workqueued.delivery import Message, Properties
from workqueued.errors import ConnectionLostError, NotConfirmedError, UnroutableError
from workqueued.node import Node

Block = Callable[[], AbstractContextManager[None]]


def message(queue: str, message_id: str = "same", body: bytes = b"x") -> Message:
    """A message whose id many others have as well."""
    return Message(queue, body, Properties(message_id=message_id))


@pytest.fixture
def publisher(broker: Broker, vhost: Vhost) -> Iterator[Publisher]:
    """An open publisher; there is a queue `q`."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True)
    publisher = Publisher(broker, "test")
    publisher.open(time.monotonic() + 10)
    yield publisher
    publisher.close()


@pytest.mark.parametrize(
    "queues",
    [
        ["q", "nowhere"],
        ["nowhere", "q"],
        ["q", "nowhere", "q", "nowhere", "elsewhere", "q"],
        ["nowhere"] * 3 + ["q"] * 3 + ["nowhere"] * 3,
        ["nowhere", "q"] * 200,
    ],
)
def test_confirmed_and_returned_are_told_apart_even_when_ids_are_not_unique(
    publisher: Publisher, vhost: Vhost, queues: list[str]
) -> None:
    """Each ticket has the fate of its own message."""
    tickets = [publisher.publish(message(queue)) for queue in queues]
    assert publisher.in_flight == len(queues)
    assert publisher.pump_until(lambda: not publisher.in_flight, time.monotonic() + 10)
    fates = {confirm.ticket: confirm.error for confirm in publisher.confirms}
    assert [isinstance(fates[ticket], UnroutableError) for ticket in tickets] == [queue != "q" for queue in queues]
    assert vhost.count("q") == queues.count("q")


def test_a_ticket_is_never_given_twice(publisher: Publisher) -> None:
    """Not on the next connection either: an outcome that was not read yet stays unambiguous."""
    tickets = [publisher.publish(message("q")) for _ in range(3)]
    publisher.close()
    publisher.open(time.monotonic() + 10)
    tickets += [publisher.publish(message("q")) for _ in range(3)]
    assert tickets == sorted(set(tickets))
    assert publisher.in_flight == 3


def test_the_bytes_on_their_way_are_counted_off_as_they_are_confirmed(publisher: Publisher) -> None:
    """Nobody needs to read the outcomes for that."""
    publisher.publish(message("q", body=bytes(1000)))
    publisher.publish(message("nowhere", body=bytes(500)))
    assert publisher.in_flight_bytes == 1500
    publisher.pump_until(lambda: not publisher.in_flight, time.monotonic() + 10)
    assert publisher.in_flight_bytes == 0


def test_a_hung_broker_holds_neither_send_nor_close(publisher: Publisher, paused: Block) -> None:
    """Send keeps its deadline, close takes less than three seconds and frees the socket."""
    with paused():
        started = time.monotonic()
        with pytest.raises(NotConfirmedError, match="did not confirm in time"):
            publisher.send(message("q"), started + 0.5)
        assert 0.4 < time.monotonic() - started < 2
        started = time.monotonic()
        publisher.close()
        assert time.monotonic() - started < 3
    assert not publisher.is_open


def test_open_keeps_its_deadline_when_the_broker_hangs(broker: Broker, paused: Block) -> None:
    """And close right after it is immediate: there is nothing to say goodbye to."""
    publisher = Publisher(broker, "test")
    with paused():
        started = time.monotonic()
        with pytest.raises(ConnectionLostError, match="did not answer in time"):
            publisher.open(started + 0.5)
        publisher.close()
        assert 0.4 < time.monotonic() - started < 2


def test_an_alarm_is_named_while_it_lasts(publisher: Publisher, vhost: Vhost, alarm: Block) -> None:
    """`blocked` carries the broker's reason, so does the error; when it ends, the same connection goes on."""
    with alarm():
        ticket = publisher.publish(message("q"))
        assert publisher.pump_until(lambda: publisher.blocked is not None, time.monotonic() + 10)
        assert str(publisher.blocked) == "low on memory"
        assert "blocks publishers (low on memory)" in str(publisher.late())
        assert publisher.in_flight == 1
    assert publisher.pump_until(lambda: bool(publisher.confirms), time.monotonic() + 10)
    assert publisher.confirms.popleft() == Confirm(ticket, None)
    assert vhost.count("q") == 1
    assert publisher.blocked is None


def test_a_publisher_under_an_alarm_closes_in_time(publisher: Publisher, alarm: Block) -> None:
    """A blocked connection is not read by the broker, so nobody answers the close."""
    with alarm():
        publisher.publish(message("q"))
        publisher.pump_until(lambda: publisher.blocked is not None, time.monotonic() + 10)
        started = time.monotonic()
        publisher.close()
        assert time.monotonic() - started < 3


def test_wake_ends_a_wait(publisher: Publisher) -> None:
    """At once, although the wait may last five seconds."""
    started = time.monotonic()
    publisher.wake()
    publisher.pump()
    assert time.monotonic() - started < 1


def test_a_closed_publisher_says_so_and_opens_again(publisher: Publisher, vhost: Vhost) -> None:
    """Closing twice is harmless."""
    publisher.close()
    publisher.close()
    publisher.wake()
    with pytest.raises(ConnectionLostError, match="not open"):
        publisher.publish(message("q"))
    publisher.open(time.monotonic() + 10)
    publisher.send(message("q"), time.monotonic() + 10)
    assert vhost.count("q") == 1


def test_a_connection_that_the_broker_closed_says_why(publisher: Publisher, vhost: Vhost, node: Node) -> None:
    """From then on every call tells the same reason."""
    node.ctl("close_all_connections", "--vhost", vhost.name, "maintenance")
    with pytest.raises(ConnectionLostError, match="maintenance"):
        publisher.pump_until(lambda: False, time.monotonic() + 10)
    assert not publisher.is_open
    with pytest.raises(ConnectionLostError, match="maintenance"):
        publisher.publish(message("q"))
