"""The configuration: what an operator may write, and what an operator is told. Messages are part of the contract."""

import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from workqueued import schema
from workqueued.broker_settings import Broker
from workqueued.config import Config, read_config
from workqueued.errors import ConfigError
from workqueued.monitor_settings import Log, Monitor
from workqueued.paths import find_config
from workqueued.plain import as_plain
from workqueued.queue_settings import Limits, Queue, Recycling, RetryPolicy, doubt_of_ack_timeout
from workqueued.urls import BrokerUrl

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "etc" / "workqueued.yaml"
SECRET = "s3cr3t"

LEAST = "queues:\n  task_queue:\n    handler: a:b\n"

Read = Callable[[str], str]


@pytest.fixture
def mistakes(tmp_path: Path) -> Read:
    """Reads a text as a configuration that is wrong; returns the message, without the folder."""
    def read(text: str) -> str:
        file = tmp_path / "workqueued.yaml"
        file.write_text(text)
        with pytest.raises(ConfigError) as caught:
            read_config(file)
        assert caught.value.exit_code == os.EX_CONFIG
        return str(caught.value).replace(f"{tmp_path}/", "")

    return read


def load(folder: Path, text: str) -> Config:
    """Read a text as a configuration."""
    file = folder / "workqueued.yaml"
    file.write_text(text)
    return read_config(file)


# --- a file that is no configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "\n\n", "# queues:\n"])
def test_an_empty_file_is_answered_with_the_least_that_works(mistakes: Read, text: str, tmp_path: Path) -> None:
    """The message ends with a text that can be pasted, and is valid."""
    message = mistakes(text)
    assert message.startswith("workqueued.yaml: the file is empty; it needs at least one queue:\n")
    assert list(load(tmp_path, message.partition("\n")[2]).queues) == ["task_queue"]


@pytest.mark.parametrize(
    ("text", "found"),
    [("- queues\n", "a list"), ("queues\n", "'queues' (text)"), ("42\n", "'42' (a number)"), ("~\n", "nothing")],
)
def test_a_file_that_is_no_mapping_is_described(mistakes: Read, text: str, found: str) -> None:
    """A list, a word, a number."""
    assert mistakes(text) == f"workqueued.yaml:1: found {found}, expected a mapping (key: value)"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("queues:\n\ttask_queue:\n\t\thandler: a:b\n", 2),
        ("queues:\n  task_queue:\n    \thandler: a:b\n", 3),
        (LEAST + "\tworkers: 3\n", 4),
    ],
)
def test_tabs_are_called_tabs(mistakes: Read, text: str, line: int) -> None:
    """PyYAML says "found character that cannot start any token"; an operator cannot see which."""
    assert mistakes(text) == f"workqueued.yaml:{line}: a tab cannot indent YAML; use spaces"


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("queues: [\n", 2, "did not find expected node content"),
        ("queues: *nowhere\n", 1, "undefined alias"),
        (LEAST + "---\n" + LEAST, 4, "found another document"),
        (LEAST + "log: {level: info\n", 5, "expected ',' or '}'"),
        (LEAST + "log: \x01\n", 4, "control characters are not allowed"),
        ("# é\n# é\n\x07\n", 3, "control characters are not allowed"),
    ],
)
def test_broken_yaml_is_told_with_its_line(mistakes: Read, text: str, line: int, problem: str) -> None:
    """Syntax errors stop the reading, and say where."""
    message = mistakes(text)
    assert message.startswith(f"workqueued.yaml:{line}: not valid YAML: ")
    assert problem in message


@pytest.mark.parametrize("text", ["[" * 100_000, "{a: " * 50_000, "- " * 50_000])
def test_nesting_without_end_is_a_mistake_and_no_crash(mistakes: Read, text: str) -> None:
    """PyYAML's C composer recurses without a limit: this ended the process by SIGSEGV; 6.0.4 has a limit."""
    words = ("nested too deep", "exceeded maximum nesting depth")
    assert mistakes(text) in [f"workqueued.yaml:1: not valid YAML: {word}" for word in words]


def test_a_file_that_contains_itself_is_read_to_an_end(mistakes: Read) -> None:
    """An alias may stand inside of what it names."""
    assert "queues.a.a: unknown key" in mistakes("queues: &q\n  a: *q\n")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """With the system's words for why."""
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path / "absent.yaml")
    assert str(caught.value) == f"{tmp_path}/absent.yaml: cannot read it: No such file or directory"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A folder stands for all of them: root may read any file."""
    with pytest.raises(ConfigError) as caught:
        read_config(tmp_path)
    assert str(caught.value) == f"{tmp_path}: cannot read it: Is a directory"


def test_a_file_that_is_not_utf_8_is_told_so(tmp_path: Path) -> None:
    """With the place, and what to do."""
    file = tmp_path / "latin.yaml"
    file.write_bytes(b"# caf\xe9\n")
    with pytest.raises(ConfigError) as caught:
        read_config(file)
    assert str(caught.value) == f"{file}: not UTF-8 text (byte 5); save it as UTF-8"


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    """Editors on Windows write one."""
    assert list(load(tmp_path, "\ufeff" + LEAST).queues) == ["task_queue"]


# --- single mistakes ------------------------------------------------------------------------------------------------

NUMBER = "expected a whole number from 1 to 1000 (to stop a queue's workers say paused: true)"
HANDLER = "module:callable, such as myapp.tasks:resize"
EXAMPLE = "expected module:callable, such as handler: myapp.tasks:resize (or a command)"
ONE_OR_MORE = "module:callable, or a mapping from the AMQP type of a message to one"
ARGV = "a list such as [/usr/local/bin/resize, --quiet]; no shell runs it"
IN_QUEUE = "4: queues.task_queue."
CPU = "is for commands only: processor time adds up over a worker's life; see time_limit"
FACTOR = "expected a number from 1 to 100"
LIMIT = "expected a duration from 100ms to 365d, such as 500ms, 10s, 5m or 2h; or none"
SIZE = "a size from 16M to 1T, such as 512K, 100M or 2G"
VARIABLE = "environment variable: letters, digits and _"
TEXT = "expected text (a number or a truth value in quotes)"
IN_SECTION = "3: queues.task_queue."
LEVELS = "debug or info or warning or error"
SPEC = "the module and the callable in it are joined by a colon"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        # keys
        (LEAST + "queues: {}\n", "4: queues: the same key again; it is already on line 1"),
        (LEAST + "    handler: a:b\n", f"{IN_QUEUE}handler: the same key again; it is already on line 3"),
        (LEAST + "  task_queue: {handler: a:b}\n", "4: queues.task_queue: the same key again; it is already on line 2"),
        (LEAST + "brokr: {}\n", "4: brokr: unknown key; did you mean 'broker'?"),
        (LEAST + "broker:\n  hartbeat: 5s\n", "5: broker.hartbeat: unknown key; did you mean 'heartbeat'?"),
        (LEAST + "    worker: 4\n", f"{IN_QUEUE}worker: unknown key; did you mean 'workers'?"),
        (LEAST + "log:\n  colour: 1\n", "5: log.colour: unknown key; known here: level, format, settled, target"),
        (LEAST + "monitor: {5: 6}\n", "4: monitor.5: unknown key; known here: interval, listen, alerts"),
        # sections
        ("broker: {}\n", "1: queues: missing; expected at least one queue with a handler"),
        ("queues:\n", "1: queues: found nothing, expected a mapping (key: value)"),
        ("queues: {}\n", "1: queues: empty; expected at least one queue with a handler"),
        ("queues: [a]\n", "1: queues: found a list, expected a mapping (key: value)"),
        ("queues:\n  a: 7\n", "2: queues.a: found '7' (a number), expected a mapping (key: value)"),
        (LEAST + "broker:\n", "4: broker: found nothing, expected a mapping (key: value)"),
        (LEAST + "log: debug\n", "4: log: found 'debug' (text), expected a mapping (key: value)"),
        # workers
        (LEAST + "    workers: 0\n", f"{IN_QUEUE}workers: found '0' (a number), {NUMBER}"),
        (LEAST + "    workers: -1\n", f"{IN_QUEUE}workers: found '-1' (a number), {NUMBER}"),
        (LEAST + "    workers: four\n", f"{IN_QUEUE}workers: found 'four' (text), {NUMBER}"),
        (LEAST + "    workers: '4'\n", f"{IN_QUEUE}workers: found '4' (text), {NUMBER}"),
        (LEAST + "    workers: 1.5\n", f"{IN_QUEUE}workers: found '1.5' (a number), {NUMBER}"),
        (LEAST + "    workers: 010\n", f"{IN_QUEUE}workers: found '010' (a number), {NUMBER}"),
        (LEAST + "    workers: 1001\n", f"{IN_QUEUE}workers: found '1001' (a number), {NUMBER}"),
        (LEAST + "    workers: yes\n", f"{IN_QUEUE}workers: found 'yes' (a truth value), {NUMBER}"),
        (LEAST + "    workers:\n", f"{IN_QUEUE}workers: found nothing, {NUMBER}"),
        (LEAST + "    workers: [4]\n", f"{IN_QUEUE}workers: found a list, {NUMBER}"),
        # handler
        ("queues:\n  a:\n    workers: 4\n", f"3: queues.a.handler: missing; {EXAMPLE}"),
        ("queues:\n  a: {}\n", f"2: queues.a.handler: missing; {EXAMPLE}"),
        ("queues:\n  a:\n    handler:\n", f"3: queues.a.handler: missing; {EXAMPLE}"),
        ("queues: {a: {handler: resize}}", f"1: queues.a.handler: found 'resize' (text), expected {HANDLER} ({SPEC})"),
        ("queues: {a: {handler: a.b}}", f"1: queues.a.handler: found 'a.b' (text), expected {HANDLER} ({SPEC})"),
        ("queues: {a: {handler: 'a:'}}", f"1: queues.a.handler: found 'a:' (text), expected {HANDLER} ({SPEC})"),
        ("queues: {a: {handler: '7:b'}}", f"1: queues.a.handler: found '7:b' (text), expected {HANDLER} ({SPEC})"),
        ("queues: {a: {handler: 'a: b'}}", f"1: queues.a.handler: found 'a: b' (text), expected {HANDLER} ({SPEC})"),
        ("queues: {a: {handler: ''}}", f"1: queues.a.handler: found '' (text), expected {HANDLER}"),
        ("queues: {a: {handler: 42}}", f"1: queues.a.handler: found '42' (a number), expected {HANDLER}"),
        # the other keys of a queue
        ("queues: {a: {handler: {}}}", f"1: queues.a.handler: found an empty mapping, expected {ONE_OR_MORE}"),
        ("queues: {a: {handler: {t: 'b'}}}", f"1: queues.a.handler.t: found 'b' (text), expected {HANDLER} ({SPEC})"),
        ("queues: {a: {command: sleep 5}}", f"1: queues.a.command: found 'sleep 5' (text), expected {ARGV}"),
        ("queues: {a: {command: []}}", f"1: queues.a.command: found a list, expected {ARGV}"),
        (LEAST + "    command: [x]\n", f"{IN_SECTION}command: a queue has a handler or a command, not both"),
        (LEAST + "    limits: {cpu: 1s}\n", f"{IN_SECTION}limits.cpu: {CPU}"),
        (LEAST + "    time_limit: 30\n", f"{IN_QUEUE}time_limit: found '30' (a number), {LIMIT}"),
        (LEAST + "    retry: {atempts: 3}\n", f"{IN_QUEUE}retry.atempts: unknown key; did you mean 'attempts'?"),
        (LEAST + "    retry: {factor: .5}\n", f"{IN_QUEUE}retry.factor: found '.5' (a number), {FACTOR}"),
        (LEAST + "    recycle: {memory: 1}\n", f"{IN_QUEUE}recycle.memory: found '1' (a number), expected {SIZE}"),
        (LEAST + "    environment: {A B: x}\n", f"{IN_QUEUE}environment.A B: expected the name of an {VARIABLE}"),
        (LEAST + "    environment: {WQ_X: x}\n", f"{IN_QUEUE}environment.WQ_X: names that begin with WQ_ are ours"),
        (LEAST + "    environment: {A: 1}\n", f"{IN_QUEUE}environment.A: found '1' (a number), {TEXT}"),
        # the rest of a queue
        (LEAST + "    type: mirror\n", f"{IN_QUEUE}type: found 'mirror' (text), expected quorum or classic"),
        (LEAST + "    declare: true\n", f"{IN_QUEUE}declare: found 'true' (a truth value), expected plain or false"),
        (LEAST + "    paused: 1\n", f"{IN_QUEUE}paused: found '1' (a number), expected true or false"),
        (LEAST + "    paused: !!bool x\n", f"{IN_QUEUE}paused: found 'x' (a truth value), expected true or false"),
        # names
        ("queues:\n  ? [a]\n  : {handler: a:b}\n", "2: queues: found a list as a key, expected a name"),
        ("queues:\n  amq.x: {handler: a:b}\n", "2: queues.amq.x: names that begin with amq. belong to the broker"),
        ("queues:\n  '': {handler: a:b}\n", "2: queues.: expected a printable name"),
        ('queues:\n  "a\\tb": {handler: a:b}\n', "2: queues.a\tb: expected a printable name"),
        (f"queues:\n  {'q' * 251}: {{handler: a:b}}\n", f"2: queues.{'q' * 251}: the name is longer than 250 bytes"),
        (f"queues:\n  {'é' * 126}: {{handler: a:b}}\n", f"2: queues.{'é' * 126}: the name is longer than 250 bytes"),
        # words and paths
        (LEAST + "log: {level: verbose}\n", f"4: log.level: found 'verbose' (text), expected {LEVELS}"),
        (LEAST + "log: {format: xml}\n", "4: log.format: found 'xml' (text), expected auto or json or console"),
        (LEAST + "pythonpath: [a, 7]\n", "4: pythonpath[1]: found '7' (a number), expected a path"),
        (LEAST + 'run_directory: "a\\0b"\n', "4: run_directory: found 'a\\x00b' (text), expected a path"),
        (LEAST + "run_directory: ''\n", "4: run_directory: found '' (text), expected a path"),
        (LEAST + "broker: {url: []}\n", "4: broker.url: found an empty list, expected one URL or a list of them"),
    ],
)
def test_a_mistake_is_told_with_line_key_found_and_expected(mistakes: Read, text: str, message: str) -> None:
    """One mistake, one line, word for word."""
    assert mistakes(text).splitlines()[0] == f"workqueued.yaml:{message}"


def test_a_huge_number_is_shortened_and_no_crash(mistakes: Read) -> None:
    """int() raises ValueError beyond 4300 digits."""
    message = mistakes(LEAST + f"    workers: {'9' * 5000}\n")
    assert message.startswith("workqueued.yaml:4: queues.task_queue.workers: found '999")
    assert NUMBER in message
    assert len(message) < 300


def test_a_path_through_links_in_a_circle_is_no_crash(tmp_path: Path) -> None:
    """Path.resolve raises RuntimeError for it before Python 3.13, and lets it pass since."""
    (tmp_path / "loop").symlink_to("loop")
    try:
        load(tmp_path, LEAST + "run_directory: loop/run\n")
    except ConfigError as error:
        assert "run_directory: found 'loop/run' (text), expected a path" in str(error)  # noqa: PT017 - both are right


@pytest.mark.parametrize(
    "written", ["5", "5.5", "s", "5 s", "5sec", "5S", "-5s", "1h30m", "''", "null", "true", "[5s]", "1e3s", "5s\u00b2"]
)
def test_a_bad_duration_is_told_with_the_range_and_examples(mistakes: Read, written: str) -> None:
    """A bare number has no unit, so it is none: 30 of what?"""
    message = mistakes(LEAST + f"drain_timeout: {written}\n")
    assert message.startswith("workqueued.yaml:4: drain_timeout: found ")
    assert message.endswith(", expected a duration from 0s to 1d, such as 500ms, 10s, 5m or 2h")


@pytest.mark.parametrize(
    ("key", "written", "limits"),
    [
        ("heartbeat", "1s", "2s to 10m"),
        ("heartbeat", "0s", "2s to 10m"),
        ("heartbeat", "11m", "2s to 10m"),
        ("connect_timeout", "99ms", "100ms to 5m"),
        ("connect_timeout", "9" * 400 + "d", "100ms to 5m"),
    ],
)
def test_a_duration_out_of_range_is_told_the_range(mistakes: Read, key: str, written: str, limits: str) -> None:
    """A heartbeat of 0 would be none at all."""
    message = mistakes(LEAST + f"broker: {{{key}: {written}}}\n")
    assert message.startswith(f"workqueued.yaml:4: broker.{key}: found ")
    assert f"expected a duration from {limits}, such as" in message


def test_too_many_workers_in_all_are_refused(mistakes: Read) -> None:
    """The scoreboard has rows for 1000."""
    queues = "".join(f"  q{number}: {{handler: a:b, workers: 251}}\n" for number in range(4))
    assert mistakes("queues:\n" + queues) == "workqueued.yaml: queues: 1004 workers in all, expected at most 1000"


def test_all_mistakes_are_listed_at_once_in_the_order_of_lines(mistakes: Read) -> None:
    """An operator should not have to find them one by one."""
    message = mistakes(
        "broker:\n"
        "  url: http://host\n"
        "  heartbeat: 5\n"
        "queues:\n"
        "  a:\n"
        "    workers: four\n"
        "    typ: quorum\n"
        "  b: 7\n"
        "  b: {handler: a:b}\n"
        "foo: 1\n"
    )
    places = [line.split(" ")[0] + " " + line.split(" ")[1] for line in message.splitlines()]
    assert places == [
        "workqueued.yaml:2: broker.url:",
        "workqueued.yaml:3: broker.heartbeat:",
        "workqueued.yaml:6: queues.a.workers:",
        "workqueued.yaml:6: queues.a.handler:",
        "workqueued.yaml:7: queues.a.typ:",
        "workqueued.yaml:8: queues.b:",
        "workqueued.yaml:9: queues.b:",
        "workqueued.yaml:10: foo:",
    ]


# --- URLs and secrets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://guest:{}@host", "the scheme must be amqp, or amqps for TLS"),
        ("guest:{}@host", "the scheme must be amqp, or amqps for TLS"),
        ("{}@host", "the scheme must be amqp, or amqps for TLS"),
        ("amqpss://guest:{}@host", "the scheme must be amqp, or amqps for TLS"),
        ("amqp://guest:{}@", "the host is missing"),
        ("amqp://guest:{}@:5672", "the host is missing"),
        ("amqp://guest:{}@host:port", "host and port must be a name and a number"),
        ("amqp://guest:{}@host:99999", "host and port must be a name and a number"),
        ("amqp://guest:{}", "host and port must be a name and a number"),
        ("amqp://guest:{}@[::1", "host and port must be a name and a number"),
        ("amqp://guest:{}@ho\u2100st", "host and port must be a name and a number"),
        ("amqp://guest:{}/x@host", "/ @ : in a password are written %2F %40 %3A"),
        ("amqp://guest:x/{}@host", "/ @ : in a password are written %2F %40 %3A"),
        ("amqp://guest:x@{}@host:port", "/ @ : in a password are written %2F %40 %3A"),
        ("amqp://guest:{}#x@host", "/ @ : in a password are written %2F %40 %3A"),
        ("http://guest:my {}@host", "the scheme must be amqp, or amqps for TLS"),
        ("amqp://guest:{}@host/a/b", "a / in the vhost is written %2F"),
        ("amqp://guest:{}@host/v?heartbeat=5", "nothing may follow the vhost"),
        ("amqp://guest:{}@host/v#x", "nothing may follow the vhost"),
    ],
)
def test_a_bad_url_is_explained_without_its_password(mistakes: Read, url: str, reason: str) -> None:
    """A message ends up in a journal, a ticket, a chat. urllib's own words quote what it takes for the port."""
    for text in (f"broker:\n  url: '{url}'\n", f"broker:\n  url: ['amqp://host', '{url}']\n"):
        message = mistakes(LEAST + text.format(SECRET))
        assert message.startswith("workqueued.yaml:5: broker.url")
        assert "expected a URL such as amqp://user:password@host:5672/%2F" in message
        assert reason in message
        assert SECRET not in message


def test_a_password_from_the_environment_is_not_shown(mistakes: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is found is shown as it is written."""
    monkeypatch.setenv("WQ_TEST_PASSWORD", f"{SECRET}/{SECRET}")
    message = mistakes(LEAST + "broker:\n  url: amqp://guest:${WQ_TEST_PASSWORD}@host\n")
    assert "/ @ : in a password are written %2F %40 %3A" in message
    assert SECRET not in message


def test_an_environment_that_is_not_utf_8_is_a_mistake(mistakes: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not be sent to the broker, nor logged."""
    monkeypatch.setenv("WQ_TEST_PASSWORD", "\udcff")
    assert "broker.url" in mistakes(LEAST + "broker:\n  url: amqp://${WQ_TEST_PASSWORD}@host\n")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("amqp://host", BrokerUrl("host", 5672, "guest", None, "/")),
        ("amqp://host/", BrokerUrl("host", 5672, "guest", None, "/")),
        ("amqp://u:p@host:1234/v", BrokerUrl("host", 1234, "u", "p", "v")),
        ("amqp://u@host/%2F", BrokerUrl("host", 5672, "u", None, "/")),
        ("amqp://u%40x:p%2F%40%3A@host/a%2Fb", BrokerUrl("host", 5672, "u@x", "p/@:", "a/b")),
        ("amqp://[::1]:5673/v", BrokerUrl("::1", 5673, "guest", None, "v")),
        ("amqps://u:p@host/v", BrokerUrl("host", 5671, "u", "p", "v", tls=True)),
        ("amqps://u:p@host:443/v", BrokerUrl("host", 443, "u", "p", "v", tls=True)),
        ("amqp://:@host", BrokerUrl("host", 5672, "", "", "/")),
    ],
)
def test_a_url_is_taken_apart(text: str, url: BrokerUrl) -> None:
    """As amqp URIs are specified; the empty vhost is /, as everybody means it."""
    assert BrokerUrl.parse(text) == url


def test_the_url_for_eyes_has_no_password_and_can_be_read_back() -> None:
    """Escapes are put in again."""
    url = BrokerUrl("::1", 5672, "u@x", SECRET, "a/b")
    assert str(url) == "amqp://u%40x:***@[::1]:5672/a%2Fb"
    assert BrokerUrl.parse(str(url)) == BrokerUrl("::1", 5672, "u@x", "***", "a/b")
    assert str(BrokerUrl.parse("amqps://host")) == "amqps://guest:***@host:5671/%2F"


def test_without_a_password_rabbitmqs_own_default_is_used() -> None:
    """An empty one is one."""
    assert [BrokerUrl.parse(f"amqp://u{word}@h").secret for word in ("", ":", ":p")] == ["guest", "", "p"]


def test_the_password_shows_nowhere(tmp_path: Path) -> None:
    """Not in repr, not in str, not in what --print-config prints and the log of a reload is made of."""
    (tmp_path / "password").write_text(f"{SECRET}\n")
    config = load(tmp_path, LEAST + f"broker:\n  url: amqp://u:{SECRET}2@host\n  password_file: password\n")
    assert config.broker.url[0].password == SECRET
    for shown in (repr(config), str(config), str(config.broker.url[0]), repr(as_plain(config))):
        assert SECRET not in shown


def test_several_urls_are_kept_in_order(tmp_path: Path) -> None:
    """They are tried in order."""
    config = load(tmp_path, LEAST + "broker:\n  url: [amqp://b, amqp://a:1]\n")
    assert [(url.host, url.port) for url in config.broker.url] == [("b", 5672), ("a", 1)]


# --- password file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [f"{SECRET}\n", SECRET, f"{SECRET}\r\nsecond line\n"])
def test_the_password_file_takes_the_place_of_every_password(tmp_path: Path, content: str) -> None:
    """Its first line, without the line's end; the path is from the YAML file's folder."""
    (tmp_path / "password").write_bytes(content.encode())
    config = load(tmp_path, LEAST + "broker:\n  url: [amqp://a:x@h1, amqp://b@h2]\n  password_file: password\n")
    assert [(url.user, url.password) for url in config.broker.url] == [("a", SECRET), ("b", SECRET)]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot read {}: No such file or directory"),
        (b"", "the first line of {} is empty"),
        (b"\nx", "the first line of {} is empty"),
        (b"\xff", "cannot read {}: not UTF-8 text"),
    ],
)
def test_a_password_file_that_holds_none_is_named(
    mistakes: Read, tmp_path: Path, content: bytes | None, problem: str
) -> None:
    """Missing, empty, not text."""
    if content is not None:
        (tmp_path / "password").write_bytes(content)
    message = mistakes(LEAST + "broker:\n  password_file: password\n")
    assert message == "workqueued.yaml: broker.password_file: " + problem.format("password")


# --- variables and paths --------------------------------------------------------------------------------------------


def test_a_variable_is_expanded_and_an_escaped_one_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`$${X}` stands for `${X}`; a lone $ for itself."""
    monkeypatch.setenv("WQ_TEST_HOST", "rabbit")
    monkeypatch.setenv("WQ_TEST_FOLDER", "/srv")
    config = load(
        tmp_path,
        LEAST
        + "broker:\n  url: amqp://$u:$${WQ_TEST_HOST}@${WQ_TEST_HOST}\n"
        + "run_directory: ${WQ_TEST_FOLDER}/${WQ_TEST_HOST}\n",
    )
    url = config.broker.url[0]
    assert (url.user, url.password, url.host) == ("$u", "${WQ_TEST_HOST}", "rabbit")
    assert config.run_directory == Path("/srv/rabbit")


def test_a_variable_is_expanded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password that looks like a variable is a password."""
    monkeypatch.setenv("WQ_TEST_PASSWORD", "${HOME}")
    config = load(tmp_path, LEAST + "broker:\n  url: amqp://u:${WQ_TEST_PASSWORD}@h\n")
    assert config.broker.url[0].password == "${HOME}"


def test_an_unset_variable_is_named(mistakes: Read, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the rest of the value, which may hold a password, is not."""
    monkeypatch.delenv("WQ_TEST_UNSET", raising=False)
    message = mistakes(LEAST + f"broker:\n  url: amqp://u:{SECRET}@${{WQ_TEST_UNSET}}\n")
    assert message == (
        "workqueued.yaml:5: broker.url: found 'amqp://***@${WQ_TEST_UNSET}' (text), "
        "expected the environment variable WQ_TEST_UNSET to be set"
    )


def test_relative_paths_are_from_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not from where the command happens to run, which a service does in /."""
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "workqueued.yaml").write_text(LEAST + "run_directory: ../run\npythonpath: [., lib, /opt/lib]\n")
    monkeypatch.chdir(tmp_path)
    config = read_config(Path("etc/workqueued.yaml"))
    assert config.run_directory == tmp_path / "run"
    assert config.pythonpath == (folder, folder / "lib", Path("/opt/lib"))
    assert config.file == folder / "workqueued.yaml"
    monkeypatch.chdir("/")
    assert read_config(config.file) == config


# --- defaults -------------------------------------------------------------------------------------------------------


def test_the_defaults_are_what_the_documents_say(tmp_path: Path) -> None:
    """The least file, written out."""
    assert as_plain(load(tmp_path, LEAST)) == {
        "queues": {
            "task_queue": {
                "handler": "a:b",
                "command": None,
                "environment": None,
                "time_limit": "1500s",
                "kill_after": "30s",
                "retry": {"attempts": 5, "first": "10s", "factor": 3.0, "max": "3600s", "jitter": 0.1},
                "crashes": 3,
                "recycle": {"tasks": None, "memory": None, "age": None},
                "limits": {"memory": None, "cpu": None, "nofile": None, "nice": None},
                "type": "quorum",
                "declare": "plain",
                "workers": 1,
                "redeliveries": 10,
                "paused": False,
            }
        },
        "broker": {
            "url": ["amqp://guest:***@127.0.0.1:5672/%2F"],
            "password_file": None,
            "tls": None,
            "heartbeat": "30s",
            "connect_timeout": "10s",
            "hot_path": True,
            "management_url": None,
        },
        "drain_timeout": "30s",
        "monitor": {
            "interval": "10s",
            "listen": "127.0.0.1:15700",
            "alerts": {"eta": "1800s", "ready": "none", "after": "300s", "unconsumed": "60s", "dead": 10},
        },
        "log": {"level": "info", "format": "auto", "settled": "info", "target": "auto"},
        "run_directory": "/run/workqueued",
        "pythonpath": [],
    }


def test_a_paused_queue_has_no_active_workers(tmp_path: Path) -> None:
    """Its number of workers is remembered."""
    queue = load(tmp_path, LEAST + "    workers: 4\n    paused: true\n").queues["task_queue"]
    assert (queue.workers, queue.active_workers) == (4, 0)


@pytest.mark.parametrize("written", ["false", "False", "'false'"])
def test_declare_false_may_be_a_truth_value_or_a_word(tmp_path: Path, written: str) -> None:
    """YAML makes a truth value of it."""
    assert load(tmp_path, LEAST + f"    declare: {written}\n").queues["task_queue"].declare == "false"


@pytest.mark.parametrize(("written", "paused"), [("true", True), ("yes", True), ("off", False), ("no", False)])
def test_a_truth_value_is_what_yaml_says(tmp_path: Path, written: str, paused: bool) -> None:
    """YAML 1.1 has more words for them than true and false."""
    assert load(tmp_path, LEAST + f"    paused: {written}\n").queues["task_queue"].paused is paused


def test_every_key_is_read(tmp_path: Path) -> None:
    """Each with a value that is not its default; what is printed reads back as the same, but for the password."""
    file = tmp_path / "workqueued.yaml"
    config = load(
        tmp_path,
        """
        broker: {url: 'amqp://a:b@c:1/d', heartbeat: 5m, connect_timeout: 500ms}
        queues:
          x.y: {handler: 'a.b:c.d', type: classic, declare: false, workers: 7, paused: true}
          many: {handler: {a: 'a:b', default: 'c:d'}, environment: {GREETING: hello, N: '1'}}
          program:
            command: [/bin/sh, -c, 'echo "$1"', 7, '']
            time_limit: none
            kill_after: 1s
            retry: {attempts: 3, first: 1s, factor: 1.5, max: 1h, jitter: 0}
            crashes: 1
            redeliveries: 15
            recycle: {tasks: 1000, memory: 200M, age: 1d}
            limits: {memory: 1G, cpu: 10s, nofile: 64, nice: -5}
        pythonpath: lib
        drain_timeout: 1.5s
        monitor: {interval: 1h}
        log: {level: debug, format: console}
        run_directory: run
        """,
    )
    assert config == Config(
        queues={
            "x.y": Queue(handler="a.b:c.d", type="classic", declare="false", workers=7, paused=True),
            "many": Queue(handler={"a": "a:b", "default": "c:d"}, environment={"GREETING": "hello", "N": "1"}),
            "program": Queue(
                command=("/bin/sh", "-c", 'echo "$1"', "7", ""),
                time_limit=None,
                kill_after=1.0,
                retry=RetryPolicy(attempts=3, first=1.0, factor=1.5, max=3600.0, jitter=0.0),
                crashes=1,
                redeliveries=15,
                recycle=Recycling(tasks=1000, memory=200 * 2**20, age=86400.0),
                limits=Limits(memory=2**30, cpu=10.0, nofile=64, nice=-5),
            ),
        },
        broker=Broker(url=(BrokerUrl("c", 1, "a", "b", "d"),), heartbeat=300.0, connect_timeout=0.5),
        pythonpath=(tmp_path / "lib",),
        drain_timeout=1.5,
        monitor=Monitor(interval=3600.0),
        log=Log(level="debug", format="console"),
        run_directory=tmp_path / "run",
        file=file,
    )
    printed = as_plain(config)
    assert printed["queues"]["many"]["environment"] == {"GREETING": "***", "N": "***"}
    again = load(tmp_path, yaml.safe_dump(printed))
    assert as_plain(again) == as_plain(config)


# --- the sample -----------------------------------------------------------------------------------------------------


def test_the_sample_is_valid_and_runs_the_sample_handler() -> None:
    """It is what `make install` puts in place."""
    config = read_config(SAMPLE)
    assert {name: (queue.handler, queue.workers) for name, queue in config.queues.items()} == {
        "task_queue": ("workqueued.samples:dots", 4)
    }


def _commented_out() -> list[str]:
    """The sample's lines that are commented out, as YAML; its first paragraph is words."""
    settings = SAMPLE.read_text().partition("\n\n")[2]
    return [match[1] for match in re.finditer(r"^ *# (\w+: .*)$", settings, re.MULTILINE)]


def test_every_commented_out_default_of_the_sample_is_the_default() -> None:
    """Except for those that have no default to show: a password file's name, a URL and a folder."""
    text = SAMPLE.read_text()
    keys = [line.partition(":")[0] for line in _commented_out()]
    assert len(keys) >= 9
    assert {"heartbeat", "connect_timeout", "type", "declare", "paused", "drain_timeout", "run_directory"} <= set(keys)
    default = as_plain(read_config(SAMPLE))
    for line in _commented_out():
        key = line.partition(":")[0]
        if key in ("password_file", "management_url", "pythonpath"):
            continue
        active = text.replace(f"# {line}", line)
        assert active != text
        assert as_plain(_read_text(active)) == default, f"the sample says {line!r}, which is not the default"


def test_the_sample_with_everything_uncommented_is_valid(tmp_path: Path) -> None:
    """Nobody should learn YAML from a sample that does not work."""
    text = SAMPLE.read_text()
    for line in _commented_out():
        text = text.replace(f"# {line}", line)
    (tmp_path / "broker-password").write_text("secret\n")
    config = load(tmp_path, text)
    assert config.pythonpath == (tmp_path,)
    assert config.broker.url[0].password == "secret"


def _read_text(text: str) -> Config:
    """Read a text as if it were the sample."""
    walk = schema.Walk(SAMPLE, [])
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert root is not None
    value: Any = schema.read_section(Config)(walk, root, "")
    assert walk.mistakes == []
    assert isinstance(value, Config)
    return value


# --- where it is looked for -----------------------------------------------------------------------------------------


def test_the_configuration_is_looked_for_in_three_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment names, what belongs to this Python, what belongs to the system."""
    monkeypatch.delenv("WQ_CONFIG", raising=False)
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    assert find_config() == Path("/etc/workqueued/workqueued.yaml")
    own = tmp_path / "etc/workqueued/workqueued.yaml"
    own.parent.mkdir(parents=True)
    own.touch()
    assert find_config() == own
    monkeypatch.setenv("WQ_CONFIG", "")
    assert find_config() == own
    monkeypatch.setenv("WQ_CONFIG", "/elsewhere/absent.yaml")
    assert find_config() == Path("/elsewhere/absent.yaml")


# --- any text at all ------------------------------------------------------------------------------------------------

#: What a mutation may put in: YAML's own characters, and what has once gone wrong.
_PIECES = [
    *"\t\n :-[]{}&*!|>'\"%@`#?,\\$\0\x01\x85\ufeff\u2028é\U0001f600",
    *("${X}", "$${X}", "<<: *a", "&a ", "*a", "---\n", "...\n", "? ", "  ", "[" * 40, "{a: " * 40, '"\\0"', "9" * 5000),
    *("!!int ", "!!bool x", "!!binary ", "!!python/name:os ", "~", "null", "0x10", "1e400", ".nan", "2001-01-01"),
    *("amqp://", "queues:\n  a:\n"),
]


def _mutated(text: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 6)):
        start = chance.randrange(len(text) + 1)
        end = start + chance.choice([0, 0, 1, 3, 20, 200])
        copied = text[chance.randrange(len(text) + 1) :][: chance.randint(0, 30)]
        text = text[:start] + chance.choice(["", chance.choice(_PIECES), copied]) + text[end:]
    return text


@pytest.mark.parametrize("loader", [schema._Loader, yaml.SafeLoader])
def test_any_text_is_a_configuration_or_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loader: type[Any]
) -> None:
    """The master reads the file again on SIGHUP: nothing that anybody writes into it may end the master."""
    monkeypatch.setattr(schema, "_Loader", loader)
    sample = SAMPLE.read_text().replace("# ", "")
    file = tmp_path / "workqueued.yaml"
    good = 0
    for seed in range(400):
        text = _mutated(SAMPLE.read_text() if seed % 2 else sample, random.Random(seed))
        file.write_text(text)
        message = f"{file}:"
        try:
            as_plain(read_config(file))
            good += 1
        except ConfigError as error:
            message = str(error)
        except BaseException as error:
            raise AssertionError(f"seed {seed}: {error!r} for\n{text}") from error
        assert message.startswith(f"{file}:")
    assert good > 20


def test_a_relative_program_is_meant_from_the_folder_of_the_file(tmp_path: Path) -> None:
    """As every path; a bare name is looked up in the PATH, and arguments are left alone."""
    queues = "queues:\n  a: {command: [./thumb.sh, ./x]}\n  b: {command: [thumb, ./x]}\n  c: {command: [/bin/true]}\n"
    found = load(tmp_path, queues).queues
    assert found["a"].command == (str(tmp_path / "thumb.sh"), "./x")
    assert found["b"].command == ("thumb", "./x")
    assert found["c"].command == ("/bin/true",)


def test_a_time_limit_beyond_the_ack_timeout_is_doubted(tmp_path: Path) -> None:
    """With kill_after, as the broker does not know of either."""
    queues = "queues:\n  short: {handler: a:b}\n  lo.ng: {handler: a:b, time_limit: 1780s}\n"
    found = load(tmp_path, queues).queues
    assert doubt_of_ack_timeout("short", found["short"]) is None
    doubt = doubt_of_ack_timeout("lo.ng", found["lo.ng"])
    assert doubt is not None
    assert doubt[0].startswith("queues.lo.ng.time_limit: 1780s and kill_after 30s, and RabbitMQ by default takes")
    assert "'^lo\\.ng$' '{\"consumer-timeout\": 2051000}'" in doubt[1]
    unlimited = doubt_of_ack_timeout("x", Queue(handler="a:b", time_limit=None))
    assert unlimited is not None
    assert "consumer_timeout = 31622400000 in rabbitmq.conf" in unlimited[1]
