"""What an operator does to a running daemon: signals, reloads, mistakes; and what it says and does then."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, Vhost, alive, eventually, memory_alarm, run_cli

from workqueued.node import Node

Daemons = Callable[..., Daemon]


def queue(handler: str = "ledgers:work", workers: int = 2, **settings: Any) -> dict[str, Any]:
    """A task_queue."""
    return {"task_queue": {"handler": handler, "workers": workers, "retry": {"attempts": 1}, **settings}}


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_term_and_int_let_a_running_task_finish(daemon: Daemons, vhost: Vhost, number: signal.Signals) -> None:
    """The task is done and acknowledged, the next message stays in the queue, nothing is redelivered; exit 0."""
    with daemon(queue(workers=1)) as running:
        running.consuming(1)
        gate = running.directory / "gate"
        vhost.publish("task_queue", f"wait {gate}", "0 next")
        eventually(running.ledger)
        running.signal(number)
        running.await_event("monitor.stopped")  # told in the same turn
        gate.touch()
        assert running.wait() == 0
        assert running.done() == [f"wait {gate}"]
        assert vhost.count("task_queue") == 1
        assert [e["outcome"] for e in running.events("delivery.settled")] == ["done"]


def test_a_second_term_changes_nothing(daemon: Daemons, vhost: Vhost) -> None:
    """Draining is idempotent: an impatient second signal does not kill the task."""
    with daemon(queue(workers=1)) as running:
        running.consuming(1)
        gate = running.directory / "gate"
        vhost.publish("task_queue", f"wait {gate}")
        eventually(running.ledger)
        running.signal(signal.SIGTERM)
        running.await_event("master.draining")
        running.signal(signal.SIGTERM)
        running.signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(0.5)
        gate.touch()
        assert running.wait() == 0
        assert running.done() == [f"wait {gate}"]
        assert len(running.events("master.draining")) == 1


def test_after_the_drain_timeout_messages_in_flight_are_handed_back(daemon: Daemons, vhost: Vhost) -> None:
    """A stop never waits for ever, and the message is ready for others when the daemon has ended."""
    with daemon(queue(), drain_timeout="500ms") as running:
        running.consuming(2)
        vhost.publish("task_queue", "60 endless", "60 endless as well")
        eventually(lambda: len(running.ledger()) == 2)
        before = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - before < 5
        running.await_event("delivery.settled", 2, outcome="handed_back")
        assert not running.events("child.killed")
        assert not running.events("worker.died")
    eventually(lambda: vhost.count("task_queue") == 2)


def test_quit_hands_back_at_once(daemon: Daemons, vhost: Vhost) -> None:
    """QUIT does not wait for the drain timeout."""
    with daemon(queue(workers=1)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "60 endless")
        eventually(running.ledger)
        assert running.stop(signal.SIGQUIT, within=10) == 0
        running.await_event("delivery.settled", outcome="handed_back")
    eventually(lambda: vhost.count("task_queue") == 1)


def test_usr1_writes_the_state_of_everything_into_the_log(daemon: Daemons, vhost: Vhost) -> None:
    """One line for the master, one for each child, with what a busy one holds."""
    with daemon(queue(workers=2)) as running:
        running.consuming(2)
        vhost.publish("task_queue", "3 long", message_id="the-one")
        eventually(running.ledger)
        running.signal(signal.SIGUSR1)
        running.await_event("master.reported", children=3, draining=False)
        busy = running.await_event("child.reported", state="busy")
        assert busy["message_id"] == "the-one"
        running.await_event("child.reported", state="idle")
        running.await_event("child.reported", child="monitor")


@pytest.mark.parametrize("settings", [{"url": "amqp://127.0.0.1:1/"}, {"url": "amqp://10.255.255.1.invalid/"}])
def test_a_daemon_without_a_broker_stops_at_once(daemon: Daemons, settings: dict[str, Any]) -> None:
    """TERM while connecting or waiting to connect ends the workers promptly."""
    with daemon(queue(), **settings) as running:
        complaint = running.await_event("broker.unreachable")
        assert "amqp://guest:***@" in complaint["error"]
        before = time.monotonic()
        assert running.stop() == 0
        assert time.monotonic() - before < 3


def test_a_hung_broker_does_not_hold_up_a_stop(daemon: Daemons, mortal: Vhost, mortal_node: Node) -> None:
    """The drain timeout counts also when the broker does not answer to the cancel."""
    with daemon(queue(), url=mortal, drain_timeout="1s") as running:
        running.consuming(2)
        mortal_node.pause()
        try:
            assert running.stop(within=30) == 0
        finally:
            mortal_node.resume()


# --- deaths ----------------------------------------------------------------------------------------------------------


def test_killing_the_master_leaves_no_orphans(daemon: Daemons, vhost: Vhost) -> None:
    """Idle children go at once; a busy one has five seconds, then its message is free; exit code 75."""
    with daemon(queue()) as running:
        pids = [event["pid"] for event in running.consuming(2)]
        vhost.publish("task_queue", "60 endless")
        eventually(running.ledger)
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        eventually(lambda: not any(alive(pid) for pid in pids), within=8)
        running.await_event("worker.stopped", reason="orphaned")
    eventually(lambda: vhost.count("task_queue") == 1)


def test_a_new_master_takes_over_while_orphans_finish(daemon: Daemons, vhost: Vhost) -> None:
    """The lock is free at once, the scoreboard is new, and both generations end well."""
    with daemon(queue(workers=1)) as first:
        first.consuming(1)
        vhost.publish("task_queue", "1.5 started under the first")
        eventually(first.ledger)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        first.start()
        first.consuming(2)
        first.await_event("delivery.settled", outcome="done")
        assert first.done() == ["1.5 started under the first"]
        assert first.stop() == 0


def test_the_monitor_is_replaced_when_it_dies(daemon: Daemons, vhost: Vhost) -> None:
    """The depth goes on being logged."""
    with daemon(queue()) as running:
        victim = running.await_event("queue.depth")["pid"]
        os.kill(victim, signal.SIGKILL)
        running.await_event("monitor.died", signal="SIGKILL")
        eventually(lambda: [e for e in running.events("queue.depth") if e["pid"] != victim])


def test_a_stopped_worker_is_replaced_not_waited_for(daemon: Daemons, vhost: Vhost) -> None:
    """A worker whose connection is cut by an operator reconnects and consumes again."""
    with daemon(queue()) as running:
        running.consuming(2)
        os.kill(running.events("worker.consuming")[0]["pid"], signal.SIGTERM)
        running.consuming(3)
        vhost.publish("task_queue", "0 fine")
        running.await_event("delivery.settled", outcome="done")


def test_a_crashing_handler_is_backed_off_and_the_daemon_lives(daemon: Daemons, vhost: Vhost) -> None:
    """A message that kills its worker again and again does not make a busy loop of forks."""
    with daemon(queue("ledgers:misbehave", workers=1, crashes=100)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "exit")
        running.await_event("worker.died", 3, code=9, cause="exited")
        begin = time.monotonic()
        running.await_event("worker.died", 4, code=9)
        eventually(lambda: time.monotonic() - begin > 2)
        assert len(running.events("worker.died")) <= 9
        assert running.stop() == 0


# --- reload ----------------------------------------------------------------------------------------------------------


def test_a_reload_picks_up_new_code(daemon: Daemons, vhost: Vhost, tmp_path: Path) -> None:
    """Handlers are imported after the fork: edit, HUP, and the next message is handled by the new code."""
    code = tmp_path / "code"
    code.mkdir()
    (code / "deployed.py").write_text("def handle(task): task.log.info('code.ran', version=1)\n")
    with daemon(queue("deployed:handle"), pythonpath=str(code)) as running:
        running.consuming(2)
        vhost.publish("task_queue", "x")
        running.await_event("code.ran", version=1)
        (code / "deployed.py").write_text("def handle(task):  # longer, whatever the clock says\n"
                                          "    task.log.info('code.ran', version=2)\n")
        running.signal(signal.SIGHUP)
        running.consuming(4)
        running.await_event("worker.stopped", 2)
        vhost.publish("task_queue", "x")
        running.await_event("code.ran", version=2)


def test_one_worker_stays_one_during_a_reload(daemon: Daemons, vhost: Vhost) -> None:
    """The old worker finishes its task before the new one takes a message: order is kept with workers: 1."""
    with daemon(queue(workers=1)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "5 first", "0 second")
        eventually(running.ledger)
        running.signal(signal.SIGHUP)
        running.await_event("delivery.settled", 2)
        started = {e["body"]: e for e in running.started()}
        finished = {e["body"]: e for e in running.ledger() if e["what"] == "finished"}
        assert started["0 second"]["at"] >= finished["5 first"]["at"]
        assert started["0 second"]["pid"] != started["5 first"]["pid"]
        assert not [e for e in running.ledger() if e["redelivered"]]


def test_reload_keeps_the_old_configuration_when_the_new_one_is_wrong(daemon: Daemons, vhost: Vhost) -> None:
    """One error event with the file, the line and the key; everything goes on."""
    with daemon(queue()) as running:
        running.consuming(2)
        running.write(queues={"task_queue": {"handler": "ledgers:work", "workers": "four"}})
        running.signal(signal.SIGHUP)
        error = running.await_event("reload.rejected")["error"]
        assert f"{running.file}:" in error
        assert "queues.task_queue.workers: found 'four' (text)" in error
        vhost.publish("task_queue", "0 fine")
        running.await_event("delivery.settled", outcome="done")
        assert len(running.events("worker.consuming")) == 2


def test_reload_keeps_the_old_workers_when_the_new_handler_cannot_be_imported(daemon: Daemons, vhost: Vhost) -> None:
    """The canary fails alone; the old workers go on; the next reload with a good handler works."""
    with daemon(queue()) as running:
        running.consuming(2)
        running.write(queues=queue("raises_on_import:handle"))
        running.signal(signal.SIGHUP)
        running.await_event("handler.rejected")
        running.await_event("reload.failed", queue="task_queue")
        vhost.publish("task_queue", "0 fine")
        running.await_event("delivery.settled", outcome="done")
        assert len(running.events("handler.rejected")) == 1
        running.write(queues=queue("ledgers:work_async"))
        running.signal(signal.SIGHUP)
        running.consuming(4)
        vhost.publish("task_queue", "async")
        running.await_event("delivery.settled", 2, outcome="done")


def test_a_reload_with_a_password_that_is_refused_keeps_the_old_workers(daemon: Daemons, vhost: Vhost) -> None:
    """The canary cannot get in, so nobody is drained; mended, the next reload replaces all."""
    with daemon(queue()) as running:
        running.consuming(2)
        running.write(broker={"url": vhost.url.replace("guest:guest", "guest:wrong")})
        running.signal(signal.SIGHUP)
        running.await_event("broker.refused")
        vhost.publish("task_queue", "0 fine")
        assert running.await_event("delivery.settled", outcome="done")["generation"] == 1
        assert not running.events("worker.stopped")
        running.write(broker={"url": vhost.url})
        running.signal(signal.SIGHUP)
        for slot in range(2):
            running.await_event("worker.consuming", slot=f"task_queue/{slot}", generation=3)


def test_a_reload_while_the_broker_is_away_is_not_held_up(daemon: Daemons, mortal: Vhost, mortal_node: Node) -> None:
    """The canary proves itself by importing; the new workers consume when the broker is back."""
    with daemon(queue(), url=mortal) as running:
        running.consuming(2)
        mortal_node.stop()
        running.await_event("broker.unreachable", 2)
        running.write(queues=queue(workers=3))
        running.signal(signal.SIGHUP)
        running.await_event("worker.stopped", 2)
        mortal_node.start()
        running.consuming(5)
        mortal.publish("task_queue", "0 fine")
        running.await_event("delivery.settled", outcome="done")


def test_a_queue_removed_from_the_yaml_is_drained_with_its_depth_named(daemon: Daemons, vhost: Vhost) -> None:
    """Its messages stay on the broker, and the operator is told how many."""
    both = queue(workers=1) | {"other": {"handler": "ledgers:work", "workers": 1}}
    with daemon(both) as running:
        running.consuming(2)
        gate = running.directory / "gate"
        vhost.publish("other", f"wait {gate}", "0 left", "0 left as well")
        running.await_event("queue.depth", queue="other", ready=2)
        running.write(queues=queue(workers=1))
        running.signal(signal.SIGHUP)
        removed = running.await_event("queue.removed", queue="other", level="warning")
        assert removed["ready"] == 2
        running.await_event("monitor.stopped")  # and in the same turn the old worker was told
        gate.touch()
        running.await_event("delivery.settled", queue="other", outcome="done")
        running.await_event("worker.stopped", queue="other")
        assert vhost.count("other") == 2


def test_pausing_a_queue_stops_its_workers_and_only_them(daemon: Daemons, vhost: Vhost) -> None:
    """`paused: true` and HUP; the messages wait; `false` and HUP, and they are handled."""
    with daemon(queue(workers=1) | {"other": {"handler": "ledgers:work"}}) as running:
        running.consuming(2)
        running.write(queues=queue(workers=1, paused=True) | {"other": {"handler": "ledgers:work"}})
        running.signal(signal.SIGHUP)
        running.await_event("worker.stopped", queue="task_queue")
        vhost.publish("task_queue", "0 waits")
        running.await_event("queue.depth", queue="task_queue", ready=1, consumers=0)
        running.write(queues=queue(workers=1) | {"other": {"handler": "ledgers:work"}})
        running.signal(signal.SIGHUP)
        running.await_event("delivery.settled", queue="task_queue", outcome="done")


def test_two_reloads_in_a_row_end_with_the_newest_configuration(daemon: Daemons, vhost: Vhost) -> None:
    """A reload that overtakes another leaves neither a stale worker nor a missing one."""
    with daemon(queue(workers=2)) as running:
        running.consuming(2)
        running.write(queues=queue(workers=4))
        running.signal(signal.SIGHUP)
        running.await_event("reload.started", generation=2)
        running.write(queues=queue(workers=3))
        running.signal(signal.SIGHUP)
        running.await_event("reload.started", generation=3)
        for slot in range(3):
            running.await_event("worker.consuming", slot=f"task_queue/{slot}", generation=3)
        running.await_event("queue.depth", consumers=3)


# --- instances -------------------------------------------------------------------------------------------------------


def test_a_second_master_on_the_same_run_directory_is_refused_and_names_the_first(
    daemon: Daemons, vhost: Vhost
) -> None:
    """Exit 75; the first is not disturbed."""
    with daemon(queue()) as first:
        first.consuming(2)
        second = run_cli("daemon", "--config", str(first.file))
        assert second.returncode == os.EX_TEMPFAIL
        assert f"pid {first.pid}" in second.stdout
        assert str(first.directory / "run") in second.stdout
        vhost.publish("task_queue", "0 fine")
        first.await_event("delivery.settled", outcome="done")


def test_two_instances_on_a_host_do_not_see_each_other(daemon: Daemons, vhost: Vhost) -> None:
    """Two configurations, two run directories, two queues: a stop of one leaves the other alone."""
    with daemon(queue(), name="one") as one, daemon({"other": {"handler": "ledgers:work"}}, name="two") as two:
        one.consuming(2)
        two.consuming(1)
        assert one.stop() == 0
        vhost.publish("other", "0 fine")
        two.await_event("delivery.settled", outcome="done")
        assert two.stop() == 0


# --- bad handlers and configurations ---------------------------------------------------------------------------------

BAD_HANDLERS = {
    "no_such_module:handle": ["there is no module no_such_module", "pythonpath"],
    "ledgers:nothing": ["there is no 'nothing'", "ledgers.py"],
    "ledgers:not_callable": ["of type int, which cannot be called"],
    "ledgers:takes_none": ["must take one argument, the task"],
    "raises_on_import:handle": ["RuntimeError: the database is not configured", "raises_on_import.py:3"],
}


@pytest.mark.parametrize("handler", BAD_HANDLERS)
def test_a_bad_handler_ends_the_daemon_with_78_and_one_message(daemon: Daemons, vhost: Vhost, handler: str) -> None:
    """Told once, though there are four workers; and `--check` says the same beforehand."""
    with daemon(queue(handler, workers=4)) as running:
        assert running.wait() == os.EX_CONFIG
        errors = running.events("handler.rejected")
        assert len(errors) == 1
        for words in BAD_HANDLERS[handler]:
            assert words in errors[0]["error"]
        check = run_cli("daemon", "--check", "--config", str(running.file))
        assert check.returncode == os.EX_CONFIG
        assert BAD_HANDLERS[handler][0] in check.stderr


def test_a_bad_configuration_ends_the_daemon_with_78_and_every_mistake(daemon: Daemons) -> None:
    """Within a second, on stderr, with file and line."""
    bad = daemon({"task_queue": {"handlr": "x:y", "workers": 0}})
    done = run_cli("daemon", "--config", str(bad.file))
    assert done.returncode == os.EX_CONFIG
    assert "did you mean 'handler'?" in done.stderr
    assert "workers: found '0'" in done.stderr
    assert done.stderr.count(str(bad.file)) == 3


def test_a_wrong_command_line_exits_64() -> None:
    """As all our commands do."""
    done = run_cli("daemon", "--bogus")
    assert done.returncode == os.EX_USAGE
    assert "unrecognized arguments: --bogus" in done.stderr


def test_check_says_what_would_run(daemon: Daemons) -> None:
    """Exit 0; queues, workers, handlers, broker without password; nothing is connected to."""
    good = daemon(queue() | {"held": {"handler": "ledgers:Counting", "paused": True}}, url="amqp://u:secret@nowhere/")
    done = run_cli("daemon", "--check", "--config", str(good.file))
    assert done.returncode == 0, done.stderr
    assert "task_queue: 2 workers, quorum, handler ledgers:work" in done.stdout
    assert "held: paused" in done.stdout
    assert "secret" not in done.stdout + done.stderr


def test_check_looks_for_commands_and_doubts_time_limits(daemon: Daemons, tmp_path: Path) -> None:
    """78 where a program is missing; what is only doubtful is said, with the remedy."""
    queues: dict[str, Any] = {
        "fine": {"command": ["/bin/true", "a secret"], "time_limit": "2h"},
        "typed": {"handler": {"a": "ledgers:work", "default": "ledgers:Counting"}},
    }
    done = run_cli("daemon", "--check", "--config", str(daemon(queues).file))
    assert done.returncode == 0, done.stderr
    assert "fine: 1 worker, quorum, command /bin/true\n" in done.stdout
    assert "typed: 1 worker, quorum, handler ledgers:work, ledgers:Counting" in done.stdout
    assert "warning        queues.fine.time_limit: 7200s" in done.stdout
    assert "rabbitmqctl set_policy" in done.stdout
    queues["fine"]["command"] = [str(tmp_path / "absent")]
    done = run_cli("daemon", "--check", "--config", str(daemon(queues).file))
    assert done.returncode == os.EX_CONFIG
    assert "queues.fine.command: there is no" in done.stderr


def test_print_config_shows_defaults_and_no_password(daemon: Daemons) -> None:
    """What it prints is a valid configuration again, apart from the password."""
    good = daemon(url="amqp://u:secret@nowhere/")
    done = run_cli("daemon", "--print-config", "--config", str(good.file))
    assert done.returncode == 0
    assert "heartbeat: 30s" in done.stdout
    assert "amqp://u:***@nowhere:5672/%2F" in done.stdout
    assert "secret" not in done.stdout


def test_a_run_directory_that_cannot_be_made_ends_with_78(daemon: Daemons, tmp_path: Path) -> None:
    """The message names the directory and the way out."""
    (tmp_path / "file").write_text("")
    bad = daemon(run_directory=str(tmp_path / "file" / "run"))
    done = run_cli("daemon", "--config", str(bad.file))
    assert done.returncode == os.EX_CONFIG
    assert "run_directory: cannot use" in done.stdout


BAD_BROKERS = {
    "wrong password": ("amqp://guest:wrong@127.0.0.1:{port}/{vhost}", "broker.refused", "wrong name or password"),
    "missing vhost": ("amqp://guest:guest@127.0.0.1:{port}/nowhere", "broker.refused", "'nowhere'"),
    "unreachable": ("amqp://guest:guest@127.0.0.1:1/", "broker.unreachable", "connection refused"),
    "unknown host": ("amqp://guest:guest@no-such-host.invalid/", "broker.unreachable", "host name is not known"),
}


@pytest.mark.parametrize("what", BAD_BROKERS)
def test_a_broker_that_cannot_be_used_is_told_and_tried_again(daemon: Daemons, vhost: Vhost, what: str) -> None:
    """The daemon stays, says what is wrong once a minute, and recovers by itself (or by a reload)."""
    url, event, words = BAD_BROKERS[what]
    with daemon(queue(workers=1), url=url.format(port=vhost.port, vhost=vhost.name)) as running:
        error = running.await_event(event)["error"]
        assert words in error
        assert "wrong@" not in error
        eventually(lambda: any(words in event["reason"] for event in running.events("queue.depth", level="warning")))
        running.write(broker={"url": vhost.url})
        running.signal(signal.SIGHUP)
        running.consuming(1)
        assert len(running.events(event)) <= 3


def test_no_permission_on_the_queue_is_told_with_the_command_that_gives_it(
    daemon: Daemons, vhost: Vhost, node: Node
) -> None:
    """403: refused alone, and as it is the only queue, 78."""
    node.ctl("add_user", f"user-{vhost.name}", "secret")
    node.ctl("set_permissions", "-p", vhost.name, f"user-{vhost.name}", "nothing", "nothing", "nothing")
    url = vhost.url.replace("guest:guest", f"user-{vhost.name}:secret")
    with daemon(queue(), url=url) as running:
        assert running.wait() == os.EX_CONFIG
        error = running.await_event("queue.refused")["error"]
        assert "no permission on queue 'task_queue'" in error
        assert "rabbitmqctl set_permissions" in error


# --- handlers that misbehave -----------------------------------------------------------------------------------------

ENDINGS = {
    "raise": ("failed", "ValueError: no such luck"),
    "reject": ("rejected", "bad address"),
    "sys.exit": ("failed", "SystemExit: 3"),
    "interrupt": ("failed", "KeyboardInterrupt"),
    "generator exit": ("failed", "GeneratorExit"),
    "unprintable": ("failed", "UnprintableError"),
}


def test_whatever_a_handler_raises_its_message_is_in_the_dead_queue_with_the_reason(
    daemon: Daemons, vhost: Vhost
) -> None:
    """By a confirmed copy, once; and the same worker takes the next message."""
    with daemon(queue("ledgers:misbehave", workers=1)) as running:
        worker = running.consuming(1)[0]["pid"]
        for body, (reason, error) in ENDINGS.items():
            vhost.publish("task_queue", body, message_id=f"id of {body}", headers={"k": "v"}, type="t")
            settled = running.await_event("delivery.settled", message_id=f"id of {body}")
            assert (settled["outcome"], settled["reason"]) == ("dead", reason)
            properties, dead = vhost.get("task_queue.dead")
            assert dead.decode() == body
            assert error in properties.headers["x-wq-error"]
            assert properties.headers["x-wq-reason"] == reason
            assert properties.headers["k"] == "v"
            assert properties.message_id == f"id of {body}"
            assert properties.delivery_mode == 2
        vhost.publish("task_queue", "fine")
        assert running.await_event("delivery.settled", outcome="done")["pid"] == worker
        assert "ValueError" in running.events("delivery.settled", message_id="id of raise")[0]["traceback"]


def test_what_a_handler_prints_is_in_the_log_as_events(daemon: Daemons, vhost: Vhost) -> None:
    """A line an event, and the log stays pure JSON."""
    with daemon(queue("ledgers:misbehave", workers=1)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "print")
        running.await_event("delivery.settled", outcome="done")
        assert [e["line"] for e in running.events("handler.printed")] == ["one line", "and another", "to stderr"]


def test_a_handler_that_forks_and_returns_in_the_child_is_acknowledged_once(daemon: Daemons, vhost: Vhost) -> None:
    """The child leaves at once and never touches the connection."""
    with daemon(queue("ledgers:misbehave", workers=1)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "fork", "fine")
        running.await_event("delivery.settled", 2, outcome="done")
        assert not running.events("worker.died")
        assert len(running.events("delivery.settled")) == 2


def test_a_handler_that_takes_our_signals_away_does_not_keep_them(daemon: Daemons, vhost: Vhost) -> None:
    """They are put back after the call, and a stop works."""
    with daemon(queue("ledgers:misbehave", workers=1)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "signals")
        running.await_event("handler.meddled")
        running.await_event("delivery.settled", outcome="done")
        assert running.stop() == 0
        assert running.await_event("worker.stopped", reason="drained")


@pytest.mark.parametrize(
    "body",
    ["multiprocessing", "mask", "thread", "log an exception", "stdout for a program"],
)
def test_ordinary_things_work_in_a_handler(daemon: Daemons, vhost: Vhost, body: str) -> None:
    """Forked helpers can be terminated, threads log with our facts, exceptions are logged, the worker stays ours."""
    with daemon(queue("ledgers:misbehave", workers=1)) as running:
        worker = running.consuming(1)[0]["pid"]
        vhost.publish("task_queue", body, "fine")
        running.await_event("delivery.settled", 2, outcome="done")
        assert {entry["pid"] for entry in running.ledger()} == {worker}
        if body == "thread":
            assert running.await_event("thread.spoke")["slot"] == "task_queue/0"
        if body == "log an exception":
            assert "LookupError: caught" in running.await_event("code.failed")["exception"]
        if body == "stdout for a program":
            running.await_event("handler.printed", line="bytes")
        assert running.stop() == 0
        assert running.events("worker.stopped")[0]["slot"] == "task_queue/0"


def test_a_module_that_takes_signals_and_logging_for_itself_does_not_get_them(daemon: Daemons, vhost: Vhost) -> None:
    """structlog.configure, faulthandler.register(SIGUSR1), SIGTERM ignored: work, reload and stop as ever."""
    with daemon(queue("selfish:handle", workers=1)) as running:
        running.consuming(1)
        running.signal(signal.SIGHUP)
        running.consuming(2)
        vhost.publish("task_queue", "0 fine")
        running.await_event("delivery.settled", outcome="done")
        assert running.stop(within=30) == 0


@pytest.mark.parametrize(
    ("body", "facts"),
    [("real-time signal", {"cause": "killed", "signal": f"SIG{signal.SIGRTMIN + 1}"}), ("exit 77", {"code": 77})],
)
def test_no_way_of_dying_in_a_task_is_taken_for_a_word_to_the_master(
    daemon: Daemons, vhost: Vhost, body: str, facts: dict[str, Any]
) -> None:
    """A signal without a name, an exit code that means something between us: a death like any other."""
    with daemon(queue("ledgers:misbehave", workers=1)) as running:
        running.consuming(1)
        vhost.publish("task_queue", body, message_id="deadly")
        running.await_event("worker.died", message_id="deadly", **facts)
        running.consuming(2)
        assert running.stop() == 0


def test_a_stopped_and_continued_daemon_goes_on(daemon: Daemons, vhost: Vhost) -> None:
    """Ctrl-Z and fg, docker pause: the master and its children take up where they were."""
    with daemon(queue()) as running:
        running.consuming(2)
        os.killpg(running.pid, signal.SIGSTOP)
        begin = time.monotonic()
        eventually(lambda: time.monotonic() - begin > 2)
        os.killpg(running.pid, signal.SIGCONT)
        vhost.publish("task_queue", "0 fine")
        running.await_event("delivery.settled", outcome="done")
        assert not running.events("worker.died")
        assert running.stop() == 0


@pytest.mark.parametrize("handler", ["ledgers:work_async", "ledgers:Counting"])
def test_handlers_may_be_async_or_a_class_that_is_built_once(daemon: Daemons, vhost: Vhost, handler: str) -> None:
    """An async def is awaited; a class is built once per worker and called for each message."""
    with daemon(queue(handler, workers=1)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "a", "b", "c")
        running.await_event("delivery.settled", 3, outcome="done")
        assert running.done() == ["a", "b", "c"]


def test_a_coroutine_that_nobody_awaits_is_no_success(daemon: Daemons, vhost: Vhost) -> None:
    """A function that returns a coroutine did nothing: its message must not be acknowledged as done."""
    with daemon(queue("ledgers:returns_coroutine", workers=1)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "x")
        error = running.await_event("delivery.settled", outcome="dead")["error"]
        assert "returned a coroutine, and nobody runs it" in error


def test_a_dead_letter_is_held_until_it_is_confirmed(daemon: Daemons, vhost: Vhost, node: Node) -> None:
    """While an alarm blocks publishers, the failed message stays with us unacknowledged; other tasks and acks flow."""
    with daemon(queue("ledgers:misbehave", workers=2, paused=True)) as running:
        running.await_event("queue.depth")
        with vhost.channel() as channel:
            channel.queue_declare("task_queue", durable=True, arguments={"x-queue-type": "quorum"})
        vhost.publish("task_queue", "raise", "fine", "fine as well")
        with memory_alarm(node):
            running.write(queues=queue("ledgers:misbehave", workers=2))
            running.signal(signal.SIGHUP)
            running.await_event("delivery.settled", 2, outcome="done")

            def settling() -> bool:
                running.signal(signal.SIGUSR1)
                return bool(running.events("child.reported", state="settling"))

            eventually(settling)
            assert not running.events("delivery.settled", outcome="dead")
        running.await_event("delivery.settled", outcome="dead", within=25)
        assert vhost.count("task_queue.dead") == 1


def test_a_dead_queue_that_was_deleted_is_declared_again(daemon: Daemons, vhost: Vhost) -> None:
    """Unroutable is not lost."""
    with daemon(queue("ledgers:misbehave", workers=1)) as running:
        running.consuming(1)
        with vhost.channel() as channel:
            channel.queue_delete("task_queue.dead")
        vhost.publish("task_queue", "raise")
        running.await_event("delivery.settled", outcome="dead")
        assert vhost.count("task_queue.dead") == 1


def test_a_worker_consumes_again_when_its_queue_was_deleted(daemon: Daemons, vhost: Vhost) -> None:
    """The broker cancels the consumer; the queue is declared anew, and the next message is handled."""
    with daemon(queue(workers=2)) as running:
        running.consuming(2)
        with vhost.channel() as channel:
            channel.queue_delete("task_queue")
        running.await_event("consumer.cancelled", 2)
        running.consuming(4)
        vhost.publish("task_queue", "0 fine")
        running.await_event("delivery.settled", outcome="done")


def test_a_long_task_keeps_its_connection_over_many_heartbeats(daemon: Daemons, vhost: Vhost) -> None:
    """Sleeping for longer than three heartbeats: acknowledged on the same connection, not redelivered."""
    with daemon(queue(workers=1), broker={"url": vhost.url, "heartbeat": "2s"}) as running:
        running.consuming(1)
        vhost.publish("task_queue", "9 long")
        settled = running.await_event("delivery.settled", within=30)
        assert settled["outcome"] == "done"
        assert "redelivered" not in settled
        assert len(running.events("worker.consuming")) == 1
