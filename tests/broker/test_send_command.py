"""`wq-send` with one message: what it sends, where it finds the broker, and how it fails."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from harness import Vhost, run_cli

from workqueued import __version__
from workqueued.node import Node

UUID7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
Send = Callable[..., Any]
Make = Callable[..., Any]
Block = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def url(vhost: Vhost) -> str:
    """The test's vhost, in which a client of another kind has declared task_queue."""
    with vhost.channel() as channel:
        channel.queue_declare("task_queue", durable=True)
    return vhost.url


@pytest.fixture
def to(url: str) -> list[str]:
    """The arguments that say where to."""
    return ["--url", url, "--queue", "task_queue"]


# --- what is sent ---


def test_a_user_sends_words_and_sees_the_id(to: list[str], vhost: Vhost) -> None:
    """The installed command: words are joined by a blank, and the printed id is the message's."""
    done = run_cli("send", *to, "First", "message.")
    assert (done.returncode, done.stderr) == (0, "")
    properties, body = vhost.get("task_queue")
    assert body == b"First message."
    assert done.stdout == properties.message_id + "\n"


def test_a_message_is_persistent_and_says_who_it_is_and_since_when(
    to: list[str], vhost: Vhost, wq_send: Send
) -> None:
    """delivery_mode 2, a UUID of version 7, the time in seconds and, in our header, in milliseconds."""
    before = time.time()
    assert wq_send(*to, "hello").code == 0
    properties, _ = vhost.get("task_queue")
    assert properties.delivery_mode == 2
    assert UUID7.fullmatch(properties.message_id)
    assert int(before) <= properties.timestamp <= time.time()
    assert int(before * 1000) <= properties.headers["x-wq-enqueued-at"] <= time.time() * 1000


def test_every_option_reaches_the_message(to: list[str], vhost: Vhost, wq_send: Send) -> None:
    """Headers, type, id, content type, priority and expiration are the ones that were asked for."""
    done = wq_send(
        *to, "-H", "customer=42", "--header", "note=a=b", "--type", "resize", "--message-id", "mine",
        "--content-type", "text/plain", "--priority", "7", "--expires", "10m", "hello",
    )  # fmt: skip
    assert done.ids == ["mine"]
    properties, _ = vhost.get("task_queue")
    headers = {name: value for name, value in properties.headers.items() if not name.startswith("x-wq-")}
    assert headers == {"customer": "42", "note": "a=b"}
    assert (properties.type, properties.message_id, properties.content_type) == ("resize", "mine", "text/plain")
    assert (properties.priority, properties.expiration) == (7, "600000")


@pytest.mark.parametrize(
    ("arguments", "stdin", "body"),
    [
        (["-"], b"from a pipe\n\xff\x00", b"from a pipe\n\xff\x00"),
        ([], b"from a pipe", b"from a pipe"),
        (["-"], b"", b""),
        ([""], b"ignored", b""),
        (["--file", "-"], b"by name", b"by name"),
        (["a", "--quiet", "b"], b"", b"a b"),
        (["--", "--quiet"], b"", b"--quiet"),
    ],
)
def test_the_body_is_what_was_given_byte_by_byte(
    to: list[str], vhost: Vhost, wq_send: Send, arguments: list[str], stdin: bytes, body: bytes
) -> None:
    """Words, a dash, or a pipe; no newline is added or taken off."""
    assert wq_send(*to, *arguments, stdin=stdin).code == 0
    assert vhost.get("task_queue")[1] == body


def test_words_that_are_no_utf_8_are_sent_as_they_are(to: list[str], vhost: Vhost) -> None:
    """A file name of another age is still a file name."""
    subprocess.run([sys.executable, "-m", "workqueued.cli.send", *to, b"caf\xe9"], check=True, capture_output=True)
    assert vhost.get("task_queue")[1] == b"caf\xe9"


def test_a_file_is_one_message(to: list[str], vhost: Vhost, wq_send: Send, tmp_path: Path) -> None:
    """--file without --lines: the whole of it."""
    (tmp_path / "body").write_bytes(b"two\nlines\n")
    assert wq_send(*to, "--file", tmp_path / "body").code == 0
    assert vhost.get("task_queue")[1] == b"two\nlines\n"


def test_json_output_names_id_and_queue(to: list[str], wq_send: Send) -> None:
    """One object a line, for programs."""
    assert json.loads(wq_send(*to, "--json", "--message-id", "mine", "hello").out) == {
        "message_id": "mine",
        "queue": "task_queue",
    }


def test_quiet_prints_nothing(to: list[str], wq_send: Send, vhost: Vhost) -> None:
    """And sends all the same."""
    done = wq_send(*to, "--quiet", "hello")
    assert (done.code, done.out, done.err) == (0, "", "")
    assert vhost.count("task_queue") == 1


def test_an_empty_pipe_is_an_error_and_says_how_to_send_an_empty_message(
    to: list[str], vhost: Vhost, wq_send: Send
) -> None:
    """`failing-program | wq-send` must not look like success."""
    done = wq_send(*to)
    assert done.code == os.EX_DATAERR
    assert "nothing came on stdin" in done.err
    assert "wq-send ''" in done.err
    assert vhost.count("task_queue") == 0


def test_the_message_is_reported_safe_even_when_its_id_cannot_be_printed(to: list[str], vhost: Vhost) -> None:
    """A full disk under stdout: 74, and no doubt about the message."""
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "workqueued.cli.send", *to, "hello"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, check=False)
    assert done.returncode == os.EX_IOERR
    assert b"the broker holds the message" in done.stderr
    assert b"Exception" not in done.stderr
    assert vhost.count("task_queue") == 1


def test_one_message_loads_nothing_that_it_does_not_need(to: list[str]) -> None:
    """Start-up is most of its time, and a shell loop starts it for every message."""
    source = (
        "import sys; from workqueued.cli.send import main; code = main(sys.argv[1:]); "
        "heavy = {'structlog', 'tqdm', 'setproctitle', 'supervisor', 'workqueued.cli.bulk', 'workqueued.logs'}; "
        "print(heavy & sys.modules.keys() or 'lean'); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", source, *to, "-q", "hello"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "lean\n"


# --- where to ---


def test_the_only_queue_of_the_configuration_needs_no_name(make_config: Make, vhost: Vhost, wq_send: Send) -> None:
    """And if nobody declared it yet, it is declared just as a worker declares it."""
    assert wq_send("--config", make_config("task_queue"), "hello").code == 0
    assert vhost.count("task_queue") == 1
    assert vhost.count("task_queue.dead") == 0
    with vhost.channel() as channel:
        channel.queue_declare("task_queue", durable=True)  # the tutorial's own declaration fits


def test_a_quorum_queue_of_the_configuration_is_declared_as_one(
    make_config: Make, vhost: Vhost, wq_send: Send
) -> None:
    """The type is the configuration's."""
    file = make_config(queues={"jobs": {"handler": "workqueued.samples:dots"}})
    assert wq_send("--config", file, "hello").code == 0
    with vhost.channel() as channel:
        channel.queue_declare("jobs", durable=True, arguments={"x-queue-type": "quorum"})


def test_with_several_queues_one_must_be_named(make_config: Make, vhost: Vhost, wq_send: Send) -> None:
    """The error lists them; the name settles it."""
    file = make_config("mail", "images")
    done = wq_send("--config", file, "hello")
    assert done.code == os.EX_USAGE
    for word in ("mail", "images", "--queue"):
        assert word in done.err
    assert wq_send("--config", file, "--queue", "images", "hello").code == 0
    assert vhost.count("images") == 1
    assert vhost.count("mail") == -1


def test_the_environment_says_where(
    make_config: Make, url: str, vhost: Vhost, wq_send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    """$WQ_CONFIG is a file, $WQ_URL a broker and wins; --config wins over both."""
    monkeypatch.setenv("WQ_CONFIG", str(make_config("from_config")))
    assert wq_send("hello").code == 0
    assert vhost.count("from_config") == 1
    monkeypatch.setenv("WQ_URL", url)
    done = wq_send("hello")
    assert done.code == os.EX_USAGE
    assert "$WQ_URL" in done.err
    assert wq_send("--queue", "task_queue", "hello").code == 0
    assert vhost.count("task_queue") == 1
    monkeypatch.setenv("WQ_URL", "amqp://localhost:1")
    assert wq_send("--config", os.environ["WQ_CONFIG"], "hello").code == 0
    assert vhost.count("from_config") == 2


def test_the_second_address_is_used_when_the_first_is_dead(vhost: Vhost, make_config: Make, wq_send: Send) -> None:
    """A list of URLs is tried in order."""
    file = make_config("task_queue", url=["amqp://127.0.0.1:1", vhost.url])
    assert wq_send("--config", file, "hello").code == 0
    assert vhost.count("task_queue") == 1


# --- how it fails ---


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    """Both end with 0; help tells the exit codes."""
    done = run_cli("send", "--version")
    assert (done.returncode, done.stdout) == (0, f"wq-send {__version__}\n")
    done = run_cli("send", "--help")
    assert done.returncode == 0
    for word in ("--lines", "--skip", "65", "69", "75", "77", "78", "$WQ_CONFIG"):
        assert word in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--no-such"], "--no-such"),
        (["--lines", "word"], "exclude each other"),
        (["--lines", "--ndjson"], "not allowed with"),
        (["--file", "x", "word"], "exclude each other"),
        (["--file", "/no/such", "--queue", "q"], "cannot read /no/such: No such file"),
        (["--file", "/", "--queue", "q"], "Is a directory"),
        (["--priority", "300", "x"], "found 300, expected 0 to 255"),
        (["--priority", "high", "x"], "invalid int value"),
        (["--expires", "soon", "x", "--queue", "q"], "'soon' is no duration"),
        (["--expires", "50d", "x", "--queue", "q"], "at most 49d"),
        (["--timeout", "soon", "x"], "'soon' is no duration"),
        (["--header", "novalue", "x", "--queue", "q"], "NAME=VALUE"),
        (["--skip", "1", "x"], "--skip is for"),
        (["--skip", "-1", "--lines"], "number of lines"),
        (["--message-id", "x", "--lines"], "for one message"),
        (["--config", "x", "x"], "not allowed with"),
        (["x"], "which queue?"),
    ],
)
def test_a_wrong_command_line_exits_64_and_says_what_is_wrong(
    vhost: Vhost, wq_send: Send, arguments: list[str], words: str
) -> None:
    """Before anything is sent."""
    done = wq_send("--url", vhost.url, *arguments)
    assert (done.code, done.out) == (os.EX_USAGE, "")
    assert done.err.startswith("wq-send: ")
    assert words in done.err


@pytest.mark.parametrize("arguments", [[], ["-"], ["--lines"]])
def test_a_closed_stdin_exits_64(to: list[str], arguments: list[str]) -> None:
    """As `wq-send <&-`: a line, no traceback."""
    command = [sys.executable, "-m", "workqueued.cli.send", *to, *arguments]
    done = subprocess.run(["sh", "-c", 'exec "$@" <&-', "sh", *command], capture_output=True, check=False)
    assert done.returncode == os.EX_USAGE
    assert done.stderr == b"wq-send: cannot read stdin: Bad file descriptor\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("queues:\n  task_queue:\n    handler: nonsense\n", ":3: queues.task_queue.handler"),
        ("queues: [\n", "not valid YAML"),
        (None, "cannot read it: No such file"),
    ],
)
def test_a_broken_configuration_exits_78_with_file_and_line(
    tmp_path: Path, wq_send: Send, text: str | None, words: str
) -> None:
    """A configuration that the daemon would refuse is refused here."""
    file = tmp_path / "broken.yaml"
    if text is not None:
        file.write_text(text)
    done = wq_send("--config", file, "hello")
    assert done.code == os.EX_CONFIG
    assert str(file) in done.err
    assert words in done.err


@pytest.mark.parametrize("url", ["localhost", "http://localhost", "amqp://", "amqp://host/a/b", "amqp://host?x=1"])
def test_a_url_that_is_none_exits_78(wq_send: Send, url: str) -> None:
    """It shows what was found and what is expected."""
    done = wq_send("--url", url, "--queue", "q", "hello")
    assert done.code == os.EX_CONFIG
    assert f"found {url!r}, expected amqp://" in done.err


def test_a_queue_that_nobody_has_exits_69_and_is_named(make_config: Make, vhost: Vhost, wq_send: Send) -> None:
    """A typo is not declared into existence; the configuration's names are shown."""
    done = wq_send("--url", vhost.url, "--queue", "nowhere", "hello")
    assert (done.code, done.out) == (os.EX_UNAVAILABLE, "")
    assert "no queue 'nowhere'" in done.err
    assert "--config" in done.err
    done = wq_send("--config", make_config("task_queue"), "--queue", "task_quue", "hello")
    assert done.code == os.EX_UNAVAILABLE
    assert "no queue 'task_quue'" in done.err
    assert "the configuration has task_queue" in done.err


def test_a_queue_with_declare_false_is_left_to_others(make_config: Make, vhost: Vhost, wq_send: Send) -> None:
    """69, and why we do not make it."""
    queue = {"handler": "workqueued.samples:dots", "declare": False}
    done = wq_send("--config", make_config(queues={"theirs": queue}), "hello")
    assert done.code == os.EX_UNAVAILABLE
    assert "declare: false" in done.err
    assert vhost.count("theirs") == -1


def test_a_queue_of_the_other_type_is_no_obstacle_to_sending(make_config: Make, vhost: Vhost, wq_send: Send) -> None:
    """What exists is not declared again: publishing needs no agreement about the type."""
    with vhost.channel() as channel:
        channel.queue_declare("jobs", durable=True)
    assert wq_send("--config", make_config(queues={"jobs": {"handler": "a:b"}}), "hello").code == 0


def test_an_unreachable_broker_exits_75(wq_send: Send) -> None:
    """Nothing listens on port 1; the address is named."""
    done = wq_send("--url", "amqp://127.0.0.1:1", "--queue", "q", "hello")
    assert done.code == os.EX_TEMPFAIL
    assert "127.0.0.1:1" in done.err
    assert "connection refused" in done.err


def test_an_unknown_host_name_exits_75(wq_send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    """The resolver may be down for a moment, so it is worth another try."""

    def unknown(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    done = wq_send("--url", "amqp://nowhere", "--queue", "q", "hello")
    assert done.code == os.EX_TEMPFAIL
    assert "the host name is not known" in done.err


def test_a_wrong_password_or_vhost_exits_77(vhost: Vhost, wq_send: Send) -> None:
    """Trying again is of no use; the user or the vhost is named."""
    done = wq_send("--url", vhost.url.replace(":guest@", ":wrong@"), "--queue", "q", "hello")
    assert done.code == os.EX_NOPERM
    assert "refuses user 'guest': wrong name or password" in done.err
    done = wq_send("--url", vhost.url + "x", "--queue", "q", "hello")
    assert done.code == os.EX_NOPERM
    assert f"refuses vhost '{vhost.name}x': not there, or no permission" in done.err


def test_a_user_that_may_write_and_nothing_else_can_send(wq_send: Send, vhost: Vhost, make_user: Make) -> None:
    """As docs/security.md gives it to senders."""
    with vhost.channel() as channel:
        channel.queue_declare("task_queue", durable=True)
    url = make_user("sender", configure="", write="^amq[.]default$", read="")
    assert wq_send("--url", url, "--queue", "task_queue", "hello").code == 0
    assert vhost.count("task_queue") == 1


def test_no_permission_to_publish_exits_77(to: list[str], make_user: Make, wq_send: Send) -> None:
    """It says which permission is missing and how to give it."""
    done = wq_send("--url", make_user("mute", write="^$"), "--queue", "task_queue", "hello")
    assert done.code == os.EX_NOPERM
    assert "write on amq.default" in done.err
    assert "rabbitmqctl set_permissions" in done.err


def test_no_permission_to_declare_exits_77(make_user: Make, make_config: Make, wq_send: Send) -> None:
    """The queue is in the configuration, not on the broker, and this user may not make it."""
    file = make_config("task_queue", url=make_user("publisher", configure="^$"))
    done = wq_send("--config", file, "hello")
    assert done.code == os.EX_NOPERM
    assert "no permission on queue 'task_queue'" in done.err
    assert "'task_queue.dead'" in done.err


def test_a_full_queue_exits_75(vhost: Vhost, wq_send: Send) -> None:
    """overflow: reject-publish, the only kind of full queue that says so."""
    with vhost.channel() as channel:
        channel.queue_declare("full", durable=True, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    to = ["--url", vhost.url, "--queue", "full"]
    assert wq_send(*to, "fits").code == 0
    done = wq_send(*to, "does not fit")
    assert (done.code, done.out) == (os.EX_TEMPFAIL, "")
    assert "did not take the message for queue 'full': it is full" in done.err
    assert vhost.count("full") == 1


@pytest.fixture
def small_messages(node: Node) -> Iterator[int]:
    """A broker that takes no message of more than so many bytes; on 4.0 the size is a persistent term."""
    most = 65_536
    value = node.ctl("eval", "application:get_env(rabbit, max_message_size, 134217728).").strip().strip("{}ok,")
    change = "application:set_env(rabbit, max_message_size, {0}), persistent_term:put(max_message_size, {0})."
    node.ctl("eval", change.format(most))
    yield most
    node.ctl("eval", change.format(value))


def test_a_message_that_the_broker_is_too_small_for_exits_65_with_both_sizes(
    to: list[str], vhost: Vhost, wq_send: Send, small_messages: int
) -> None:
    """Also in a bulk, where it says which line it was; what came before is sent."""
    done = wq_send(*to, "-", stdin=bytes(small_messages + 1))
    assert done.code == os.EX_DATAERR
    assert f"has {small_messages + 1} bytes and this broker takes at most {small_messages}" in done.err
    lines = [b"x"] * 5 + [bytes(small_messages + 9)] + [b"y"] * 5
    done = wq_send(*to, "--lines", stdin=b"\n".join(lines))
    assert done.code == os.EX_DATAERR
    assert f"line 6: the message has {small_messages + 9} bytes" in done.err
    assert "--skip" in done.err
    assert wq_send(*to, "-", stdin=bytes(small_messages)).code == 0


def test_a_message_that_no_broker_takes_is_not_even_sent(to: list[str], wq_send: Send, tmp_path: Path) -> None:
    """More than 128 MiB: 65 at once."""
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        file.truncate(128 * 2**20 + 1)
    done = wq_send(*to, "--file", huge)
    assert done.code == os.EX_DATAERR
    assert "more than 134217728 bytes" in done.err


@pytest.mark.parametrize("moment", ["connecting", "confirming"])
def test_a_hung_broker_exits_75_within_the_timeout(
    to: list[str], wq_send: Send, paused: Block, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A peer whose kernel accepts and answers nothing, from the start or from the publish on."""
    if moment == "confirming":
        # Paused between the two: the connection is open, the message gets no answer.
        from workqueued.amqp.publisher import Publisher  # noqa: PLC0415

        publish = Publisher.publish
        blocks = []

        def pause_and_publish(self: Publisher, message: Any) -> int:
            blocks.append(paused())
            blocks[-1].__enter__()
            return publish(self, message)

        monkeypatch.setattr(Publisher, "publish", pause_and_publish)
        started = time.monotonic()
        try:
            done = wq_send(*to, "--timeout", "3s", "hello")
        finally:
            for block in blocks:
                block.__exit__(None, None, None)
        assert "did not confirm in time" in done.err
    else:
        with paused():
            started = time.monotonic()
            done = wq_send(*to, "--timeout", "3s", "hello")
        assert "did not answer in time" in done.err
    assert done.code == os.EX_TEMPFAIL
    assert 2.9 < time.monotonic() - started < 7.5


def test_a_memory_alarm_exits_75_with_the_brokers_reason_and_is_gone_afterwards(
    to: list[str], wq_send: Send, alarm: Block
) -> None:
    """Nothing is reported as sent while the broker blocks publishers."""
    with alarm():
        done = wq_send(*to, "--timeout", "3s", "hello")
    assert (done.code, done.out) == (os.EX_TEMPFAIL, "")
    assert "blocks publishers (low on memory)" in done.err
    assert wq_send(*to, "hello").code == 0


@pytest.mark.parametrize(
    "url",
    [
        "amqp://guest:s3cr3t@127.0.0.1:{port}/%2F",
        "amqp://guest:s3cr3t@127.0.0.1:1",
        "amqp://guest:s3cr3t/x@127.0.0.1",
        "amqp://guest:s3cr3t#x@127.0.0.1",
        "amqp://guest:s3cr3t?x@127.0.0.1",
        "amqp://guest:x@s3cr3t@127.0.0.1:1",
        "http://guest:s3cr3t@127.0.0.1",
        "guest:s3cr3t@127.0.0.1",
    ],
)
def test_no_password_in_any_output(node: Node, make_config: Make, wq_send: Send, url: str) -> None:
    """Refused, unreachable or misspelt: the password of --url and of the configuration stays hidden."""
    url = url.format(port=node.port)
    for where in (["--url", url, "--queue", "task_queue"], ["--config", make_config("task_queue", url=url)]):
        done = wq_send(*where, "hello")
        assert done.code != 0
        assert "s3cr3t" not in done.out + done.err
