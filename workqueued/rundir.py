"""The run directory: one master at a time, and what the last one left behind.

Runs in: master.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from workqueued import groups
from workqueued.errors import ConfigError, TemporaryError
from workqueued.evidence import is_dead
from workqueued.scoreboard import Cell, Kind, Row, Scoreboard, ScoreboardError

#: Files in the run directory.
LOCK_FILE, PID_FILE = "lock", "pid"


def find_former(directory: Path) -> Scoreboard | None:
    """The scoreboard that the last master left behind; None when there is none, or one of another version."""
    with contextlib.suppress(ScoreboardError):
        return Scoreboard.open(directory)
    return None


def end_commands_left_behind(former: Scoreboard) -> None:
    """Kill the commands of workers that a former master's end took along; those that live end their own."""
    for row in former.rows(Kind.WORKER):
        if is_dead(row.words[Cell.PID]):
            end_command(row)


def end_command(row: Row) -> None:
    """Kill the command that a dead worker's row tells of, if one was running: its group, and whoever left that."""
    words = row.words
    if words[Cell.COMMAND]:
        run = groups.token(words[Cell.PID], words[Cell.STARTED], words[Cell.DELIVERED])
        groups.end_survivors(run, words[Cell.COMMAND])


@contextlib.contextmanager
def claim(directory: Path) -> Iterator[None]:
    """Hold the run directory for this master.

    The lock is fcntl's, which a fork does not inherit: with flock a surviving child would hold it on.

    Raises:
        TemporaryError: another master holds it.
        ConfigError: the directory cannot be made or written.
    """
    try:
        directory.mkdir(mode=0o750, parents=True, exist_ok=True)
        lock = (directory / LOCK_FILE).open("a+b")
    except OSError as error:
        raise ConfigError(
            f"run_directory: cannot use {directory}: {error.strerror}; make it writable for this user, "
            "or name another in the configuration"
        ) from error
    with lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            holder = lock.read(32).decode(errors="replace").strip() or "unknown"
            raise TemporaryError(
                f"another workqueued (pid {holder}) has the run directory {directory}; stop it, or give this one "
                "another run_directory"
            ) from error
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n".encode())
        lock.flush()
        (directory / PID_FILE).write_text(f"{os.getpid()}\n")
        try:
            yield
        finally:
            (directory / PID_FILE).unlink(missing_ok=True)
