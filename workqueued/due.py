"""Due: from what somebody says about when, to how long a message waits and since when it is due.

Runs in: `Sender` and `wq-send`, for messages that are not to be handled at once.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from workqueued.delays import LONGEST, LONGEST_IN_WORDS
from workqueued.durations import parse_duration

_UNITS = (("days", 86400), ("h", 3600), ("min", 60), ("s", 1))


@dataclass(frozen=True, slots=True)
class Due:
    """When a message is due.

    Attributes:
        delay: whole seconds that it waits on the broker, rounded up so that it is never early.
        at: milliseconds since the epoch.
    """

    delay: int
    at: int


def after(delay: float | str | timedelta, now: float) -> Due:
    """Due so much later.

    Args:
        delay: seconds, a duration such as `10m` (digits alone are seconds), or a timedelta.
        now: seconds since the epoch.

    Raises:
        ValueError: it is none, is negative, or longer than the delay levels.
        TypeError: it is none of these.
    """
    seconds = _seconds(delay)
    if not seconds >= 0:  # nan as well
        raise ValueError(f"{delay!s} is no time to wait: it cannot be negative")
    if seconds > LONGEST:
        raise ValueError(f"{delay!s} is too long; the longest delay is {LONGEST_IN_WORDS} ({LONGEST} s)")
    return Due(_whole(seconds), round((now + seconds) * 1000))


def at(moment: datetime | str, now: float) -> Due:
    """Due at a moment.

    Args:
        moment: a datetime or ISO 8601 text, with an offset from UTC.
        now: seconds since the epoch.

    Raises:
        ValueError: it is none, has passed, has no offset, or is further away than the delay levels reach.
        TypeError: it is neither.
    """
    found = parse_moment(moment) if isinstance(moment, str) else moment
    if not isinstance(found, datetime):
        raise TypeError(f"found {type(moment).__name__}, expected a datetime or text")
    if found.utcoffset() is None:
        raise ValueError(
            f"{moment!s} has no offset from UTC, so it is another moment in every time zone; "
            "give one, such as +01:00 or Z"
        )
    seconds = found.timestamp() - now
    if seconds <= 0:
        raise ValueError(f"{moment!s} is {_in_words(-seconds)} ago; leave it out to send the message now")
    if seconds > LONGEST:
        raise ValueError(f"{moment!s} is in {_in_words(seconds)}; the longest delay is {LONGEST_IN_WORDS}")
    return Due(_whole(seconds), math.ceil(found.timestamp() * 1000))


def parse_moment(text: str) -> datetime:
    """A datetime from ISO 8601 text, with or without an offset.

    Raises:
        ValueError: it is none.
    """
    try:
        return datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no time such as 2026-12-24T18:00:00+01:00") from error


def _seconds(delay: float | str | timedelta) -> float:
    if isinstance(delay, timedelta):
        return delay.total_seconds()
    if isinstance(delay, str):
        return parse_duration(f"{delay}s" if delay.isdecimal() else delay)
    if isinstance(delay, bool) or not isinstance(delay, int | float):
        raise TypeError(f"found {type(delay).__name__}, expected seconds, a duration such as '10m', or a timedelta")
    return delay


def _whole(seconds: float) -> int:
    """Rounded up; but not for what is left of a product of floats, such as 57.00000000000001."""
    return min(math.ceil(round(seconds, 6)), LONGEST)


def _in_words(seconds: float) -> str:
    """A length of time in its largest unit."""
    unit, length = next((one for one in _UNITS if seconds >= one[1]), _UNITS[-1])
    count = int(seconds / length)
    return f"{count} {unit}" if count else "less than 1 s"
