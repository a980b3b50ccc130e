"""What a handler or a command prints: its lines for the log, the end of its stderr for the dead letter.

Runs in: worker.

Anything may be printed: 100 MB, bytes that are no text, one line without an end. Past a limit it is read, counted
and thrown away, so that neither the log nor our memory grows with it.
"""

import io
import threading
from typing import Any

#: A line of the log holds no more without being shortened; a longer one is logged in pieces of at most so many bytes.
LONGEST_LINE = 2048
#: What one run may put into the log.
MOST_LINES, MOST_BYTES = 1000, 256 * 1024
#: How much of the end of stderr is kept, bytes.
TAIL = 4096


class Printed:
    """The output of one run.

    Args:
        log: takes the lines.
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        self._lines = self._bytes = 0
        self._muted_lines = self._muted_bytes = 0
        #: What came after the last end of a line, by stream; when muted one byte of it at most, for it is counted.
        self._rest = {"stdout": b"", "stderr": b""}
        self._tail = b""

    def feed(self, stream: str, data: bytes) -> None:
        """Take what was read from `stdout` or `stderr`."""
        if stream == "stderr":
            self._tail = (self._tail + data)[-TAIL:]
        if not self._shows():
            self._count(stream, data)
            return
        data, self._rest[stream] = self._rest[stream] + data, b""
        start = 0
        while self._shows():
            stop = data.find(b"\n", start, start + LONGEST_LINE + 1)
            if stop >= 0:
                after = stop + 1
            elif len(data) - start > LONGEST_LINE:
                stop = after = _cut(data, start + LONGEST_LINE)
            else:
                break
            self._print(stream, data[start:stop])
            start = after
        if self._shows():
            self._rest[stream] = data[start:]
        else:
            self._count(stream, data[start:])

    def finish(self) -> None:
        """The end of both streams: log what has no end of line, and say what was not shown."""
        for stream in self._rest:
            rest, self._rest[stream] = self._rest[stream], b""
            if rest and self._shows():
                self._print(stream, rest)
            elif rest:
                self._muted_lines += 1
        if self._muted_bytes:
            self._log.warning("handler.muted", lines=self._muted_lines, bytes=self._muted_bytes)

    @property
    def tail(self) -> str:
        """The end of stderr: text of at most 4 KiB in UTF-8."""
        text = self._tail.decode("utf-8", "replace")
        return text.encode()[-TAIL:].decode("utf-8", "ignore")

    def _shows(self) -> bool:
        return self._lines < MOST_LINES and self._bytes < MOST_BYTES

    def _print(self, stream: str, line: bytes) -> None:
        self._lines += 1
        self._bytes += len(line)
        if line.strip():
            self._log.info("handler.printed", stream=stream, line=line.decode("utf-8", "backslashreplace").rstrip("\r"))
        if not self._shows():
            for name, rest in self._rest.items():
                self._rest[name] = b""
                self._count(name, rest)

    def _count(self, stream: str, data: bytes) -> None:
        if data:
            self._muted_bytes += len(data)
            self._muted_lines += data.count(b"\n")
            self._rest[stream] = b"" if data.endswith(b"\n") else data[-1:]


def _cut(data: bytes, at: int) -> int:
    """Where to cut so that no character of UTF-8 is cut in two: at most three bytes earlier."""
    for back in range(4):
        if data[at - back] & 0xC0 != 0x80:
            return at - back
    return at


class Output:
    """What the handlers of a worker print, message by message; from any thread.

    Args:
        log: takes the lines.
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        self._lock = threading.RLock()
        self._facts: dict[str, Any] = {}
        self._printed: Printed | None = None

    def begin(self, message_id: str | None) -> None:
        """What is printed from now on belongs to this message."""
        self._facts = {"message_id": message_id}

    def end(self) -> None:
        """The message is handled: log what has no end of line, and say what was not shown."""
        if self._printed is not None:
            with self._lock:
                self._printed.finish()
                self._printed = None
        self._facts = {}

    def write(self, stream: str, data: bytes) -> None:
        """Take what was printed to `stdout` or `stderr`."""
        with self._lock:
            if self._printed is None:
                self._printed = Printed(self._log.bind(**self._facts))
            self._printed.feed(stream, data)


class LineLogger(io.TextIOBase):
    """Stands in for sys.stdout and sys.stderr of a worker."""

    def __init__(self, name: str, output: Output) -> None:
        self._name = name
        self._output = output

    def write(self, text: str) -> int:
        """Take text; whole lines are logged."""
        self._output.write(self._name, text.encode("utf-8", "backslashreplace"))
        return len(text)

    def writable(self) -> bool:
        """Yes."""
        return True

    def fileno(self) -> int:
        """The real stream's descriptor, for a program that a handler starts; its output is not ours to read."""
        return 1 if self._name == "stdout" else 2

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """UTF-8, as the log."""
        return "utf-8"

    @property
    def buffer(self) -> "_LineBuffer":
        """The same for bytes, as sys.stdout has it."""
        return _LineBuffer(self._name, self._output)


class _LineBuffer(io.RawIOBase):
    """The same for bytes."""

    def __init__(self, name: str, output: Output) -> None:
        self._name = name
        self._output = output

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        data = bytes(data)
        self._output.write(self._name, data)
        return len(data)
