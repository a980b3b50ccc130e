"""What our command lines have in common: how a wrong one is told, and where input comes from."""

import argparse
import os
from pathlib import Path
from typing import Any, NoReturn

from workqueued.durations import parse_duration
from workqueued.errors import UsageError

#: Where no terminal tells.
_COLUMNS = 80


def _formatter(prog: str) -> argparse.HelpFormatter:
    """As by default, but for the width: to learn that for each option, argparse imports shutil, bz2 and lzma."""
    return argparse.HelpFormatter(prog, width=_columns() - 2)


def _columns() -> int:
    try:
        return int(os.environ.get("COLUMNS", "")) or os.get_terminal_size(1).columns or _COLUMNS
    except (OSError, ValueError):
        return _COLUMNS


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises UsageError, so that a wrong command line ends with 64 as everything else we say."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_formatter, **settings)

    def error(self, message: str) -> NoReturn:
        """Tell what is wrong, and what would be right; an argument that it quotes may be a URL with a password."""
        from workqueued.outcome import redacted

        raise UsageError(f"{redacted(message)}\n{self.format_usage().strip()}")


def open_input(file: Path | None) -> int:
    """The file descriptor to read from: of a file, or stdin for `-` and for none.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        if file is None or file == Path("-"):
            return os.dup(0)
        return os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        what = f"--file: cannot read {file}" if file else "cannot read stdin"
        raise UsageError(f"{what}: {error.strerror}") from error


def seconds(text: str) -> float:
    """A duration as an option's value; a bare number is in seconds."""
    try:
        return parse_duration(text if not text.isdecimal() else f"{text}s")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
