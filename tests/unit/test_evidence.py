"""Evidence: what is proven against a message, and how often."""

from pathlib import Path

import pytest

from workqueued import evidence as module
from workqueued.evidence import Evidence
from workqueued.outcome import Proof
from workqueued.scoreboard import Cell, Kind, Row, Scoreboard, State


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


def died(table: Evidence, board: Scoreboard, message: str, known: int, cause: str, life: int = 0) -> int:
    """A worker of queue q died of a message; how many that makes."""
    row = hold(board, "q/9", 99, message)
    row.words[Cell.CRASHES], row.words[Cell.LIFE] = known, life
    count = table.record("q", row, cause)
    row.clear()
    return count


def hold(board: Scoreboard, slot: str, pid: int, message: str) -> Row:
    """A worker that has a message in its handler's hands."""
    row = board.claim(Kind.WORKER, slot)
    row.message_id = message
    row.words[Cell.PID] = pid
    row.words[Cell.STATE] = State.BUSY
    row.words[Cell.TASK_STARTED] = 1
    return row


def test_a_message_that_nobody_died_of_is_innocent(board: Scoreboard, clock: Clock) -> None:
    """Also when others did."""
    table = make(board, clock)
    died(table, board, "poison", 0, "SIGSEGV")
    assert table.look("q", "innocent", 0) is None
    assert table.look("another queue", "poison", 0) is None


def test_each_death_counts_once(board: Scoreboard, clock: Clock) -> None:
    """Also that of a second worker, which took the message before the first death was known."""
    table = make(board, clock)
    assert died(table, board, "m", 0, "SIGSEGV") == 1
    assert table.look("q", "m", 0) == Proof(1, "SIGSEGV")
    assert died(table, board, "m", 1, "exit code 9") == 2
    assert died(table, board, "m", 1, "SIGKILL") == 3
    assert table.look("q", "m", 0) == Proof(3, "SIGKILL")


def test_a_message_that_begins_anew_is_innocent(board: Scoreboard, clock: Clock) -> None:
    """Replayed from the dead queue, or another one with the same id: it must not be buried for a lost connection."""
    table = make(board, clock)
    for _ in range(3):
        died(table, board, "m", 0, "SIGSEGV", life=1)
    assert table.look("q", "m", 1) == Proof(3, "SIGSEGV")
    assert table.look("q", "m", 2) is None


def test_what_another_host_has_counted_goes_on(board: Scoreboard, clock: Clock) -> None:
    """The header came with the message."""
    assert died(make(board, clock), board, "m", 2, "SIGSEGV") == 3


def test_a_worker_that_seems_dead_is_waited_for_until_the_master_has_buried_it(board: Scoreboard, clock: Clock) -> None:
    """The broker is faster than SIGCHLD."""
    table = make(board, clock, 4711)
    hold(board, "q/0", 4711, "m")
    row = next(board.rows(Kind.WORKER))

    def bury(seconds: float) -> None:
        clock.pause(seconds)
        if clock.waits == 3:
            died(table, board, "m", 0, "SIGSEGV")
            row.clear()

    waiting = Evidence(board, clock, bury, lambda pid: pid == 4711)
    assert waiting.look("q", "m", 0) == Proof(1, "SIGSEGV")
    assert clock.waits == 3


def test_a_worker_that_lives_on_is_not_waited_for(board: Scoreboard, clock: Clock) -> None:
    """It lost its connection and goes on with its task: no crash."""
    hold(board, "q/0", 4711, "m")
    assert make(board, clock).look("q", "m", 0) is None
    assert clock.waits == 0


def test_a_master_that_does_not_bury_is_not_waited_for_longer_than_three_seconds(
    board: Scoreboard, clock: Clock
) -> None:
    """It may be stopped."""
    hold(board, "q/0", 4711, "m")
    assert make(board, clock, 4711).look("q", "m", 0) is None
    assert clock.waits == 600
    assert clock.now == pytest.approx(103.0)


def test_a_second_in_which_the_machine_stood_still_is_no_time_for_the_master(board: Scoreboard, clock: Clock) -> None:
    """It had none either; to give it up for that would cost another worker."""
    table = make(board, clock, 4711)
    hold(board, "q/0", 4711, "m")
    row = next(board.rows(Kind.WORKER))

    def stand_still(_seconds: float) -> None:
        clock.pause(60.0)
        if clock.waits == 2:
            died(table, board, "m", 0, "SIGSEGV")
            row.clear()

    assert Evidence(board, clock, stand_still, lambda pid: pid == 4711).look("q", "m", 0) == Proof(1, "SIGSEGV")


def test_the_oldest_is_forgotten_when_there_are_too_many(board: Scoreboard, clock: Clock) -> None:
    """The table is small, and a message is redelivered soon."""
    table = make(board, clock)
    for number in range(module._MOST + 5):
        clock.now += 1
        died(table, board, f"m{number}", 0, "SIGSEGV")
    assert len(list(board.rows(Kind.CRASH))) == module._MOST
    assert table.look("q", "m4", 0) is None
    assert table.look("q", "m5", 0) is not None


def test_a_new_master_goes_on_from_the_table_of_the_last_one(board: Scoreboard, clock: Clock, tmp_path: Path) -> None:
    """And notes what dead workers had in hand; those that live, or had nothing, tell nothing."""
    former = make(board, clock)
    died(former, board, "m", 0, "SIGSEGV")
    hold(board, "q/0", 1, "in a dead hand")
    hold(board, "q/1", 2, "in a living hand")
    board.claim(Kind.WORKER, "q/2").words[Cell.PID] = 1
    new = Scoreboard.create(tmp_path)
    table = make(new, clock, 1)
    table.inherit(board)
    assert table.look("q", "m", 0) == Proof(1, "SIGSEGV")
    assert table.look("q", "in a dead hand", 0) == Proof(0, "", 1)
    assert len(list(new.rows(Kind.CRASH))) == 2
    hold(new, "q/0", 1, "in a dead hand")
    third = make(Scoreboard.create(tmp_path), clock, 1)
    third.inherit(new)
    assert third.look("q", "in a dead hand", 0) == Proof(0, "", 2)


def test_a_damaged_row_of_a_former_master_does_not_stop_the_next(
    board: Scoreboard, clock: Clock, tmp_path: Path
) -> None:
    """Its counts may be anything that a word can hold."""
    worst = 2**64 - 1
    hold(board, "q/0", 1, "damaged").words[Cell.REDELIVERIES] = worst
    table = make(Scoreboard.create(tmp_path), clock, 1)
    table.inherit(board)
    proof = table.look("q", "damaged", 0)
    assert proof is not None
    assert 10 < proof.lost < worst
    assert died(table, board, "other", worst, "SIGSEGV") < worst
