"""Screen: lines for people and for programs, on a stdout that may be slow or gone.

Whoever reads may be `less`, and not read on for an hour; meanwhile the connection to the broker must live. So nothing
is written that could block: a pipe takes PIPE_BUF bytes when select(2) says that it is writable (pipe(7)).
"""

import contextlib
import os
import select
import shutil
import stat
import sys
import unicodedata
from collections.abc import Callable

from workqueued.errors import WorkqueuedError

#: Text is written when there is so much of it, characters.
_FULL = 1 << 16
#: Kinds of characters that move the cursor, turn the direction of text, or show nothing (unicode.org, UAX 44).
_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


class ReaderGoneError(WorkqueuedError):
    """Nobody reads stdout any more, as after `| head`; the shell's code for SIGPIPE, and not a word."""

    exit_code = 141


class OutputError(WorkqueuedError):
    """Stdout cannot be written."""

    exit_code = os.EX_IOERR


class Screen:
    """Stdout.

    Args:
        idle: called about once a second while stdout takes nothing.

    Attributes:
        terminal: whether it is one.
        width: columns of the terminal; None elsewhere: lines may be as long as they are.
    """

    def __init__(self, idle: Callable[[], None] = lambda: None) -> None:
        self.idle = idle
        self.terminal = os.isatty(1)
        self.width = shutil.get_terminal_size().columns if self.terminal else None
        self._waiting: list[str] = []
        self._size = 0
        self._chunk = _FULL if stat.S_ISREG(os.fstat(1).st_mode) else select.PIPE_BUF
        self._encoding = sys.stdout.encoding or "utf-8"

    def line(self, text: str) -> None:
        """Print a line, soon.

        Raises:
            ReaderGoneError, OutputError: it cannot be written.
        """
        self._waiting.append(text)
        self._size += len(text)
        if self._size >= _FULL:
            self.flush()

    def flush(self) -> None:
        """Print what waits. Errors as for `line`."""
        text = "".join(line + "\n" for line in self._waiting)
        self._waiting, self._size = [], 0
        self.write(self.encoded(text))

    def encoded(self, text: str) -> bytes:
        """Text as bytes for it; what its encoding lacks, as escapes."""
        return text.encode(self._encoding, "backslashreplace")

    def write(self, data: bytes) -> None:
        """Write bytes as they are, now. Errors as for `line`."""
        view = memoryview(data)
        try:
            while view:
                while not select.select([], [1], [], 1.0)[1]:
                    self.idle()
                view = view[os.write(1, view[: self._chunk]) :]
        except BrokenPipeError as error:
            _drop_stdout()
            raise ReaderGoneError("nobody reads the output") from error
        except OSError as error:
            _drop_stdout()
            raise OutputError(f"cannot write the output: {error.strerror}") from error


def _drop_stdout() -> None:
    with contextlib.suppress(OSError):  # or Python tries to flush it at its end, and complains
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def note(text: str) -> None:
    """A line on stderr for the person who ran the command."""
    with contextlib.suppress(OSError):
        print(f"wq-dead: {visible(text)}", file=sys.stderr, flush=True)


def visible(text: str, keep: str = "") -> str:
    """Text without characters that do something to a terminal; they are shown as escapes, but for those to keep."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char if char in keep or unicodedata.category(char) not in _INVISIBLE else _escaped(char) for char in text
    )


def _escaped(char: str) -> str:
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def columns(text: str) -> int:
    """How many columns of a terminal a visible text takes."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(bool(unicodedata.combining(char)) for char in text)


def clip(text: str, width: int | None) -> str:
    """Visible text in at most so many columns, with … where something was cut off."""
    if width is None or columns(text) <= width:
        return text
    kept, used = [], 0
    for char in text:
        used += columns(char)
        if used > width - 1:
            break
        kept.append(char)
    return "".join(kept) + "…"


def pad(text: str, width: int) -> str:
    """Visible text filled up with blanks to so many columns."""
    return text + " " * max(0, width - columns(text))
