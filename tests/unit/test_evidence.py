"""Evidence: what is proven against a message, and how often."""

from pathlib import Path

import pytest

from workqueued import evidence as module
from workqueued.evidence import Evidence
from workqueued.scoreboard import Cell, Kind, Scoreboard, State


class Clock:
    """A clock that runs only while somebody waits."""

    def __init__(self) -> None:
        self.now = 100.0
        self.waits = 0

    def __call__(self) -> float:
        """Seconds."""
        return self.now

    def pause(self, seconds: float) -> None:
        """Wait."""
        self.waits += 1
        self.now += seconds


@pytest.fixture
def board(tmp_path: Path) -> Scoreboard:
    """An empty scoreboard."""
    return Scoreboard.create(tmp_path)


@pytest.fixture
def clock() -> Clock:
    """A clock."""
    return Clock()


def make(board: Scoreboard, clock: Clock, *dead: int) -> Evidence:
    """The table; these processes are dead."""
    return Evidence(board, clock, clock.pause, lambda pid: pid in dead)


def hold(board: Scoreboard, slot: str, pid: int, message: str) -> None:
    """A worker that has a message in its handler's hands."""
    row = board.claim(Kind.WORKER, slot)
    row.message_id = message
    row.words[Cell.PID] = pid
    row.words[Cell.STATE] = State.BUSY


def test_a_message_that_nobody_died_of_is_innocent(board: Scoreboard, clock: Clock) -> None:
    """Also when others did."""
    table = make(board, clock)
    table.record("q", "poison", 0, "SIGSEGV")
    assert table.look("q", "innocent", 0) is None
    assert table.look("another queue", "poison", 0) is None


def test_each_death_counts_once(board: Scoreboard, clock: Clock) -> None:
    """What its header tells already is no news."""
    table = make(board, clock)
    assert table.record("q", "m", 0, "SIGSEGV") == 1
    proof = table.look("q", "m", 0)
    assert proof is not None
    assert (proof.crashes, proof.cause) == (1, "SIGSEGV")
    assert table.look("q", "m", 1) is None
    assert table.record("q", "m", 1, "exit code 9") == 2
    assert table.record("q", "m", 1, "SIGKILL") == 3, "a second worker took it before the first death was known"
    proof = table.look("q", "m", 1)
    assert proof is not None
    assert (proof.crashes, proof.cause) == (3, "SIGKILL")


def test_what_another_host_has_counted_goes_on(board: Scoreboard, clock: Clock) -> None:
    """The header came with the message."""
    assert make(board, clock).record("q", "m", 2, "SIGSEGV") == 3


def test_a_worker_that_seems_dead_is_waited_for_until_the_master_has_buried_it(board: Scoreboard, clock: Clock) -> None:
    """The broker is faster than SIGCHLD."""
    table = make(board, clock, 4711)
    hold(board, "q/0", 4711, "m")
    row = next(board.rows(Kind.WORKER))

    def bury(seconds: float) -> None:
        clock.pause(seconds)
        if clock.waits == 3:
            table.record("q", "m", 0, "SIGSEGV")
            row.clear()

    waiting = Evidence(board, clock, bury, lambda pid: pid == 4711)
    proof = waiting.look("q", "m", 0)
    assert proof is not None
    assert clock.waits == 3


def test_a_worker_that_lives_on_is_not_waited_for(board: Scoreboard, clock: Clock) -> None:
    """It lost its connection and goes on with its task: no crash."""
    hold(board, "q/0", 4711, "m")
    assert make(board, clock).look("q", "m", 0) is None
    assert clock.waits == 0


def test_a_master_that_does_not_bury_is_not_waited_for_longer_than_a_second(board: Scoreboard, clock: Clock) -> None:
    """It may be stopped."""
    hold(board, "q/0", 4711, "m")
    assert make(board, clock, 4711).look("q", "m", 0) is None
    assert 101.0 <= clock.now <= 101.1


def test_the_oldest_is_forgotten_when_there_are_too_many(board: Scoreboard, clock: Clock) -> None:
    """The table is small, and a message is redelivered soon."""
    table = make(board, clock)
    for number in range(module._MOST + 5):
        clock.now += 1
        table.record("q", f"m{number}", 0, "SIGSEGV")
    assert len(list(board.rows(Kind.CRASH))) == module._MOST
    assert table.look("q", "m4", 0) is None
    assert table.look("q", "m5", 0) is not None
