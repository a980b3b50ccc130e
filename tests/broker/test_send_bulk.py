"""`wq-send --lines` and `--ndjson`: every line once, and an honest account of where a bulk ended."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from signal import SIGINT
from typing import Any, Self

import pytest
from harness import Vhost, eventually

from workqueued.node import Node

Send = Callable[..., Any]
Block = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def to(vhost: Vhost) -> list[str]:
    """The arguments that say where to: an existing classic queue of the test's vhost."""
    with vhost.channel() as channel:
        channel.queue_declare("task_queue", durable=True)
    return ["--url", vhost.url, "--queue", "task_queue"]


def messages(vhost: Vhost, queue: str = "task_queue") -> list[tuple[Any, bytes]]:
    """Take everything off a queue, in order."""
    found: list[tuple[Any, bytes]] = []
    with vhost.channel() as channel:
        while True:
            method, properties, body = channel.basic_get(queue, auto_ack=True)
            if method is None:
                return found
            found.append((properties, body))


def bodies(vhost: Vhost, queue: str = "task_queue") -> list[bytes]:
    """The same, bodies only."""
    return [body for _, body in messages(vhost, queue)]


class SlowPipe:
    """wq-send behind a pipe that the test writes into; its output is buffered as it would be for a user."""

    def __init__(self, *arguments: str) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "workqueued.cli.send", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def write(self, *lines: str) -> None:
        """Feed lines."""
        assert self.process.stdin is not None
        for line in lines:
            self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def read_id(self) -> str:
        """The next id that it prints; waits for it."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()

    def end(self, within: float = 20) -> tuple[int, list[str], str]:
        """Wait for its end: exit code, further ids, stderr."""
        out, err = self.process.communicate(timeout=within)
        return self.process.returncode, out.decode().split(), err.decode()


@pytest.fixture
def slow_pipe(to: list[str]) -> Iterator[Callable[..., SlowPipe]]:
    """Starts `wq-send --lines` behind a slow pipe."""
    pipes: list[SlowPipe] = []

    def make(*arguments: str) -> SlowPipe:
        pipes.append(SlowPipe(*to, "--lines", *arguments))
        return pipes[-1]

    yield make
    for pipe in pipes:
        pipe.__exit__()


# --- lines ---


def test_each_line_is_a_message_and_its_bytes_are_not_touched(to: list[str], vhost: Vhost, wq_send: Send) -> None:
    """Empty lines, a carriage return, invalid UTF-8, a NUL, and a last line without its newline."""
    lines = [b"one", b"", b"crlf\r", b"\xff\xfe\x00", b" blanks ", "é".encode(), b"last"]
    done = wq_send(*to, "--lines", stdin=b"\n".join(lines))
    assert done.code == 0
    found = messages(vhost)
    assert [body for _, body in found] == lines
    assert [properties.message_id for properties, _ in found] == done.ids
    assert {properties.delivery_mode for properties, _ in found} == {2}


@pytest.mark.parametrize(("stdin", "count"), [(b"", 0), (b"\n", 1), (b"a\n", 1), (b"a", 1), (b"a\n\n", 2)])
def test_a_newline_ends_a_line_and_begins_none(
    to: list[str], vhost: Vhost, wq_send: Send, stdin: bytes, count: int
) -> None:
    """No input is no message; a final newline is not an empty message."""
    assert wq_send(*to, "--lines", "-", stdin=stdin).code == 0
    assert vhost.count("task_queue") == count


def test_options_hold_for_every_line(to: list[str], vhost: Vhost, wq_send: Send) -> None:
    """But each has an id of its own."""
    assert wq_send(*to, "--lines", "-H", "a=1", "--type", "t", "--expires", "1h", stdin=b"x\ny\n").code == 0
    found = [properties for properties, _ in messages(vhost)]
    assert [(p.headers["a"], p.type, p.expiration) for p in found] == [("1", "t", "3600000")] * 2
    assert found[0].message_id < found[1].message_id


def test_a_hundred_thousand_lines_are_all_there(to: list[str], vhost: Vhost, wq_send: Send, tmp_path: Path) -> None:
    """From a file, with nothing printed."""
    file = tmp_path / "lines"
    file.write_text("".join(f"{number}\n" for number in range(100_000)))
    done = wq_send(*to, "--lines", "--quiet", "--file", file)
    assert (done.code, done.out, done.err) == (0, "", "")
    assert vhost.count("task_queue") == 100_000


def test_lines_of_a_megabyte_do_not_stall(to: list[str], vhost: Vhost, wq_send: Send) -> None:
    """More bytes than the window holds, in lines that span many reads."""
    lines = [bytes([97 + number]) * 1_000_000 for number in range(20)]
    assert wq_send(*to, "--lines", "--quiet", stdin=b"\n".join(lines)).code == 0
    assert bodies(vhost) == lines


def test_the_queue_is_declared_for_a_bulk_as_well(
    vhost: Vhost, make_config: Callable[..., Path], wq_send: Send
) -> None:
    """When the configuration has it."""
    assert wq_send("--config", make_config("jobs"), "--lines", stdin=b"a\nb\n").code == 0
    assert bodies(vhost, "jobs") == [b"a", b"b"]


def test_a_slow_producer_sees_each_line_confirmed_while_its_pipe_is_open(
    slow_pipe: Callable[..., SlowPipe], vhost: Vhost
) -> None:
    """The id comes out, flushed, before the next line goes in."""
    pipe = slow_pipe()
    ids = []
    for number in range(3):
        pipe.write(f"line {number}")
        ids.append(pipe.read_id())
        assert vhost.count("task_queue") == number + 1
    assert pipe.end() == (0, [], "")
    assert [properties.message_id for properties, _ in messages(vhost)] == ids


# --- NDJSON ---


def test_a_json_line_is_a_whole_message(to: list[str], vhost: Vhost, wq_send: Send) -> None:
    """Its keys are the message's properties, over those of the command line."""
    line = {
        "body": "text é",
        "headers": {"a": 1, "nested": {"list": [True, None, "x"]}},
        "type": "resize",
        "message_id": "mine",
        "content_type": "text/plain",
        "correlation_id": "c",
        "reply_to": "r",
        "priority": 3,
        "expires": "1m",
    }
    done = wq_send(*to, "--ndjson", "--type", "default", "-H", "a=0", "-H", "b=2", stdin=json.dumps(line).encode())
    assert (done.code, done.ids) == (0, ["mine"])
    ((properties, body),) = messages(vhost)
    assert body == "text é".encode()
    del properties.headers["x-wq-enqueued-at"]
    assert properties.headers == {"a": 1, "b": "2", "nested": {"list": [True, None, "x"]}}
    assert (properties.type, properties.content_type) == ("resize", "text/plain")
    assert (properties.correlation_id, properties.reply_to) == ("c", "r")
    assert (properties.priority, properties.expiration) == (3, "60000")


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None]}, [1], 7, 1.5, True, None])
def test_a_body_that_is_no_text_is_sent_as_json(to: list[str], vhost: Vhost, wq_send: Send, value: Any) -> None:
    """And says so in its content type."""
    assert wq_send(*to, "--ndjson", stdin=json.dumps({"body": value}).encode()).code == 0
    ((properties, body),) = messages(vhost)
    assert json.loads(body) == value
    assert properties.content_type == "application/json"


def test_each_json_line_names_its_queue(to: list[str], vhost: Vhost, wq_send: Send) -> None:
    """--queue is for those that do not; --json prints where each went, in order."""
    with vhost.channel() as channel:
        channel.queue_declare("other", durable=True)
    lines = [{"body": str(number), **({"queue": "other"} if number % 2 else {})} for number in range(6)]
    done = wq_send(*to, "--ndjson", "--json", stdin="\n".join(map(json.dumps, lines)).encode())
    assert done.code == 0
    assert [json.loads(line)["queue"] for line in done.ids] == ["task_queue", "other"] * 3
    assert bodies(vhost) == [b"0", b"2", b"4"]
    assert bodies(vhost, "other") == [b"1", b"3", b"5"]


def test_blank_json_lines_are_no_messages_but_are_counted(to: list[str], vhost: Vhost, wq_send: Send) -> None:
    """Line numbers are those of an editor."""
    lines = b'{"body": 1}\n\n  \r\n{"body": 2}\nbroken\n'
    done = wq_send(*to, "--ndjson", stdin=lines)
    assert done.code == os.EX_DATAERR
    assert "line 5: not valid JSON" in done.err
    assert "Resume with --skip 4" in done.err
    assert bodies(vhost) == [b"1", b"2"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "not valid JSON"),
        ('{"body": NaN}', "NaN is no JSON"),
        ("[" * 100_000, "recursion"),
        ('"text"', 'expected an object with a "body"'),
        ('{"type": "x"}', 'expected an object with a "body"'),
        ('{"body": 1, "exipres": "1m"}', "unknown key 'exipres'; known: body, queue"),
        ('{"body": 1, "expires": 60}', "expires: found 60, expected a duration in quotes"),
        ('{"body": 1, "expires": "soon"}', "'soon' is no duration"),
        ('{"body": 1, "priority": 256}', "priority: found 256, expected a whole number from 0 to 255"),
        ('{"body": 1, "priority": true}', "priority: found true"),
        ('{"body": 1, "headers": []}', "headers: found [], expected an object"),
        ('{"body": 1, "message_id": null}', "message_id: found null, expected text"),
        ('{"body": 1, "headers": {"x": 1.5}}', "a header holds 1.5 (float); write it as text"),
        ('{"body": 1, "headers": {"x": 99999999999999999999}}', "AMQP cannot carry"),
        (json.dumps({"body": 1, "headers": {"x": "y" * 200_000}}), "headers take 200"),
        (json.dumps({"body": 1, "type": "x" * 256}), "more than 255 bytes"),
        ('{"body": "\\ud800"}', "UTF-8 cannot hold"),
        ('{"body": 1, "queue": "nowhere"}', "no queue 'nowhere'"),
    ],
)
def test_a_line_that_cannot_be_a_message_is_named_and_what_came_before_is_sent(
    to: list[str], vhost: Vhost, wq_send: Send, line: str, words: str
) -> None:
    """With a text that says what to change, and where to resume."""
    done = wq_send(*to, "--ndjson", stdin=f'{{"body": "good"}}\n{line}\n{{"body": "after"}}\n'.encode())
    assert done.code == (os.EX_UNAVAILABLE if "nowhere" in line else os.EX_DATAERR)
    assert words in done.err
    assert "Resume with --skip 1" in done.err
    if "nowhere" not in line:
        assert "line 2: " in done.err
    assert len(done.err) < 800
    assert bodies(vhost) == [b"good"]


def test_lines_that_were_confirmed_before_an_unknown_queue_are_reported(
    to: list[str], vhost: Vhost, wq_send: Send
) -> None:
    """All of them, however many were on their way."""
    lines = [json.dumps({"body": "x"})] * 500 + ['{"body": "x", "queue": "nowhere"}']
    done = wq_send(*to, "--ndjson", stdin="\n".join(lines).encode())
    assert done.code == os.EX_UNAVAILABLE
    assert len(done.ids) == vhost.count("task_queue") == 500
    assert "Resume with --skip 500" in done.err


def test_a_json_line_without_a_queue_is_named_when_there_is_no_default(vhost: Vhost, wq_send: Send) -> None:
    """The first line may have one while the second has not."""
    with vhost.channel() as channel:
        channel.queue_declare("q", durable=True)
    done = wq_send("--url", vhost.url, "--ndjson", stdin=b'{"body": 1, "queue": "q"}\n{"body": 2}\n')
    assert done.code == os.EX_DATAERR
    assert "line 2: which queue?" in done.err
    assert vhost.count("q") == 1


# --- where it ended ---


def test_a_broken_line_deep_in_a_bulk_and_then_skip_gives_every_line_once(
    to: list[str], vhost: Vhost, wq_send: Send
) -> None:
    """65 with the line's number; all before it are there; --skip goes on behind them."""
    lines = [json.dumps({"body": str(number)}) for number in range(1, 5001)]
    broken = [*lines[:3455], '{"body": ', *lines[3456:]]
    done = wq_send(*to, "--ndjson", stdin="\n".join(broken).encode())
    assert done.code == os.EX_DATAERR
    assert "line 3456: not valid JSON" in done.err
    assert "lines 1 to 3455 are safe" in done.err
    assert "Resume with --skip 3455" in done.err
    assert (len(done.ids), vhost.count("task_queue")) == (3455, 3455)
    assert wq_send(*to, "--ndjson", "--quiet", "--skip", "3455", stdin="\n".join(lines).encode()).code == 0
    assert bodies(vhost) == [str(number).encode() for number in range(1, 5001)]


def test_a_connection_that_ends_mid_bulk_exits_75_and_names_the_line(
    slow_pipe: Callable[..., SlowPipe], vhost: Vhost, node: Node
) -> None:
    """Every printed id is on the broker, and --skip is the number of ids."""
    pipe = slow_pipe()
    pipe.write("1", "2", "3")
    ids = [pipe.read_id() for _ in range(3)]
    node.ctl("close_all_connections", "--vhost", vhost.name, "maintenance")
    code, more, err = pipe.end()
    assert (code, more) == (os.EX_TEMPFAIL, [])
    assert "maintenance" in err
    assert "lines 1 to 3 are safe; the first that is not confirmed is line 4. Resume with --skip 3" in err
    assert [properties.message_id for properties, _ in messages(vhost)] == ids


def test_a_broker_killed_mid_bulk_loses_no_printed_id(
    slow_pipe: Callable[..., SlowPipe], vhost: Vhost, node: Node
) -> None:
    """A full window is on its way at that moment; whatever was printed survives the restart."""
    pipe = slow_pipe()
    pipe.write(*map(str, range(2000)))
    first = pipe.read_id()
    node.kill()
    try:
        code, more, err = pipe.end()
    finally:
        node.start()
    assert code == os.EX_TEMPFAIL
    ids = [first, *more]
    assert f"Resume with --skip {len(ids)}" in err
    there = [properties.message_id for properties, _ in eventually(lambda: messages(vhost), within=30)]
    assert set(ids) <= set(there)
    assert there[: len(ids)] == ids


def test_a_broker_that_hangs_mid_bulk_exits_75_within_the_timeout(
    slow_pipe: Callable[..., SlowPipe], paused: Block
) -> None:
    """The timeout is counted from the last confirm."""
    pipe = slow_pipe("--timeout", "3s")
    pipe.write("1")
    assert pipe.read_id()
    with paused():
        pipe.write("2", "3")
        started = time.monotonic()
        code, more, err = pipe.end()
        assert time.monotonic() - started < 7.5
    assert (code, more) == (os.EX_TEMPFAIL, [])
    assert "did not confirm in time" in err
    assert "line 1 is safe; the first that is not confirmed is line 2. Resume with --skip 1" in err


def test_a_queue_that_is_full_ends_a_bulk_at_its_line(vhost: Vhost, wq_send: Send) -> None:
    """reject-publish: the first line that does not fit is the one that is named."""
    with vhost.channel() as channel:
        channel.queue_declare("full", durable=True, arguments={"x-max-length": 2, "x-overflow": "reject-publish"})
    done = wq_send("--url", vhost.url, "--queue", "full", "--lines", stdin=b"1\n2\n3\n4\n5\n")
    assert done.code == os.EX_TEMPFAIL
    assert "it is full" in done.err
    assert "Resume with --skip 2" in done.err
    assert len(done.ids) == 2


def test_nothing_sent_says_start_again(wq_send: Send) -> None:
    """No `--skip 0`."""
    done = wq_send("--url", "amqp://127.0.0.1:1", "--queue", "q", "--lines", stdin=b"1\n2\n")
    assert done.code == os.EX_TEMPFAIL
    assert "no line is confirmed; start again from the first" in done.err


def test_ctrl_c_says_where_to_resume(slow_pipe: Callable[..., SlowPipe]) -> None:
    """130, and no traceback."""
    pipe = slow_pipe()
    pipe.write("1", "2")
    assert pipe.read_id()
    assert pipe.read_id()
    pipe.process.send_signal(SIGINT)
    code, _, err = pipe.end()
    assert code == 130
    assert err == (
        "wq-send: interrupted\n"
        "wq-send: lines 1 to 2 are safe; the first that is not confirmed is line 3. Resume with --skip 2\n"
    )


def test_a_reader_that_goes_away_ends_the_bulk_without_a_traceback(to: list[str], vhost: Vhost) -> None:
    """`wq-send --lines | head -1`: 74, and how many are safe."""
    command = [sys.executable, "-m", "workqueued.cli.send", *to, "--lines"]
    script = 'yes | head -5000 | { "$@"; echo $? >&2; } | head -1'
    done = subprocess.run(["sh", "-c", script, "sh", *command], capture_output=True, check=False, text=True)
    *words, code = done.stderr.splitlines()
    assert code == str(os.EX_IOERR)
    assert "Broken pipe" in words[0]
    assert "Resume with --skip" in words[1]
    assert len(words) == 2
    assert vhost.count("task_queue") >= int(words[1].rpartition(" ")[2])


def test_an_input_that_cannot_be_read_ends_the_bulk(to: list[str], wq_send: Send) -> None:
    """A directory opens well and reads badly; the bulk must not wait for ever."""
    done = wq_send(*to, "--lines", "--file", "/")
    assert done.code == os.EX_USAGE
    assert "cannot read the input: Is a directory" in done.err
