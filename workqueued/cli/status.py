"""`wq-status`: how the service is, from its scoreboard alone (docs/status.md).

It asks no broker and imports no user code, and as little as it can of the rest: it is to answer at once.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from workqueued import __version__, status
from workqueued.cli.arguments import Parser, seconds
from workqueued.cli.dashboard import BLOCKS, PLAIN_BLOCKS, History, Style, lines
from workqueued.cli.screen import ReaderGoneError, Screen, visible
from workqueued.errors import ConfigError, UsageError, WorkqueuedError
from workqueued.paths import GROUP, LOCK_FILE, SYSTEM_FILE, changed, find_config, glean_run_directory
from workqueued.proc import is_dead, lock_holder, resident_or_none
from workqueued.scoreboard import Scoreboard, ScoreboardError
from workqueued.status import Status
from workqueued.survey import Kernel, read, steady

#: How often `--watch` draws, seconds.
_INTERVAL = 2.0
_THRESHOLDS = ("warn_eta", "crit_eta", "warn_ready", "crit_ready")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        options = _parse(argv)
        if options.check_backlog:
            return _check_backlog(options)
        board = _find(options)
        screen = Screen()
        if options.watch:
            return _watch(options, board, screen)
        seen = board.look()
        for line in _lines(options, board, seen, _style(screen)):
            screen.line(line)
        screen.flush()
    except ReaderGoneError as error:
        return error.exit_code
    except WorkqueuedError as error:
        print(f"wq-status: {visible(str(error), keep=chr(10))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return seen.condition.exit_code


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="wq-status",
        description="How the service is: its state, queues, workers and last deaths. Asks no broker.",
        epilog="Exit codes: 0 running, 1 degraded, paused or draining, 2 down, 64 wrong command line, 74 the "
        "scoreboard cannot be read, 78 bad configuration. With --check-backlog: 0 OK, 1 WARNING, 2 CRITICAL, 3 "
        "UNKNOWN.",
    )
    where = parser.add_mutually_exclusive_group()
    add = where.add_argument
    add("--config", type=Path, metavar="FILE", help=f"the YAML file (default: $WQ_CONFIG, or {SYSTEM_FILE})")
    add("--run-directory", type=Path, metavar="DIR", help="where the scoreboard lies, instead of a configuration")
    parser.add_argument("--version", action="version", version=f"wq-status {__version__}")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--watch", action="store_true", help="show it live, until q or Ctrl-C")
    parser.add_argument("--interval", type=seconds, metavar="DURATION", help="of --watch (default: 2s)")
    add = parser.add_argument_group("for a monitoring system").add_argument
    add("--check-backlog", action="store_true", help="one line and an exit code, as monitoring plugins have them")
    add("--queue", metavar="NAME", help="check this queue only")
    add("--warn-eta", type=seconds, metavar="DURATION", help="warn when a queue needs longer to be empty")
    default = "default without any threshold: 5m and 30m"
    add("--crit-eta", type=seconds, metavar="DURATION", help=f"critical when it needs longer ({default})")
    add("--warn-ready", type=_count, metavar="N", help="warn when more messages than this are ready")
    add("--crit-ready", type=_count, metavar="N", help="critical when more messages than this are ready")
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    options = make_parser().parse_args(sys.argv[1:] if argv is None else list(argv))
    _check_options(options)
    return options


def _check_options(options: argparse.Namespace) -> None:
    if options.check_backlog and (options.watch or options.json):
        raise UsageError("--check-backlog prints one line: neither --watch nor --json goes with it")
    if options.interval is not None and not options.watch:
        raise UsageError("--interval goes with --watch")
    if options.interval is not None and options.interval <= 0:
        raise UsageError("--interval: expected more than 0")
    for name in (*_THRESHOLDS, "queue"):
        if getattr(options, name) is not None and not options.check_backlog:
            raise UsageError(f"--{name.replace('_', '-')} goes with --check-backlog")
    for warn, crit in (_THRESHOLDS[:2], _THRESHOLDS[2:]):
        low, high = getattr(options, warn), getattr(options, crit)
        if low is not None and high is not None and low > high:
            raise UsageError(f"--{warn.replace('_', '-')} is more than --{crit.replace('_', '-')}")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 0")
    return int(text)


# --- looking ---------------------------------------------------------------------------------------------------------


class Board(NamedTuple):
    """Where the scoreboard lies, and which configuration told so."""

    directory: Path
    config: Path | None

    def look(self) -> Status:
        """What it says now; without one the service is down.

        Raises:
            ScoreboardError: it cannot be read, or is of another version.
        """
        try:
            board = Scoreboard.open(self.directory)
        except ScoreboardError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return status.down(f"there is no scoreboard in {self.directory}: no master has run there")
            raise
        kernel = Kernel(self._master_lives, is_dead, resident_or_none)
        return steady(board, lambda: read(board, time.monotonic_ns(), kernel))

    def changed(self, seen: Status) -> bool | None:
        """Whether the configuration has changed since the master read it; None: it is not the one we know."""
        if self.config is None or seen.config != str(self.config):
            return None
        return changed(self.config, seen.config_hash)

    def _master_lives(self, pid: int) -> bool:
        try:
            return lock_holder(self.directory / LOCK_FILE) == pid  # a pid alone comes again
        except OSError:
            return not is_dead(pid)


def _find(options: argparse.Namespace) -> Board:
    """The board that is meant.

    Raises:
        ConfigError: the configuration does not tell.
    """
    if options.run_directory is not None:
        return Board(options.run_directory.absolute(), None)
    file = (options.config or find_config()).absolute()
    try:
        content = file.read_bytes()
    except OSError as error:
        hint = f"ask to be put into group {GROUP}; " if isinstance(error, PermissionError) else ""
        raise ConfigError(f"{file}: cannot read it: {error.strerror}; {hint}or name a --run-directory") from error
    directory = glean_run_directory(file, content.decode("utf-8", "replace"))
    if directory is None:
        from workqueued.config import read_config

        directory = read_config(file).run_directory
    return Board(directory, file)


# --- showing ---------------------------------------------------------------------------------------------------------


def _style(screen: Screen) -> Style:
    colour = screen.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    unicode = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    return Style(screen.width, colour, BLOCKS if unicode else PLAIN_BLOCKS)


def _lines(
    options: argparse.Namespace, board: Board, seen: Status, style: Style, history: History | None = None
) -> list[str]:
    if options.json:
        import json

        from workqueued.facts import facts

        return [json.dumps(facts(seen, time.time(), changed=board.changed(seen)))]
    return lines(seen, style, changed=board.changed(seen), history=history)


def _watch(options: argparse.Namespace, board: Board, screen: Screen) -> int:
    from workqueued.cli.watch import watch

    history = History()

    def take() -> list[str]:
        seen = board.look()
        history.note(seen, time.monotonic())
        return _lines(options, board, seen, _style(screen), history)

    screen.terminal = screen.terminal and not options.json and os.environ.get("TERM") != "dumb"
    return watch(screen, options.interval or _INTERVAL, take)


def _check_backlog(options: argparse.Namespace) -> int:
    from workqueued.cli.backlog import CRIT_ETA, WARN_ETA, Level, Thresholds, check

    limits = Thresholds(*(getattr(options, name) for name in _THRESHOLDS))
    if limits == Thresholds():
        limits = Thresholds(WARN_ETA, CRIT_ETA)
    try:
        seen = _find(options).look()
    except WorkqueuedError as error:
        first = visible(str(error).partition("\n")[0]).replace("|", "/")
        print(f"WORKQUEUED UNKNOWN - {first}")
        return Level.UNKNOWN
    if options.queue is not None:
        queues = tuple(queue for queue in seen.queues if queue.name == options.queue)
        seen = seen._replace(queues=queues)
    level, line = check(seen, limits)
    print(line)
    return level


if __name__ == "__main__":
    sys.exit(main())
