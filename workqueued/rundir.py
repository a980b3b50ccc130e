"""The run directory: one master at a time, and what the last one left behind.

Runs in: master.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from workqueued import groups
from workqueued.errors import ConfigError, TemporaryError
from workqueued.paths import LOCK_FILE, PID_FILE
from workqueued.proc import is_dead
from workqueued.scoreboard import Cell, Kind, Row, Scoreboard, ScoreboardError


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


class Claim:
    """The run directory, held by this master: a lock that tells whether somebody took the directory away since."""

    def __init__(self, directory: Path) -> None:
        """Take it; errors as for `claim`."""
        self._directory = directory
        self._lock = _lock(directory)

    def renew(self) -> bool:
        """Make anew what was deleted under us; returns whether there was need. Errors as for `claim`."""
        with contextlib.suppress(OSError):
            if os.path.samestat((self._directory / LOCK_FILE).stat(), os.fstat(self._lock.fileno())):
                return False
        old, self._lock = self._lock, _lock(self._directory)
        old.close()
        return True

    def release(self) -> None:
        """Leave it to the next master; what another one wrote stays."""
        path = self._directory / PID_FILE
        with contextlib.suppress(OSError):
            if path.read_text() == _own_pid():
                path.unlink()
        self._lock.close()


@contextlib.contextmanager
def claim(directory: Path) -> Iterator[Claim]:
    """Hold the run directory for this master.

    The lock is fcntl's, which a fork does not inherit: with flock a surviving child would hold it on.

    Raises:
        TemporaryError: another master holds it.
        ConfigError: the directory cannot be made or written.
        ScoreboardError: the disk is full.
    """
    claimed = Claim(directory)
    try:
        yield claimed
    finally:
        claimed.release()


def _lock(directory: Path) -> BinaryIO:
    """Make directory, lock and pid file; errors as for `claim`."""
    lock: BinaryIO | None = None
    try:
        if not directory.is_dir():
            directory.mkdir(parents=True, exist_ok=True)
            directory.chmod(0o750)  # whatever the umask: our group is to see the status
        lock = (directory / LOCK_FILE).open("a+b", buffering=0)
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:  # either means that somebody has it (fcntl(2))
            lock.seek(0)
            holder = lock.read(32).decode(errors="replace").strip() or "unknown"
            lock.close()
            raise TemporaryError(
                f"another workqueued (pid {holder}) has the run directory {directory}; stop it, or give this one "
                "another run_directory"
            ) from error
        os.fchmod(lock.fileno(), 0o640)
        lock.truncate(0)
        lock.write(_own_pid().encode())
        (directory / PID_FILE).write_text(_own_pid())
    except OSError as error:
        if lock is not None:
            lock.close()
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ScoreboardError(f"run_directory: {directory}: {error.strerror}; make room") from error
        raise ConfigError(
            f"run_directory: cannot use {directory}: {error.strerror}; make it writable for this user, "
            "or name another in the configuration"
        ) from error
    return lock


def _own_pid() -> str:
    return f"{os.getpid()}\n"
