"""Whatever stands in a file, a header or on a command line: an answer or a clear error, never a traceback."""

import argparse
import contextlib
import dataclasses
import io
import json
import os
import re
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
import wire
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from workqueued import archive, delays, due, groups, letters, outcome
from workqueued.amqp import decoding
from workqueued.amqp.connection import encoded_size, properties_from_pika, properties_to_pika
from workqueued.amqp.copies import fit
from workqueued.amqp.tables import exact_tables
from workqueued.cli import bulk, daemon, send
from workqueued.config import Config, read_config
from workqueued.delivery import Delivery, Properties
from workqueued.errors import ConfigError, DataError, UsageError
from workqueued.evidence import CrashCell, Evidence
from workqueued.letters import Letter
from workqueued.outcome import DONE, Outcome, Proof
from workqueued.queue_settings import Queue, RetryPolicy
from workqueued.rundir import end_commands_left_behind, find_former
from workqueued.scoreboard import CAPACITY, FILE_NAME, Cell, Kind, Scoreboard
from workqueued.sender import Sender
from workqueued.urls import BrokerUrl

#: The same examples in every run, none kept on disk, and no clock that a slow machine could trip over.
FUZZ = settings(
    derandomize=True, database=None, deadline=None, max_examples=80, suppress_health_check=list(HealthCheck)
)
FEW = settings(FUZZ, max_examples=30)

SECRET = "hunter2hunter2"
SAMPLE = Path(__file__).parents[2] / "etc/workqueued.yaml"
#: Nobody listens on port 1.
NOBODY = "amqp://127.0.0.1:1/"

# --- the configuration ----------------------------------------------------------------------------------------------

#: Pieces of YAML that somebody may have meant well.
ODD = (
    "!!int x", "!!bool x", "!!float .nan", "!!binary aGk=", "!!python/object:os.system x", "!x y", "2026-01-01", ".inf",
    "-.nan", "1e400", "1e-5", "9" * 400, "-1", "0x1F", "0o17", "1_000", "12:30:45", "\0", "\x85", "\t", "\ufeff",
    "\u202e", "🐇", "٣s", "0.00001s", "1234567.891s", "&a [*a]", "*a", "&a {<<: *a}", "[" * 30, "{a: " * 30, "? a",
    "- - -", "~", "''", '"\\0"', "{}", "[]", "${HOME}", "${", "$${HOME}", "${NOT_SET_AT_ALL}", "a:b", "./a:b", "é:é",
    "100000d", "365d", "none", "amqps://a", f"amqp://u:{SECRET}@h:port/", f"amqp://u:{SECRET}@[::1",
    f"amqp://u:{SECRET}", "\n", "#", ": ", "|\n", "x" * 300, "a b", "yes", "1T", "16M", "NaN", "\u2028",
)  # fmt: skip
#: Every key once, with a value that is right.
WHOLE = f"""\
broker:
  url: [amqp://u:{SECRET}@h:1/v, amqp://h]
  heartbeat: 2s
  connect_timeout: 1s
queues:
  one:
    handler: {{default: a:b, x: c.d:e}}
    time_limit: none
    retry: {{attempts: 3, first: 1s, factor: 2.5, max: 1h, jitter: 0.25}}
    recycle: {{tasks: 5, memory: 1G, age: 1d}}
    limits: {{memory: 16M, nofile: 32, nice: -5}}
    environment: {{A: b}}
  two:
    command: [/bin/x, --y]
    limits: {{cpu: 5s}}
    type: classic
    declare: plain
    workers: 2
    kill_after: 0s
    crashes: 1
    redeliveries: 3
    paused: false
pythonpath: [lib]
drain_timeout: 5s
monitor: {{interval: 1s}}
log: {{level: debug, format: json}}
run_directory: run
"""
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))

#: Without what is a password in other places: Hypothesis takes the constants of a test for examples of any text.
texts = st.text().filter(lambda text: SECRET not in text)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from(ODD)
trees = st.recursive(
    scalars | st.dates(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(scalars, inner, max_size=3)
)


@st.composite
def mutilated(draw: Callable[..., Any]) -> str:
    """A right file, in which a word or any other piece was replaced by something odd, once or twice."""
    text = draw(st.sampled_from((WHOLE, SAMPLE.read_text())))
    for _ in range(draw(st.integers(1, 2))):
        words = [found.span() for found in re.finditer(r"[^\s,{}\[\]]+", text)]
        start = draw(st.integers(0, len(text)))
        anywhere = st.tuples(st.just(start), st.integers(start, min(len(text), start + 40)))
        start, end = draw(st.sampled_from(words) | anywhere if words else anywhere)
        text = text[:start] + draw(st.sampled_from(ODD)) + text[end:]
    return str(text)


def in_the_file(tree: Any) -> str:
    """A tree as YAML, which may be in the place of one of the file's keys."""
    return yaml.safe_dump(tree, allow_unicode=True)


@st.composite
def regrown(draw: Callable[..., Any]) -> str:
    """A right file in which one value is a tree that nobody expects there."""
    whole = yaml.safe_load(WHOLE)
    place: Any = whole
    name = draw(st.sampled_from(sorted(place)))
    while isinstance(place[name], dict) and draw(st.booleans()):
        place = place[name]
        name = draw(st.sampled_from(sorted(place)))
    place[name] = draw(trees)
    return in_the_file(whole)


def read(file: Path) -> Config | None:
    """The configuration, or None and an error that names the file, and a line that is there, and no password."""
    try:
        return read_config(file)
    except ConfigError as error:
        text = str(error)
    assert SECRET not in text
    assert text.startswith(f"{file}:")
    lines = len(file.read_text(encoding="utf-8").splitlines()) + 1
    for number in re.findall(rf"^{re.escape(str(file))}:(\d+):", text, re.MULTILINE):
        assert 1 <= int(number) <= lines
    return None


def without_secrets(config: Config) -> Config:
    """As it is after its passwords and the values of `environment` were printed as ***."""
    urls = tuple(dataclasses.replace(url, password="***") for url in config.broker.url)
    queues = {
        name: dataclasses.replace(queue, environment=queue.environment and dict.fromkeys(queue.environment, "***"))
        for name, queue in config.queues.items()
    }
    return dataclasses.replace(config, broker=dataclasses.replace(config.broker, url=urls), queues=queues)


def printed(file: Path) -> str:
    """What --print-config says."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert daemon.main(["--print-config", "--config", str(file)]) == os.EX_OK
    return out.getvalue()


@settings(FUZZ, max_examples=400)
@given(text=mutilated() | regrown() | texts | trees.map(in_the_file))
@example(BOMB + WHOLE)
@example(WHOLE + WHOLE)
@example("a: " * 10_000)
@example("[" * 100_000)
@example("&a {<<: *a, a: *a}")
@example(WHOLE.replace("time_limit: none", "time_limit: 365d").replace("0.25", "0.000001"))
@example(WHOLE.replace("--y", '"$${HOME}$$${HOME}"').replace("directory: run", "directory: $${HOME}"))
def test_a_configuration_is_right_or_tells_what_is_wrong(tmp_path: Path, text: str) -> None:
    """In words that name file and line; and one that is right is printed so that it can be read again."""
    file = tmp_path / "workqueued.yaml"
    with contextlib.suppress(UnicodeEncodeError):
        file.write_text(text, encoding="utf-8", newline="")
    config = read(file)
    if config is None:
        return
    shown = printed(file)
    assert SECRET not in shown
    file.write_text(shown, encoding="utf-8")
    assert without_secrets(read_config(file)) == without_secrets(config)


@FUZZ
@given(content=st.binary() | st.text().map(lambda text: text.encode("utf-16")))
def test_a_configuration_that_is_no_text_is_told_as_such(tmp_path: Path, content: bytes) -> None:
    """A file in UTF-16, a program, an image."""
    file = tmp_path / "workqueued.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"{file}:")):
        read_config(file)


@FUZZ
@given(
    parts=st.tuples(
        st.sampled_from(("amqp://", "amqps://", "amqp:", "//", "", "AMQP://")),
        st.text(max_size=5) | st.sampled_from(("u", "u%40", "[")),
        st.sampled_from((":", "", "%3A")),
        st.sampled_from(("@", "@@", "/@", "#@", "?@")),
        st.text(max_size=5) | st.sampled_from(("h", "[::1]", "[::1", "[v1.a]", "127.0.0.1", "H.x", "a%2Fb")),
        st.sampled_from(("", ":1", ":0", ":65536", ":x", ":-1", ":٣")),
        st.text(max_size=5).map("/".__add__) | st.sampled_from(("", "/%2F", "/a/b", "/%00", "/%FF", "/?x", "/#")),
    )
)
def test_a_url_is_read_or_refused_and_its_password_is_told_by_neither(parts: tuple[str, ...]) -> None:
    """What is shown of a URL can be read again."""
    scheme, user, colon, at, host, port, vhost = parts
    text = f"{scheme}{user}{colon}{SECRET}{at}{host}{port}{vhost}"
    try:
        url = BrokerUrl.parse(text)
    except ValueError:
        with pytest.raises(ValueError) as refused:
            BrokerUrl.parse(text)
        assert SECRET not in str(refused.value)
        return
    if url.password == SECRET:
        assert SECRET not in f"{url} {url!r}"
        assert BrokerUrl.parse(str(url)) == dataclasses.replace(url, password="***")


# --- the scoreboard -------------------------------------------------------------------------------------------------

words = st.sampled_from((0, 1, 2, 3, 4, os.getpid(), 1 << 32, 2**63, 2**64 - 1)) | st.integers(0, 2**64 - 1)
pokes = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 127), words), max_size=40)
#: What a garbage cell means most in: these are poked on purpose.
telling = st.lists(
    st.tuples(st.integers(1, 12), st.sampled_from([*Cell, *CrashCell, 32, 33, 66, 67, 100, 101, 134]), words),
    max_size=40,
)


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was sent to whom; nothing is."""
    sent: list[tuple[Any, ...]] = []
    monkeypatch.setattr(os, "kill", lambda *arguments: sent.append(arguments))
    monkeypatch.setattr(os, "killpg", lambda *arguments: sent.append(arguments))
    return sent


def board_with_rows(directory: Path) -> Path:
    """The file of a board with a dozen rows in use."""
    board = Scoreboard.create(directory)
    for number in range(12):
        row = board.claim(list(Kind)[1 + number % 4], f"queue/{number}")
        row.message_id, row.note = f"m{number}", "SIGSEGV"
    return directory / FILE_NAME


@FEW
@given(changes=pokes | telling, noise=st.tuples(st.integers(0, 12 * 1024), st.binary(max_size=3000)))
def test_a_scoreboard_full_of_garbage_is_read_and_hurts_nobody(
    tmp_path: Path, signals: list[tuple[Any, ...]], changes: list[tuple[int, int, int]], noise: tuple[int, bytes]
) -> None:
    """It is a file, and the disk may have been full, or somebody's script too eager."""
    file = board_with_rows(tmp_path)
    with file.open("r+b") as board_file:
        board_file.seek(1024 + noise[0])
        board_file.write(noise[1])
        for row, word, value in changes:
            board_file.seek(row * 1024 + word * 8)
            board_file.write(struct.pack("=Q", value))
    former = find_former(tmp_path)
    if former is not None:
        for one in former.rows(*Kind):
            assert all(text is None or isinstance(text, str) for text in (one.name, one.message_id, one.note))
            assert one.state.word
        former.queue_row("queue/2")
        end_commands_left_behind(former)
        (tmp_path / "new").mkdir(exist_ok=True)
        Evidence(Scoreboard.create(tmp_path / "new"), pause=lambda _: None).inherit(former)
    assert signals == []


@FEW
@given(size=st.integers(0, (CAPACITY + 1) * 1024 - 1), head=st.binary(min_size=8, max_size=64))
def test_a_file_that_is_no_scoreboard_is_as_good_as_none(tmp_path: Path, size: int, head: bytes) -> None:
    """Cut off, of another version, or something else."""
    file = board_with_rows(tmp_path)
    os.truncate(file, size)
    assert find_former(tmp_path) is None
    file = board_with_rows(tmp_path)
    with file.open("r+b") as board_file:
        board_file.write(head)
    assert find_former(tmp_path) is None


@FUZZ
@given(pgid=st.integers() | st.sampled_from((-1, 0, 1, os.getpgrp())))
def test_a_number_that_cannot_be_a_command_s_group_is_not_signalled(
    signals: list[tuple[Any, ...]], pgid: int
) -> None:
    """0 would be our own group, and -1 everybody."""
    signals.clear()
    groups.signal_group(pgid, signal.SIGKILL)
    assert signals == ([(pgid, signal.SIGKILL)] if pgid > 1 and pgid != os.getpgrp() else [])


# --- what strangers send --------------------------------------------------------------------------------------------

properties = wire.properties(wire.fixed("tbBUusIiLlfdTDV"), shortest_ms=0)


@pytest.fixture(params=[contextlib.nullcontext, exact_tables], ids=["as workers", "as wq-dead"])
def tables(request: pytest.FixtureRequest) -> Iterator[None]:
    """The guards around pika's decoder, without and with the exact tables of wq-dead."""
    decoding.guard()
    with request.param():
        yield


@FUZZ
@given(raw=properties, body=st.binary(max_size=20), redelivered=st.booleans(), crashes=st.integers(0, 4))
def test_whatever_a_message_carries_it_is_judged_and_its_copy_can_be_sent(
    tables: None, raw: bytes, body: bytes, redelivered: bool, crashes: int
) -> None:
    """Forged counts, times of another age, tables where a number is expected, names that are no text."""
    ours = properties_from_pika(pika.BasicProperties().decode(raw))
    given_out = Delivery("q", 1, body, ours, redelivered)
    assert 1 <= given_out.attempt <= 1_000_000
    assert 0 <= given_out.crashes <= 1_000_000
    waited = given_out.waited_ms(time.time())
    assert waited is None or waited >= 0
    assert given_out.identity
    assert 0 <= given_out.life < 2**32
    for queue in (Queue(handler="a:b"), Queue(handler="a:b", type="classic")):
        unhandled = outcome.judge_unhandled(given_out, queue, Proof(crashes, "SIGSEGV", crashes), time.time())
        failed = outcome.decide(ValueError("x"), given_out.attempt, RetryPolicy(), chance=lambda: 0.5)
        for verdict in (unhandled or DONE, failed):
            if verdict.outcome in (Outcome.DONE, Outcome.HANDED_BACK):
                continue
            copy = fit(outcome.copy_of(given_out, verdict, host="h", handler="a:b", now=time.time()))
            assert encoded_size(copy.properties.headers) < 131_072
            assert b"".join(properties_to_pika(copy.properties).encode())
            assert 0 <= copy.delay <= delays.LONGEST


@FUZZ
@given(raw=properties, body=st.binary(max_size=20))
def test_whatever_a_dead_letter_carries_it_is_shown_and_exported_without_loss(
    tables: None, raw: bytes, body: bytes
) -> None:
    """Anybody may put something into a dead queue."""
    ours = properties_from_pika(pika.BasicProperties().decode(raw))
    letter = Letter(1, "id", ours, len(body), body)
    json.loads(json.dumps(letter.facts()))
    assert letter.reason
    assert isinstance(letters.local(letter.failed_at), str)
    for value in ours.headers.values():
        assert "\n" not in letters.compact(value)
    assert encoded_size(fit(letters.replayed(letter, "q", time.time())).properties.headers) < 131_072
    kept = {name: value for name, value in ours.headers.items() if name not in (*archive._NOTES, *archive._ROUTING)}
    again = archive.from_line(archive.to_line(ours, body).encode())
    assert again == (ours._replace(headers=kept), body)


# --- what people type -----------------------------------------------------------------------------------------------

#: Texts that are nearly right.
NEARLY = (
    "10", "10m", "1.5h", "9" * 400, "9" * 306 + "d", "0." + "9" * 400 + "s", "-1", "٣s", "²", "nan", "inf", "1e3",
    "2999-01-01", "0001-01-01T00:00", "9999-12-31T23:59:59-23:59", "2026-12-24T18:00:00+01:00", "--", "-", "=", "a=b",
    "a=", "\udcff", "\x1b[2J", "255", "256", "0x1", "", " ", "\n", "é", "\udcff=\udcff", "amqp://",
    f"amqp://u:{SECRET}@h:x", "/", ".",
)  # fmt: skip
typed = st.sampled_from(NEARLY) | st.text(max_size=10).filter(lambda text: "\0" not in text)


@FUZZ
@given(text=typed | st.datetimes(timezones=st.just(None) | st.timezones()).map(str))
def test_a_time_is_understood_or_refused(text: str) -> None:
    """`--delay`, `--at`, `--timeout`, `--failed-after`, and what they are in Python."""
    for parse in (send._delay, send._moment, send._timeout, send._expiration, lambda one: letters.parse_when(one, 1e9)):
        with contextlib.suppress(argparse.ArgumentTypeError, ValueError, UsageError):
            parse(text)
    for when in (due.after, due.at):
        with contextlib.suppress(ValueError, OverflowError):
            assert 0 <= when(text, time.time()).delay <= delays.LONGEST


OPTIONS = (
    "--lines", "--ndjson", "--file", "--skip", "--queue", "-H", "--header", "--type", "--message-id", "--content-type",
    "--priority", "--delay", "--at", "--expires", "--config", "--timeout", "-q", "--json", "--version", "--he", "--x",
)  # fmt: skip
arguments = st.lists(
    st.sampled_from(OPTIONS).map(lambda name: [name])
    | typed.map(lambda text: [text])
    | st.tuples(st.sampled_from(OPTIONS), typed).map(list)
    | st.tuples(st.sampled_from(OPTIONS), typed).map(lambda pair: ["=".join(pair)]),
    max_size=5,
).map(lambda lists: [argument for one in lists for argument in one])


@pytest.fixture
def empty_stdin() -> Iterator[None]:
    """Nothing comes on stdin."""
    before, nothing = os.dup(0), os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    yield
    os.dup2(before, 0)
    os.close(before)
    os.close(nothing)


@settings(FUZZ, max_examples=300)
@given(argv=arguments)
@example([f"--lines=amqp://u:{SECRET}@h"])
@example(["--delay", "9" * 400])
@example(["--expires", "9" * 400 + "s", "x"])
def test_whatever_is_typed_wq_send_says_what_is_wrong(empty_stdin: None, argv: list[str]) -> None:
    """An exit code of sysexits.h, and lines that do nothing to a terminal; here there is no broker to send to."""
    with contextlib.redirect_stderr(io.StringIO()) as err, contextlib.redirect_stdout(io.StringIO()):
        try:
            code: Any = send.main(["--url", NOBODY, "--queue", "q", *argv])
        except SystemExit as left:  # --help and --version
            code = left.code
    assert code in (0, os.EX_USAGE, os.EX_DATAERR, os.EX_TEMPFAIL, os.EX_CONFIG)
    text = err.getvalue()
    assert text.startswith("wq-send: ") == (code != 0)
    assert all(line.isprintable() for line in text.split("\n"))
    assert SECRET not in text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(NEARLY),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=4) | st.sampled_from(wire.NAMES), inner, max_size=3),
)
KEYS = (*Properties._fields, "body", "queue", "expires", "delay", "at", "headers", "x")
#: What is no JSON to everybody, or more than Python takes.
EXTREMES = (
    b"1e999", b"9" * 5000, b"[" * 5000, b'{"a":' * 2000, b"NaN", b'"\\ud800"', b'"\xff"', b'{"$decimal":"1e999"}',
)  # fmt: skip
lines = (
    st.binary(max_size=20)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(st.sampled_from(KEYS), json_values, max_size=4).map(
        lambda found: json.dumps({"body": "x", **found}).encode()
    )
    | st.builds(
        lambda key, extreme: b'{"body": "x", "%s": %s}' % (key.encode(), extreme),
        st.sampled_from(KEYS),
        st.sampled_from(EXTREMES) | st.sampled_from(EXTREMES).map(lambda one: b'{"a": %s}' % one),
    )
)


@settings(FUZZ, max_examples=300)
@given(line=lines)
@example(b'{"body": [1e999]}')
@example(b'{"body": "x", "headers": {"a": [1e999]}}')
@example(b'{"body": "x", "headers": {"a": %s}}' % (b"9" * 5000))
def test_a_line_of_ndjson_is_a_message_or_an_error(line: bytes) -> None:
    """Of `wq-send --ndjson` as of `wq-dead import`; nothing is half understood."""
    sender = Sender(NOBODY)
    with contextlib.suppress(DataError):
        message = bulk.message_of_json(sender, line, {"headers": {}, "queue": "q"})
        if message is not None and message.properties.content_type == "application/json":
            json.loads(message.body, parse_constant=pytest.fail)
    with contextlib.suppress(DataError):
        found, body = archive.from_line(line)
        assert archive.from_line(archive.to_line(found, body).encode()) == (found, body)
