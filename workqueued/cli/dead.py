"""`wq-dead`: look into a dead queue, and replay or discard what is there (docs/dead-letters.md)."""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from workqueued import __version__
from workqueued.amqp.deadletters import DeadQueue
from workqueued.cli import browse, move, where
from workqueued.cli.arguments import Parser
from workqueued.cli.errand import Errand
from workqueued.cli.screen import ReaderGoneError, Screen, note, visible
from workqueued.errors import UsageError, WorkqueuedError
from workqueued.letters import Filter, parse_when

_FILTERS = ("ids", "reason", "error", "type", "handler", "host", "failed_after", "failed_before", "limit")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        options = make_parser().parse_args(sys.argv[1:] if argv is None else list(argv))
        found = where.find(options)
        work, dead = where.pick_queue(found, options.queue)
        filter_ = _filter(options, time.time())
        screen = Screen()
        with DeadQueue(found.broker, dead, options.timeout) as queue:
            screen.idle = queue.service
            code: int = options.run(Errand(options, found, work, queue, filter_, screen))
    except ReaderGoneError as error:
        return error.exit_code
    except WorkqueuedError as error:
        print(f"wq-dead: {visible(str(error), keep=chr(10))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        note("interrupted; nothing was changed by what was not reported as done")
        return 130
    return code


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="wq-dead",
        description="Look into a dead queue, and replay or discard what is there. Looking takes nothing out.",
        epilog="Exit codes: 64 usage, 65 bad input or too large, 66 no such message, 69 no such queue, 74 output "
        "cannot be written, 75 broker away, queue full or another wq-dead at work (try again), 77 refused, 78 bad "
        "configuration.",
    )
    where.add_arguments(parser)
    parser.add_argument("--version", action="version", version=f"wq-dead {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB", parser_class=Parser)

    def verb(name: str, run: Callable[[Errand], int], words: str) -> argparse.ArgumentParser:
        one = verbs.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".")
        where.add_arguments(one, argparse.SUPPRESS)
        one.add_argument("--json", action="store_true", help="print JSON, one object a line")
        one.set_defaults(run=run, ids=[])
        return one

    _add_filter(verb("list", browse.list_letters, "list the messages: id, time, reason, attempt, error"))
    one = verb("show", browse.show, "show one message: why it is dead, its properties and headers")
    one.add_argument("id", metavar="ID", help="its id, or the beginning of it")
    one.add_argument("--body", action="store_true", help="the body instead, byte by byte (escaped on a terminal)")
    one = verb("stats", browse.stats, "count the messages")
    one.add_argument("--by", choices=browse.GROUPS, default="reason", help="what to count by (default: reason)")
    _add_filter(one)
    one = verb("replay", move.replay, "publish messages to their work queue again, counts reset, and take them out")
    one.add_argument("--to", metavar="QUEUE", help="another queue than the one each came from")
    _add_destructive(one)
    _add_destructive(verb("discard", move.discard, "take messages out, for good"))
    _add_filter(verb("export", browse.export, "print messages as NDJSON, for import; they stay"), ids=True)
    one = verb("import", move.import_letters, "put what export printed into the dead queue")
    add = one.add_argument
    add("--file", type=Path, metavar="FILE", help="read from FILE instead of stdin")
    add("--skip", type=_count, default=0, metavar="N", help="leave out the first N lines: resume an import")
    return parser


def _add_filter(parser: argparse.ArgumentParser, *, ids: bool = False) -> None:
    if ids:
        parser.add_argument("ids", nargs="*", metavar="ID", help="these messages, by their full ids")
    add = parser.add_argument_group("which messages (all of these together)").add_argument
    add("--reason", action="append", default=[], metavar="REASON", help="why it is dead; repeated: any of them")
    add("--error", metavar="TEXT", help="a part of its error")
    add("--type", action="append", default=[], metavar="TEXT", help="its type property; repeated: any of them")
    add("--handler", action="append", default=[], metavar="TEXT", help="the handler or command that failed")
    add("--host", action="append", default=[], metavar="NAME", help="the host it failed on")
    add("--failed-after", metavar="WHEN", help="failed in the last 1h, or since 2026-05-12T03:00")
    add("--failed-before", metavar="WHEN", help="failed longer ago than 1h, or before 2026-05-12T03:00")
    add("--limit", type=_count, metavar="N", help="at most so many, from the head of the queue")


def _add_destructive(parser: argparse.ArgumentParser) -> None:
    _add_filter(parser, ids=True)
    parser.add_argument("--all", action="store_true", help="every message; needed where nothing says which")
    parser.add_argument("--yes", action="store_true", help="do not ask; needed where nobody can be asked")
    parser.add_argument("--dry-run", action="store_true", help="only list what it would be done to")
    parser.add_argument("--rate", type=_rate, metavar="N", help="at most so many messages a second")
    parser.set_defaults(check=_check_destructive)


def _check_destructive(options: argparse.Namespace) -> None:
    filtered = [name for name in _FILTERS if getattr(options, name) not in (None, [])]
    if options.all and filtered not in ([], ["limit"]):
        raise UsageError("--all and a selection exclude each other")
    if not options.all and not filtered:
        raise UsageError("which messages? Give ids, a filter such as --reason failed, or --all")
    if not options.yes and not options.dry_run and not os.isatty(0):
        raise UsageError("there is no terminal to ask on: give --yes, or --dry-run to see what it would be done to")


def _filter(options: argparse.Namespace, now: float) -> Filter:
    """What the options select.

    Raises:
        UsageError: they make no sense, or would change everything without having said so.
    """
    if "check" in options:
        options.check(options)

    def moment(name: str) -> int | None:
        words = getattr(options, name, None)
        try:
            return None if words is None else parse_when(words, now)
        except ValueError as error:
            raise UsageError(f"--{name.replace('_', '-')}: {error}") from error

    def any_of(name: str) -> frozenset[str]:
        return frozenset(getattr(options, name, ()))

    return Filter(
        ids=frozenset(options.ids),
        reasons=any_of("reason"),
        error=getattr(options, "error", None),
        types=any_of("type"),
        handlers=any_of("handler"),
        hosts=any_of("host"),
        after=moment("failed_after"),
        before=moment("failed_before"),
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number from 0")
    return int(text)


def _rate(text: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < math.inf:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected messages a second")
    return rate


if __name__ == "__main__":
    sys.exit(main())
