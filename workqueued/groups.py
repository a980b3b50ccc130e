"""Process groups: end one, and find what is left of a command wherever it went.

Runs in: worker (its own command), master (the command of a worker that died).

A command is the leader of a process group, and all that it starts belongs to it, unless a program asks for a group of
its own (setsid, a shell with job control). Such a program is still known by its environment, which carries the token of
the run; only one that also cleans its environment (`env -i`, sudo) cannot be found.
"""

import contextlib
import os
import signal
import time
from collections.abc import Iterable

from workqueued.proc import is_in_exec

#: The environment variable that tells which run of which worker's command a process belongs to.
RUN = "WQ_RUN"
#: A fork bomb is left to its limits after so many looks.
_MOST_LOOKS = 20
#: How often, a millisecond apart, a process is looked at again that is in the middle of an execve(2).
_MOST_WAITS = 200


def token(pid: int, started: int, delivered: int) -> str:
    """What names one run of a command on this host: all three are in the worker's row, also after its death.

    Args:
        pid: the worker's.
        started: when the worker was started, monotonic ns; a pid alone comes again.
        delivered: the how manieth delivery of that worker it is.
    """
    return f"{pid}-{started}-{delivered}"


def signal_group(pgid: int, number: signal.Signals) -> bool:
    """Send a signal to a process group; False when there is none, or it is not ours to signal. Never raises.

    0 would be our own group and -1 everybody (kill(2)): a cell that nobody has filled in must not kill the daemon.
    """
    if pgid <= 1 or pgid == os.getpgrp():
        return False
    try:
        os.killpg(pgid, number)
    except (OSError, OverflowError):
        return False
    return True


def end(pgid: int) -> bool:
    """SIGKILL to a process group, as `signal_group`."""
    return signal_group(pgid, signal.SIGKILL)


def survivors(run: str) -> list[int]:
    """The processes that live and whose environment has the token of a run; those we may not read are not among them.

    About 10 µs for each process on the host.
    """
    return sorted(_of_run(run, _processes()))


def end_survivors(run: str, pgid: int = 0) -> int:
    """SIGKILL to all that is left of a run; returns to how many processes.

    Looks until there is no process that it has not looked at: one may fork, and be gone by itself, between the list of
    processes and the look at it. Whoever is in a list and has the token when looked at forks no more after its kill.

    Args:
        run: its token.
        pgid: its process group. When one of the survivors is in it, the group is ended with all who are; else the
            number may be somebody else's by now, and is left alone.
    """
    ended = 0
    looked_at: set[int] = set()
    for _ in range(_MOST_LOOKS):
        processes = _processes() - looked_at
        if not processes:
            break
        found = _of_run(run, processes)
        if any(_group_of(pid) == pgid for pid in found):
            end(pgid)
        for pid in found:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        looked_at |= processes
        ended += len(found)
    return ended


def _processes() -> set[int]:
    """All on this host, but ours."""
    return {int(name) for name in os.listdir("/proc") if name.isdecimal()} - {os.getpid()}  # noqa: PTH208 - names only


def _of_run(run: str, processes: Iterable[int]) -> set[int]:
    entry = f"\0{RUN}={run}\0".encode()
    return {pid for pid in processes if entry in b"\0" + _settled_environment(pid)}


def _group_of(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def _settled_environment(pid: int) -> bytes:
    """The environment of a process, also of one that is just being replaced by a program.

    In the middle of an execve(2) the new memory is there and the environment not yet (proc/base.c: "ensure the process
    spawned far enough to have an environment"): the process would pass for somebody else's, and live on. So would one
    whose old memory we opened and whose new one is complete now: hence the second reading.
    """
    for _ in range(_MOST_WAITS):
        if environment := _environment(pid):
            return environment
        if not is_in_exec(pid):
            break
        time.sleep(0.001)
    return _environment(pid)


def _environment(pid: int) -> bytes:
    """What a process got as its environment; nothing when it is dead, a kernel thread or not ours to read."""
    try:
        descriptor = os.open(f"/proc/{pid}/environ", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    chunks = []
    try:
        # The kernel gives a page or so at a time.
        while chunk := os.read(descriptor, 131072):
            chunks.append(chunk)
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return b"".join(chunks)
