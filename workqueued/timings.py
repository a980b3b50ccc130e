"""Timings: how long messages waited and how long they ran, counted in buckets.

Runs in: worker (counts into its own row), master (keeps what workers that are gone have counted), monitor (reads).

A message costs its worker two searches and four additions; nobody else writes to its row, and nothing is summed up
before somebody asks. A word that is full begins anew, which whoever reads counters knows how to take.
"""

import enum
from bisect import bisect_left
from collections.abc import Iterable
from itertools import accumulate
from typing import NamedTuple

from workqueued.scoreboard import LARGEST, TIMINGS_AT, TIMINGS_WORDS, Row

#: Upper bounds of the buckets, seconds; one more bucket takes what is beyond.
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 1800.0, 7200.0,
          86400.0)  # fmt: skip
#: The same in microseconds, in which sums are kept.
_BOUNDS_US = tuple(int(bound * 1e6) for bound in BOUNDS)
#: Words of one histogram: its buckets, then its sum.
_WORDS = len(BOUNDS) + 2


class Timing(enum.IntEnum):
    """What is timed; the value is where its words begin."""

    #: From when a message could be handled to when a worker took it.
    WAIT = TIMINGS_AT
    #: From then until its handler had ended.
    RUN = TIMINGS_AT + _WORDS


class Histogram(NamedTuple):
    """How often it took so long.

    Attributes:
        counts: for each of `BOUNDS` those that took at most so long, then all of them.
        sum_s: all together, seconds.
    """

    counts: tuple[int, ...]
    sum_s: float


def note(row: Row, wait_ms: int | None, run_ns: int) -> None:
    """Count one message; a worker, in its own row. Nobody may know how long it waited."""
    words = row.words
    if wait_ms is not None:
        _count(words, Timing.WAIT, wait_ms * 1000)
    _count(words, Timing.RUN, run_ns // 1000)


def _count(words: memoryview, timing: int, microseconds: int) -> None:
    words[timing + bisect_left(_BOUNDS_US, microseconds)] += 1
    total = timing + _WORDS - 1
    words[total] = (words[total] + microseconds) & LARGEST


def add(worker: Row, queue: Row) -> None:
    """Keep what a worker that is gone has counted."""
    for word in range(TIMINGS_AT, TIMINGS_AT + TIMINGS_WORDS):
        queue.words[word] = (queue.words[word] + worker.words[word]) & LARGEST


def read(rows: Iterable[Row], timing: Timing) -> Histogram:
    """What some rows have counted together."""
    totals = [0] * _WORDS
    for row in rows:
        for word in range(_WORDS):
            totals[word] += row.words[timing + word]
    return Histogram(tuple(accumulate(totals[:-1])), totals[-1] / 1e6)
