"""Overlooked: when an idle worker beside ready messages connects anew."""

import pytest

from workqueued.overlooked import MOST_PATIENCE, PATIENCE, Lookout, OverlookedError


class Watch:
    """A lookout with a clock of its own, and a monitor that samples whenever the lookout looks."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.deliveries = 0
        self.lookout = Lookout(clock=lambda: self.now)
        self.lookout.begin()

    def look(self, ready: int, *, after: float = 1.0, sample_age: float = 0.0) -> OverlookedError | None:
        """Look around some seconds later; the finding, if there is one."""
        self.now += after
        try:
            self.lookout.check(self.deliveries, ready, self.now - sample_age)
        except OverlookedError as error:
            return error
        return None

    def seconds_until_found(self) -> float:
        """How long a new consumer is overlooked until it is told, with a look and a sample a second."""
        self.lookout.begin()
        start = self.now
        while not self.look(1):
            assert self.now - start < 2 * MOST_PATIENCE, "never"
        return self.now - start


def test_an_idle_worker_beside_ready_messages_is_found_at_the_second_sample() -> None:
    """The first that counts was taken when it had been idle for the time of its patience."""
    watch = Watch()
    assert watch.look(7, after=PATIENCE) is None
    error = watch.look(8)
    assert error is not None
    assert (error.ready, error.idle_s) == (8, PATIENCE + 1)


def test_one_sample_is_not_enough_however_often_it_is_looked_at() -> None:
    """While the broker is away, the last sample stays."""
    watch = Watch()
    for look in range(100):
        assert watch.look(7, after=PATIENCE, sample_age=look * PATIENCE) is None


def test_a_sample_from_before_counts_for_nothing() -> None:
    """What was ready then may have been on its way to us."""
    watch = Watch()
    assert watch.look(7, after=PATIENCE, sample_age=0.1) is None
    assert watch.look(7, after=0.2) is None
    assert watch.look(7) is not None


@pytest.mark.parametrize("ready", [0, -1], ids=["empty", "unknown"])
def test_nobody_is_overlooked_at_a_queue_without_ready_messages(ready: int) -> None:
    """The samples that count are two in a row: on a busy queue, one may always catch a message on its way."""
    watch = Watch()
    for _ in range(100):
        assert watch.look(1, after=PATIENCE) is None
        assert watch.look(ready, after=PATIENCE) is None


def test_a_worker_that_gets_messages_is_not_overlooked() -> None:
    """However many are ready, as long as one came between the looks."""
    watch = Watch()
    for _ in range(100):
        watch.deliveries += 1
        assert watch.look(1000, after=PATIENCE * 2) is None


def test_idleness_begins_anew_with_each_consumer() -> None:
    """A long outage is not the new consumer's."""
    watch = Watch()
    assert watch.look(7, after=PATIENCE) is None
    watch.now += 600
    watch.lookout.begin()
    assert watch.look(7) is None
    assert watch.look(7, after=PATIENCE) is None
    assert watch.look(7) is not None


def test_patience_doubles_up_to_an_hour() -> None:
    """A standby consumer is right to be idle, and must not connect anew all the time."""
    watch = Watch()
    waits = [watch.seconds_until_found() for _ in range(13)]
    assert waits[:4] == [PATIENCE + 1, PATIENCE * 2 + 1, PATIENCE * 4 + 1, PATIENCE * 8 + 1]
    assert waits[-3:] == [MOST_PATIENCE + 1] * 3


def test_patience_is_short_again_after_a_message() -> None:
    """It was overlooked, the new connection helped, and next time it is found as fast."""
    watch = Watch()
    for _ in range(5):
        watch.seconds_until_found()
    watch.deliveries += 1
    assert watch.look(1) is None
    assert watch.seconds_until_found() == PATIENCE + 1


def test_a_worker_that_the_broker_may_not_know_of_connects_anew() -> None:
    """Also at an empty queue: when two samples in a row say that the broker counts too few."""
    watch = Watch()
    watch.now += PATIENCE
    watch.lookout.check(watch.deliveries, 0, watch.now, 1)
    watch.now += 1
    with pytest.raises(OverlookedError) as caught:
        watch.lookout.check(watch.deliveries, -1, watch.now, 1)
    assert (caught.value.ready, caught.value.uncounted) == (0, 1)
