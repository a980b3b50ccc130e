"""`Sender`, as a Python program uses it."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from harness import Vhost, eventually

import workqueued
from workqueued.amqp import topology
from workqueued.config import read_config
from workqueued.delivery import Message
from workqueued.errors import (
    ConfigError,
    ConnectionLostError,
    DataError,
    NotConfirmedError,
    RefusedError,
    UnroutableError,
    UsageError,
)
from workqueued.node import Node
from workqueued.sender import Sender

MakeConfig = Callable[..., Path]
Block = Callable[[], AbstractContextManager[None]]
HungUp = Callable[[object], Callable[[], bool]]


@pytest.fixture
def url(vhost: Vhost) -> str:
    """The test's vhost, with a classic queue `q` and one that holds a single message, `full`."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True)
        channel.queue_declare("full", durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    return vhost.url


def test_a_program_sends_and_gets_the_id(make_config: MakeConfig, vhost: Vhost) -> None:
    """What the documentation shows: import, with, send; the queue of the configuration is the default."""
    with workqueued.Sender(config=make_config("task_queue")) as sender:
        message_id = sender.send(b"First message.", headers={"a": 1}, type="t", priority=2)
        assert sender.send("é", queue="task_queue", message_id="mine") == "mine"
    properties, body = vhost.get("task_queue")
    assert (properties.message_id, body) == (message_id, b"First message.")
    assert (properties.headers["a"], properties.type, properties.priority) == (1, "t", 2)
    assert properties.delivery_mode == 2
    assert vhost.get("task_queue")[1] == "é".encode()


def test_a_configuration_that_was_read_already_will_do(make_config: MakeConfig, vhost: Vhost) -> None:
    """`from_config`, for a program that has one."""
    with Sender.from_config(read_config(make_config("task_queue"))) as sender:
        sender.send(b"x")
    assert vhost.count("task_queue") == 1


def test_nothing_connects_before_the_first_send() -> None:
    """Making and closing a sender needs no broker."""
    with Sender("amqp://127.0.0.1:1"):
        pass


def test_many_messages_come_back_in_order(url: str, vhost: Vhost) -> None:
    """send_many yields each id when all up to it are safe, whatever queue they are for."""
    with vhost.channel() as channel:
        channel.queue_declare("other", durable=True)
    with Sender(url) as sender:
        messages = [sender.message(str(n), queue="other" if n % 7 == 0 else "q") for n in range(3000)]
        assert list(sender.send_many(messages)) == [message.properties.message_id for message in messages]
    assert vhost.count("q") + vhost.count("other") == 3000


def test_send_many_ends_at_the_first_message_that_is_not_safe(url: str, vhost: Vhost) -> None:
    """What was yielded before is safe."""
    with Sender(url) as sender:
        messages = [sender.message(str(n), queue=queue) for n, queue in enumerate(["q", "q", "nowhere", "q"])]
        ids = sender.send_many(messages)
        assert [next(ids), next(ids)] == [message.properties.message_id for message in messages[:2]]
        with pytest.raises(UnroutableError, match="no queue 'nowhere'"):
            next(ids)
    assert vhost.count("q") == 2


def test_a_sender_that_idles_longer_than_the_heartbeat_sends_again(
    make_config: MakeConfig, vhost: Vhost, broker_hung_up: HungUp
) -> None:
    """The broker closed the connection meanwhile; the next send opens another."""
    with Sender(config=make_config("q", heartbeat="2s")) as sender:
        sender.send(b"before")
        eventually(broker_hung_up(sender.publisher._connection), within=30)
        sender.send(b"after")
    assert vhost.count("q") == 2


def test_a_broker_that_closed_the_connection_between_two_sends_is_no_error(
    url: str, vhost: Vhost, node: Node, broker_hung_up: HungUp
) -> None:
    """A restart between two requests of a web service, for one."""
    with Sender(url) as sender:
        sender.send(b"before", queue="q")
        connection = sender.publisher._connection
        node.ctl("close_all_connections", "--vhost", vhost.name, "restart")
        eventually(broker_hung_up(connection))
        sender.send(b"after", queue="q")
    assert vhost.count("q") == 2


def test_send_many_survives_messages_that_come_more_slowly_than_heartbeats(
    make_config: MakeConfig, vhost: Vhost, broker_hung_up: HungUp
) -> None:
    """A generator that works for minutes between two messages."""
    with Sender(config=make_config("q", heartbeat="2s")) as sender:

        def slowly() -> Iterator[Message]:
            yield sender.message("0")
            eventually(broker_hung_up(sender.publisher._connection), within=30)
            for number in range(1, 4):
                yield sender.message(str(number))
                await_count(vhost, number + 1)  # it is sent before the next one is asked for

        assert len(list(sender.send_many(slowly()))) == 4
    assert vhost.count("q") == 4


def test_a_sender_goes_on_after_a_message_was_not_confirmed(url: str, vhost: Vhost) -> None:
    """Two sends after the error, each with its own confirm."""
    with Sender(url) as sender:
        sender.send(b"fits", queue="full")
        with pytest.raises(NotConfirmedError, match="'full'"):
            sender.send(b"does not fit", queue="full")
        assert sender.send(b"1", queue="q", message_id="1") == "1"
        assert sender.send(b"2", queue="q", message_id="2") == "2"
    assert vhost.count("q") == 2


def test_a_sender_goes_on_after_a_late_confirm(url: str, vhost: Vhost, paused: Block) -> None:
    """The late message may be there once or not at all; the two after it are there."""
    with Sender(url, timeout=1) as sender:
        await_sent(sender, b"before")  # a busy host may need longer than that to connect
        with paused(), pytest.raises(NotConfirmedError):
            sender.send(b"late", queue="q")
        for body in (b"1", b"2"):
            await_sent(sender, body)  # the broker needs a moment to wake up
    with vhost.channel() as channel:
        found = list(iter(lambda: channel.basic_get("q", auto_ack=True)[2], None))
    assert found[0] == b"before"
    assert {b"1", b"2"} <= set(found)
    assert found.count(b"late") <= 1


def await_count(vhost: Vhost, count: int) -> None:
    """Wait until `q` holds so many messages."""
    eventually(lambda: vhost.count("q") == count)


def await_sent(sender: Sender, body: bytes) -> None:
    """Send until it works."""

    def sent() -> bool:
        try:
            sender.send(body, queue="q")
        except (NotConfirmedError, ConnectionLostError):
            return False
        return True

    eventually(sent)


def test_each_failure_is_the_error_that_the_documentation_names(url: str) -> None:
    """And the sender is of use after each of them."""
    with Sender(url) as sender:
        with pytest.raises(UnroutableError):
            sender.send(b"x", queue="nowhere")
        with pytest.raises(UsageError, match="queue="):
            sender.send(b"x")
        with pytest.raises(DataError, match="255 bytes"):
            sender.send(b"x", queue="q", type="t" * 256)
        with pytest.raises(DataError, match=r"1\.5 \(float\)"):
            sender.send(b"x", queue="q", headers={"x": 1.5})
        with pytest.raises(DataError, match="invalid expiration"):
            sender.send(b"x", queue="q", expiration="soon")
        with pytest.raises(DataError, match="UTF-8"):
            sender.send("\ud800", queue="q")
        with pytest.raises(TypeError, match="no such property: expires; there are message_id, type"):
            sender.send(b"x", queue="q", expires="10m")
        with pytest.raises(TypeError, match=r"the body is dict, expected bytes or str; .*json\.dumps"):
            sender.send({"a": 1}, queue="q")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="the body is int"):
            sender.send(5, queue="q")  # type: ignore[arg-type]
        assert sender.send(bytearray(b"x"), queue="q")  # type: ignore[arg-type]
    with Sender(url.replace(":guest@", ":wrong@")) as sender, pytest.raises(RefusedError):
        sender.send(b"x", queue="q")
    with Sender("amqp://127.0.0.1:1") as sender, pytest.raises(ConnectionLostError):
        sender.send(b"x", queue="q")


@pytest.mark.parametrize("url", ["no url", ["amqp://localhost", "x"], []])
def test_a_wrong_url_is_a_config_error(url: str | list[str]) -> None:
    """At once, not at the first send."""
    with pytest.raises(ConfigError, match="expected"):
        Sender(url)


def test_the_timeout_holds_while_a_queue_is_declared(
    make_config: MakeConfig, paused: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker hangs right after it told that there is no queue."""
    declare = topology.declare_once
    file = make_config("q")
    with Sender(config=file, timeout=3) as sender:

        def hang(*arguments: Any) -> None:
            with paused():
                declare(*arguments)

        monkeypatch.setattr("workqueued.sender.declare_once", hang)
        started = time.monotonic()
        with pytest.raises(ConnectionLostError, match="did not answer in time"):
            sender.send(b"x")
        assert time.monotonic() - started < 7.5
