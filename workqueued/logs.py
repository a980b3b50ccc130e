"""The log: one JSON object a line on stdout or in the journal, or words on a terminal; see docs/events.md.

Runs in: every process of the daemon.

Logging must never raise and never hold up a task (see `outlet`). On stdout a line is one write(2) of at most PIPE_BUF
bytes, since longer ones from several processes interleave in a pipe.
"""

import functools
import json
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, TextIO

import structlog

from workqueued import journal
from workqueued.outlet import LineSink, Outlet, Sink

#: pipe(7): writes of up to this many bytes are atomic.
_PIPE_BUF = select.PIPE_BUF
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
#: On a terminal these are noise.
_NOT_SHOWN = ("host", "role")
#: Larger numbers are written as text: not every reader of JSON has them, and int refuses to print 4300 digits.
_LARGEST_NUMBER = 2**63

#: Made once: `json.dumps` makes one at each call that asks for anything special.
_ENCODER = json.JSONEncoder(default=repr, allow_nan=False)

#: structlog's last processor: (logger, level, event) to what the outlet takes.
Renderer = Callable[[Any, str, MutableMapping[str, Any]], str | bytes]


class _Log:
    """The logger that all of workqueued uses.

    Not structlog's global one: a handler's module may configure that for itself, and facts bound by contextvars would
    not reach our other threads.
    """

    def __init__(self) -> None:
        self._logger: Any = None
        self._least = 0

    def set(self, logger: Any, level: str | None = None) -> None:
        """From now on, log with this structlog logger, which leaves out what is less severe than the level."""
        self._logger = logger
        if level is not None:
            self._least = _LEVELS[level]

    def hears(self, level: str) -> bool:
        """Whether what is logged at this level is written; else its facts need not be gathered."""
        return _LEVELS[level] >= self._least

    def bind(self, **facts: Any) -> Any:
        """A structlog logger with further facts."""
        if self._logger is None:
            configure("info", "json")
        return self._logger.bind(**facts)

    def debug(self, event: str, **facts: Any) -> None:
        """Log at this level, as the three below."""
        self.bind().debug(event, **facts)

    def info(self, event: str, **facts: Any) -> None:
        """See debug."""
        self.bind().info(event, **facts)

    def warning(self, event: str, **facts: Any) -> None:
        """See debug."""
        self.bind().warning(event, **facts)

    def error(self, event: str, **facts: Any) -> None:
        """See debug."""
        self.bind().error(event, **facts)


log = _Log()
_identity: dict[str, Any] = {}


def configure(level: str, form: str, stream: TextIO | None = None, *, target: str = "stdout") -> None:
    """Set up the log of this process.

    Args:
        level: debug, info, warning or error.
        form: json, console, or auto (console when the stream is a terminal).
        stream: where to write; stdout if None.
        target: stdout, journal, or auto (journal when that is where stdout or supervisord's would end).

    Raises:
        ConfigError: the journal is wanted, and there is none.
    """
    stream = stream or sys.stdout
    if target == "journal" or (target == "auto" and journal.is_ours(os.environ)):
        text = _console(colors=False) if form == "console" else _json_renderer(journal.LONGEST)
        render: Renderer = _journal_renderer(text)
        sink: Sink = journal.JournalSink(journal.SOCKET)
    else:
        console = form == "console" or (form == "auto" and stream.isatty())
        render = _console(colors=stream.isatty()) if console else _json_renderer(_PIPE_BUF)
        # A console line may be longer (a traceback): it is for eyes, not for machines.
        sink = LineSink(stream.fileno(), blocks=console)
    log.set(
        structlog.wrap_logger(
            Outlet(sink, lambda lines: render(None, "warning", _notice(lines))),
            processors=[structlog.processors.format_exc_info, _stamp, render],
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
            context_class=dict,
        ).bind(**_identity),
        level,
    )


def identify(role: str, **facts: Any) -> None:
    """Say once who this process is: role, pid, host, and what else is given; every later line carries it."""
    _identity.clear()
    _identity.update(role=role, pid=os.getpid(), host=socket.gethostname(), **facts)
    log.set(log.bind().new(**_identity))


def _notice(lines: int) -> dict[str, Any]:
    return {"time": _now(), "level": "warning", "event": "log.dropped", "pid": os.getpid(), "lines": lines}


def _now() -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{_calendar(seconds)}.{nanoseconds // 1_000_000:03d}Z"


@functools.lru_cache(maxsize=1)
def _calendar(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _stamp(_logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Time, level and event first: a person reads them first, too."""
    stamp = {"time": _now(), "level": method, "event": event.pop("event", None)}
    if "time" in event or "level" in event:
        return stamp | {f"{key}_" if key in stamp else key: value for key, value in event.items()}
    stamp.update(event)
    return stamp


def _json_renderer(longest: int) -> Renderer:
    """Renders events as JSON of less than so many bytes."""

    def render(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> str:
        try:
            line = _ENCODER.encode(event)
        except Exception:  # noqa: BLE001 - NaN, a cycle, a key or a number that JSON has not, a repr that raises
            line = json.dumps({key: _plain(value) for key, value in event.items()})
        return line if len(line) < longest else json.dumps(_shortened(event, longest))

    return render


def _journal_renderer(text: Renderer) -> Renderer:
    """Renders events as records of the journal."""
    return lambda logger, method, event: journal.datagram(str(text(logger, method, event)), event)


def _plain(value: Any) -> str | int | float | None:
    """A value that JSON has for certain."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int | float) and abs(value) < _LARGEST_NUMBER:  # NaN is not less than anything
        return value
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - user code; any answer is better than none
        return "(cannot be shown)"


def _shortened(event: Mapping[str, Any], longest: int) -> dict[str, Any]:
    """The event with its longest texts cut until it has less than so many bytes."""
    values = {key: _plain(value) for key, value in event.items()}
    limit = longest * 5 // 8
    while limit > 16:
        short = {k: v[:limit] + "…" if isinstance(v, str) and len(v) > limit else v for k, v in values.items()}
        short["shortened"] = True
        if len(json.dumps(short)) < longest:
            return short
        limit //= 2
    return {key: str(values.get(key))[:100] for key in ("time", "level", "event")} | {"shortened": True}


def _console(*, colors: bool) -> Renderer:
    """Words for a terminal: time, level, event, the facts; who it is in short."""
    renderer = structlog.dev.ConsoleRenderer(
        colors=colors and "NO_COLOR" not in os.environ, timestamp_key="time", sort_keys=False, pad_event_to=22
    )

    def render(logger: Any, method: str, event: MutableMapping[str, Any]) -> str:
        shown = {k: _printable(v) for k, v in event.items() if k not in _NOT_SHOWN and v is not None}
        shown["time"] = str(shown["time"])[11:23]
        trace = shown.pop("traceback", None)
        try:
            line = str(renderer(logger, method, shown))
        except Exception:  # noqa: BLE001 - a repr that raises
            line = str(_json_renderer(_PIPE_BUF)(logger, method, shown))
        return f"{line}\n{trace}".rstrip("\n") if trace else line

    return render


def _printable(value: Any) -> Any:
    """Text from a message must not talk to the terminal."""
    if isinstance(value, str) and not value.replace("\n", "").isprintable():
        return value.encode("unicode_escape").decode()
    return value


class Reminder:
    """Says the same complaint once, and again after a while; knows how long the trouble has lasted."""

    #: Seconds between two mentions of one reason.
    again_after = 60.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._reason: str | None = None
        self._since: float | None = None
        self._said_at = 0.0

    def due(self, reason: str) -> bool:
        """Whether to say it now."""
        now = self._clock()
        if self._since is None:
            self._since = now
        if reason == self._reason and now - self._said_at < self.again_after:
            return False
        self._reason, self._said_at = reason, now
        return True

    def end(self) -> float | None:
        """The trouble is over; returns how many seconds it lasted, None without one."""
        since, self._since, self._reason = self._since, None, None
        return None if since is None else round(self._clock() - since, 3)
