"""Signals: which ones we take, and how a process waits for them.

Runs in: master (`block`, `wait`: no handlers at all), children (`Inbox`: handlers that do next to nothing).

The master blocks its signals and takes them one at a time with sigtimedwait, so nothing ever runs in the middle of
something else. A child cannot do that: a blocked mask is inherited through exec and would make SIGTERM a no-op for
every program that a handler starts.
"""

import contextlib
import importlib
import os
import signal
import socket
from collections.abc import Callable, Iterable
from types import FrameType

#: Everything the master reacts to. USR2 comes from children: "my row has news".
MASTER = frozenset(
    {
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGHUP,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGCHLD,
    }
)

#: What a child understands: TERM drain, QUIT hand back at once, USR1 begin to consume. INT and HUP reach it from a
#: terminal, which signals the whole foreground group; they are the master's to act on.
CHILD = (signal.SIGTERM, signal.SIGQUIT, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


#: signal.getsignal and pthread_sigmask without the enums around their answers, which cost more than the questions:
#: asked after each task. (signal.py wraps CPython's own _signal, which has had these functions since 3.5.)
_signal = importlib.import_module("_signal")
current_handler: Callable[[int], object] = _signal.getsignal
#: How long a task's handler may have changed our signals in a stream of short tasks, ns.
_LOOK_EVERY = 50_000_000
_SETMASK = int(signal.SIG_SETMASK)
_set_mask: Callable[[int, Iterable[int]], set[int]] = _signal.pthread_sigmask


def block() -> None:
    """Block the master's signals in this thread; a fork inherits the mask."""
    signal.pthread_sigmask(signal.SIG_BLOCK, MASTER)


def leave_to_main_thread() -> None:
    """Take none in this thread: they are the main thread's, or the inbox's."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())


def wait(seconds: float | None) -> signal.Signals | None:
    """The next pending signal, or None after `seconds` (None: no limit)."""
    if seconds is None:
        return signal.Signals(signal.sigwaitinfo(MASTER).si_signo)
    info = signal.sigtimedwait(MASTER, max(0.0, seconds))
    # Interrupted by SIGCONT after the time is over, CPython gives a siginfo that nobody has filled in.
    if info is None or info.si_signo not in MASTER:
        return None
    return signal.Signals(info.si_signo)


class Inbox:
    """A child's signals as bytes on a socket that its watching thread reads.

    The C-level handler writes the signal's number at once (signal.set_wakeup_fd), also while the main thread is inside
    a long C call and its Python handlers have to wait. Numbers may come twice.
    """

    #: The installed one, so that it is never collected: a signal in the last moment of a process would find its socket
    #: closed, and Python would complain on stderr, in the middle of a JSON log.
    _installed: "Inbox | None" = None

    def __init__(self) -> None:
        self._look_again = 0
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)  # noqa: FBT003 - its only argument
        self._writer.setblocking(False)  # noqa: FBT003

    def install(self) -> None:
        """Take the child's signals and unblock everything. Main thread only."""
        Inbox._installed = self
        for number in CHILD:
            signal.signal(number, _post)
        # A handler may start programs and write to pipes; these are for the master and the defaults.
        for number in (signal.SIGUSR2, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())

    def restore(self, now: int) -> bool:
        """Undo what handlers did to our signals; returns whether anything had to be undone. Main thread only.

        Args:
            now: monotonic ns. So soon after the last look there is none: it takes three system calls.
        """
        if now < self._look_again:
            return False
        self._look_again = now + _LOOK_EVERY
        wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        intact = wakeup == self._writer.fileno()
        for number in CHILD:
            if current_handler(number) is not _post:
                signal.signal(number, _post)
                intact = False
        if _set_mask(_SETMASK, ()):
            intact = False
        return not intact

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self._reader.fileno()

    def take(self) -> list[int]:
        """The numbers that arrived."""
        with contextlib.suppress(BlockingIOError):
            return list(self._reader.recv(4096))
        return []

    def post(self, number: int) -> None:
        """Put a number in by hand: wakes the watching thread."""
        with contextlib.suppress(OSError):
            self._writer.send(bytes([number]))

    def close(self) -> None:
        """Let go of both ends."""
        self._reader.close()
        self._writer.close()


def _post(number: int, _frame: FrameType | None) -> None:
    """Put a signal into the inbox, where it is already, unless a task's handler took the wakeup descriptor away."""
    if Inbox._installed is not None:  # noqa: SLF001
        Inbox._installed.post(number)  # noqa: SLF001


def forget_in_forks() -> None:
    """Let processes that a handler forks have default signals: TERM must end them, and not reach our inbox.

    multiprocessing forks without exec, so that handlers and wakeup descriptor are inherited. A signal that comes
    between the fork and the change waits, blocked, for its new meaning.
    """
    masks: list[set[int]] = []
    os.register_at_fork(
        before=lambda: masks.append({int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, CHILD)}),
        after_in_parent=lambda: _unblock(masks.pop()),
        after_in_child=lambda: _become_ordinary(masks.pop()),
    )


def _unblock(mask: set[int]) -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _become_ordinary(mask: set[int]) -> None:
    signal.set_wakeup_fd(-1)
    for number in CHILD:
        signal.signal(number, signal.SIG_DFL)
    _unblock(mask)


def name_of(number: int) -> str:
    """SIGKILL for 9; a real-time signal has no name of its own."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; False when there is no such process any more."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True
