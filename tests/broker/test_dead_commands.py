"""`wq-dead`: what an operator sees and does, against a real broker."""

import base64
import datetime as dt
import decimal
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Vhost, eventually, run_cli

from workqueued import __version__
from workqueued.amqp.topology import declare_dead_queue
from workqueued.node import Node

Make = Callable[..., Any]
NOW = int(time.time() * 1000)
HOUR = 3_600_000


def letter(number: int = 0, **headers: Any) -> tuple[str, dict[str, Any]]:
    """The id and the headers of a dead letter as a worker writes them."""
    told: dict[str, Any] = {
        "x-wq-enqueued-at": NOW - 2 * HOUR,
        "x-wq-attempt": 5,
        "x-wq-crashes": 1,
        "x-wq-reason": "failed",
        "x-wq-error": "ValueError: no such picture",
        "x-wq-first-failed-at": NOW - HOUR,
        "x-wq-last-failed-at": NOW - 60_000,
        "x-wq-host": "worker-1",
        "x-wq-queue": "work",
        "x-wq-handler": "myapp.tasks:resize",
    }
    told.update({name.replace("_", "-"): value for name, value in headers.items()})
    return f"letter-{number:06}", {name: value for name, value in told.items() if value is not None}


def declare(vhost: Vhost, queue: str = "work") -> None:
    """A work queue and its dead queue."""
    with vhost.channel() as channel:
        channel.queue_declare(queue, durable=True, arguments={"x-queue-type": "quorum"})
        declare_dead_queue(channel, f"{queue}.dead")


@pytest.fixture
def box(vhost: Vhost) -> Vhost:
    """A vhost with the work queue `work` and its dead queue, both empty."""
    declare(vhost)
    return vhost


def fill(vhost: Vhost, count: int, queue: str = "work.dead", **headers: Any) -> None:
    """Put letters into a dead queue; their bodies are their numbers."""
    before = vhost.count(queue)
    with vhost.channel() as channel:
        for number in range(count):
            publish(channel, queue, str(number).encode(), *letter(number, **headers))
        # Before the channel is closed: with it goes what a quorum queue has not taken yet.
        eventually(lambda: vhost.count(queue) >= before + count)


def publish(channel: Any, queue: str, body: bytes, message_id: str | None, headers: dict[str, Any]) -> None:
    """Publish one, persistent."""
    import pika  # noqa: PLC0415

    properties = pika.BasicProperties(message_id=message_id, headers=headers, delivery_mode=2, type="resize")
    channel.basic_publish("", queue, body, properties)


def dead(vhost: Vhost, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[str]:
    """Run wq-dead for the queue `work`."""
    verb, *rest = arguments
    return run_cli("dead", "--url", vhost.url, verb, "--queue", "work", *rest, stdin=stdin)


def rows(vhost: Vhost, *arguments: str) -> list[dict[str, Any]]:
    """What `list --json` prints."""
    done = dead(vhost, "list", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def bodies(vhost: Vhost, queue: str) -> list[bytes]:
    """The bodies in a queue, in their order; they stay."""
    found = []
    with vhost.channel() as channel:
        while (one := channel.basic_get(queue))[0]:
            found.append(one[2])
    eventually(lambda: vhost.count(queue) == len(found))
    return found


# --- list ---


def test_list_shows_a_line_for_each_letter(box: Vhost) -> None:
    """Who, when, why, which try, and the error; whole lines where nobody has a narrow terminal."""
    fill(box, 3)
    done = dead(box, "list")
    assert (done.returncode, done.stderr) == (0, "")
    header, *lines = done.stdout.splitlines()
    assert header.split() == ["ID", "FAILED", "REASON", "TRY", "ERROR"]
    assert [line.split()[0] for line in lines] == ["letter-000000", "letter-000001", "letter-000002"]
    when = dt.datetime.fromtimestamp((NOW - 60_000) / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    assert re.fullmatch(rf"letter-000000 +{when}  failed +5  ValueError: no such picture", lines[0])
    assert box.count("work.dead") == 3


def test_list_as_json_tells_everything_that_is_known(box: Vhost) -> None:
    """One object a line; times in ISO 8601, what is not known null."""
    fill(box, 1)
    (row,) = rows(box)
    failed = dt.datetime.fromisoformat(row.pop("failed_at")).timestamp()
    assert failed == pytest.approx((NOW - 60_000) / 1000)
    assert row["first_failed_at"].endswith("Z")
    assert row["enqueued_at"].endswith("Z")
    assert {name: row[name] for name in ("id", "reason", "error", "attempt", "crashes", "type", "size")} == {
        "id": "letter-000000",
        "reason": "failed",
        "error": "ValueError: no such picture",
        "attempt": 5,
        "crashes": 1,
        "type": "resize",
        "size": 1,
    }
    assert (row["handler"], row["host"], row["queue"]) == ("myapp.tasks:resize", "worker-1", "work")
    assert row["replayed_at"] is None


def test_thirty_lists_in_a_row_lose_nothing_and_keep_the_order(box: Vhost) -> None:
    """RabbitMQ 4 drops a message after 20 returns where the queue does not say otherwise; ours does."""
    fill(box, 4500)
    expected = [f"letter-{number:06}" for number in range(4500)]
    for _ in range(30):
        assert [row["id"] for row in rows(box)] == expected
    assert box.count("work.dead") == 4500


def test_a_dead_queue_with_another_delivery_limit_is_not_looked_through(box: Vhost) -> None:
    """After so many looks the broker would drop its messages; the error says what is wrong."""
    with box.channel() as channel:
        channel.queue_delete("work.dead")
        channel.queue_declare(
            "work.dead", durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": 20}
        )
    done = dead(box, "list")
    assert done.returncode == os.EX_NOPERM
    assert "x-delivery-limit=20" in done.stderr


def test_a_classic_dead_queue_of_old_is_good_enough(box: Vhost) -> None:
    """It counts nothing, so looking loses nothing."""
    with box.channel() as channel:
        channel.queue_delete("work.dead")
        channel.queue_declare("work.dead", durable=True)
    fill(box, 5)
    assert len(rows(box)) == 5
    assert dead(box, "replay", "--all", "--yes").returncode == 0
    assert (box.count("work"), box.count("work.dead")) == (5, 0)


def test_a_list_that_nobody_reads_to_its_end_is_quiet(box: Vhost) -> None:
    """`wq-dead list | head`: no traceback, and everything is still there."""
    fill(box, 3000)
    command = f"{sys.executable} -m workqueued.cli.dead --url {box.url} --queue work list | head -2; echo $PIPESTATUS"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[-1] == "141"
    assert len(done.stdout.splitlines()) == 3
    eventually(lambda: box.count("work.dead") == 3000)


def test_twelve_thousand_letters_are_read_and_counted(box: Vhost) -> None:
    """More than one consumer is given; nothing is lost and the order is kept."""
    fill(box, 12_000)
    for _ in range(2):
        done = dead(box, "stats", "--by", "error")
        assert done.stdout == "12000  ValueError: no such picture\n"
    assert [row["id"] for row in rows(box)] == [f"letter-{number:06}" for number in range(12_000)]
    assert box.count("work.dead") == 12_000


# --- which queue ---


def test_nothing_dead_is_no_error(box: Vhost, make_config: Make) -> None:
    """An empty dead queue, and one that no worker has declared yet: exit 0, no output, a word on stderr."""
    done = dead(box, "list")
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing is dead" in done.stderr
    file = make_config("fresh")
    for verb in ("list", "stats", "export"):
        done = run_cli("dead", verb, "--config", str(file))
        assert (done.returncode, done.stdout) == (0, "")
        assert "fresh has no dead queue yet" in done.stderr
    assert run_cli("dead", "replay", "--all", "--yes", "--config", str(file)).returncode == 0


def test_a_wrong_name_is_an_error(vhost: Vhost, make_config: Make) -> None:
    """Neither the broker nor the configuration knows it: 69, and the names that are known."""
    done = run_cli("dead", "list", "--config", str(make_config("work")), "--queue", "wrok")
    assert done.returncode == os.EX_UNAVAILABLE
    assert "'wrok'" in done.stderr
    assert "the configuration has work" in done.stderr
    done = run_cli("dead", "import", "--url", vhost.url, "--queue", "wrok", stdin=b'{"body":"x"}')
    assert done.returncode == os.EX_UNAVAILABLE
    assert vhost.count("wrok.dead") == -1


def test_the_only_queue_of_the_configuration_needs_no_name(box: Vhost, make_config: Make) -> None:
    """And the dead queue's own name is understood as well."""
    fill(box, 2)
    file = str(make_config("work"))
    for where in (["--config", file], ["--config", file, "--queue", "work.dead"]):
        assert len(run_cli("dead", "list", "--json", *where).stdout.splitlines()) == 2
    done = run_cli("dead", "list", "--json", WQ_CONFIG=file)
    assert len(done.stdout.splitlines()) == 2
    done = run_cli("dead", "list", "--url", box.url)
    assert done.returncode == os.EX_USAGE
    assert "which queue?" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["replay"], "which messages?"),
        (["discard"], "which messages?"),
        (["replay", "--all", "--reason", "failed", "--yes"], "exclude each other"),
        (["discard", "--all"], "no terminal to ask on"),
        (["replay", "--reason", "failed"], "no terminal to ask on"),
        (["replay", "--all", "--yes", "--rate", "0"], "messages a second"),
        (["list", "--limit", "-1"], "a whole number"),
        (["list", "--failed-after", "soon"], "--failed-after: 'soon' is neither"),
        (["stats", "--by", "colour"], "invalid choice"),
        (["import", "--file", "/no/such"], "cannot read /no/such"),
        (["bury"], "invalid choice"),
        ([], "required"),
    ],
)
def test_a_wrong_command_line_exits_64_and_changes_nothing(box: Vhost, arguments: list[str], words: str) -> None:
    """Destructive verbs want to be told what they are to destroy."""
    fill(box, 1)
    done = run_cli("dead", "--url", box.url, "--queue", "work", *arguments)
    assert done.returncode == os.EX_USAGE
    assert words in done.stderr
    assert box.count("work.dead") == 1


def test_version_and_help() -> None:
    """Both end with 0; help tells the exit codes."""
    assert run_cli("dead", "--version").stdout == f"wq-dead {__version__}\n"
    done = run_cli("dead", "--help")
    assert done.returncode == 0
    for word in ("list", "show", "stats", "replay", "discard", "export", "import", "66", "75"):
        assert word in done.stdout


# --- show, stats ---


def test_show_tells_why_a_letter_is_dead(box: Vhost) -> None:
    """The envelope in words, the sender's headers below, the body only when asked for."""
    stderr = "line 1\n\tline 2"
    fill(box, 1, x_wq_stderr=stderr, x_wq_exit=3, tenant="acme", nested={"a": [1, None]})
    done = dead(box, "show", "letter-000000")
    assert done.returncode == 0
    for line in (
        r"id +letter-000000", r"reason +failed", r"error +ValueError: no such picture", r"attempt +5", r"crashes +1",
        r"exit +3", r"handler +myapp.tasks:resize", r"host +worker-1", r"queue +work", r"type +resize",
        r"last failed +\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", r"stderr\n  line 1\n  \tline 2", r"headers\n.*  tenant: acme",
        r'  nested: \{"a": \[1, null\]\}', r"body +1 byte; show it with --body",
    ):  # fmt: skip
        assert re.search(rf"^{line}$", done.stdout, re.MULTILINE | re.DOTALL), line
    told = json.loads(dead(box, "show", "letter-000000", "--json", "--body").stdout)
    assert (told["reason"], told["message"]["body"], told["message"]["headers"]["tenant"]) == ("failed", "0", "acme")


def test_the_beginning_of_an_id_is_enough_when_it_is_the_only_one(box: Vhost) -> None:
    """Else the error lists those that begin so; an unknown one exits 66."""
    fill(box, 12)
    assert dead(box, "show", "letter-000003", "--body").stdout == "3"
    done = dead(box, "show", "letter-00001")
    assert done.returncode == os.EX_USAGE
    assert done.stderr.split()[-2:] == ["letter-000010", "letter-000011"]
    done = dead(box, "show", "letter-0")
    assert "letter-000009\n  …" in done.stderr
    done = dead(box, "show", "nobody")
    assert done.returncode == os.EX_NOINPUT
    assert "'nobody' is not in work.dead" in done.stderr


def test_a_body_is_printed_byte_by_byte(box: Vhost) -> None:
    """Into a pipe or a file."""
    body = bytes(range(256)) * 100
    with box.channel(confirmed=True) as channel:
        publish(channel, "work.dead", body, *letter())
    command = [sys.executable, "-m", "workqueued.cli.dead", "--url", box.url, "--queue", "work", "show", "--body"]
    done = subprocess.run([*command, "letter-000000"], capture_output=True, check=True)
    assert done.stdout == body


def test_stats_counts_by_what_was_asked(box: Vhost) -> None:
    """Most first."""
    fill(box, 3)
    fill(box, 2, x_wq_reason="timeout", x_wq_host="worker-2", x_wq_handler=None)
    eventually(lambda: box.count("work.dead") == 5)
    assert dead(box, "stats").stdout == "3  failed\n2  timeout\n"
    assert dead(box, "stats", "--by", "host").stdout == "3  worker-1\n2  worker-2\n"
    assert dead(box, "stats", "--by", "handler").stdout == "3  myapp.tasks:resize\n2  -\n"
    lines = dead(box, "stats", "--json").stdout.splitlines()
    assert json.loads(lines[0]) == {"reason": "failed", "count": 3}


def test_the_broker_s_own_dead_letters_show_its_reason(box: Vhost, node: Node) -> None:
    """An operator's policy sends what expires there; the reason is clearly the broker's, and a replay goes home."""
    policy = {"message-ttl": 100, "dead-letter-exchange": "", "dead-letter-routing-key": "work.dead"}
    node.ctl("set_policy", "--vhost", box.name, "--apply-to", "queues", "expiry", "^work$", json.dumps(policy))
    box.publish("work", "late", headers={"x-wq-reason": "broker:forged"}, message_id="late")
    box.publish("work", "later")
    eventually(lambda: box.count("work.dead") == 2, within=30)
    node.ctl("clear_policy", "--vhost", box.name, "expiry")
    found = {row["id"]: row for row in rows(box)}
    assert {row["reason"] for row in found.values()} == {"broker:expired"}
    assert {row["queue"] for row in found.values()} == {"work"}
    assert found["late"]["failed_at"] is not None
    (nameless,) = found.keys() - {"late"}
    assert nameless.startswith("body:5:")
    shown = dead(box, "show", "late").stdout
    assert re.search(r"^broker says +expired x1 in work, last \d{4}", shown, re.MULTILINE)
    assert dead(box, "show", nameless, "--body").stdout == "later"
    assert dead(box, "stats", "--json").stdout == '{"reason": "broker:expired", "count": 2}\n'
    done = dead(box, "replay", "--yes", "--reason", "broker", "--limit", "1")
    assert done.stdout == "replayed 1 message of work.dead\n"
    assert dead(box, "replay", "--yes", nameless).returncode == 0
    properties, _ = eventually(lambda: box.get("work"))
    assert not [name for name in properties.headers if name.startswith(("x-death", "x-first-death"))]
    assert box.count("work.dead") == 0


FORGED: list[dict[str, Any]] = [
    {"x-wq-reason": 5, "x-wq-error": ["a"], "x-wq-attempt": "many", "x-wq-last-failed-at": 2**62, "x-death": "x"},
    {"x-wq-reason": b"\xff\xfe", "x-wq-error": {"a": 1}, "x-wq-attempt": -1, "x-wq-last-failed-at": "now"},
    {"x-wq-reason": "\x1b[2Jcleared", "x-wq-error": "\x1b]0;title\x07\u202e\u2028\x9b31m", "x-death": [1, {}]},
    {"x-wq-reason": None, "x-wq-host": dt.datetime(2026, 5, 12, tzinfo=dt.UTC), "x-wq-queue": 7, "x-death": [None]},
    {"x-wq-handler": decimal.Decimal("1.5"), "x-wq-first-failed-at": True, "x-death": [{"reason": 1, "time": "x"}]},
    {"x-wq-replayed": "never", "x-wq-expires-at": [], "x-first-death-reason": 4, "x-wq-stderr": b"\x1b[0m\xff"},
    {"x-death": [{"reason": "\x1b[1m", "queue": b"\xff", "time": 5, "count": "x"}], "x-wq-headers-left-out": 3},
    {},
]


def test_forged_headers_break_nothing(box: Vhost) -> None:
    """Any AMQP type under any of our names: never a traceback, never a character that does something to a terminal."""
    with box.channel(confirmed=True) as channel:
        for number, headers in enumerate(FORGED):
            publish(channel, "work.dead", b"\x1b[2J", f"\x1b[{number}m", headers)
    eventually(lambda: box.count("work.dead") == len(FORGED))
    verbs = [["list"], ["list", "--json"], *(["stats", "--by", by] for by in ("reason", "error", "handler", "host"))]
    verbs += [["show", f"\x1b[{number}m", *how] for number in range(len(FORGED)) for how in ([], ["--json"])]
    for verb in (*verbs, ["list", "--failed-after", "1h"], ["replay", "--all", "--dry-run"], ["export"]):
        done = dead(box, *verb)
        assert done.returncode == 0, (verb, done.stderr)
        assert "Traceback" not in done.stderr
        assert not re.search(r"[^\n\t\x20-\x7e\xa1-\u2027\u202f-\uffff]", done.stdout + done.stderr), verb
    done = dead(box, "replay", "--all", "--yes")
    assert done.stdout == f"replayed {len(FORGED)} messages of work.dead\n"


# --- filters ---


def test_filters_are_met_all_together(box: Vhost) -> None:
    """Reason, error, type, handler, host, time; a reason that is given twice means either."""
    with box.channel(confirmed=True) as channel:
        publish(channel, "work.dead", b"", *letter(1))
        publish(channel, "work.dead", b"", *letter(2, x_wq_reason="timeout", x_wq_last_failed_at=NOW - 5 * HOUR))
        publish(channel, "work.dead", b"", *letter(3, x_wq_error="KeyError: 'x'", x_wq_host="worker-2"))
        publish(channel, "work.dead", b"", *letter(4, x_wq_reason="crashed", x_wq_handler="a:b"))
        publish(channel, "work.dead", b"", *letter(5, x_wq_last_failed_at=None))
    eventually(lambda: box.count("work.dead") == 5)

    def numbers(*arguments: str) -> list[int]:
        return sorted(int(row["id"][-1]) for row in rows(box, *arguments))

    assert numbers("--reason", "failed") == [1, 3, 5]
    assert numbers("--reason", "timeout", "--reason", "crashed") == [2, 4]
    assert numbers("--error", "KeyError") == [3]
    assert numbers("--reason", "failed", "--host", "worker-1") == [1, 5]
    assert numbers("--handler", "a:b") == [4]
    assert numbers("--type", "resize") == [1, 2, 3, 4, 5]
    assert numbers("--type", "other") == []
    assert numbers("--failed-after", "1h") == [1, 3, 4]
    assert numbers("--failed-before", "1h") == [2]
    since = dt.datetime.fromtimestamp((NOW - 6 * HOUR) / 1000, dt.UTC).isoformat()
    assert numbers("--failed-after", since, "--failed-before", "1h") == [2]
    assert numbers("--limit", "2") == [1, 2]


# --- replay, discard ---


def test_replay_gives_a_message_another_life(box: Vhost) -> None:
    """Body, id, properties and the sender's headers stay; what told of the failure goes; it is marked."""
    fill(box, 1, x_wq_expires_at=NOW - 1, x_wq_due_at=5, x_wq_exit=1, x_wq_stderr="x", x_wq_redeliveries=3, tenant="t")
    before = time.time() * 1000 - 1
    done = dead(box, "replay", "letter-000000", "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, "replayed 1 message of work.dead\n", "")
    properties, body = box.get("work")
    assert (body, properties.message_id, properties.type) == (b"0", "letter-000000", "resize")
    assert properties.delivery_mode == 2
    marked = properties.headers.pop("x-wq-replayed")
    assert before <= marked <= time.time() * 1000
    properties.headers.pop("x-delivery-count", None)
    assert properties.headers == {"tenant": "t", "x-wq-enqueued-at": NOW - 2 * HOUR}
    assert box.count("work.dead") == 0


def test_what_a_replay_does_not_select_stays_in_order(box: Vhost) -> None:
    """On RabbitMQ 3.10, by our test; with held ones before, between and after."""
    with box.channel(confirmed=True) as channel:
        for number in range(5000):
            reason = "timeout" if number % 3 == 1 else "failed"
            publish(channel, "work.dead", str(number).encode(), *letter(number, x_wq_reason=reason))
    eventually(lambda: box.count("work.dead") == 5000)
    # So low a rate makes for as small a prefetch: many consumers, each with held ones among what it was given.
    done = dead(box, "replay", "--reason", "timeout", "--yes", "--rate", "500")
    assert done.stdout == "replayed 1667 messages of work.dead\n"
    assert bodies(box, "work") == [str(number).encode() for number in range(5000) if number % 3 == 1]
    assert bodies(box, "work.dead") == [str(number).encode() for number in range(5000) if number % 3 != 1]


def test_replay_goes_where_a_letter_came_from_or_where_it_is_told(box: Vhost) -> None:
    """The worker noted the queue; --to overrules it."""
    declare(box, "other")
    fill(box, 2, x_wq_queue="other")
    assert dead(box, "replay", "letter-000000", "--yes").returncode == 0
    assert (box.count("other"), box.count("work")) == (1, 0)
    assert dead(box, "replay", "letter-000001", "--to", "work", "--yes").returncode == 0
    assert (box.count("other"), box.count("work")) == (1, 1)


def test_limit_takes_the_first_of_those_that_fit(box: Vhost) -> None:
    """From the head of the queue."""
    fill(box, 10)
    assert dead(box, "replay", "--limit", "3", "--reason", "failed", "--yes").returncode == 0
    assert bodies(box, "work") == [b"0", b"1", b"2"]
    assert bodies(box, "work.dead") == [str(number).encode() for number in range(3, 10)]


def test_a_look_that_ends_early_keeps_the_order(box: Vhost) -> None:
    """What had been sent to us and was not looked at goes back to its place as well."""
    fill(box, 2500)
    expected = [f"letter-{number:06}" for number in range(2500)]
    for arguments in (["list", "--limit", "3"], ["show", "letter-000700"], ["discard", "--limit", "1", "--yes"]):
        assert dead(box, *arguments).returncode == 0
    assert [row["id"] for row in rows(box)] == expected[1:]


def test_discard_takes_out_what_was_named_and_nothing_else(box: Vhost) -> None:
    """By id, by filter, all."""
    fill(box, 6)
    done = dead(box, "discard", "letter-000002", "letter-000004", "--yes")
    assert done.stdout == "discarded 2 messages of work.dead\n"
    assert bodies(box, "work.dead") == [b"0", b"1", b"3", b"5"]
    assert dead(box, "discard", "--error", "nothing like it", "--yes").stdout == "discarded 0 messages of work.dead\n"
    done = dead(box, "discard", "--all", "--yes", "--json")
    assert json.loads(done.stdout) == {"discarded": 4, "failed": 0, "unknown": 0, "queue": "work.dead"}
    assert (box.count("work"), box.count("work.dead")) == (0, 0)


def test_an_id_that_is_not_there_exits_66_and_the_others_are_done(box: Vhost) -> None:
    """The error names it."""
    fill(box, 2)
    done = dead(box, "discard", "letter-000001", "nobody", "--yes")
    assert (done.returncode, done.stdout) == (os.EX_NOINPUT, "discarded 1 message of work.dead\n")
    assert "not in work.dead: nobody" in done.stderr
    assert box.count("work.dead") == 1


@pytest.mark.parametrize("verb", ["replay", "discard"])
def test_a_dry_run_lists_and_counts_and_changes_nothing(box: Vhost, verb: str) -> None:
    """Needs no --yes, as it destroys nothing."""
    fill(box, 4)
    done = dead(box, verb, "--limit", "2", "--dry-run")
    assert done.returncode == 0
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ID", "letter-000000", "letter-000001"]
    to = " to work" if verb == "replay" else ""
    assert done.stderr == f"wq-dead: would {verb} 2 of 4 messages from work.dead{to}\n"
    assert (box.count("work"), box.count("work.dead")) == (0, 4)


def test_a_rate_is_kept(box: Vhost) -> None:
    """So that a replay does not run over whatever the handlers talk to."""
    fill(box, 30)
    started = time.monotonic()
    assert dead(box, "replay", "--all", "--yes", "--rate", "20").returncode == 0
    assert time.monotonic() - started > 1.2  # 30 in steps of 50 ms, with some leave at the start
    assert (box.count("work"), box.count("work.dead")) == (30, 0)


class Terminal:
    """wq-dead on a terminal."""

    def __init__(self, *arguments: str) -> None:
        self.master, slave = pty.openpty()
        command = [sys.executable, "-m", "workqueued.cli.dead", *arguments]
        environment = {**os.environ, "COLUMNS": "80"}
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        self.seen = b""

    def read(self, until: bytes | None = None) -> str:
        """What it shows, up to some words or to its end."""
        deadline = time.monotonic() + 30
        while (until is None or until not in self.seen) and time.monotonic() < deadline:
            if not select.select([self.master], [], [], 0.2)[0]:
                continue
            try:
                chunk = os.read(self.master, 4096)
            except OSError:  # EIO: the other side is closed
                break
            if not chunk:
                break
            self.seen += chunk
        assert until is None or until in self.seen, self.seen
        return self.seen.decode()

    def type(self, text: str) -> None:
        """Type on its keyboard."""
        os.write(self.master, text.encode())

    def end(self) -> int:
        """Its exit code."""
        self.read()
        os.close(self.master)
        return self.process.wait(30)


def test_on_a_terminal_it_asks_with_the_count(box: Vhost) -> None:
    """Only a yes is one; while it waits the lock is held and nothing is taken out."""
    fill(box, 5)
    arguments = ("--url", box.url, "--queue", "work", "replay", "--limit", "3")
    terminal = Terminal(*arguments)
    terminal.read(b"replay 3 of 5 messages from work.dead to work? [y/N] ")
    assert box.count("work.dead") == 5
    assert dead(box, "list").returncode == os.EX_TEMPFAIL
    terminal.type("\n")
    assert terminal.end() == 0
    assert "nothing was changed" in terminal.seen.decode()
    assert box.count("work.dead") == 5
    terminal = Terminal(*arguments)
    terminal.read(b"[y/N] ")
    fill(box, 1, x_wq_reason="new")  # an older id, but nobody was asked about it; 6 of them now
    terminal.type("y\n")
    assert terminal.end() == 0
    assert "replayed 3 messages" in terminal.seen.decode()
    assert (box.count("work"), box.count("work.dead")) == (3, 3)


def test_a_table_fits_the_terminal(box: Vhost) -> None:
    """Whatever the error holds."""
    fill(box, 1, x_wq_error="\x1b[31m" + "wide 漢字 " * 40)
    terminal = Terminal("--url", box.url, "--queue", "work", "list")
    assert terminal.end() == 0
    lines = terminal.seen.decode().replace("\r", "").splitlines()
    assert all(sum(2 if char > "\u2fff" else 1 for char in line) <= 80 for line in lines)
    assert "\x1b" not in terminal.seen.decode()
    assert "1 of 1 message in work.dead" in terminal.seen.decode()


def test_a_body_on_a_terminal_cannot_do_anything_to_it(box: Vhost) -> None:
    """Escapes are shown; lines stay lines."""
    with box.channel(confirmed=True) as channel:
        publish(channel, "work.dead", b"\x1b[2Jone\ntwo\xff", *letter())
    terminal = Terminal("--url", box.url, "--queue", "work", "show", "--body", "letter-000000")
    assert terminal.end() == 0
    assert terminal.seen.decode().replace("\r", "") == "\\x1b[2Jone\ntwo\\xff\n"


# --- export, import ---

EVERY_TYPE: dict[str, Any] = {
    "bool": True,
    "int8": -5,
    "int32": -(2**31),
    "int64": 2**63 - 1,
    "float": 1.5,
    "whole": 2.0,
    "decimal": decimal.Decimal("-12.345"),
    "text": "caf\xe9 \U0001f600 \x00",
    "bytes": b"\xff\x00\xfe",
    "array": [1, "two", [3.25, None], {"four": b"\xff"}],
    "timestamp": dt.datetime(2026, 5, 12, 3, 14, 15, tzinfo=dt.UTC),
    "table": {"a": {"b": [True, dt.datetime(1970, 1, 1, tzinfo=dt.UTC)]}},
    "looks": {"$bytes": "not base64"},
    "looks too": {"$object": {"$timestamp": 5}},
    "void": None,
}


def test_export_discard_import_elsewhere_is_lossless(box: Vhost, vhosts: Callable[[], Vhost]) -> None:
    """Every AMQP type, every property, bytes that are no text; told by a second export."""
    import pika  # noqa: PLC0415

    from workqueued.amqp.tables import exact_tables  # noqa: PLC0415

    properties = pika.BasicProperties(
        content_type="a/b", content_encoding="gzip", headers={**EVERY_TYPE, **letter()[1]}, delivery_mode=2, priority=7,
        correlation_id="c", reply_to="r", expiration="99999999", message_id="whole", timestamp=1, type="t", app_id="a",
    )  # fmt: skip
    with exact_tables(), box.channel(confirmed=True) as channel:
        channel.basic_publish("", "work.dead", bytes(range(256)), properties)
    with box.channel(confirmed=True) as channel:
        publish(channel, "work.dead", b"text \xc3\xa9\n", None, {})
    eventually(lambda: box.count("work.dead") == 2)
    first = dead(box, "export").stdout
    assert box.count("work.dead") == 2
    assert dead(box, "discard", "--all", "--yes").returncode == 0
    elsewhere = vhosts()
    declare(elsewhere)
    done = dead(elsewhere, "import", stdin=first.encode())
    assert (done.returncode, done.stdout) == (0, "imported 2 messages into work.dead\n")
    assert dead(elsewhere, "export").stdout == first
    line = json.loads(first.splitlines()[0])
    assert base64.b64decode(line["body"]["$bytes"]) == bytes(range(256))
    with exact_tables():
        found, body = elsewhere.get("work.dead")
    assert body == bytes(range(256))
    found.headers.pop("x-delivery-count", None)
    assert found.headers == {**EVERY_TYPE, **letter()[1]}
    for name in vars(properties):
        assert name == "headers" or getattr(found, name) == getattr(properties, name)


def test_export_takes_the_same_filters(box: Vhost) -> None:
    """And ids."""
    fill(box, 3)
    fill(box, 1, x_wq_reason="timeout")
    eventually(lambda: box.count("work.dead") == 4)
    assert len(dead(box, "export", "--reason", "timeout").stdout.splitlines()) == 1
    done = dead(box, "export", "letter-000002", "nobody")
    assert (done.returncode, len(done.stdout.splitlines())) == (os.EX_NOINPUT, 1)


def test_a_bad_line_stops_an_import_and_says_how_to_resume(box: Vhost, tmp_path: Path) -> None:
    """What came before it is in the dead queue; a routing header of the line goes nowhere."""
    box.publish("work")
    routed = b'{"body":"one","headers":{"CC":["work"],"BCC":["work"]}}'
    lines = [routed, b"", b'{"body":"two"}', b"{oops", b'{"body":1}']
    (tmp_path / "letters").write_bytes(b"\n".join(lines))
    done = dead(box, "import", "--file", str(tmp_path / "letters"))
    assert done.returncode == os.EX_DATAERR
    assert "line 4: not valid JSON" in done.stderr
    assert "wq-dead: lines 1 to 3 are safe; the first that is not confirmed is line 4." in done.stderr
    assert "Resume with --skip 3" in done.stderr
    assert "wq-send" not in done.stderr
    assert (box.count("work.dead"), box.count("work")) == (2, 0)
    done = dead(box, "import", "--file", str(tmp_path / "letters"), "--skip", "4")
    assert "line 5: body: expected text" in done.stderr


def test_import_declares_the_dead_queue_that_a_worker_would(vhost: Vhost) -> None:
    """Where the work queue is there and nothing has died yet."""
    with vhost.channel() as channel:
        channel.queue_declare("work", durable=True)
    assert dead(vhost, "import", stdin=b'{"body":"x"}\n').returncode == 0
    assert vhost.count("work.dead") == 1
    with vhost.channel() as channel:
        declare_dead_queue(channel, "work.dead")
