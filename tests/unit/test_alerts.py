"""Alerts, as histories: samples in, events out."""

from collections.abc import Iterable

import pytest

from workqueued.alerts import Event, Sample, Watch
from workqueued.flow import Flow
from workqueued.monitor_settings import Alerts
from workqueued.status import Alert

#: In ten seconds it is told; by ready messages, by time, by dead letters.
LIMITS = Alerts(ready=100, eta=60.0, after=10.0, unconsumed=5.0, dead=10)
BACKLOG = ("backlog_high", True)
CLEARED = ("backlog_high", False)


def tell(events: Iterable[Event]) -> list[tuple[str, bool]]:
    """Which alerts came and went."""
    return [(event.alert.word, event.raised) for event in events]


class Story:
    """A queue with a sample every second."""

    def __init__(self, limits: Alerts = LIMITS, active: int = 0) -> None:
        self.watch = Watch(limits, active)
        self.now = 100.0

    def goes(
        self,
        seconds: int,
        *,
        ready: int | None = 0,
        consumers: int | None = 1,
        dead: int | None = 0,
        flow: Flow | None = None,
        paused: bool = False,
    ) -> list[Event]:
        """All is like this for so long; what was told."""
        found: list[Event] = []
        for _ in range(seconds):
            self.now += 1
            sample = Sample(self.now, ready, consumers, dead, Flow(5.0, 5.0) if flow is None else flow, paused)
            found += self.watch.take(sample)
        return found


def test_a_queue_that_is_well_is_not_told() -> None:
    """However long."""
    assert Story().goes(1000, ready=50) == []


def test_too_many_ready_messages_are_told_after_a_while_and_once() -> None:
    """And cleared after as long."""
    story = Story()
    assert story.goes(10, ready=101) == []
    (event,) = story.goes(100, ready=101)
    assert tell([event]) == [BACKLOG]
    assert event.facts == {
        "ready": 101, "consumers": 1, "eta_s": 20, "in_rate": 5.0, "out_rate": 5.0, "lasted_s": 10
    }  # fmt: skip
    assert story.watch.active == Alert.BACKLOG_HIGH
    assert story.goes(10, ready=10) == []
    (event,) = story.goes(100, ready=10)
    assert tell([event]) == [CLEARED]
    assert event.facts["lasted_s"] == 120  # from the first high sample to when it is told
    assert story.watch.active == 0


def test_a_short_peak_is_not_told() -> None:
    """Nor many of them: each begins anew."""
    story = Story()
    for _ in range(20):
        assert story.goes(9, ready=1000, flow=Flow(100.0, 100.0)) + story.goes(1, ready=0) == []


def test_between_the_thresholds_nothing_changes() -> None:
    """A figure that swings around one of them rings no bell at every turn."""
    story = Story()
    assert tell(story.goes(20, ready=101)) == [BACKLOG]
    assert story.goes(500, ready=90) == []
    assert story.goes(500, ready=101) == []
    assert tell(story.goes(20, ready=80)) == [CLEARED]
    assert story.goes(500, ready=90) == []


def test_a_backlog_that_takes_too_long_is_told() -> None:
    """A hundred messages at one a second, and as many come in."""
    assert tell(Story().goes(30, ready=90, flow=Flow(1.0, 1.0))) == [BACKLOG]
    assert Story().goes(30, ready=90, flow=Flow(0.0, 2.0)) == []


def test_a_queue_that_nobody_serves_takes_for_ever() -> None:
    """There is no number for that."""
    (event,) = [
        event
        for event in Story(Alerts(after=10.0, unconsumed=None)).goes(30, ready=1, consumers=0, flow=Flow(0.0, 0.0))
        if event.alert is Alert.BACKLOG_HIGH
    ]
    assert event.facts["eta_s"] is None


def test_long_tasks_are_no_standstill() -> None:
    """A worker whose tasks take 20 s settles nothing in most samples; what counts is the rate over a while."""
    story = Story(Alerts(eta=600.0, after=60.0))
    for _ in range(30):
        assert story.goes(19, ready=5, flow=Flow(0.0, 0.0)) + story.goes(1, ready=5, flow=Flow(1.0, 1.0)) == []
    for _ in range(2):
        story.goes(19, ready=500, flow=Flow(0.0, 0.0))
        story.goes(1, ready=500, flow=Flow(1.0, 1.0))
    assert tell(story.goes(60, ready=500, flow=Flow(0.0, 0.0))) == [BACKLOG]


def test_while_nothing_is_known_nothing_changes() -> None:
    """The broker is away: what is active stays so, and what was about to be begins anew."""
    story = Story()
    story.goes(9, ready=1000)
    assert story.goes(100, ready=None, consumers=None, dead=None, flow=Flow()) == []
    assert story.goes(9, ready=1000) == []
    assert tell(story.goes(5, ready=1000)) == [BACKLOG]
    assert story.goes(100, ready=None, consumers=None, dead=None, flow=Flow()) == []
    assert story.watch.active == Alert.BACKLOG_HIGH


def test_messages_that_nobody_consumes_are_told() -> None:
    """Until somebody does, or there are none."""
    story = Story()
    events = story.goes(60, ready=1, consumers=0)
    assert tell(events) == [("unconsumed", True)]
    assert events[0].facts == {"ready": 1, "consumers": 0, "lasted_s": 5}
    assert tell(story.goes(1, ready=1, consumers=1)) == [("unconsumed", False)]
    assert story.goes(60, ready=0, consumers=0) == []


def test_a_paused_queue_is_meant_to_have_no_consumer() -> None:
    """Its backlog is told when it is high."""
    story = Story()
    assert tell(story.goes(60, ready=1, consumers=0, flow=Flow(0.0, 0.0), paused=True)) == [BACKLOG]


def test_a_dead_queue_that_grows_is_told() -> None:
    """By how much within an hour; what was there before does not count."""
    story = Story()
    assert story.goes(10, dead=500) == []
    (event,) = story.goes(10, dead=510)
    assert tell([event]) == [("dead_growing", True)]
    assert event.facts == {"dead": 510, "grown": 10, "lasted_s": 0}
    assert story.goes(3000, dead=511) == []
    assert tell(story.goes(1000, dead=511)) == [("dead_growing", False)]


def test_dead_letters_that_come_slowly_are_not_told() -> None:
    """Nine an hour, for a day."""
    story = Story()
    for number in range(9 * 24):
        assert story.goes(400, dead=number) == []


def test_a_dead_queue_that_was_emptied_counts_from_there() -> None:
    """Replayed messages that come back are new ones."""
    story = Story()
    story.goes(10, dead=500)
    assert story.goes(10, dead=0) == []
    assert tell(story.goes(10, dead=10)) == [("dead_growing", True)]


@pytest.mark.parametrize(
    "limits", [Alerts(ready=None, eta=None, after=0.0, unconsumed=None, dead=None)], ids=["all of them"]
)
def test_what_is_switched_off_is_never_told(limits: Alerts) -> None:
    """Whatever happens; and what was active before the reload is cleared."""
    story = Story(limits)
    assert story.goes(100, ready=10**6, consumers=0, dead=10, flow=Flow(0.0, 0.0)) == []
    assert story.goes(100, dead=10**6) == []
    story = Story(limits, active=int(Alert.BACKLOG_HIGH | Alert.UNCONSUMED | Alert.DEAD_GROWING))
    assert len(story.goes(2)) == 3
    assert story.watch.active == 0


def test_a_new_monitor_goes_on_with_what_was_active() -> None:
    """A reload neither repeats it nor forgets it; nobody knows any more since when it was."""
    story = Story(active=int(Alert.BACKLOG_HIGH))
    assert story.goes(100, ready=1000) == []
    (event,) = story.goes(30, ready=0)
    assert tell([event]) == [CLEARED]
    assert event.facts["lasted_s"] == 10
