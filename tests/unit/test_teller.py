"""The teller: what becomes of one sample, in the log and in the scoreboard."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from workqueued import teller as module
from workqueued.amqp.depth import Depth
from workqueued.flow import Flow, Whole
from workqueued.monitor_settings import Alerts
from workqueued.queue_settings import Queue
from workqueued.scoreboard import Cell, Kind, QueueCell, Scoreboard, State
from workqueued.teller import Samples, Teller, consuming


class World:
    """A queue with two workers that consume."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.board = Scoreboard.create(directory)
        self.row = self.board.claim(Kind.QUEUE, "q")
        self.crew = [self.board.claim(Kind.WORKER, f"q/{number}") for number in range(2)]
        for pid, row in enumerate(self.crew, 10):
            row.words[Cell.PID], row.words[Cell.STATE] = pid, State.IDLE
        self.told: list[tuple[str, str, dict[str, Any]]] = []
        world = self

        class Log:
            def __getattr__(self, level: str) -> Callable[..., None]:
                return lambda event, **facts: world.told.append((level, event, facts))

        monkeypatch.setattr(module, "log", Log())
        self.teller = self.new_teller()

    def new_teller(self, alerts: Alerts | None = None, **settings: Any) -> Teller:
        """With other settings."""
        return Teller("q", Queue(handler="a:b", **settings), alerts or Alerts(), self.row)

    def sample(self, at: float, depth: Depth | None = None, whole: Whole | None = None) -> dict[str, Any]:
        """Tell of a sample; returns the facts of the depth."""
        samples = Samples({"q": depth or Depth(5, 2, 0)}, at, None, 7)
        self.teller.tell(samples, whole, self.crew, consuming(self.crew))
        return next(facts for _, event, facts in reversed(self.told) if event == "queue.depth")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """As above."""
    return World(tmp_path, monkeypatch)


def test_a_depth_has_all_that_is_known(world: World) -> None:
    """Rates from two samples; what is in work and how long it had waited from the rows of the workers."""
    assert world.sample(100.0, Depth(50, 2, 3)) == {
        "queue": "q", "ready": 50, "unacked": None, "in_flight": 0, "workers": 2, "consumers": 2, "dead": 3,
        "delayed_total": 7, "in_rate": None, "out_rate": None, "eta_s": None, "oldest_wait_ms": None,
        "source": "passive",
    }  # fmt: skip
    worker = world.crew[0].words
    worker[Cell.STATE], worker[Cell.TASK_STARTED], worker[Cell.WAITED], worker[Cell.DONE] = State.BUSY, 1, 1501, 20
    facts = world.sample(110.0, Depth(40, 2, 3))
    assert (facts["in_flight"], facts["oldest_wait_ms"]) == (1, 1500)
    assert (facts["in_rate"], facts["out_rate"], facts["eta_s"]) == (1.0, 2.0, 40.0)
    assert world.row.words[QueueCell.READY] == 41
    assert world.row.words[QueueCell.UNACKED] == 0
    assert world.row.words[QueueCell.SAMPLED] == 110 * 10**9


def test_what_the_management_api_tells_counts_for_the_whole_queue(world: World) -> None:
    """Its rates are of all hosts; where it tells none, ours are taken."""
    world.sample(100.0, Depth(50, 2, 3))
    facts = world.sample(110.0, Depth(50, 2, 3), Whole(4, Flow(3.0, 8.0)))
    assert (facts["unacked"], facts["in_rate"], facts["out_rate"], facts["eta_s"]) == (4, 3.0, 8.0, 10.0)
    assert facts["source"] == "passive, management"
    assert world.row.words[QueueCell.UNACKED] == 5
    facts = world.sample(120.0, Depth(50, 2, 3), Whole())
    assert (facts["unacked"], facts["out_rate"], facts["source"]) == (None, 0.0, "passive")


def test_without_an_answer_the_last_depth_is_told_as_what_it_is(world: World) -> None:
    """Never a false 0; and the scoreboard keeps its age."""
    world.sample(100.0)
    world.teller.tell(Samples({"q": Depth(5, 2, 0)}, 100.0, "gone", 7), None, world.crew, frozenset())
    level, event, facts = world.told[-1]
    assert (level, event, facts["ready"], facts["last_ready"], facts["reason"]) == (
        "warning", "queue.depth", None, 5, "gone",
    )  # fmt: skip
    assert world.row.words[QueueCell.SAMPLED] == 100 * 10**9


@pytest.mark.parametrize("interval", [1, 10])
def test_workers_that_the_broker_does_not_count_are_told_after_a_while(world: World, interval: int) -> None:
    """In one sample they prove nothing, and in many within a second neither."""
    world.sample(100.0, Depth(0, 0, 0))
    assert world.row.words[QueueCell.UNCOUNTED] == 0
    at = 100.0
    while at < 105:
        at += interval
        world.sample(at, Depth(0, 1, 0))
        assert world.row.words[QueueCell.UNCOUNTED] == (1 if at >= 105 else 0)
    world.sample(at + interval, Depth(0, 2, 0))
    assert world.row.words[QueueCell.UNCOUNTED] == 0
    world.sample(at + 2 * interval, Depth(0, 1, 0))
    assert world.row.words[QueueCell.UNCOUNTED] == 0


@pytest.mark.parametrize("state", [State.STARTING, State.CONNECTING, State.READY, State.DRAINING])
def test_a_worker_that_does_not_consume_is_not_missed(world: World, state: State) -> None:
    """The broker is right not to count it."""
    for row in world.crew:
        row.words[Cell.STATE] = state
    for at in range(100, 130, 10):
        world.sample(float(at), Depth(0, 0, 0))
    assert world.row.words[QueueCell.UNCOUNTED] == 0


def test_only_those_count_that_consumed_all_the_time(world: World) -> None:
    """A worker that began after the broker was asked is not in its answer."""
    for at in range(100, 130, 10):
        world.teller.tell(Samples({"q": Depth(0, 1, 0)}, float(at), None), None, world.crew, frozenset({10}))
    assert world.row.words[QueueCell.UNCOUNTED] == 0


def test_a_single_active_consumer_is_enough_where_the_queue_is_taken_as_it_is(world: World) -> None:
    """Of a quorum queue with that argument the broker counts one; none is still a finding."""
    world.teller = world.new_teller(declare="false")
    for at in range(100, 130, 10):
        world.sample(float(at), Depth(0, 1, 0))
    assert world.row.words[QueueCell.UNCOUNTED] == 0
    for at in range(130, 160, 10):
        world.sample(float(at), Depth(0, 0, 0))
    assert world.row.words[QueueCell.UNCOUNTED] == 2


def test_alerts_are_logged_by_their_names_and_kept_over_a_reload(world: World) -> None:
    """The next monitor finds what is active in the scoreboard."""
    world.teller = world.new_teller(Alerts(ready=10, after=0.0, unconsumed=1.0, dead=1))
    world.sample(100.0, Depth(5, 2, 0))
    world.sample(110.0, Depth(50, 0, 1))
    world.sample(120.0, Depth(50, 0, 1))
    assert [(level, event) for level, event, _ in world.told if event != "queue.depth"] == [
        ("warning", "queue.backlog_high"),
        ("warning", "queue.dead_growing"),
        ("warning", "queue.unconsumed"),
    ]
    assert world.row.words[QueueCell.ALERTS] == 7
    world.told.clear()
    world.teller = world.new_teller(Alerts(ready=10, after=0.0, unconsumed=1.0, dead=1))
    world.sample(130.0, Depth(50, 0, 0))
    world.sample(140.0, Depth(0, 2, 0))
    assert [(level, event) for level, event, _ in world.told if event != "queue.depth"] == [
        ("info", "queue.dead_settled"),
        ("info", "queue.backlog_cleared"),
        ("info", "queue.consumed"),
    ]
    assert world.row.words[QueueCell.ALERTS] == 0
