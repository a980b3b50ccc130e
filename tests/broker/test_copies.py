"""`Copies`: a dead letter is published until the broker holds it."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from harness import Vhost, eventually

from workqueued.amqp import copies as copies_module
from workqueued.amqp.copies import Copies
from workqueued.amqp.topology import declare_dead_queue
from workqueued.broker_settings import Broker
from workqueued.delivery import Message, Properties
from workqueued.errors import NotConfirmedError, RefusedError, WorkqueuedError
from workqueued.node import Node

Block = Callable[[], AbstractContextManager[None]]
LETTER = Message("q.dead", b"body", Properties(message_id="id", headers={"x-wq-reason": "failed"}))


class Journal:
    """What `Copies.send` tells and asks its caller."""

    def __init__(self) -> None:
        self.complaints: list[WorkqueuedError] = []
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        """Counts the waits instead of waiting."""
        self.pauses.append(seconds)


@pytest.fixture
def copies(broker: Broker) -> Iterator[Copies]:
    """Closed at the end."""
    copies = Copies(broker, "test")
    yield copies
    copies.close()


def send(
    copies: Copies,
    journal: Journal | None = None,
    message: Message = LETTER,
    give_up: Callable[[], bool] = lambda: False,
    pause: Callable[[float], None] | None = None,
) -> bool:
    """Send with a journal; without one, nothing may go wrong."""
    used = journal or Journal()
    done = copies.send(message, give_up=give_up, pause=pause or used.pause, complain=used.complaints.append)
    if journal is None:
        assert used.complaints == []
    return done


def test_a_copy_arrives_persistent_and_whole(copies: Copies, vhost: Vhost) -> None:
    """Body, properties and headers."""
    with vhost.channel() as channel:
        declare_dead_queue(channel, "q.dead")
    assert send(copies)
    properties, body = vhost.get("q.dead")
    assert (body, properties.message_id, properties.delivery_mode) == (b"body", "id", 2)
    assert properties.headers["x-wq-reason"] == "failed"


def test_a_dead_queue_that_was_deleted_is_declared_again(copies: Copies, vhost: Vhost) -> None:
    """In the middle of work, without a complaint."""
    with vhost.channel() as channel:
        declare_dead_queue(channel, "q.dead")
        assert send(copies)
        channel.queue_delete("q.dead")
    assert send(copies)
    assert vhost.count("q.dead") == 1
    with vhost.channel() as channel:
        declare_dead_queue(channel, "q.dead")  # it is the one that every worker wants


def test_without_permission_it_complains_and_goes_on_until_it_has_it(
    broker: Broker, vhost: Vhost, make_user: Callable[..., str]
) -> None:
    """The delivery stays with us meanwhile; nothing is lost and nobody restarts anything."""
    with vhost.channel() as channel:
        declare_dead_queue(channel, "q.dead")
    url = broker.url[0].parse(make_user("writer", write="^$"))
    copies, journal = Copies(Broker(url=(url,)), "test"), Journal()

    def pause(seconds: float) -> None:
        journal.pause(seconds)
        if len(journal.pauses) == 3:
            make_user("writer")

    assert send(copies, journal, pause=pause)
    copies.close()
    assert len(journal.complaints) == 3
    assert {type(error) for error in journal.complaints} == {RefusedError}
    assert "write on amq.default" in str(journal.complaints[0])
    assert all(0 < seconds <= 10 for seconds in journal.pauses)
    assert vhost.count("q.dead") == 1


def test_no_permission_to_declare_is_explained_too(
    broker: Broker, vhost: Vhost, make_user: Callable[..., str]
) -> None:
    """The dead queue is gone and this user may not make it."""
    url = broker.url[0].parse(make_user("no_builder", configure="^$"))
    copies, journal = Copies(Broker(url=(url,)), "test"), Journal()
    assert not send(copies, journal, give_up=lambda: len(journal.pauses) == 1)
    copies.close()
    assert "no permission on queue 'q.dead'" in str(journal.complaints[0])


def test_it_gives_up_when_told_so(copies: Copies) -> None:
    """Before the first try and between two; the caller still has the delivery."""
    assert not send(copies, give_up=lambda: True)
    nowhere = Copies(Broker(url=(Broker().url[0].parse("amqp://127.0.0.1:1"),)), "test")
    journal = Journal()
    assert not send(nowhere, journal, give_up=lambda: len(journal.complaints) == 3)
    assert len(journal.pauses) == 3
    assert "connection refused" in str(journal.complaints[0])


def test_a_full_dead_queue_is_tried_again(copies: Copies, vhost: Vhost, node: Node) -> None:
    """A policy of the operator's may limit it; once there is room the copy goes in."""
    with vhost.channel() as channel:
        declare_dead_queue(channel, "q.dead")
        node.ctl(
            "set_policy", "--vhost", vhost.name, "limit", "dead$", '{"max-length": 1, "overflow": "reject-publish"}'
        )
        journal = Journal()
        sent = 0

        def fill() -> bool:
            nonlocal sent
            sent += send(copies, journal, give_up=lambda: bool(journal.complaints))
            return bool(journal.complaints)

        eventually(fill)  # a quorum queue takes some more than its limit, and policies need a moment
        assert isinstance(journal.complaints[0], NotConfirmedError)

        def pause(_: float) -> None:
            channel.queue_purge("q.dead")

        assert send(copies, journal, pause=pause)
    assert vhost.count("q.dead") >= 1


def test_a_confirm_that_does_not_come_is_published_again(
    copies: Copies, vhost: Vhost, node: Node, paused: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a fresh connection, after a while; a duplicate is better than a loss."""
    with vhost.channel() as channel:
        declare_dead_queue(channel, "q.dead")
    assert send(copies)
    monkeypatch.setattr(copies_module, "_CONFIRM_WITHIN", 0.5)
    journal = Journal()

    def pause(seconds: float) -> None:
        journal.pause(seconds)
        node.resume()

    with paused():
        assert send(copies, journal, pause=pause)
    assert "did not confirm in time" in str(journal.complaints[0])
    assert vhost.count("q.dead") in (2, 3, 4)


def test_what_amqp_cannot_carry_does_not_keep_the_copy(copies: Copies, vhost: Vhost) -> None:
    """Headers beyond a frame, values and names that cannot be encoded, an id that grew when it was decoded."""
    with vhost.channel() as channel:
        declare_dead_queue(channel, "q.dead")
    headers = {"x-wq-reason": "failed", "huge": "x" * 140_000, "float": 1.5, "n" * 300: 1, "small": 1}
    strange = dataclasses.replace(LETTER, properties=Properties(message_id="\\xff" * 200, headers=headers))
    assert send(copies, message=strange)
    properties, _ = vhost.get("q.dead")
    assert len(properties.message_id) == 255
    left_out = properties.headers.pop("x-wq-headers-left-out")
    properties.headers.pop("x-delivery-count", None)  # the broker's own
    assert properties.headers == {"x-wq-reason": "failed", "small": 1}
    for name in ("huge", "float", "nnn"):
        assert name in left_out


def test_headers_that_just_fit_do_fit(copies: Copies, vhost: Vhost) -> None:
    """With every other property at its longest: one byte more per frame and the broker would hang up."""
    with vhost.channel() as channel:
        declare_dead_queue(channel, "q.dead")
    words = ("type", "content_type", "content_encoding", "correlation_id", "reply_to", "app_id", "expiration")
    texts: dict[str, Any] = dict.fromkeys(words[:-1], "x" * 255) | {"expiration": "4294967295"}
    properties = Properties(
        message_id="y" * 255, priority=255, timestamp=2**40, headers={"large": "x" * 129_000}, **texts
    )
    assert send(copies, message=Message("q.dead", b"", properties))
    assert len(vhost.get("q.dead")[0].headers["large"]) == 129_000


def test_an_idle_connection_is_closed_and_the_next_copy_opens_another(broker: Broker, vhost: Vhost) -> None:
    """Nobody sends heartbeats for it in between."""
    with vhost.channel() as channel:
        declare_dead_queue(channel, "q.dead")
    copies = Copies(dataclasses.replace(broker, heartbeat=2.0), "test")
    assert send(copies)
    started = time.monotonic()
    copies.close_if_idle()
    assert copies._publisher.is_open

    def closed() -> bool:
        copies.close_if_idle()
        return not copies._publisher.is_open

    eventually(closed)
    assert time.monotonic() - started > 0.9
    assert send(copies)
    copies.close()
    assert vhost.count("q.dead") == 2
