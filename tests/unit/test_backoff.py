"""How long to wait before the next try."""

import random

import pytest

from workqueued.backoff import Backoff


def ceilings(backoff: Backoff, count: int) -> list[float]:
    """The delays when chance always draws the most."""
    return [backoff.next_delay() for _ in range(count)]


def test_the_ceiling_doubles_up_to_the_most() -> None:
    """And stays there."""
    assert ceilings(Backoff(0.5, 10, chance=lambda: 1.0), 7) == [0.5, 1, 2, 4, 8, 10, 10]


def test_the_delay_is_drawn_between_nothing_and_the_ceiling() -> None:
    """Full jitter: a fleet that lost its broker at one moment does not come back at one moment."""
    assert Backoff(0.5, 10, chance=lambda: 0.0).next_delay() == 0.0
    draws = [Backoff(4, 4, chance=random.Random(seed).random).next_delay() for seed in range(500)]
    assert all(0 <= draw < 4 for draw in draws)
    for quarter in range(4):
        assert sum(quarter <= draw < quarter + 1 for draw in draws) == pytest.approx(125, abs=50)


def test_success_begins_anew() -> None:
    """The next failure is the first."""
    backoff = Backoff(0.5, 10, chance=lambda: 1.0)
    ceilings(backoff, 4)
    assert backoff.failures == 4
    backoff.reset()
    assert backoff.failures == 0
    assert ceilings(backoff, 2) == [0.5, 1]


def test_a_year_of_failures_does_not_overflow() -> None:
    """2.0 ** 1024 would."""
    backoff = Backoff(0.1, 3, chance=lambda: 1.0, failures=10_000_000)
    assert backoff.next_delay() == 3


def test_chance_is_real_by_default() -> None:
    """Two of a fleet differ."""
    assert len({Backoff(1, 1).next_delay() for _ in range(10)}) == 10
