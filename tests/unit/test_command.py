"""What a command prints and what it is given, without running one."""

import os
import resource
from typing import Any

import pytest

from workqueued import limits
from workqueued.errors import ConfigError
from workqueued.printed import LONGEST_LINE, MOST_BYTES, MOST_LINES, TAIL, Printed
from workqueued.queue_settings import Limits


class Log:
    """Takes events."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []
        self.muted: dict[str, int] | None = None

    def info(self, _event: str, *, stream: str, line: str) -> None:
        """A line."""
        self.lines.append((stream, line))

    def warning(self, _event: str, **facts: Any) -> None:
        """What was not shown."""
        assert self.muted is None
        self.muted = facts


def shown(*pieces: bytes, stream: str = "stdout") -> list[str]:
    """The lines that come of what is read in such pieces."""
    log = Log()
    printed = Printed(log)
    for piece in pieces:
        printed.feed(stream, piece)
    printed.finish()
    assert log.muted is None
    return [line for _, line in log.lines]


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b""], []),
        ([b"one\ntwo\n"], ["one", "two"]),
        ([b"on", b"e", b"\ntw", b"o"], ["one", "two"]),
        ([b"one\r\n", b"two\r", b"\n"], ["one", "two"]),
        ([b"\n \n\t\none\n\n"], ["one"]),
        ([b"\xff\xc3", b"\xbc\n"], ["\\xffü"]),
        ([b"a\0b\x1b[1m\n"], ["a\0b\x1b[1m"]),
        ([b"\xe2\x82"], ["\\xe2\\x82"]),
    ],
)
def test_lines_are_found_whatever_the_pieces(pieces: list[bytes], lines: list[str]) -> None:
    """A read may end anywhere; empty lines say nothing."""
    assert shown(*pieces) == lines
    assert shown(*(bytes([byte]) for byte in b"".join(pieces))) == lines


@pytest.mark.parametrize("text", ["x" * 10_000, "ü" * 10_000, "€" * 5000, "a" + "😀" * 4000])
def test_a_long_line_is_cut_between_characters_and_nothing_is_lost(text: str) -> None:
    """In pieces that the log does not have to shorten."""
    lines = shown(text.encode())
    assert "".join(lines) == text
    assert all(len(line.encode()) <= LONGEST_LINE for line in lines)
    assert len(lines) <= len(text.encode()) // (LONGEST_LINE - 3) + 1


def test_what_is_no_text_at_all_is_cut_all_the_same() -> None:
    """Continuation bytes without an end."""
    assert len(shown(b"\x80" * 10_000)) == 5


def test_streams_do_not_mix() -> None:
    """A line of one may be open while the other prints."""
    log = Log()
    printed = Printed(log)
    for stream, data in (("stdout", b"a"), ("stderr", b"x\ny"), ("stdout", b"b\n"), ("stderr", b"z")):
        printed.feed(stream, data)
    printed.finish()
    assert log.lines == [("stderr", "x"), ("stdout", "ab"), ("stderr", "yz")]


@pytest.mark.parametrize("size", [1, 7, 4096, 65536, 10**6])
@pytest.mark.parametrize("end", [b"", b"\n"])
def test_too_many_lines_are_counted(size: int, end: bytes) -> None:
    """What was shown and what was not add up, whatever the pieces, with or without an end of the last line."""
    data = b"\n".join(b"line %d" % number for number in range(3 * MOST_LINES)) + end
    log = Log()
    printed = Printed(log)
    for start in range(0, len(data), size):
        printed.feed("stderr", data[start : start + size])
    printed.finish()
    assert len(log.lines) == MOST_LINES
    seen = sum(len(line) + 1 for _, line in log.lines)
    assert log.muted == {"lines": 2 * MOST_LINES, "bytes": len(data) - seen}
    assert printed.tail.encode() == data[-TAIL:]


def test_too_many_bytes_are_counted() -> None:
    """In long lines, too."""
    log = Log()
    printed = Printed(log)
    printed.feed("stdout", b"x" * 3 * MOST_BYTES)
    printed.finish()
    assert sum(len(line) for _, line in log.lines) == MOST_BYTES
    assert log.muted == {"lines": 1, "bytes": 2 * MOST_BYTES}


def test_a_line_that_was_open_when_the_other_stream_went_too_far_is_counted() -> None:
    """Its beginning as well as its end."""
    log = Log()
    printed = Printed(log)
    printed.feed("stderr", b"begin")
    printed.feed("stdout", b"x\n" * MOST_LINES)
    printed.feed("stderr", b"end\n")
    printed.finish()
    assert len(log.lines) == MOST_LINES
    assert log.muted == {"lines": 1, "bytes": 9}
    assert printed.tail == "beginend\n"


@pytest.mark.parametrize("data", [b"\xff" * 10_000, "€".encode() * 10_000, b"\0" * 10_000])
def test_the_tail_is_text_of_at_most_4_kib(data: bytes) -> None:
    """As UTF-8, which is what a header of a message holds."""
    printed = Printed(Log())
    printed.feed("stderr", data)
    assert TAIL - 4 < len(printed.tail.encode()) <= TAIL


def test_a_tail_is_of_stderr_only() -> None:
    """What a program prints to stdout is no reason."""
    printed = Printed(Log())
    printed.feed("stdout", b"out\n")
    printed.feed("stderr", b"err\n")
    assert printed.tail == "err\n"


def test_a_command_without_limits_of_its_own_has_no_prefix() -> None:
    """Those of the worker are inherited."""
    assert limits.prefix(Limits(nofile=99, nice=3), "q") == ()


def test_limits_of_a_command_are_words_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGXCPU first and SIGKILL later; never above our own hard limit, which only root could do."""
    monkeypatch.setattr(resource, "getrlimit", lambda number: (0, 7 if number == resource.RLIMIT_CPU else -1))
    path, *words = limits.prefix(Limits(cpu=4.2, memory=1 << 20), "q")
    assert os.access(path, os.X_OK)
    assert words == ["--cpu=5:7", f"--as={1 << 20}:{1 << 20}", "--"]


def test_without_prlimit_the_text_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which package, which keys."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match=r"queues\.q\.limits: memory and cpu .* util-linux"):
        limits.prefix(Limits(memory=1 << 30), "q")
