"""The scoreboard: memory that all can read and one writes, over forks, kills and successors."""

import mmap
import os
from pathlib import Path

import pytest

from workqueued import scoreboard as module
from workqueued.queue_settings import DEAD_SUFFIX, MOST_WORKERS
from workqueued.scoreboard import (
    CAPACITY,
    FILE_NAME,
    Cell,
    DeathCell,
    Head,
    Kind,
    QueueCell,
    Row,
    Scoreboard,
    ScoreboardError,
    State,
)


def test_a_new_board_is_empty_and_knows_its_master(tmp_path: Path) -> None:
    """And leaves nothing else in the directory."""
    board = Scoreboard.create(tmp_path)
    assert board[Head.MASTER_PID] == os.getpid()
    assert board[Head.EPOCH] > 0
    assert list(board.rows(*Kind)) == []
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]
    assert (tmp_path / FILE_NAME).stat().st_mode & 0o777 == 0o640


def test_the_file_has_all_its_blocks(tmp_path: Path) -> None:
    """A store into a hole, on a disk that is full by then, would be SIGBUS."""
    Scoreboard.create(tmp_path)
    stat = (tmp_path / FILE_NAME).stat()
    assert stat.st_blocks * 512 >= stat.st_size


def test_what_one_writes_another_reads(tmp_path: Path) -> None:
    """Numbers and texts, while both have it open."""
    row = Scoreboard.create(tmp_path).claim(Kind.WORKER, "task_queue/0")
    (seen,) = Scoreboard.open(tmp_path).rows(Kind.WORKER)
    assert (seen.name, seen.message_id, seen.state) == ("task_queue/0", "", State.STARTING)
    row.words[Cell.STATE] = State.BUSY
    row.words[Cell.TASK_STARTED] = 2**64 - 1
    row.add(Cell.DONE)
    row.add(Cell.DONE, 2)
    row.message_id = "m"
    assert (seen.state, seen.message_id) == (State.BUSY, "m")
    assert seen.state.word == "busy"
    assert (seen.words[Cell.TASK_STARTED], seen.words[Cell.DONE]) == (2**64 - 1, 3)


def test_a_reader_cannot_write(tmp_path: Path) -> None:
    """A status command must not be able to hurt the daemon."""
    Scoreboard.create(tmp_path).claim(Kind.WORKER, "a/0")
    (row,) = Scoreboard.open(tmp_path).rows(Kind.WORKER)
    with pytest.raises(TypeError):
        row.words[Cell.DONE] = 1


def test_rows_are_told_by_kind(tmp_path: Path) -> None:
    """And a queue's by its name."""
    board = Scoreboard.create(tmp_path)
    for kind, name in [(Kind.QUEUE, "a"), (Kind.WORKER, "a/0"), (Kind.MONITOR, "monitor"), (Kind.QUEUE, "b")]:
        board.claim(kind, name)
    assert [row.name for row in board.rows(Kind.QUEUE)] == ["a", "b"]
    assert [row.name for row in board.rows(Kind.WORKER, Kind.MONITOR)] == ["a/0", "monitor"]
    found = board.queue_row("b")
    assert found is not None
    assert found.index == 4
    assert board.queue_row("a/0") is None
    assert found.words[QueueCell.READY] == 0


def test_a_cleared_row_is_free_and_carries_nothing_over(tmp_path: Path) -> None:
    """The next child must not begin with what the last one counted."""
    board = Scoreboard.create(tmp_path)
    row = board.claim(Kind.WORKER, "a/0")
    other = board.claim(Kind.WORKER, "a/1")
    row.message_id = "m"
    row.add(Cell.DONE, 7)
    row.clear()
    assert [one.index for one in board.rows(Kind.WORKER)] == [other.index]
    again = board.claim(Kind.WORKER, "b/0")
    assert again.index == row.index
    assert (again.name, again.message_id, again.words[Cell.DONE]) == ("b/0", "", 0)
    board.row(again.index + 2).words[Cell.DONE] = 7  # whatever was left there
    assert board.claim(Kind.WORKER, "c/0").words[Cell.DONE] == 0


def test_the_board_has_room_for_every_worker_twice(tmp_path: Path) -> None:
    """A rolling reload holds two rows for each worker, and there is a row for each queue and for the monitors."""
    assert CAPACITY >= 3 * MOST_WORKERS + 2
    board = Scoreboard.create(tmp_path)
    for _ in range(CAPACITY):
        board.claim(Kind.WORKER, "one")
    board.row(CAPACITY).words[Cell.KIND] = Kind.FREE
    assert board.claim(Kind.WORKER, "last").index == CAPACITY
    assert sum(1 for _ in board.rows(Kind.WORKER)) == CAPACITY
    with pytest.raises(ScoreboardError, match="the scoreboard is full"):
        board.claim(Kind.WORKER, "one more")


# --- texts ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def row(tmp_path: Path) -> Row:
    """A worker's row."""
    return Scoreboard.create(tmp_path).claim(Kind.WORKER, "a/0")


@pytest.mark.parametrize("text", ["", "m", "é\U0001f600", "x" * 256, "\0\n", "0190163d-8694-739b-aea5-966c26f8ad91"])
def test_a_text_is_read_as_it_was_written(row: Row, text: str) -> None:
    """Also over a longer one, and many times."""
    for _ in range(5):
        row.message_id = "y" * 256
        row.message_id = text
        assert row.message_id == text
    assert row.name == "a/0"


def test_the_longest_names_fit(row: Row) -> None:
    """A queue's name with a slot's number; an AMQP message id has 255 bytes at most."""
    longest = "q" * (255 - len(DEAD_SUFFIX)) + f"/{MOST_WORKERS - 1}"
    row.name = longest
    row.message_id = "m" * 255
    assert (row.name, row.message_id) == (longest, "m" * 255)


def test_a_text_that_is_too_long_is_cut_and_hurts_nobody(row: Row, tmp_path: Path) -> None:
    """The row after it stays as it is; a cut character is shown as one that cannot be."""
    neighbour = Scoreboard.open(tmp_path).row(row.index + 1)
    row.message_id = "é" * 5000
    row.name = "x" + "é" * 5000
    assert row.message_id == "é" * 128
    assert row.name == "x" + "é" * 127 + "\ufffd"
    assert not any(neighbour.words)


def test_text_that_is_not_utf_8_is_written_all_the_same(row: Row) -> None:
    """Message ids come from strangers."""
    row.message_id = "a\udcffb"
    assert row.message_id == "a?b"


def test_a_text_that_is_being_written_is_unknown(row: Row) -> None:
    """The writer may have been killed in the middle: an odd sequence count."""
    row.message_id = "m"
    row.words[module._MESSAGE_AT] |= 1
    assert row.message_id is None
    row.message_id = "again"
    assert row.message_id == "again"


def test_a_torn_text_is_unknown(row: Row) -> None:
    """The checksum tells."""
    row.message_id = "0123456789"
    row.words[module._MESSAGE_AT + 2] ^= 1
    assert row.message_id is None


@pytest.mark.parametrize("word", [257, 2**32 - 1, 2**64 - 1])
def test_a_length_that_cannot_be_is_unknown(row: Row, word: int) -> None:
    """Garbage is no reason to read beyond the text."""
    row.message_id = "m"
    row.words[module._MESSAGE_AT + 1] = word
    assert row.message_id is None


def test_garbage_in_a_row_is_no_crash(row: Row) -> None:
    """An unknown state is the first one; texts are unknown."""
    for word in range(len(row.words)):
        row.words[word] = 0xDEADBEEFDEADBEEF
    assert row.state is State.STARTING
    assert (row.name, row.message_id) == (None, None)


# --- files ----------------------------------------------------------------------------------------------------------


def test_a_board_that_is_not_there_is_told(tmp_path: Path) -> None:
    """With its path."""
    with pytest.raises(ScoreboardError) as caught:
        Scoreboard.open(tmp_path / "absent")
    assert str(caught.value).startswith(f"{tmp_path}/absent/{FILE_NAME}: cannot read it: ")
    assert caught.value.exit_code == os.EX_IOERR


@pytest.mark.parametrize("length", [0, 1, 4096, (CAPACITY + 1) * module._ROW_BYTES - 1])
def test_a_truncated_board_is_told(tmp_path: Path, length: int) -> None:
    """Reading on would be SIGBUS."""
    Scoreboard.create(tmp_path)
    os.truncate(tmp_path / FILE_NAME, length)
    with pytest.raises(ScoreboardError) as caught:
        Scoreboard.open(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/{FILE_NAME}: ")


@pytest.mark.parametrize(
    ("content", "length", "told"),
    [
        (b"\0", 1, "is no scoreboard"),
        (b"\xff", 1, "is no scoreboard"),
        (b"WQBOARD\x04"[::-1], 2, "is no scoreboard"),
        (b"WQBOARD\x03"[::-1], 1, "is of another version; ask with the command of the workqueued that runs"),
        (b"WQBOARD\x05"[::-1], 3, "is of another version; ask with the command of the workqueued that runs"),
    ],
)
def test_a_file_that_is_no_board_of_ours_is_told(tmp_path: Path, content: bytes, length: int, told: str) -> None:
    """Garbage of the right size; and a layout of another version, whatever its size."""
    size = (CAPACITY + 1) * module._ROW_BYTES * length
    (tmp_path / FILE_NAME).write_bytes((content * size)[:size])
    with pytest.raises(ScoreboardError) as caught:
        Scoreboard.open(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path}/{FILE_NAME}: {told}")


def test_a_directory_that_takes_no_board_is_told(tmp_path: Path) -> None:
    """And nothing half-made stays."""
    with pytest.raises(ScoreboardError) as caught:
        Scoreboard.create(tmp_path / "absent")
    assert str(caught.value) == f"{tmp_path}/absent/{FILE_NAME}: cannot make it: No such file or directory"
    (tmp_path / FILE_NAME).mkdir()
    with pytest.raises(ScoreboardError):
        Scoreboard.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_a_successor_does_not_touch_what_old_children_map(tmp_path: Path) -> None:
    """A new master makes a new file; orphans of the old one write on into theirs, and harm nobody."""
    old_row = Scoreboard.create(tmp_path).claim(Kind.WORKER, "a/0")
    reader = Scoreboard.open(tmp_path)
    new_row = Scoreboard.create(tmp_path).claim(Kind.WORKER, "a/0")
    old_row.add(Cell.DONE, 5)
    old_row.message_id = "old"
    assert new_row.words[Cell.DONE] == 0
    (seen_by_reader,) = reader.rows(Kind.WORKER)
    (seen_now,) = Scoreboard.open(tmp_path).rows(Kind.WORKER)
    assert (seen_by_reader.words[Cell.DONE], seen_by_reader.message_id) == (5, "old")
    assert (seen_now.words[Cell.DONE], seen_now.message_id) == (0, "")


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")  # threads that other tests left behind
def test_values_cross_a_fork_and_outlive_a_killed_child(tmp_path: Path) -> None:
    """The master reads from the page what a killed worker had in hand."""
    row = Scoreboard.create(tmp_path).claim(Kind.WORKER, "a/0")
    pid = os.fork()
    if pid == 0:
        row.message_id = "in hand"
        row.words[Cell.TASK_STARTED] = 123
        row.words[Cell.STATE] = State.BUSY
        os.kill(os.getpid(), 9)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == 9
    assert (row.message_id, row.words[Cell.TASK_STARTED], row.state) == ("in hand", 123, State.BUSY)


def test_rows_are_aligned_and_hold_their_words() -> None:
    """Only an aligned 8-byte store is never torn; no cell may lie in a text."""
    assert module._ROW_BYTES % 8 == 0
    assert max(*Cell, *QueueCell, *Head, *DeathCell) < module._NAME_AT
    assert module._NAME_AT + module._TEXT_WORDS <= module._MESSAGE_AT
    assert module._MESSAGE_AT + module._TEXT_WORDS <= module._ROW_WORDS


def test_a_row_lets_go_of_its_memory(tmp_path: Path) -> None:
    """A mapping cannot be closed while somebody holds a view of it."""
    Scoreboard.create(tmp_path)
    with (tmp_path / FILE_NAME).open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    view = memoryview(memory)
    row = Row(view, 1)
    with pytest.raises(BufferError):
        memory.close()
    row.release()
    view.release()
    memory.close()
