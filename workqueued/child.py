"""Fork a child, and know when either side dies.

Runs in: master (`spawn`), child (the first lines after the fork).

Death is noticed in both directions: the master gets SIGCHLD; a child sees end-of-file on the *lifeline*, a pipe whose
write end only the master holds, and gets SIGTERM by PR_SET_PDEATHSIG, which also reaches a child that does not look.
"""

import contextlib
import ctypes
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass

import setproctitle

from workqueued.logs import log

#: prctl(2) option: the signal we get when our parent's thread dies.
_PR_SET_PDEATHSIG = 1

Entry = Callable[[], int]


@dataclass(slots=True)
class Lifeline:
    """A pipe that ends when the master does."""

    reader: int
    writer: int

    @classmethod
    def create(cls) -> "Lifeline":
        """Make the pipe; both ends are close-on-exec."""
        return cls(*os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK))

    def keep_reader(self) -> None:
        """In a child: give up the write end, or the child would keep its own lifeline alive."""
        os.close(self.writer)
        self.writer = -1


def die_with_parent(parent: int, number: signal.Signals = signal.SIGTERM) -> bool:
    """Ask the kernel for a signal when the parent dies; False when it is already dead.

    The parent's *thread* counts, so the master forks from its only thread.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    # A parent that died before the prctl sends nothing.
    return os.getppid() == parent


def spawn(entry: Entry, lifeline: Lifeline, title: str) -> int:
    """Fork a child that runs `entry` and exits with its value; returns the child's pid.

    Signals stay blocked in the child until `entry` has put its handlers in place, so that none is lost in between.

    Raises:
        OSError: the kernel has no process for us.
    """
    parent = os.getpid()
    # What lives now is never collected in the children: no reference counts of dead garbage, no copied pages.
    gc.freeze()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _run(entry, lifeline, title, parent)
    return pid


def _run(entry: Entry, lifeline: Lifeline, title: str, parent: int) -> None:
    """The child's life; never returns, so that nothing of the master's stack runs twice."""
    code = os.EX_SOFTWARE
    try:
        lifeline.keep_reader()
        if not die_with_parent(parent):
            os._exit(os.EX_TEMPFAIL)
        setproctitle.setproctitle(title)
        with contextlib.suppress(OSError):
            null = os.open(os.devnull, os.O_RDONLY)
            os.dup2(null, 0)
            os.close(null)
        code = entry()
    except BaseException as error:  # noqa: BLE001 - the last line of defence: said, and told upward by the code
        log.error("child.failed", error=repr(error), traceback=traceback.format_exc(limit=-8)[-2500:])
    finally:
        try:
            log.flush()
        finally:
            os._exit(code)


@dataclass(frozen=True, slots=True)
class Death:
    """How a child ended."""

    pid: int
    code: int | None
    signal: int | None


def reap() -> list[Death]:
    """All children that ended since the last call; SIGCHLD coalesces, so it is a loop."""
    deaths: list[Death] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return deaths
        if pid == 0:
            return deaths
        if os.WIFSIGNALED(status):
            deaths.append(Death(pid, None, os.WTERMSIG(status)))
        else:
            deaths.append(Death(pid, os.waitstatus_to_exitcode(status), None))
