"""Whatever comes in, and whatever a handler does: a clear outcome, nothing lost, and the next message is served."""

import datetime as dt
import decimal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, Vhost

Daemons = Callable[..., Daemon]

#: Two attempts, a second apart.
RETRY = {"attempts": 2, "first": "1s", "jitter": 0}
#: The largest message that RabbitMQ 4.0 takes.
LARGE = 16 * 2**20


def queue(handler: str = "ledgers:by_word", **settings: Any) -> dict[str, Any]:
    """A task_queue with one worker."""
    return {"task_queue": {"handler": handler, "workers": 1, "retry": RETRY, **settings}}


def served(running: Daemon, vhost: Vhost) -> None:
    """The next message is."""
    vhost.publish("task_queue", "sleep 0", message_id="next")
    running.await_event("delivery.settled", message_id="next", outcome="done")


#: One of every type that pika can send.
EVERY_TYPE: dict[str, Any] = {
    "text": "caf\xe9",
    "bytes": b"\x00\xff",
    "true": True,
    "false": False,
    "small": -1,
    "large": 2**62,
    "decimal": decimal.Decimal("3.14"),
    "time": dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    "nothing": None,
    "list": [1, "a", None, [True], {"k": b"v"}],
    "table": {"nested": {"deeper": [1, 2]}},
    "empty": "",
    "": "a name of no length",
    "x" * 128: "a long name",
}


A_THOUSAND = {f"h{number}": number for number in range(1000)}


@pytest.mark.parametrize("headers", [EVERY_TYPE, A_THOUSAND], ids=["types", "a thousand"])
def test_headers_of_every_type_and_a_thousand_of_them_travel_with_each_copy(
    daemon: Daemons, vhost: Vhost, headers: dict[str, Any]
) -> None:
    """Through a retry into the dead queue, unchanged."""
    with daemon(queue()) as running:
        running.consuming(1)
        vhost.publish("task_queue", "fail 9", headers=headers, message_id="m")
        running.await_event("delivery.settled", message_id="m", outcome="dead", attempt=2)
        properties, _ = vhost.get("task_queue.dead")
        assert {name: properties.headers[name] for name in headers} == headers
        served(running, vhost)


def test_headers_that_fill_the_frame_leave_room_for_the_reason(daemon: Daemons, vhost: Vhost) -> None:
    """The largest one stays behind, and its name is told; else the broker would refuse the copy for ever."""
    with daemon(queue()) as running:
        running.consuming(1)
        vhost.publish("task_queue", "fail 9", headers={"huge": "x" * 130_000, "small": 1}, message_id="m")
        running.await_event("delivery.settled", message_id="m", outcome="dead")
        headers = vhost.get("task_queue.dead")[0].headers
        assert (headers["x-wq-headers-left-out"], headers["small"]) == ("huge", 1)
        assert headers["x-wq-reason"] == "failed"
        served(running, vhost)


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_a_large_body_that_fails_is_retried_and_buried_like_any_other(
    daemon: Daemons, vhost: Vhost, kind: str
) -> None:
    """As large as RabbitMQ 4.0 takes it, byte by byte."""
    body = b"fail 9 ".ljust(LARGE, b"x")
    with daemon(queue(type=kind)) as running:
        running.consuming(1)
        vhost.publish("task_queue", body, message_id="m")
        running.await_event("delivery.settled", message_id="m", outcome="retried", within=40)
        running.await_event("delivery.settled", message_id="m", outcome="dead", within=40)
        assert vhost.get("task_queue.dead")[1] == body
        served(running, vhost)


def test_an_empty_body_is_a_message(daemon: Daemons, vhost: Vhost) -> None:
    """And no JSON."""
    with daemon(queue("ledgers:work")) as running:
        running.consuming(1)
        vhost.publish("task_queue", "", message_id="m")
        running.await_event("delivery.settled", message_id="m", outcome="done")


def test_a_message_with_an_expiration_that_fails_does_not_vanish(daemon: Daemons, vhost: Vhost) -> None:
    """As a property it would fire in the delay levels or in the dead queue."""
    with daemon(queue()) as running:
        running.consuming(1)
        vhost.publish("task_queue", "fail 9", expiration="600000", message_id="m")
        running.await_event("delivery.settled", message_id="m", outcome="dead", attempt=2)
        properties, _ = vhost.get("task_queue.dead")
        assert properties.expiration is None
        assert properties.headers["x-wq-expires-at"] > properties.headers["x-wq-last-failed-at"]


def test_a_retry_that_comes_back_after_its_expiration_is_dead_as_expired(daemon: Daemons, vhost: Vhost) -> None:
    """It is not handled any more."""
    with daemon(queue(retry={"attempts": 5, "first": "2s", "jitter": 0})) as running:
        running.consuming(1)
        vhost.publish("task_queue", "fail 9", expiration="1500", message_id="m")
        running.await_event("delivery.settled", message_id="m", outcome="retried")
        assert running.await_event("delivery.settled", message_id="m", outcome="dead")["reason"] == "expired"
        assert len(running.ledger()) == 1


MODULE = """
import asyncio, os, threading, time

def threads(task):
    threading.Thread(target=time.sleep, args=(30,), daemon=False).start()

def deep(task):
    return deep(task)

def hungry(task):
    bytearray(8 * 2**30)

def forks(task):
    if os.fork() == 0:
        os._exit(3)

def everything(task):
    os.closerange(0, 65536)

async def cancels(task):
    raise asyncio.CancelledError

async def leaves_tasks(task):
    asyncio.get_running_loop().create_task(asyncio.sleep(30))

async def blocks(task):
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

def odd_retry(task):
    from workqueued import Retry
    raise Retry(delay="tomorrow")
"""

#: What the handler is called, further settings, and how its message ends.
WILD: dict[str, tuple[dict[str, Any], str, str | None]] = {
    "threads": ({}, "done", None),
    "deep": ({}, "dead", "failed"),
    "hungry": ({"limits": {"memory": "2G"}}, "dead", "failed"),
    "forks": ({}, "done", None),
    "cancels": ({}, "dead", "failed"),
    "leaves_tasks": ({}, "done", None),
    "blocks": ({"time_limit": "200ms", "kill_after": "200ms", "crashes": 1}, "dead", "crashed"),
    "odd_retry": ({}, "dead", "failed"),
}


@pytest.mark.parametrize("name", WILD)
def test_a_wild_handler_ends_its_message_and_nothing_else(
    daemon: Daemons, vhost: Vhost, tmp_path: Path, name: str
) -> None:
    """Told as what it is; a message of another type is served by the same worker or the next."""
    settings, outcome, reason = WILD[name]
    (tmp_path / "wild.py").write_text(MODULE + "\ndef fine(task):\n    task.log.info('fine.done')\n")
    handlers = {"wild": f"wild:{name}", "default": "wild:fine"}
    once = {"retry": {"attempts": 1}, **settings}
    with daemon(queue(handlers, **once), pythonpath=str(tmp_path)) as running:  # type: ignore[arg-type]
        running.consuming(1)
        vhost.publish("task_queue", "x", type="wild", message_id="m")
        settled = running.await_event("delivery.settled", message_id="m", outcome=outcome)
        assert settled.get("reason") == reason
        served(running, vhost)
        assert vhost.count("task_queue.dead") == (1 if outcome == "dead" else 0)


def test_a_handler_that_closes_every_descriptor_loses_nothing(daemon: Daemons, vhost: Vhost, tmp_path: Path) -> None:
    """Its worker can neither log nor ack: it ends, and the message is counted as a crash or handled again."""
    (tmp_path / "wild.py").write_text(MODULE + "\ndef fine(task):\n    task.log.info('fine.done')\n")
    handlers = {"wild": "wild:everything", "default": "wild:fine"}
    with daemon(queue(handlers, crashes=1), pythonpath=str(tmp_path)) as running:  # type: ignore[arg-type]
        running.consuming(1)
        vhost.publish("task_queue", "x", type="wild", message_id="m")
        served(running, vhost)


def test_a_command_is_told_of_odd_properties_and_need_not_read_its_body(
    daemon: Daemons, vhost: Vhost, tmp_path: Path
) -> None:
    """A thousand headers, newlines in an id, 16 MiB that nobody reads."""
    script = tmp_path / "odd"
    script.write_text('#!/bin/sh\nprintf "%s" "$WQ_HEADERS" | wc -c\nprintf "%s" "$WQ_MESSAGE_ID" | wc -l\n')
    script.chmod(0o755)
    with daemon({"task_queue": {"command": [str(script)], "retry": RETRY}}) as running:
        running.consuming(1)
        vhost.publish("task_queue", b"x" * LARGE, headers=A_THOUSAND, message_id="a\nb")
        running.await_event("delivery.settled", outcome="done", message_id="a\nb", within=40)
        lines = [event["line"] for event in running.events("handler.printed")]
        assert int(lines[0]) > 5000
        assert lines[1] == "1"
