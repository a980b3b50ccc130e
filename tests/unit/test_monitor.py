"""The monitor's questions, where the broker hangs in the middle of its answers."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest
from harness import eventually
from histories import config

from workqueued import monitor
from workqueued.amqp.depth import Depth


class Broker:
    """Answers when it is let, in the place of a DepthReader."""

    def __init__(self) -> None:
        self.depths, self.levels = threading.Event(), threading.Event()
        self.asked_for_levels = threading.Event()

    def read(self, _queues: object) -> dict[str, Depth]:
        """Depths."""
        assert self.depths.wait(60)
        return {"q": Depth(1, 1, 0)}

    def delayed(self) -> int:
        """What waits in the levels."""
        self.asked_for_levels.set()
        assert self.levels.wait(60)
        return 7

    def service(self) -> None:
        """Nothing."""


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch) -> Broker:
    """Where the asker's connection would lead; it goes on answering when the test is over."""
    broker = Broker()
    monkeypatch.setattr(monitor, "DepthReader", lambda *_: broker)
    monkeypatch.setattr(monitor, "leave_to_main_thread", lambda: None)
    return broker


def trouble(asker: monitor._Asker) -> str | None:
    """Why there is no fresh figure."""
    return asker.samples.trouble


def test_a_late_answer_about_the_levels_does_not_make_old_depths_fresh(broker: Broker) -> None:
    """Not by itself, and not by being taken for the answer to the next question."""
    post: Any = SimpleNamespace(config=config(q=1))
    asker = monitor._Asker(post)
    asker.start()
    broker.depths.set()
    asker.ask(within=60)
    assert trouble(asker) is None
    assert broker.asked_for_levels.wait(60)
    broker.depths.clear()
    asker.ask(within=0.05)
    assert trouble(asker) == "the broker has not answered yet"
    waiting = threading.Thread(target=asker.ask, args=(60.0,))
    waiting.start()
    broker.levels.set()
    eventually(lambda: asker.samples.delayed == 7)
    assert trouble(asker) == "the broker has not answered yet"
    waiting.join(0.2)
    assert waiting.is_alive()
    broker.depths.set()
    waiting.join(60)
    assert trouble(asker) is None
