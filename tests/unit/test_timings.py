"""Timings: buckets in the scoreboard, from the worker that counts to the reader that sums up."""

from pathlib import Path

import pytest

from workqueued.scoreboard import LARGEST, TIMINGS_WORDS, Kind, Scoreboard
from workqueued.timings import _WORDS, BOUNDS, Timing, add, note, read


@pytest.fixture
def board(tmp_path: Path) -> Scoreboard:
    """An empty one."""
    return Scoreboard.create(tmp_path)


def test_the_buckets_fit_into_a_row() -> None:
    """Both histograms, and nothing beyond."""
    assert len(Timing) * _WORDS <= TIMINGS_WORDS
    assert list(BOUNDS) == sorted(set(BOUNDS))


@pytest.mark.parametrize(
    ("milliseconds", "at_most"), [(0, 0.005), (5, 0.005), (6, 0.01), (1000, 1.0), (1001, 2.5), (10**10, None)]
)
def test_a_message_is_counted_in_every_bucket_that_it_fits_into(
    board: Scoreboard, milliseconds: int, at_most: float | None
) -> None:
    """A bound belongs to its bucket, as Prometheus has it; the last bucket has them all."""
    row = board.claim(Kind.WORKER, "a/0")
    note(row, milliseconds, milliseconds * 1_000_000)
    for timing in Timing:
        found = read([row], timing)
        assert found.counts[-1] == 1
        assert found.sum_s == milliseconds / 1000
        first = BOUNDS.index(at_most) if at_most else len(BOUNDS)
        assert found.counts == (0,) * first + (1,) * (len(BOUNDS) + 1 - first)


def test_an_unknown_wait_is_not_counted(board: Scoreboard) -> None:
    """A stranger's message does not say when it was sent."""
    row = board.claim(Kind.WORKER, "a/0")
    note(row, None, 7_000_000)
    assert read([row], Timing.WAIT).counts[-1] == 0
    assert read([row], Timing.RUN).counts[-1] == 1


def test_what_workers_that_are_gone_have_counted_is_kept(board: Scoreboard) -> None:
    """And added to what the living count."""
    queue, old, new = (board.claim(Kind.QUEUE, "a"), board.claim(Kind.WORKER, "a/0"), board.claim(Kind.WORKER, "a/0"))
    note(old, 100, 3_000_000)
    note(new, 200, 4_000_000)
    add(old, queue)
    old.clear()
    assert read([queue, new], Timing.WAIT).counts[-1] == 2
    assert read([queue, new], Timing.WAIT).sum_s == pytest.approx(0.3)
    assert read([queue, new], Timing.RUN).sum_s == pytest.approx(0.007)


def test_a_sum_that_is_full_begins_anew(board: Scoreboard) -> None:
    """A counter that falls is taken for a restart; an error would take the worker along."""
    row, queue = board.claim(Kind.WORKER, "a/0"), board.claim(Kind.QUEUE, "a")
    for words in (row.words, queue.words):
        words[Timing.WAIT + _WORDS - 1] = LARGEST
    note(row, 1, 0)
    assert read([row], Timing.WAIT).sum_s == 0.000999
    add(row, queue)
    assert read([queue], Timing.WAIT).sum_s == 0.000998


def test_counting_leaves_the_texts_alone(board: Scoreboard) -> None:
    """They lie before it in the row."""
    row = board.claim(Kind.WORKER, "a/0")
    row.message_id, row.note = "m" * 256, "n" * 256
    note(row, 10**10, 10**16)
    assert (row.name, row.message_id, row.note) == ("a/0", "m" * 256, "n" * 256)
