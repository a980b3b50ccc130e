"""`wq-send`: put messages into a queue; exit 0 means that the broker holds every one of them."""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workqueued import __version__
from workqueued.amqp.publisher import MOST_BYTES
from workqueued.cli import where
from workqueued.cli.arguments import Parser, open_input
from workqueued.delivery import DUE_AT, Message
from workqueued.durations import parse_duration
from workqueued.errors import DataError, UsageError, WorkqueuedError
from workqueued.paths import SYSTEM_FILE, find_config
from workqueued.sender import Sender, expiration


class OutputError(WorkqueuedError):
    """The ids of messages that are safe cannot be written."""

    exit_code = os.EX_IOERR


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        options = _parse(argv)
        with _make_sender(options) as sender:
            if options.lines or options.ndjson:
                _send_bulk(sender, options)
            else:
                _send_one(sender, options)
    except WorkqueuedError as error:
        from workqueued.cli.screen import visible

        print(f"wq-send: {visible(str(error), keep=chr(10))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("wq-send: interrupted; the message is not known to be sent", file=sys.stderr)
        return 130
    return os.EX_OK


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = Parser(
        prog="wq-send",
        description="Put messages into a RabbitMQ queue. Exit 0: the broker holds every message.",
        epilog="Exit codes: 64 usage, 65 bad input or too large, 69 no such queue, 75 broker away or not confirmed in "
        "time (try again), 77 refused, 78 bad configuration.",
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="the message, words joined by a space; - reads stdin")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--lines", action="store_true", help="a message for every line, its bytes as they are")
    how.add_argument(
        "--ndjson",
        action="store_true",
        help='a message for every JSON line: {"body": …, "queue": …, "headers": {}, "type": …, "message_id": …, '
        '"content_type": …, "correlation_id": …, "reply_to": …, "priority": …, "expires": "10m", "delay": "10m", '
        '"at": …}',
    )
    parser.add_argument("--file", type=Path, metavar="FILE", help="read from FILE instead of stdin")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave out the first N lines: resume a bulk")
    parser.add_argument("--queue", metavar="NAME", help="the queue (default: the only one of the configuration)")
    parser.add_argument("-H", "--header", action="append", default=[], metavar="K=V", help="a header; may be repeated")
    parser.add_argument("--type", metavar="TEXT", help="the AMQP type property")
    parser.add_argument("--message-id", metavar="ID", help="the message id (default: a new one)")
    parser.add_argument("--content-type", metavar="TYPE", help="the AMQP content type property")
    parser.add_argument("--priority", type=int, metavar="0-255", help="the AMQP priority property")
    _add_when(parser)
    parser.add_argument(
        "--expires", metavar="DURATION", help="drop it when it waited this long, such as 10m; counted after a delay"
    )
    broker = parser.add_mutually_exclusive_group()
    broker.add_argument(
        "--config", type=Path, metavar="FILE", help=f"the YAML file (default: $WQ_CONFIG, or {SYSTEM_FILE})"
    )
    broker.add_argument("--url", metavar="URL", help="the broker, instead of the configuration's (default: $WQ_URL)")
    parser.add_argument(
        "--timeout",
        type=_timeout,
        default=30.0,
        metavar="DURATION",
        help="total time for connecting, blocking and confirming; in bulk, without any confirm (default: 30s)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print no message ids")
    parser.add_argument(
        "--json",
        action="store_true",
        help='print {"message_id": …, "queue": …} for each message, with "due_at_ms" for one that waits',
    )
    parser.add_argument("--version", action="version", version=f"wq-send {__version__}")
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = make_parser()
    # Words may stand before and after options. What follows -- is words alone, which parse_intermixed_args forgets.
    arguments = list(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_intermixed_args(arguments[:end])
    options.words += arguments[end + 1 :]
    _check_together(parser, options)
    return options


def _add_when(parser: argparse.ArgumentParser) -> None:
    when = parser.add_mutually_exclusive_group()
    when.add_argument(
        "--delay",
        type=_delay,
        metavar="DURATION",
        help="let it wait on the broker first, such as 10m; whole seconds, at most 194 days",
    )
    when.add_argument(
        "--at",
        type=_moment,
        metavar="TIME",
        help="let it wait until then, such as 2026-12-24T18:00:00+01:00; without an offset it is local time",
    )


def _check_together(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    bulk = options.lines or options.ndjson
    if options.words and (options.file or (bulk and options.words != ["-"])):
        parser.error("words and --file, --lines or --ndjson exclude each other")
    if options.message_id is not None and bulk:
        parser.error("--message-id is for one message; --ndjson takes a message_id for each")
    if options.skip and not bulk:
        parser.error("--skip is for --lines and --ndjson")
    if options.skip < 0:
        parser.error("--skip takes a number of lines")
    if options.priority is not None and not 0 <= options.priority <= 255:
        parser.error(f"--priority: found {options.priority}, expected 0 to 255")
    if not options.words and not options.file and os.isatty(0):
        parser.error("nothing to send: give words, or - to type the message and end it with Ctrl-D")


def _timeout(text: str) -> float:
    try:
        return parse_duration(text if not text.isdecimal() else f"{text}s")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _delay(text: str) -> str:
    from workqueued import due

    try:
        due.after(text, time.time())
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def _moment(text: str) -> float:
    """Seconds since the epoch."""
    from workqueued import due

    try:
        moment = due.parse_moment(text)
        if moment.utcoffset() is None:
            moment = moment.astimezone()
        due.at(moment, time.time())
        return moment.timestamp()
    except (ValueError, OverflowError, OSError) as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _make_sender(options: argparse.Namespace) -> Sender:
    url = where.address(options)
    if url:
        return Sender(url, timeout=options.timeout)
    return Sender.from_config(where.read(options.config or find_config()), options.timeout)


def _properties(options: argparse.Namespace) -> dict[str, Any]:
    headers = {}
    for pair in options.header:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise UsageError(f"--header: found {pair!r}, expected NAME=VALUE")
        headers[name] = value
    return {
        "queue": options.queue,
        "headers": headers,
        "type": options.type,
        "message_id": options.message_id,
        "content_type": options.content_type,
        "priority": options.priority,
        "expiration": _expiration(options.expires) if options.expires else None,
    }


def _wait(options: argparse.Namespace) -> dict[str, Any]:
    """How long a message is to wait from now on; `--at` may have come while the input was read."""
    if options.at is not None:
        return {"delay": max(0.0, options.at - time.time())}
    return {"delay": options.delay}


def _expiration(duration: str) -> str:
    try:
        return expiration(duration)
    except ValueError as error:
        raise UsageError(f"--expires: {error}") from error


def _send_one(sender: Sender, options: argparse.Namespace) -> None:
    properties = _properties(options)
    queue = sender.queue(properties.pop("queue"))
    body = _one_body(options)
    message = sender.message(body, queue=queue, **properties, **_wait(options))
    sender.deliver(message)
    _report(options, [message])


def _one_body(options: argparse.Namespace) -> bytes:
    if options.words and options.words != ["-"]:
        return os.fsencode(" ".join(options.words))
    try:
        with os.fdopen(open_input(options.file), "rb") as stream:
            body = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise UsageError(f"cannot read the input: {error.strerror}") from error
    if len(body) > MOST_BYTES:
        raise DataError(f"the input has more than {MOST_BYTES} bytes, which is more than any broker takes in a message")
    if not body and not options.words and not options.file:
        # Whatever was to write into the pipe failed, or there is none, as under cron.
        raise DataError("nothing came on stdin; an empty message is sent with: wq-send ''")
    return body


def _report(options: argparse.Namespace, messages: list[Message]) -> None:
    """Print the ids of messages that are safe, at once: whoever reads them may be waiting."""
    if options.quiet:
        return
    try:
        for message in messages:
            print(_as_json(message) if options.json else message.properties.message_id)
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError):  # or Python tries again at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise OutputError(
            f"the broker holds the message, but its id cannot be printed ({error.strerror}); --quiet prints none"
        ) from error


def _as_json(message: Message) -> str:
    facts: dict[str, Any] = {"message_id": message.properties.message_id, "queue": message.queue}
    if message.delay:
        facts["due_at_ms"] = message.properties.headers[DUE_AT]
    return json.dumps(facts)


def _send_bulk(sender: Sender, options: argparse.Namespace) -> None:
    from workqueued.cli import bulk

    properties = _properties(options)

    def make(line: bytes) -> Message | None:
        if options.ndjson:
            return bulk.message_of_json(sender, line, {**properties, **_wait(options)})
        return sender.message(line, **properties, **_wait(options))

    def report(messages: list[Message]) -> None:
        _report(options, messages)
        if bar is not None:
            bar.add(len(messages))

    if options.lines:
        properties["queue"] = sender.queue(options.queue)
    descriptor = open_input(options.file)
    bar = bulk.Bar() if options.quiet else None
    try:
        bulk.Bulk(sender, make, report, options.skip).run(descriptor)
    finally:
        if bar is not None:
            bar.close()


if __name__ == "__main__":
    sys.exit(main())
