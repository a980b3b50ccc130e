"""The log: one JSON object a line whatever is logged, and never a reason for a task to fail or to wait."""

import fcntl
import json
import logging
import mmap
import os
import resource
import select
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from workqueued import logs
from workqueued import outlet as outlets
from workqueued.logs import Reminder, log
from workqueued.outlet import LineSink, Outlet
from workqueued.printed import LineLogger, Output
from workqueued.scoreboard import State


@pytest.fixture
def structlog_restored() -> Iterator[None]:
    """Undoes `logs.configure` and what was bound."""
    known, saved = structlog.is_configured(), structlog.get_config()
    yield
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()
    if known:
        structlog.configure(**saved)


class Log:
    """A log at whose other end the test sits."""

    def __init__(self, level: str = "debug", form: str = "json") -> None:
        self.reader, writer = os.pipe()
        self.stream = os.fdopen(writer, "w")
        logs.configure(level, form, self.stream)

    def lines(self) -> list[bytes]:
        """What was written since the last call, line by line."""
        data = b""
        while select.select([self.reader], [], [], 0)[0] and (chunk := os.read(self.reader, 1 << 16)):
            data += chunk
        return data.splitlines(keepends=True)

    def events(self) -> list[dict[str, Any]]:
        """The same as events; a line that is no JSON object fails the test."""
        found = []
        for line in self.lines():
            event = json.loads(line, parse_constant=_no_json)
            assert isinstance(event, dict)
            found.append(event)
        return found

    def close_reader(self) -> None:
        """Go away."""
        if self.reader >= 0:
            os.close(self.reader)
        self.reader = -1


def outlet(descriptor: int, *, blocks: bool = False) -> Outlet:
    """An outlet to a descriptor."""
    return Outlet(LineSink(descriptor, blocks=blocks), lambda lines: f'{{"event": "log.dropped", "lines": {lines}}}')


def _no_json(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


@pytest.fixture
def open_log(structlog_restored: None) -> Iterator[Callable[..., Log]]:
    """Opens logs; the last one is where `logs.log` writes to."""
    opened: list[Log] = []

    def make(*arguments: str) -> Log:
        opened.append(Log(*arguments))
        return opened[-1]

    yield make
    for one in opened:
        one.close_reader()
        one.stream.close()


Open = Callable[..., Log]


class Unshowable:
    """Something that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("not even this")


def _cycle() -> list[Any]:
    cycle: list[Any] = []
    cycle.append(cycle)
    return cycle


def _deep() -> Any:
    value: Any = 1
    for _ in range(5000):
        value = [value]
    return value


# --- what a line looks like -----------------------------------------------------------------------------------------


def test_a_line_begins_with_time_level_and_event(open_log: Open) -> None:
    """A person reads them first, too."""
    end = open_log()
    before = datetime.now(UTC).replace(microsecond=0)
    log.warning("sample.finished", dots=3)
    (line,) = end.lines()
    event = json.loads(line)
    assert list(event) == ["time", "level", "event", "dots"]
    assert (event["level"], event["event"], event["dots"]) == ("warning", "sample.finished", 3)
    assert event["time"].endswith("Z")
    assert before <= datetime.fromisoformat(event["time"]) <= datetime.now(UTC)


def test_what_was_bound_is_on_every_line(open_log: Open) -> None:
    """Who speaks, without saying so each time; a second identity takes the place of the first."""
    end = open_log()
    logs.identify("master", slot="x")
    logs.identify("worker", queue="task_queue", generation=2)
    log.info("worker.consuming")
    (event,) = end.events()
    assert event["role"] == "worker"
    assert event["pid"] == os.getpid()
    assert (event["queue"], event["generation"]) == ("task_queue", 2)
    assert event["host"]
    assert "slot" not in event


@pytest.mark.parametrize(("level", "heard"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_a_level_silences_what_is_less_severe(open_log: Open, level: str, heard: int) -> None:
    """And nothing else."""
    end = open_log(level)
    for method in (log.debug, log.info, log.warning, log.error):
        method("sample.finished")
    assert len(end.events()) == heard


def test_a_bound_logger_follows_a_change_of_level(open_log: Open) -> None:
    """A reload may change it while the process runs."""
    open_log("error")
    end = open_log("info")
    log.info("sample.finished")
    assert len(end.events()) == 1


ANYTHING = [
    None,
    True,
    7,
    1.5,
    "text",
    "x" * 100_000,
    "\n\r\t\0\x1b[31m\u2028\x85",
    "\udcff\ud800",
    "\U0001f600" * 5000,
    b"\xff" * 10_000,
    float("nan"),
    float("inf"),
    -float("inf"),
    2**63,
    -(10**5000),
    10**3500,
    {"nested": [1, {"two": (3, None)}]},
    {"nan": [float("nan")]},
    {(1, 2): 3, None: 4, 5: 6},
    {b"bytes": 1},
    {1, 2},
    ValueError("text"),
    Unshowable(),
    [Unshowable()],
    object(),
    State.IDLE,
    datetime(2024, 1, 1, tzinfo=UTC),
    _cycle(),
    _deep(),
    ["x" * 500] * 500,
    dict.fromkeys(map(str, range(1000)), "x" * 50),
]


@pytest.mark.parametrize("value", ANYTHING, ids=lambda value: type(value).__name__)
def test_whatever_is_logged_is_one_json_object_on_one_short_line(open_log: Open, value: object) -> None:
    """Longer lines from several processes interleave in a pipe; NaN is no JSON; an exception would fail the task."""
    end = open_log()
    log.info("sample.finished", value=value, message_id="m")
    lines = end.lines()
    assert len(lines) == 1
    assert lines[0].endswith(b"\n")
    assert len(lines[0]) <= select.PIPE_BUF
    event = json.loads(lines[0], parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert event["event"] == "sample.finished"
    assert event["message_id"] == "m"
    assert "value" in event


def test_plain_values_are_kept_as_they_are(open_log: Open) -> None:
    """Numbers stay numbers, null is null; one odd value does not change the others."""
    end = open_log()
    log.info("sample.finished", a=1, b=1.5, c=None, d=False, e="é", f=float("nan"), g={1: 2}, h=-(2**63) + 1, i=2**63)
    (event,) = end.events()
    assert [event[key] for key in "abcdef"] == [1, 1.5, None, False, "é", "nan"]
    assert [event["h"], event["i"]] == [-(2**63) + 1, str(2**63)]


def test_no_length_of_a_line_is_too_much(open_log: Open) -> None:
    """The last byte of PIPE_BUF is the line's end."""
    end = open_log()
    for length in range(3900, 4100):
        log.info("sample.finished", text="x" * length)
        (line,) = end.lines()
        assert len(line) <= select.PIPE_BUF
    assert b"shortened" in line


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("x" * 10_000, {}),
        ("x" * 10_000, {f"key{number}": number for number in range(1000)}),
        ("\U0001f600" * 4000, {}),
        ("sample.finished", {f"key{number}": number for number in range(1000)}),
        ("sample.finished", {"k" * 10_000: 1}),
        (None, {}),
        (42, {}),
    ],
    ids=["long", "long and many", "astral", "many", "long key", "none", "number"],
)
def test_an_odd_event_is_a_short_line_too(open_log: Open, name: Any, facts: dict[str, Any]) -> None:
    """Time, level and event are what is left at the least."""
    end = open_log()
    log.info(name, **facts)
    (line,) = end.lines()
    assert len(line) <= select.PIPE_BUF
    assert {"time", "level", "event"} <= json.loads(line).keys()


def test_a_shortened_line_says_so_and_keeps_its_short_facts(open_log: Open) -> None:
    """Only the longest texts are cut."""
    end = open_log()
    log.info("sample.finished", error="x" * 10_000, hint="y" * 100, count=7)
    (event,) = end.events()
    assert event["shortened"] is True
    assert event["error"].endswith("x…")
    assert len(event["error"]) > 1000
    assert (event["hint"], event["count"]) == ("y" * 100, 7)


def test_a_handler_cannot_take_the_place_of_time_and_level(open_log: Open) -> None:
    """`task.log.info("order.paid", level="gold")` is legitimate."""
    end = open_log()
    log.info("order.paid", level="gold", time="noon")
    (event,) = end.events()
    assert (event["level"], event["level_"], event["time_"]) == ("info", "gold", "noon")


# --- a reader that is slow, or gone ---------------------------------------------------------------------------------


def _fill(descriptor: int) -> None:
    """Write until the pipe takes no more."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    try:
        while True:
            os.write(descriptor, b" " * 4096)
    except BlockingIOError:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)


def test_a_reader_that_does_not_read_costs_a_moment_and_lines_but_no_task(open_log: Open) -> None:
    """Lines are dropped and counted, and the count is told as soon as there is somebody to tell."""
    end = open_log()
    _fill(end.stream.fileno())
    begin = time.monotonic()
    for number in range(1000):
        log.info("sample.finished", number=number)
    assert time.monotonic() - begin < 2.0
    assert all(not line.strip() for line in end.lines())  # this reads: there is room again
    log.info("sample.finished", number=1000)
    dropped, after = end.events()
    assert (dropped["event"], dropped["level"], dropped["lines"]) == ("log.dropped", "warning", 1000)
    assert dropped["pid"] == os.getpid()
    assert dropped["time"]
    assert after["number"] == 1000
    log.info("sample.finished", number=1001)
    assert [event["number"] for event in end.events()] == [1001]


def test_a_reader_with_room_for_the_notice_only_costs_no_second_moment(
    open_log: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow reader would otherwise cost a wait for each line."""
    end = open_log()
    answers, patience = iter([False, True, False, True, True]), []

    def room(_writer: Outlet, milliseconds: int) -> bool:
        patience.append(milliseconds)
        return next(answers)

    monkeypatch.setattr(Outlet, "_room", room)
    for _ in range(3):
        log.info("sample.finished")
    assert patience == [200, 0, 0, 0, 0]
    assert [event.get("lines") for event in end.events()] == [1, 1, None]


def test_a_reader_that_pauses_for_a_moment_costs_nothing(open_log: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line waits for it; here it reads while the line waits."""
    end = open_log()
    _fill(end.stream.fileno())
    patience = []
    room = Outlet._room

    def reads_meanwhile(writer: Outlet, milliseconds: int) -> bool:
        patience.append(milliseconds)
        end.lines()
        return room(writer, milliseconds)

    monkeypatch.setattr(Outlet, "_room", reads_meanwhile)
    log.info("sample.finished")
    assert [event["event"] for event in end.events()] == ["sample.finished"]
    assert patience[0] > 0


def test_a_reader_that_is_gone_is_no_reason_to_fail(open_log: Open) -> None:
    """Supervisord closes the pipe when the master dies, and a worker must finish its task all the same."""
    end = open_log()
    end.close_reader()
    begin = time.monotonic()
    for _ in range(100):
        log.info("sample.finished", text="x" * 3000)
    assert time.monotonic() - begin < 2.0


def test_a_full_disk_is_counted_until_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """/dev/full answers every write with ENOSPC; a notice that could not be written does not lose the count."""
    reader, pipe = os.pipe()
    full = os.open("/dev/full", os.O_WRONLY)
    writer = outlet(full)
    for _ in range(5):
        writer.msg("{}")
    assert writer.dropped == 5
    os.dup2(pipe, full)
    writer._poll = select.poll()
    writer._poll.register(full, select.POLLOUT)
    writer.msg('{"event": "after"}')
    lines = [json.loads(line) for line in os.read(reader, 4096).splitlines()]
    assert [(line["event"], line.get("lines")) for line in lines] == [("log.dropped", 5), ("after", None)]
    for descriptor in (reader, pipe, full):
        os.close(descriptor)


def _tear(writer: Outlet, room: int) -> None:
    """Let another process write a line where there is room for a part of it."""
    pid = os.fork()
    if pid == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        writer.msg('{"event": "torn"}')
        os._exit(writer.dropped)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


@pytest.mark.parametrize("anew", [False, True], ids=["meanwhile", "before us"])
def test_a_line_is_not_spoilt_by_another_processs_torn_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, anew: bool
) -> None:
    """Whoever writes next begins a line, also one who lost nothing, or came later."""
    monkeypatch.setattr(outlets, "_torn", mmap.mmap(-1, 1))
    log = tmp_path / "log"
    with log.open("ab") as file:
        writer = outlet(file.fileno())
        writer.msg('{"event": "whole"}')
        _tear(writer, log.stat().st_size + 5)
        if anew:
            monkeypatch.setattr(outlets, "_torn", mmap.mmap(-1, 1))
            writer = outlet(file.fileno())
        for _ in range(2):
            writer.msg('{"event": "next"}')
    assert log.read_text().splitlines() == ['{"event": "whole"}', '{"eve', *['{"event": "next"}'] * 2]


def test_a_closed_descriptor_is_no_reason_to_fail() -> None:
    """A handler may close what it does not own."""
    reader, pipe = os.pipe()
    writer = outlet(pipe, blocks=True)
    duplicate = os.dup(pipe)
    os.close(pipe)
    writer.msg("{}")
    assert writer.dropped == 1
    os.dup2(duplicate, pipe)
    writer.msg("{}")
    assert writer.dropped == 0
    assert os.read(reader, 4096).count(b"\n") == 2
    for descriptor in (reader, pipe, duplicate):
        os.close(descriptor)


def test_room_that_another_process_took_meanwhile_costs_the_line_and_no_wait(
    open_log: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the write the pipe may fill up; a blocking write would stand until somebody reads."""
    end = open_log()
    flags = fcntl.fcntl(end.stream.fileno(), fcntl.F_GETFL)
    _fill(end.stream.fileno())
    monkeypatch.setattr(Outlet, "_room", lambda *_: True)
    log.info("sample.finished", number=1)
    assert all(not line.strip() for line in end.lines())
    log.info("sample.finished", number=2)
    assert [event.get("lines", event.get("number")) for event in end.events()] == [1, 2]
    assert fcntl.fcntl(end.stream.fileno(), fcntl.F_GETFL) == flags  # the pipe as others have it is as it was


def test_a_reload_does_not_use_up_descriptors(open_log: Open) -> None:
    """It sets up the log anew each time."""
    end = open_log()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        logs.configure("info", "json", end.stream)
        log.info("sample.finished")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_child_does_not_report_what_its_parent_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each fork would count the same lines again."""
    reader, pipe = os.pipe()
    writer = outlet(pipe)
    writer.dropped = 3
    monkeypatch.setattr(os, "getpid", lambda: writer._pid + 1)
    writer.msg('{"event": "child"}')
    assert os.read(reader, 4096) == b'{"event": "child"}\n'
    os.close(reader)
    os.close(pipe)


# --- what a handler prints ------------------------------------------------------------------------------------------


def test_what_is_printed_becomes_an_event_a_line(open_log: Open) -> None:
    """Empty lines say nothing; what has no end yet waits for it."""
    end = open_log()
    stream = LineLogger("stdout", Output(log))
    assert stream.write("one\ntwo ") == 8
    assert [event["line"] for event in end.events()] == ["one"]
    print("lines", file=stream)
    print("\n  \nfour", file=stream)
    events = end.events()
    assert [event["line"] for event in events] == ["two lines", "four"]
    assert {(event["event"], event["stream"], event["level"]) for event in events} == {
        ("handler.printed", "stdout", "info")
    }


def test_a_printed_line_without_end_is_cut_and_nothing_is_lost(open_log: Open) -> None:
    """A megabyte without a newline would otherwise stay in memory."""
    end = open_log()
    LineLogger("stderr", Output(log)).write("".join(f"{number:05} " for number in range(2000)) + "\n")
    lines = end.lines()
    assert len(lines) > 3
    assert max(map(len, lines)) <= select.PIPE_BUF
    assert "".join(json.loads(line)["line"] for line in lines).split() == [f"{n:05}" for n in range(2000)]


def test_what_is_printed_belongs_to_its_message_and_has_a_limit(open_log: Open) -> None:
    """A flood is counted and not logged; the next message may print again."""
    end = open_log()
    output = Output(log)
    stream = LineLogger("stdout", output)
    output.begin("m")
    for _ in range(30):
        stream.write("line\n" * 50)
        end.lines()
    output.end()
    (muted,) = end.events()
    assert (muted["event"], muted["message_id"], muted["lines"], muted["bytes"]) == ("handler.muted", "m", 500, 2500)
    output.begin("n")
    stream.write("no end")
    assert end.lines() == []
    output.end()
    assert [(event["line"], event["message_id"]) for event in end.events()] == [("no end", "n")]


def test_the_stand_in_for_stdout_is_a_text_stream(open_log: Open) -> None:
    """Libraries ask for these, logging's handlers write to it."""
    end = open_log()
    stream = LineLogger("stderr", Output(log))
    assert stream.writable()
    assert not stream.isatty()
    assert stream.encoding == "utf-8"
    stream.flush()
    handler = logging.StreamHandler(stream)
    handler.emit(logging.LogRecord("a", logging.INFO, "f", 1, "said %s", ("this",), None))
    assert [event["line"] for event in end.events()] == ["said this"]


# --- for eyes -------------------------------------------------------------------------------------------------------


def test_the_console_shows_words(open_log: Open) -> None:
    """Time of day, level, event, facts; not what is the same on every line. A pipe is no place for colours."""
    end = open_log("info", "console")
    logs.identify("worker", slot="task_queue/0")
    log.warning("sample.finished", dots=3, traceback="Traceback:\n  line\n")
    text = b"".join(end.lines()).decode()
    first, *rest = text.splitlines()
    assert "sample.finished" in first
    assert "dots=3" in first
    assert "warning" in first
    assert "task_queue/0" in first
    assert "role" not in first
    assert "host" not in first
    assert "\x1b" not in text
    assert rest == ["Traceback:", "  line"]
    assert datetime.strptime(first.split()[0], "%H:%M:%S.%f")  # noqa: DTZ007 - a time of day


def test_the_console_does_not_fail_over_a_value_either(open_log: Open) -> None:
    """What cannot be shown is said not to be."""
    end = open_log("info", "console")
    log.info("sample.finished", value=Unshowable())
    assert b"cannot be shown" in b"".join(end.lines())


def test_auto_is_json_where_there_is_no_terminal(open_log: Open) -> None:
    """Under a supervisor, in a pipe, in a file."""
    end = open_log("info", "auto")
    log.info("sample.finished")
    assert len(end.events()) == 1


def test_auto_is_words_on_a_terminal(structlog_restored: None) -> None:
    """With colours, unless NO_COLOR says no."""
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as terminal:
        logs.configure("info", "auto", terminal)
        log.info("sample.finished")
        text = os.read(master, 4096)
    os.close(master)
    assert b"sample.finished" in text
    assert not text.startswith(b"{")


# --- complaints -----------------------------------------------------------------------------------------------------


def test_a_complaint_is_made_once_and_again_after_a_while() -> None:
    """A broker that is away for an hour is not a thousand lines."""
    now = 0.0
    reminder = Reminder(lambda: now)
    assert reminder.due("away")
    now = 59.9
    assert not reminder.due("away")
    now = 60.0
    assert reminder.due("away")
    assert not reminder.due("away")


def test_another_complaint_is_made_at_once() -> None:
    """The trouble is another, but it is still the same outage."""
    now = 0.0
    reminder = Reminder(lambda: now)
    assert reminder.due("away")
    now = 1.0
    assert reminder.due("refused")
    now = 2.5
    assert reminder.end() == 2.5


def test_the_end_of_trouble_tells_how_long_it_lasted() -> None:
    """None where there was none; afterwards the same complaint is new."""
    now = 10.0
    reminder = Reminder(lambda: now)
    assert reminder.end() is None
    assert reminder.due("away")
    now = 12.3456
    assert reminder.end() == 2.346
    assert reminder.end() is None
    assert reminder.due("away")
