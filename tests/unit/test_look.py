"""A look's end, where the broker's words and its deliveries cross."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pika
import pytest

from workqueued.amqp import look as module
from workqueued.amqp.look import Look
from workqueued.errors import TemporaryError
from workqueued.letters import Letter


class Channel:
    """A channel of a broker that was given a few messages to deliver, which come when the look asks a second time."""

    is_open = True

    def __init__(self, counts: tuple[int, int]) -> None:
        self.counts = counts
        self.asked = 0
        self.give: Callable[..., None] = lambda *_: None

    def basic_qos(self, **_: Any) -> None:
        """Nothing."""

    def add_on_cancel_callback(self, _callback: object) -> None:
        """Nothing."""

    def basic_consume(self, _queue: str, callback: Callable[..., None], *, consumer_tag: str) -> str:
        """Remember who consumes."""
        self.give = callback
        return consumer_tag

    def queue_declare(self, _queue: str, *, passive: bool) -> Any:
        """Messages and consumers."""
        assert passive
        self.asked += 1
        return SimpleNamespace(method=SimpleNamespace(message_count=self.counts[0], consumer_count=self.counts[1]))


class Queue:
    """The look's queue, and the wire: what the broker sent arrives when the connection is served."""

    name, timeout = "work.dead", 30.0

    def __init__(self, channel: Channel, messages: int) -> None:
        self.channel, self.left = channel, messages

    def settled(self) -> tuple[int, bool]:
        """Nobody."""
        return 0, False

    def service(self, seconds: float = 0) -> None:  # noqa: ARG002 - nobody waits here
        """Deliver what the second answer was waited for with."""
        while self.left and self.channel.asked >= 2:
            method = SimpleNamespace(delivery_tag=self.left)
            self.channel.give(None, method, pika.BasicProperties(message_id=f"{self.left}"), b"")
            self.left -= 1


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_QUIET", 0.0)


def looking(counts: tuple[int, int], messages: int) -> tuple[Look, Queue]:
    """A look at three letters."""
    channel = Channel(counts)
    queue = Queue(channel, messages)
    one: Any = channel
    return Look(queue, one, 3, shared=False, bodies=False, prefetch=10), queue


def test_letters_that_are_on_their_way_to_us_are_not_missed() -> None:
    """The queue counts what it has given out as gone."""
    look, _ = looking((0, 1), messages=3)
    found: list[Letter] = []
    while not look.ended:
        found += look.take(0.01)
    assert len(found) == 3


def test_a_look_ends_early_when_the_rest_was_taken_by_others() -> None:
    """Nothing is ready, and nothing comes."""
    look, _ = looking((0, 1), messages=0)
    assert look.take(0.01) == []
    assert look.ended


def test_a_queue_that_does_not_count_us_is_not_believed_to_be_empty() -> None:
    """As one without a leader; in the end it is told."""
    look, queue = looking((0, 0), messages=0)
    look.take(0.01)
    assert not look.ended
    queue.timeout = -1.0
    with pytest.raises(TemporaryError, match="may have lost its leader"):
        look.take(0.01)
