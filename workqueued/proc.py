"""Processes as the kernel tells of them: dead or alive, how large, who holds a lock.

Runs in: every process. See proc(5) and fcntl(2).
"""

import fcntl
import os
import struct
from pathlib import Path

#: Flags of a process (include/linux/sched.h): "Getting shut down", and "I am a kernel thread".
_PF_EXITING, _PF_KTHREAD = 0x4, 0x00200000
#: struct flock, as far as it is filled in: l_type, l_whence, l_start, l_len, l_pid.
_FLOCK = "hhqqi"


def is_dead(pid: int) -> bool:
    """Whether a process is gone, a zombie, or about to become one.

    The kernel closes the sockets of a dying process, upon which the broker gives its message to somebody else, before
    it is a zombie (exit_files and exit_notify in kernel/exit.c); its flags say so from the first.
    """
    state, flags = _state_and_flags(pid)
    return state in (b"Z", b"X") or bool(flags & _PF_EXITING)


def is_stopped(pid: int) -> bool:
    """Whether all threads of a process stand still; after SIGSTOP each has to come by first, which takes its time."""
    threads = Path(f"/proc/{pid}/task")
    try:
        states = [(thread / "stat").read_bytes().rpartition(b") ")[2][:1] for thread in threads.iterdir()]
    except OSError:  # a thread, or all of them, has ended meanwhile
        return not threads.exists()
    return all(state in b"Tt" for state in states)


def is_in_exec(pid: int) -> bool:
    """Whether a process has no arguments yet: it lives, is no kernel thread, and its next program is being loaded."""
    try:
        if Path(f"/proc/{pid}/cmdline").read_bytes():
            return False
    except OSError:
        return False
    state, flags = _state_and_flags(pid)
    return state not in (b"Z", b"X") and not flags & _PF_KTHREAD


def _state_and_flags(pid: int) -> tuple[bytes, int]:
    """Fields 3 and 9 of stat; those of a process that is gone: dead."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return b"X", 0
    state, *_, flags = stat.rpartition(b")")[2].split()[:7]
    return state, int(flags)


def resident_memory(pid: int | None = None) -> int:
    """Resident memory, bytes; of this process without a pid.

    Raises:
        OSError: there is no such process.
    """
    pages = Path(f"/proc/{pid or 'self'}/statm").read_bytes().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def resident_or_none(pid: int) -> int | None:
    """The same; None when there is no such process."""
    try:
        return resident_memory(pid)
    except (OSError, IndexError):
        return None


def lock_holder(file: Path) -> int | None:
    """The pid of whoever holds an fcntl lock for writing on a file, without taking it; None: nobody.

    Raises:
        OSError: the file is not there, or not ours to read.
    """
    with file.open("rb") as opened:
        asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(opened, fcntl.F_GETLK, asked))
    return None if kind == fcntl.F_UNLCK else pid
