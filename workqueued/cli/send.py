"""`wq-send`: put messages into a queue; exit 0 means that the broker holds every one of them."""

import argparse
import json
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from workqueued import __version__
from workqueued.config import SYSTEM_FILE, find_config
from workqueued.delivery import Message
from workqueued.errors import DataError, UsageError, WorkqueuedError
from workqueued.schema import parse_duration
from workqueued.sender import Sender, Stream

_CHUNK = 1 << 16
#: How much of a line an error message shows.
_SHOWN = 60
#: Keys of an NDJSON object and the type of each.
_NDJSON_KEYS: Mapping[str, Any] = {
    "body": (str, dict, list, int, float, bool, type(None)),
    "queue": str,
    "headers": dict,
    "type": str,
    "message_id": str,
    "content_type": str,
    "correlation_id": str,
    "reply_to": str,
    "priority": int,
    "expires": str,
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}\n{self.format_usage().strip()}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    try:
        options = _parse(argv)
        with _make_sender(options) as sender:
            report = _Report(options)
            if options.lines or options.ndjson:
                return _send_bulk(sender, options, report)
            message = sender.message(_one_body(options), **_properties(options))
            sender.deliver(message)
            report.confirmed(message.queue, message.properties.message_id or "")
    except WorkqueuedError as error:
        print(f"wq-send: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our ids went away; the messages that it was told of are safe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return os.EX_IOERR
    except KeyboardInterrupt:
        print("wq-send: interrupted; what was not printed is not known to be sent", file=sys.stderr)
        return 130
    return os.EX_OK


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _Parser(
        prog="wq-send",
        description="Put messages into a RabbitMQ queue. Exit 0: the broker holds every message.",
        epilog="Exit codes: 64 usage, 65 bad input or too large, 69 no such queue, 75 broker away or not confirmed in "
        "time (try again), 77 refused, 78 bad configuration.",
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="the message, words joined by a space; - reads stdin")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--lines", action="store_true", help="a message for every line of the input")
    how.add_argument(
        "--ndjson", action="store_true", help='a message for every JSON line: {"body": …, "headers": …, "type": …}'
    )
    parser.add_argument("--file", type=Path, metavar="FILE", help="read from FILE instead of stdin")
    parser.add_argument("--skip", type=int, default=0, metavar="N", help="leave out the first N lines: resume a bulk")
    parser.add_argument("--queue", metavar="NAME", help="the queue (default: the only one of the configuration)")
    parser.add_argument("-H", "--header", action="append", default=[], metavar="K=V", help="a header; may be repeated")
    parser.add_argument("--type", metavar="TEXT", help="the AMQP type property")
    parser.add_argument("--message-id", metavar="ID", help="the message id (default: a new one)")
    parser.add_argument("--content-type", metavar="TYPE", help="the AMQP content type property")
    parser.add_argument("--priority", type=int, metavar="0-255", help="the AMQP priority property")
    parser.add_argument("--expires", metavar="DURATION", help="drop it when it waited this long, such as 10m")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--config", type=Path, metavar="FILE", help=f"the YAML file (default: $WQ_CONFIG, or {SYSTEM_FILE})"
    )
    where.add_argument("--url", metavar="URL", help="the broker, instead of the configuration's (default: $WQ_URL)")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        default=30.0,
        metavar="DURATION",
        help="total time for connecting, blocking and confirming; in bulk, without any confirm (default: 30s)",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="print no message ids")
    parser.add_argument("--json", action="store_true", help='print {"message_id": …, "queue": …} for each message')
    parser.add_argument("--version", action="version", version=f"wq-send {__version__}")
    options = parser.parse_args(argv)
    _check_together(parser, options)
    return options


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
    if not options.words and not options.file and sys.stdin.isatty():
        parser.error("nothing to send: give words, or - to type the message and end it with Ctrl-D")


def _seconds(text: str) -> float:
    try:
        return parse_duration(text if not text.isdecimal() else f"{text}s")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _make_sender(options: argparse.Namespace) -> Sender:
    url = options.url or (os.environ.get("WQ_URL") if options.config is None else None)
    if url:
        return Sender(url, timeout=options.timeout)
    return Sender(config=options.config or find_config(), timeout=options.timeout)


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


def _expiration(duration: str) -> str:
    """AMQP's expiration: milliseconds as text."""
    try:
        return str(int(parse_duration(duration) * 1000))
    except ValueError as error:
        raise UsageError(f"--expires: {error}") from error


def _one_body(options: argparse.Namespace) -> bytes:
    if options.words and options.words != ["-"]:
        return os.fsencode(" ".join(options.words))
    with _open_input(options) as stream:
        return stream.read()


def _open_input(options: argparse.Namespace) -> BinaryIO:
    if options.file is None:
        return os.fdopen(os.dup(0), "rb")
    try:
        return options.file.open("rb")  # type: ignore[no-any-return]
    except OSError as error:
        raise UsageError(f"--file: cannot read {options.file}: {error.strerror}") from error


@dataclass(slots=True)
class _Report:
    """Tells the caller what is safe."""

    options: argparse.Namespace

    def confirmed(self, queue: str, message_id: str) -> None:
        if self.options.quiet:
            return
        if self.options.json:
            print(json.dumps({"message_id": message_id, "queue": queue}))
        else:
            print(message_id)


# --- bulk ------------------------------------------------------------------------------------------------------------


class _Lines(threading.Thread):
    """Reads lines in a thread, so that a slow input does not keep confirms and heartbeats waiting."""

    def __init__(self, stream: BinaryIO, wake: Callable[[], None]) -> None:
        super().__init__(name="lines", daemon=True)
        self._stream = stream
        self._wake = wake
        self._room = threading.Semaphore(16)
        self.batches: deque[list[bytes]] = deque()
        self.ended = False

    def run(self) -> None:
        rest = b""
        while chunk := os.read(self._stream.fileno(), _CHUNK):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            self._hand_over(lines)
        if rest:
            self._hand_over([rest])
        self.ended = True
        self._wake()

    def _hand_over(self, lines: list[bytes]) -> None:
        if lines:
            self._room.acquire()
            self.batches.append(lines)
            self._wake()

    def take(self) -> list[bytes]:
        """The next lines; empty when there are none at the moment."""
        if not self.batches:
            return []
        self._room.release()
        return self.batches.popleft()


@dataclass(slots=True)
class _Progress:
    """A bar on a terminal, nothing elsewhere."""

    total: int | None
    bar: Any = field(default=None)

    def show(self) -> None:
        if sys.stderr.isatty():
            from tqdm import tqdm

            self.bar = tqdm(unit=" messages", total=self.total, mininterval=0.2, leave=False)

    def add(self, count: int) -> None:
        if self.bar is not None and count:
            self.bar.update(count)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


def _send_bulk(sender: Sender, options: argparse.Namespace, report: _Report) -> int:
    stream = Stream(sender)
    progress = _Progress(None)
    if options.quiet:
        progress.show()
    with _open_input(options) as source:
        lines = _Lines(source, sender.publisher.wake)
        lines.start()
        try:
            _pump(sender, stream, lines, options, report, progress)
        except WorkqueuedError as error:
            raise _where_to_resume(error, options.skip + stream.safe) from error
        finally:
            progress.close()
    return os.EX_OK


def _pump(
    sender: Sender, stream: Stream, lines: _Lines, options: argparse.Namespace, report: _Report, progress: _Progress
) -> None:
    """Lines in, confirms out, until both have ended."""
    number = 0
    broken: DataError | None = None
    queue = sender.queue(options.queue) if not options.ndjson else options.queue or ""
    properties = _properties(options)

    def tell() -> None:
        before = stream.safe
        for message_id in stream.take():
            report.confirmed(queue, message_id)
        progress.add(stream.safe - before)

    def wait() -> None:
        stream.turn(until=lambda: bool(lines.batches) or lines.ended)
        tell()

    while broken is None and not (lines.ended and not lines.batches):
        for line in lines.take():
            number += 1
            if number <= options.skip:
                continue
            try:
                message = _message(sender, line, number, properties, ndjson=options.ndjson)
            except DataError as error:
                broken = error  # what came before it is sent and waited for
                break
            stream.put(message)
            while stream.full:
                stream.turn()
            tell()
        if not lines.batches and not lines.ended:
            if sender.publisher.is_open:
                wait()
            else:
                lines.join(0.05)
    while stream.in_flight:
        stream.turn()
        tell()
    if broken is not None:
        raise broken


def _message(
    sender: Sender, line: bytes, number: int, properties: Mapping[str, Any], *, ndjson: bool
) -> Message:
    if not ndjson:
        return sender.message(line, **{**properties, "message_id": None})
    given = _parse_ndjson(line, number)
    body = given.pop("body")
    headers = {**properties["headers"], **given.pop("headers", {})}
    if "expires" in given:
        try:
            given["expiration"] = str(int(parse_duration(given.pop("expires")) * 1000))
        except ValueError as error:
            raise DataError(f"line {number}: expires: {error}") from error
    data = body if isinstance(body, str) else json.dumps(body)
    if not isinstance(body, str) and not properties.get("content_type"):
        given.setdefault("content_type", "application/json")
    return sender.message(data, **{**properties, **given, "headers": headers})


def _parse_ndjson(line: bytes, number: int) -> dict[str, Any]:
    shown = line[:_SHOWN].decode("utf-8", "backslashreplace") + ("…" if len(line) > _SHOWN else "")
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"line {number} is not valid JSON ({error}): {shown}") from error
    if not isinstance(value, dict) or "body" not in value:
        raise DataError(f'line {number}: expected an object with a "body": {shown}')
    for key, item in value.items():
        if key not in _NDJSON_KEYS:
            raise DataError(f"line {number}: unknown key {key!r}; known: {', '.join(_NDJSON_KEYS)}")
        if not isinstance(item, _NDJSON_KEYS[key]) or (key == "priority" and item not in range(256)):
            raise DataError(f"line {number}: {key}: found {json.dumps(item)[:_SHOWN]}, which it cannot be")
    return value


def _where_to_resume(error: WorkqueuedError, safe: int) -> WorkqueuedError:
    """The error of a bulk, with the first line that is not known to be safe and the way on."""
    text = (
        f"{error}\nwq-send: lines 1 to {safe} are safe; the first that is not confirmed is line {safe + 1}. "
        f"Resume with --skip {safe}"
    )
    return type(error)(text)


if __name__ == "__main__":
    sys.exit(main())
