"""Every ending has a home: retries, time limits, poison, innocents, recycling, types."""

import functools
import itertools
import os
import signal
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from harness import Daemon, Event, Vhost, alive, eventually, memory_alarm
from relay import Relay

from workqueued.node import Node

Daemons = Callable[..., Daemon]

#: A quorum queue whose broker dies within seconds of its declaration has no leader ever after (rabbitmq-server#15725).
OLD_ENOUGH = 5.0
#: Comes again after a second, without jitter.
SOON = {"attempts": 3, "first": "1s", "factor": 1, "jitter": 0}


def queue(handler: Any = "ledgers:by_word", **settings: Any) -> dict[str, Any]:
    """A task_queue with one worker."""
    return {"task_queue": {"handler": handler, "workers": 1, **settings}}


def at(event: Event) -> float:
    """When an event was logged, seconds."""
    return datetime.fromisoformat(event["time"]).timestamp()


# --- retries ---------------------------------------------------------------------------------------------------------


def test_a_message_that_fails_twice_is_tried_again_after_the_delay_and_done(daemon: Daemons, vhost: Vhost) -> None:
    """It waits in the broker, not in the worker, which serves others meanwhile; never early, id and headers kept."""
    with daemon(queue(retry=SOON)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "fail 3", message_id="m", headers={"k": "v"}, type="t")
        first = running.await_event("delivery.settled", outcome="retried", attempt=1)
        assert (first["reason"], first["delay_s"], first["error"]) == ("failed", 1, "ValueError: attempt 1 fails")
        vhost.publish("task_queue", "fine", message_id="other")
        running.await_event("delivery.settled", message_id="other", outcome="done")
        done = running.await_event("delivery.settled", message_id="m", outcome="done")
        assert (done["attempt"], done.get("redelivered")) == (3, None)
        starts = [entry["at"] for entry in running.started() if entry["id"] == "m"]
        assert all(later - earlier >= 1.0 for earlier, later in itertools.pairwise(starts))
        assert done["wait_ms"] < 5000, "counted from the end of its delay"
        assert (vhost.count("task_queue"), vhost.count("task_queue.dead")) == (0, 0)


def test_a_message_whose_attempts_are_used_up_is_dead_with_its_whole_story(daemon: Daemons, vhost: Vhost) -> None:
    """And without the password that its error quotes."""
    with daemon(queue(retry={**SOON, "attempts": 2})) as running:
        running.consuming(1)
        vhost.publish("task_queue", "binary", message_id="m")
        dead = running.await_event("delivery.settled", outcome="dead")
        assert (dead["attempt"], dead["reason"]) == (2, "failed")
        properties, _ = vhost.get("task_queue.dead")
        headers = properties.headers
        assert headers["x-wq-attempt"] == 2
        assert headers["x-wq-error"] == "ValueError: cannot connect to postgres://***@db/app"
        assert headers["x-wq-handler"] == "ledgers:by_word"
        assert headers["x-wq-last-failed-at"] - headers["x-wq-first-failed-at"] >= 1000
        assert "hunter2" not in running.log.read_text()


def test_a_handler_says_itself_when_to_come_again(daemon: Daemons, vhost: Vhost) -> None:
    """`raise Retry(delay=2)` overrules the policy; at once works, too."""
    with daemon(queue(retry={"attempts": 2, "first": "1h"})) as running:
        running.consuming(1)
        vhost.publish("task_queue", "retry 1.5", message_id="later")
        vhost.publish("task_queue", "retry 0", message_id="at once")
        assert running.await_event("delivery.settled", message_id="later")["delay_s"] == 2
        assert running.await_event("delivery.settled", message_id="at once")["delay_s"] == 0
        running.await_event("delivery.settled", message_id="later", outcome="done")
        running.await_event("delivery.settled", message_id="at once", outcome="done")


def test_while_the_copy_cannot_be_published_the_publish_is_tried_again_and_not_the_handler(
    daemon: Daemons, vhost: Vhost, node: Node
) -> None:
    """An alarm blocks publishers: the worker holds the delivery; afterwards the retry comes as ever."""
    with daemon(queue(retry=SOON)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "retry 1", message_id="warm-up")
        running.await_event("delivery.settled", outcome="done", message_id="warm-up")
        go = running.directory / "go"
        vhost.publish("task_queue", f"wait {go}", "fail 2")
        eventually(lambda: any(entry["body"].startswith("wait") for entry in running.ledger()))
        with memory_alarm(node):
            go.touch()
            running.await_event("copy.delayed", within=30)
            assert len(running.started("fail 2")) == 1
        running.await_event("delivery.settled", outcome="done", attempt=2, count=2, within=60)


def test_a_failed_attempt_costs_at_most_three_round_trips(daemon: Daemons, vhost: Vhost) -> None:
    """To the broker, once the connections and the delay levels are there; a message that is done costs one."""
    with Relay(vhost.port) as relay:
        broker = {"url": vhost.url.replace(str(vhost.port), str(relay.port))}
        policy = {"attempts": 2, "first": "1h"}
        with daemon(queue(retry=policy), broker=broker, monitor={"interval": "1h"}) as running:
            running.consuming(1)

            def cost(body: str, outcome: str) -> float:
                vhost.publish("task_queue", body)
                running.await_event("delivery.settled", outcome=outcome)
                before = relay.round_trips
                vhost.publish("task_queue", *[body] * 100)
                running.await_event("delivery.settled", 101, outcome=outcome)
                return (relay.round_trips - before) / 100

            # What is above a whole number is the monitor's, which asks once.
            assert 1 <= cost("fine", "done") < 1.5
            assert 2 <= cost("fail 2", "retried") <= 3


# --- time limits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "body"),
    [("ledgers:by_word", "sleep 60"), ("ledgers:by_word", "burn 60"), ("ledgers:by_word_async", "sleep 60")],
)
def test_a_handler_that_takes_too_long_is_interrupted_and_tried_again(
    daemon: Daemons, vhost: Vhost, handler: str, body: str
) -> None:
    """In a system call, in a loop, in an await: a failed attempt with reason timeout, by the same worker."""
    with daemon(queue(handler, time_limit="300ms", retry={**SOON, "attempts": 2})) as running:
        worker = running.consuming(1)[0]["pid"]
        vhost.publish("task_queue", body)
        retried = running.await_event("delivery.settled", outcome="retried")
        assert (retried["reason"], retried["error"]) == ("timeout", "TimeLimitExceeded: the time limit of 0.3 s")
        dead = running.await_event("delivery.settled", outcome="dead")
        assert (dead["reason"], dead["attempt"]) == ("timeout", 2)
        vhost.publish("task_queue", "sleep 0")
        assert running.await_event("delivery.settled", outcome="done")["pid"] == worker


def test_a_handler_that_will_not_be_interrupted_is_killed_and_told_as_the_hard_time_limit(
    daemon: Daemons, vhost: Vhost
) -> None:
    """By the master; proof of a crash, so that the message is buried after `crashes` of them."""
    with daemon(queue(time_limit="200ms", kill_after="200ms", crashes=2)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "stubborn", "sleep 0", message_id="m")
        died = running.await_event("worker.died")
        assert (died["cause"], died["signal"], died["message_id"]) == ("hard time limit", "SIGKILL", "m")
        assert died["running_s"] < 5
        dead = running.await_event("delivery.settled", outcome="dead")
        assert (dead["reason"], dead["crashes"]) == ("crashed", 2)
        assert "the hard time limit" in dead["error"]
        running.await_event("delivery.settled", outcome="done")


def test_a_handler_that_takes_the_alarm_for_itself_does_not_keep_it(daemon: Daemons, vhost: Vhost) -> None:
    """The next message has its time limit again."""
    with daemon(queue(time_limit="500ms", retry={"attempts": 1})) as running:
        running.consuming(1)
        vhost.publish("task_queue", "alarm", "sleep 60")
        running.await_event("handler.meddled")
        assert running.await_event("delivery.settled", outcome="dead")["reason"] == "timeout"


@pytest.mark.parametrize("body", ["sleep 9", "burn 9"])
def test_a_task_of_many_heartbeats_keeps_its_connection(daemon: Daemons, vhost: Vhost, body: str) -> None:
    """Sleeping or burning: the ack goes out on the same connection, and nothing is redelivered."""
    with daemon(queue(), broker={"url": vhost.url, "heartbeat": "2s"}) as running:
        running.consuming(1)
        vhost.publish("task_queue", body)
        done = running.await_event("delivery.settled", outcome="done", within=40)
        assert done["duration_ms"] >= 9000
        assert not running.events("delivery.lost")
        assert len(running.events("worker.consuming")) == 1
        assert [entry["redelivered"] for entry in running.ledger()] == [False, False]


def test_without_heartbeats_a_task_may_hold_the_interpreter_in_c(daemon: Daemons, vhost: Vhost) -> None:
    """With 2 s it loses its connection; with `heartbeat: 0` it keeps it."""
    with daemon(queue(), name="with", broker={"url": vhost.url, "heartbeat": "2s"}) as running:
        running.consuming(1)
        vhost.publish("task_queue", "hold 9")
        running.await_event("delivery.lost", within=40)
        assert running.stop(signal.SIGQUIT) == 0
    with vhost.channel() as channel:
        channel.queue_purge("task_queue")
    with daemon(queue(), name="without", broker={"url": vhost.url, "heartbeat": 0}) as running:
        running.consuming(1)
        vhost.publish("task_queue", "hold 9")
        running.await_event("delivery.settled", outcome="done", within=40)
        assert [entry["redelivered"] for entry in running.ledger()] == [False, False]


def test_a_time_limit_beyond_the_ack_timeout_of_the_broker_is_told_at_the_start(daemon: Daemons) -> None:
    """With the policy that lifts it."""
    with daemon(queue(time_limit="2h")) as running:
        doubted = running.await_event("time_limit.doubted")
        assert "rabbitmqctl set_policy" in doubted["hint"]
        assert "consumer_timeout = " in doubted["hint"]


# --- poison ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_a_message_that_kills_its_worker_takes_down_three_and_lies_in_the_dead_queue(
    daemon: Daemons, vhost: Vhost, kind: str
) -> None:
    """Not one more, on either kind of queue, and the others go on working meanwhile."""
    queues = {"task_queue": {"handler": "ledgers:by_word", "workers": 3, "type": kind}}
    with daemon(queues) as running:
        running.consuming(3)
        vhost.publish("task_queue", "crash", message_id="poison")
        vhost.publish("task_queue", *["sleep 0"] * 50)
        dead = running.await_event("delivery.settled", outcome="dead")
        assert (dead["reason"], dead["crashes"], dead["message_id"]) == ("crashed", 3, "poison")
        assert dead["error"] == "it took down 3 workers, the last one by SIGSEGV"
        running.await_event("delivery.settled", 50, outcome="done")
        died = running.events("worker.died")
        assert [e["crashes"] for e in died] == [1, 2, 3]
        assert {(e["message_id"], e["likely"]) for e in died} == {("poison", "a bug in C code")}
        assert [e["crashes"] for e in running.events("delivery.settled", outcome="counted")] == [1, 2]
        properties, body = vhost.get("task_queue.dead")
        assert body == b"crash"
        assert (properties.headers["x-wq-reason"], properties.headers["x-wq-crashes"]) == ("crashed", 3)
        assert vhost.count("task_queue") == 0


def test_poison_without_a_message_id_is_known_by_its_content(daemon: Daemons, vhost: Vhost) -> None:
    """A stranger gives none."""
    with daemon(queue(crashes=2)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "crash")
        running.await_event("delivery.settled", outcome="dead", reason="crashed")
        assert len(running.events("worker.died")) == 2


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    return not alive(pid)


def again(running: Daemon, begun: int = 2) -> bool:
    """Whether so many tasks were begun."""
    return len(running.started()) >= begun


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_an_innocent_long_task_is_not_buried_by_lost_connections_and_deploys(
    daemon: Daemons, vhost: Vhost, node: Node, kind: str
) -> None:
    """Three lost connections, three stops that hand it back: no proof of a crash, so it is finished in the end."""
    queues = queue(type=kind)
    for number in range(3):
        with daemon(queues, name=f"deploy{number}", drain_timeout="200ms") as running:
            running.consuming(1)
            if number == 0:
                vhost.publish("task_queue", "sleep 8", message_id="innocent")
            eventually(running.ledger)
            node.ctl("close_all_connections", "--vhost", vhost.url.rpartition("/")[2], "a test")
            running.await_event("worker.consuming", 2)
            eventually(functools.partial(again, running))
            assert running.stop() == 0
    with daemon(queues, name="last") as running:
        running.await_event("delivery.settled", outcome="done", message_id="innocent", within=30)
        assert vhost.count("task_queue.dead") == 0


def test_an_innocent_long_task_is_not_buried_by_broker_restarts(
    daemon: Daemons, mortal: Vhost, mortal_node: Node
) -> None:
    """Three of them, the last a kill -9, on both kinds of queues."""
    queues = {kind: {"handler": "ledgers:by_word", "type": kind} for kind in ("quorum", "classic")}
    with daemon(queues, url=mortal) as running:
        running.consuming(2)
        time.sleep(OLD_ENOUGH)
        for kind in queues:
            mortal.publish(kind, "sleep 6", message_id=kind)
        for number in range(3):
            eventually(functools.partial(again, running, 2 * (number + 1)), within=30)
            if number < 2:
                mortal_node.stop()
            else:
                mortal_node.kill()
            mortal_node.start()
        for kind in queues:
            running.await_event("delivery.settled", outcome="done", message_id=kind, within=60)
            assert mortal.count(f"{kind}.dead") == 0
        assert not running.events("worker.died")


@pytest.mark.parametrize("kind", ["quorum", "classic"])
def test_what_no_master_can_prove_counts_against_the_wide_limit(daemon: Daemons, vhost: Vhost, kind: str) -> None:
    """The whole service is killed with the message in hand, as when the host dies of it.

    A quorum queue counts over all hosts, a classic one does not, and there the next master of a host remembers.
    """
    queues = queue(type=kind, redeliveries=3)
    for number in range(3):
        host = daemon(queues, name=f"host{number}" if kind == "quorum" else "host")
        before = len(host.ledger())
        with host as running:
            running.consuming(1)
            if number == 0:
                vhost.publish("task_queue", "sleep 60", message_id="m")
            eventually(functools.partial(again, running, before + 1))
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            victim = running.ledger()[-1]["pid"]
            eventually(functools.partial(gone, victim))
    with daemon(queues, name="last" if kind == "quorum" else "host") as running:
        handled = len(running.ledger())
        dead = running.await_event("delivery.settled", outcome="dead")
        assert (dead["reason"], dead["message_id"]) == ("redelivered", "m")
        assert len(running.ledger()) == handled


def test_a_crash_loop_backs_off_and_is_told_apart_from_poison(daemon: Daemons, vhost: Vhost) -> None:
    """Different messages: the code is broken."""
    with daemon(queue(crashes=1, workers=2)) as running:
        running.consuming(2)
        for number in range(8):
            vhost.publish("task_queue", f"crash {number}")
        vhost.publish("task_queue", "sleep 0")
        loop = running.await_event("queue.crash_looping", within=30)
        assert loop["deaths"] >= 5
        assert loop["likely"].startswith("the code is broken")
        running.await_event("delivery.settled", outcome="done", within=60)


# --- recycling, closing, types, environment --------------------------------------------------------------------------


def test_a_worker_is_replaced_after_so_many_tasks_between_two_messages(daemon: Daemons, vhost: Vhost) -> None:
    """Nothing is redelivered, nobody died."""
    with daemon(queue(recycle={"tasks": 5})) as running:
        running.consuming(1)
        vhost.publish("task_queue", *["sleep 0"] * 23)
        running.await_event("delivery.settled", 23, outcome="done")
        assert len(running.events("worker.stopped", reason="recycled", after="5 tasks")) == 4
        assert not running.events("worker.died")
        assert not any(entry["redelivered"] for entry in running.ledger())


def test_a_worker_is_replaced_at_its_age_and_when_it_has_grown(daemon: Daemons, vhost: Vhost) -> None:
    """Between two messages, so one is needed after the limit is reached."""
    with daemon(queue(recycle={"memory": "16M", "age": "1h"})) as running:
        running.consuming(1)
        vhost.publish("task_queue", "sleep 1.2", "sleep 0")
        assert running.await_event("worker.stopped", reason="recycled")["after"].endswith("MiB of memory")
    with daemon(queue(recycle={"age": "1s"}), name="age") as running:
        running.consuming(1)
        vhost.publish("task_queue", "sleep 1.2", "sleep 0")
        assert running.await_event("worker.stopped", reason="recycled")["after"] == "its age"


def test_a_handler_class_may_clean_up_when_its_worker_drains(daemon: Daemons, vhost: Vhost) -> None:
    """`close()` is called once, after the last message."""
    with daemon(queue("ledgers:Closing")) as running:
        running.consuming(1)
        vhost.publish("task_queue", "a")
        running.await_event("delivery.settled", outcome="done")
        assert running.stop() == 0
        assert [entry["what"] for entry in running.ledger()] == ["finished", "closed"]


def test_a_worker_that_is_told_again_to_leave_cleans_up_to_the_end(daemon: Daemons, vhost: Vhost) -> None:
    """As the master tells it, every half minute."""
    with daemon(queue("ledgers:ClosingSlowly")) as running:
        running.consuming(1)
        vhost.publish("task_queue", "a")
        pid = running.await_event("delivery.settled", outcome="done")["pid"]
        running.signal(signal.SIGTERM)
        eventually(lambda: running.ledger()[-1]["what"] == "closing")
        for _ in range(3):
            os.kill(pid, signal.SIGTERM)
            time.sleep(0.2)  # for what must not happen
        (running.directory / "release").touch()
        assert running.wait() == 0
        assert [entry["what"] for entry in running.ledger()] == ["finished", "closing", "closed"]
        assert len(running.events("worker.stopped")) == 1


def test_messages_go_to_the_handler_of_their_type(daemon: Daemons, vhost: Vhost) -> None:
    """And those that nobody handles to the dead queue, at once, with the types that there are."""
    handlers = {"work": "ledgers:work", "count": "ledgers:Counting"}
    with daemon(queue(handlers)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "0 a", type="work")
        vhost.publish("task_queue", "b", type="count")
        vhost.publish("task_queue", "c", type="other")
        dead = running.await_event("delivery.settled", outcome="dead")
        assert dead["error"] == "no handler for type 'other'; there are work, count"
        assert dead["reason"] == "rejected"
        running.await_event("delivery.settled", 2, outcome="done")
        assert [entry["what"] for entry in running.ledger()] == ["started", "finished", "call 1", "finished"]


def test_environment_reaches_the_handler_and_never_the_log(daemon: Daemons, vhost: Vhost) -> None:
    """It may hold a secret."""
    with daemon(queue(environment={"GREETING": "good morning"})) as running:
        running.consuming(1)
        vhost.publish("task_queue", "environment")
        running.await_event("delivery.settled", outcome="done")
        assert "good morning" in [entry["what"] for entry in running.ledger()]
        assert "good morning" not in running.log.read_text()


def test_a_body_that_is_no_json_is_dead_at_once(daemon: Daemons, vhost: Vhost) -> None:
    """It will not be JSON the next time."""
    with daemon(queue()) as running:
        running.consuming(1)
        vhost.publish("task_queue", "json {")
        dead = running.await_event("delivery.settled", outcome="dead")
        assert (dead["reason"], dead["attempt"]) == ("undecodable", 1)


@pytest.mark.parametrize("body", ["close", "chdir", "flood"])
def test_whatever_a_handler_does_to_its_process_the_next_message_is_served(
    daemon: Daemons, vhost: Vhost, body: str
) -> None:
    """Nothing is lost: by this worker or by the next."""
    with daemon(queue()) as running:
        running.consuming(1)
        vhost.publish("task_queue", body, "sleep 0")
        eventually(lambda: "sleep 0" in running.done(), within=40)
        assert {e["outcome"] for e in running.events("delivery.settled")} <= {"done", "dead", "counted"}
        assert time.monotonic()
        assert alive(running.pid)


FORGED: dict[str, Any] = {
    "text": {"x-wq-attempt": "two", "x-wq-crashes": "many", "x-wq-expires-at": "soon", "x-wq-due-at": b"\xff"},
    "negative": {"x-wq-attempt": -1, "x-wq-crashes": -(2**63), "x-wq-redeliveries": -5, "x-wq-expires-at": -1},
    "huge": {"x-wq-attempt": 2**63 - 1, "x-wq-crashes": 2**62, "x-wq-redeliveries": 2**40, "x-wq-due-at": 2**62},
    "strange": {"x-wq-attempt": True, "x-wq-crashes": [1], "x-delivery-count": "x", "x-wq-reason": {"a": [None]}},
    "expired": {"x-wq-expires-at": 1},
}


@pytest.mark.parametrize("forged", FORGED)
def test_headers_that_a_stranger_forged_change_nothing(daemon: Daemons, vhost: Vhost, forged: str) -> None:
    """They are read with care: the message is handled, retried and buried like any other; expired is believed."""
    with daemon(queue(retry={**SOON, "attempts": 2})) as running:
        running.consuming(1)
        vhost.publish("task_queue", "fail 9", headers=FORGED[forged], message_id="m")
        dead = running.await_event("delivery.settled", outcome="dead")
        if forged == "expired":
            assert (dead["reason"], running.ledger()) == ("expired", [])
        else:
            assert (dead["reason"], dead["attempt"]) == ("failed", 2)
        assert vhost.get("task_queue.dead")[0].message_id == "m"
