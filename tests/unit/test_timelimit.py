"""The time limit: raised inside the handler, and nowhere else."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from workqueued.errors import TimeLimitExceeded
from workqueued.timelimit import TimeLimit


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """SIGALRM is as before afterwards."""
    before = signal.getsignal(signal.SIGALRM)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def make(seconds: float | None) -> TimeLimit:
    """An installed limit."""
    limit = TimeLimit(seconds)
    limit.install()
    return limit


def spin(_: Any) -> None:
    """Burn until interrupted."""
    while True:
        pass


@pytest.mark.parametrize("function", [spin, lambda _: time.sleep(60), lambda _: threading.Event().wait()])
def test_it_comes_out_of_whatever_the_handler_does(function: Any) -> None:
    """A loop, a sleep, a lock."""
    limit = make(0.05)
    with pytest.raises(TimeLimitExceeded, match=r"the time limit of 0\.05 s"):
        limit.call(function, None)
    assert limit.fired


def test_a_handler_in_time_is_not_disturbed_and_the_alarm_is_off_afterwards() -> None:
    """Whatever it returns or raises."""
    limit = make(60)
    assert limit.call(lambda x: x + 1, 1) == 2
    with pytest.raises(KeyError):
        limit.call({}.__getitem__, "x")
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert not limit.fired


def test_an_alarm_outside_of_a_call_does_nothing() -> None:
    """In the middle of our own code it would do harm."""
    make(60)
    signal.raise_signal(signal.SIGALRM)


def test_it_is_raised_once_in_a_call() -> None:
    """What cleans up after it is not interrupted again."""
    limit = make(0.02)
    cleaned = []

    def slow(_: Any) -> None:
        try:
            time.sleep(60)
        finally:
            time.sleep(0.1)
            cleaned.append(True)

    with pytest.raises(TimeLimitExceeded):
        limit.call(slow, None)
    assert cleaned == [True]


def test_except_exception_does_not_swallow_it() -> None:
    """As KeyboardInterrupt."""

    def careless(_: Any) -> None:
        with contextlib.suppress(Exception):
            time.sleep(60)

    with pytest.raises(TimeLimitExceeded):
        make(0.02).call(careless, None)


def test_without_a_limit_the_alarm_is_the_handler_s() -> None:
    """We do not touch it."""
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    limit = make(None)
    assert limit.call(str, 1) == "1"
    assert not limit.restore()
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_IGN


def test_a_handler_that_took_the_alarm_gives_it_back() -> None:
    """Told, so that its author learns of it."""
    limit = make(60)
    assert not limit.restore()
    limit.call(lambda _: signal.signal(signal.SIGALRM, signal.SIG_IGN), None)
    assert limit.restore()
    assert not limit.restore()
