"""When a message is due: never early, never at another time than was meant."""

import math
import random
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from workqueued.delays import LONGEST
from workqueued.due import Due, after, at, parse_moment

#: 2026-11-24T12:00:00Z
NOW = 1_795_521_600.0
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("delay", "seconds"),
    [
        ("10m", 600), ("10", 10), ("0s", 0), ("1ms", 1), ("1500ms", 2), ("4100ms", 5), ("57000ms", 57), ("1.1s", 2),
        ("180d", 180 * 86400), (10, 10), (0, 0), (0.001, 1), (1.0, 1), (0.1 * 3 * 10, 3), (LONGEST, LONGEST),
        (LONGEST - 0.5, LONGEST), (timedelta(hours=1), 3600), (timedelta(milliseconds=1), 1), (timedelta(), 0),
    ],
)  # fmt: skip
def test_a_delay_is_rounded_up_to_whole_seconds(delay: Any, seconds: int) -> None:
    """The levels know no others; a product of floats that is a hair above a whole number is that number."""
    assert after(delay, NOW).delay == seconds


def test_what_is_due_counts_from_what_was_asked_for() -> None:
    """Not from the second to which it was rounded: `wait_ms` tells the whole truth."""
    assert after("1500ms", NOW) == Due(2, int(NOW * 1000) + 1500)
    assert at("2026-11-24T12:00:01.5Z", NOW) == Due(2, int(NOW * 1000) + 1500)


@pytest.mark.parametrize(
    ("delay", "words"),
    [
        (-1, "cannot be negative"), (-0.001, "cannot be negative"), (timedelta(seconds=-1), "cannot be negative"),
        (math.nan, "cannot be negative"), (math.inf, "longest delay is 194 days"),
        (LONGEST + 0.5, r"longest delay is 194 days \(16777215 s\)"), ("200d", "'?200d'? is too long"),
        ("9" * 400 + "d", "too long"), ("-3s", "no duration such as"), ("", "no duration such as"),
        ("abc", "no duration such as"), ("10 m", "no duration such as"), ("1e3s", "no duration"), ("²", "no duration"),
    ],
)  # fmt: skip
def test_a_delay_that_makes_no_sense_is_refused(delay: Any, words: str) -> None:
    """With the longest one, where that is what is wrong."""
    with pytest.raises(ValueError, match=words):
        after(delay, NOW)


@pytest.mark.parametrize("delay", [True, b"10m", [10], None])
def test_a_delay_of_another_type_is_a_mistake_in_the_program(delay: Any) -> None:
    """TypeError, as for a body that is none."""
    with pytest.raises(TypeError, match="expected seconds, a duration such as '10m', or a timedelta"):
        after(delay, NOW)


@pytest.mark.parametrize(
    ("moment", "seconds"),
    [
        ("2026-11-24T12:00:01Z", 1), ("2026-11-24T12:00:00.001Z", 1), ("2026-11-24T13:00:10+01:00", 10),
        ("2026-11-24 07:00:10-05:00", 10), ("20261124T120010Z", 10), (NOON + timedelta(days=180), 180 * 86400),
        (datetime(2026, 11, 24, 14, tzinfo=timezone(timedelta(hours=1))), 3600),
        (NOON + timedelta(seconds=LONGEST), LONGEST),
    ],
)  # fmt: skip
def test_a_moment_is_the_same_whatever_the_offset(moment: Any, seconds: int) -> None:
    """Text or datetime."""
    assert at(moment, NOW).delay == seconds


def test_no_moment_is_reached_early() -> None:
    """Whatever the clock shows, to the microsecond."""
    chance = random.Random(2)
    for _ in range(10_000):
        now = NOW + chance.random() * 1000
        moment = NOON + timedelta(seconds=1000 + chance.random() * 10**chance.randint(0, 7))
        due = at(moment, now)
        assert 0 <= now + due.delay - moment.timestamp() < 1.00001
        assert 0 <= due.at / 1000 - moment.timestamp() < 0.00101


@pytest.mark.parametrize(
    ("moment", "words"),
    [
        ("2026-11-24T12:00:00Z", "is less than 1 s ago; leave it out to send the message now"),
        ("2026-11-24T11:59:15Z", "45 s ago"), ("2026-11-24T09:00:00Z", "3 h ago"), ("2025-11-24T00:00:00Z", "365 days"),
        ("2027-11-24T00:00:00Z", "is in 364 days; the longest delay is 194 days"),
        (NOON + timedelta(seconds=LONGEST + 1), "is in 194 days; the longest"),
        ("2026-12-24T18:00:00", r"has no offset from UTC.* such as \+01:00 or Z"), (datetime(2027, 1, 1), "no offset"),  # noqa: DTZ001
        ("18:00", "no time such as 2026-12-24T18:00:00"), ("", "no time such as"), ("tomorrow", "no time such as"),
        ("2026-02-30T00:00:00Z", "no time such as"), ("2026-12-24T25:00:00Z", "no time such as"),
    ],
)  # fmt: skip
def test_a_moment_that_makes_no_sense_is_refused(moment: Any, words: str) -> None:
    """A typo in a date must not fire at once, nor at another place's noon."""
    with pytest.raises(ValueError, match=words):
        at(moment, NOW)


@pytest.mark.parametrize("moment", [NOW + 10, None, NOON.date()])
def test_a_moment_of_another_type_is_a_mistake_in_the_program(moment: Any) -> None:
    """A number might be seconds or milliseconds."""
    with pytest.raises(TypeError, match="expected a datetime or text"):
        at(moment, NOW)


def test_a_moment_may_be_read_without_an_offset() -> None:
    """For a command whose user means the time on the wall."""
    assert parse_moment("2026-12-24T18:00") == datetime(2026, 12, 24, 18)  # noqa: DTZ001
