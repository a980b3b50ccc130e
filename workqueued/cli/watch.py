"""Watch: a terminal that is drawn on in place, and is as it was afterwards; elsewhere, one print after the other.

It draws on the terminal's other screen, so that nothing of it stays. Echo and line editing are off meanwhile, and so is
Ctrl-Z, which would leave the shell on that screen.
"""

import contextlib
import os
import select
import signal
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from workqueued.cli.screen import Screen
from workqueued.errors import WorkqueuedError

#: Other screen and no cursor; and back again (xterm's control sequences, which all terminals of today know).
_BEGIN, _END = b"\x1b[?1049h\x1b[?25l", b"\x1b[?25h\x1b[?1049l"
_HOME, _REST_OF_LINE, _REST_OF_SCREEN = "\x1b[H", "\x1b[K", "\x1b[J"
#: Keys that end it: q, and Ctrl-C or Ctrl-D where the terminal passes them on.
_ENOUGH = b"qQ\x03\x04"
#: Columns of control characters and local modes in what tcgetattr returns (termios(3)).
_LOCAL, _CHARACTERS = 3, 6


class Interrupted(Exception):  # noqa: N818 - no error: somebody has seen enough
    """A signal asks us to end; the argument is its number."""


def watch(screen: Screen, interval: float, take: Callable[[], Sequence[str]]) -> int:
    """Show what `take` returns, again and again, until q, Ctrl-C or a signal; returns the exit code.

    Args:
        screen: where; on a terminal each is drawn over the last one.
        interval: seconds from one to the next.
        take: the lines, made anew.
    """
    try:
        with _signals(), _drawing(screen) if screen.terminal else contextlib.nullcontext():
            due = time.monotonic()
            while True:
                if screen.terminal:
                    screen.width = os.get_terminal_size(1).columns
                _show(screen, take())
                due = max(due + interval, time.monotonic())
                if _has_enough(due):
                    return os.EX_OK
    except KeyboardInterrupt:
        return os.EX_OK
    except Interrupted as end:
        return 128 + int(end.args[0])


def _show(screen: Screen, lines: Sequence[str]) -> None:
    if not screen.terminal:
        for line in lines:
            screen.line(line)
        screen.flush()
        return
    room = os.get_terminal_size(1).lines
    if len(lines) > room:
        lines = [*lines[: room - 1], f"… and {len(lines) - room + 1} more lines"]
    # No newline after the last: the screen would scroll.
    text = _HOME + "\r\n".join(line + _REST_OF_LINE for line in lines) + _REST_OF_SCREEN
    screen.write(screen.encoded(text))


def _has_enough(until: float) -> bool:
    """Wait; returns whether somebody pressed q meanwhile."""
    listen = [0] if os.isatty(0) and os.isatty(1) else []
    while (left := until - time.monotonic()) > 0:
        if select.select(listen, [], [], left)[0]:
            keys = os.read(0, 64)
            if not keys or set(keys) & set(_ENOUGH):
                return True
    return False


@contextlib.contextmanager
def _drawing(screen: Screen) -> Iterator[None]:
    """The terminal is ours for as long as the block lasts."""
    before = termios.tcgetattr(0) if os.isatty(0) else None
    try:
        if before is not None:
            ours = termios.tcgetattr(0)
            ours[_LOCAL] &= ~(termios.ECHO | termios.ICANON)
            ours[_CHARACTERS][termios.VSUSP] = b"\0"
            termios.tcsetattr(0, termios.TCSADRAIN, ours)
        screen.write(_BEGIN)
        yield
    finally:
        if before is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, before)
        with contextlib.suppress(WorkqueuedError):  # the terminal may be gone
            screen.write(_END)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """TERM and HUP end it in good order, too."""

    def leave(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
