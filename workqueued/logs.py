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
from json.encoder import encode_basestring_ascii as _text
from typing import Any, NamedTuple, TextIO

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

#: structlog's one processor: (logger, level, facts with the event's name among them) to what the outlet takes.
Renderer = Callable[[Any, str, MutableMapping[str, Any]], str | bytes]


class _Identity(NamedTuple):
    """Who this process is: what each of its lines carries, the same in JSON, and the names that are taken thereby."""

    facts: Mapping[str, Any]
    text: str
    names: frozenset[str]

    @classmethod
    def of(cls, **facts: Any) -> "_Identity":
        """From its facts."""
        return cls(facts, _members(facts), frozenset(facts) | {"time", "level"})


class _Log:
    """The logger that all of workqueued uses.

    Not structlog's global one: a handler's module may configure that for itself, and facts bound by contextvars would
    not reach our other threads.
    """

    def __init__(self) -> None:
        self._logger: Any = None
        self._least = 0
        self._write: Callable[[str, dict[str, Any]], None]
        self._flush: Callable[[], None]

    def set(
        self, logger: Any, level: str, write: Callable[[str, dict[str, Any]], None], flush: Callable[[], None]
    ) -> None:
        """From now on, log with this structlog logger, which leaves out what is less severe than the level.

        Args:
            logger: it.
            level: the least one.
            write: what the logger does in the end, with a level and with facts, the event's name among them.
            flush: what is to be done before the process ends.
        """
        self._logger, self._least, self._write, self._flush = logger, _LEVELS[level], write, flush

    def flush(self) -> None:
        """Call it before the process ends: what it said last must be found under its name."""
        if self._logger is not None:
            self._flush()

    def hears(self, level: str) -> bool:
        """Whether what is logged at this level is written; else its facts need not be gathered."""
        return _LEVELS[level] >= self._least

    def say(self, event: str, level: str, facts: Mapping[str, Any]) -> None:
        """Log what is said for each task: the way through structlog takes half as long again as all the rest."""
        if self._logger is None:
            configure("info", "json")
        if self.hears(level):
            self._write(level, {**facts, "event": event})

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
    outlet = Outlet(sink, lambda lines: render(None, "warning", {"event": "log.dropped", "lines": lines}))
    logger = structlog.wrap_logger(
        outlet,
        processors=[render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        context_class=dict,
    )
    log.set(logger.bind(), level, lambda level, facts: outlet.msg(render(None, level, facts)), sink.flush)


def identify(role: str, **facts: Any) -> None:
    """Say once who this process is: role, pid, host, and what else is given; every later line carries it."""
    global _identity  # noqa: PLW0603 - of the process, as its pid is
    _identity = _Identity.of(role=role, pid=os.getpid(), host=socket.gethostname(), **facts)


def _now() -> str:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    return f"{_calendar(seconds)}.{nanoseconds // 1_000_000:03d}Z"


@functools.lru_cache(maxsize=1)
def _calendar(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _record(level: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """A whole event. Time, level and name come first: a person reads them first, too."""
    stamp = {"time": _now(), "level": level, "event": facts.get("event")}
    if "exc_info" in facts:
        facts = structlog.processors.format_exc_info(None, level, dict(facts))
    rest = {f"{key}_" if key in ("time", "level") else key: value for key, value in facts.items() if key != "event"}
    return {**stamp, **_identity.facts, **rest}


def _json_renderer(longest: int) -> Renderer:
    """Renders events as JSON of less than so many bytes."""

    def render(_logger: Any, level: str, facts: MutableMapping[str, Any]) -> str:
        try:
            line = _json(level, facts)
        except Exception:  # noqa: BLE001 - NaN, a cycle, a key or a number that JSON has not, a repr that raises
            line = json.dumps({key: _plain(value) for key, value in _record(level, facts).items()})
        return line if len(line) < longest else json.dumps(_shortened(_record(level, facts), longest))

    return render


def _json(level: str, facts: MutableMapping[str, Any]) -> str:
    """An event in JSON: in a third of the time, when nothing about it is unusual, as who we are is not written anew."""
    if "exc_info" in facts or not _identity.names.isdisjoint(facts):
        return _ENCODER.encode(_record(level, facts))
    rest = dict(facts)
    name = _member(rest.pop("event", None))
    return f'{{"time": "{_now()}", "level": "{level}", "event": {name}{_identity.text}{_members(rest)}}}'


def _members(facts: Mapping[str, Any]) -> str:
    """Facts as members of a JSON object that has some already."""
    return "".join([f", {_text(key)}: {_member(value)}" for key, value in facts.items()])


def _member(value: Any) -> str:
    kind = type(value)
    if kind is str:
        return _text(value)
    if kind is int or (kind is float and value - value == 0):  # of NaN and infinities that is NaN
        return repr(value)
    return "null" if value is None else _ENCODER.encode(value)


_identity = _Identity({}, "", frozenset({"time", "level"}))


def _journal_renderer(text: Renderer) -> Renderer:
    """Renders events as records of the journal."""
    return lambda logger, level, facts: journal.datagram(
        str(text(logger, level, facts)), {**_identity.facts, **facts, "level": level}
    )


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

    def render(logger: Any, level: str, facts: MutableMapping[str, Any]) -> str:
        shown = {k: _printable(v) for k, v in _record(level, facts).items() if k not in _NOT_SHOWN and v is not None}
        shown["time"] = str(shown["time"])[11:23]
        trace = shown.pop("traceback", None)
        try:
            line = str(renderer(logger, level, dict(shown)))
        except Exception:  # noqa: BLE001 - a repr that raises
            line = json.dumps({key: _plain(value) for key, value in shown.items()})
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
