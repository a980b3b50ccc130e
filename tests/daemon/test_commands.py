"""A queue served by a program: the contract with its exit code, and nothing left running."""

import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, Vhost, alive, eventually

Daemons = Callable[..., Daemon]

#: Ends as the message's first word says, after a line on stderr.
BY_WORD = """#!/bin/sh
read -r word rest
echo "$word in $WQ_QUEUE, attempt $WQ_ATTEMPT, id $WQ_MESSAGE_ID"
echo "about to $word" >&2
case $word in
    exit) exit $rest ;;
    sleep) echo $$ > "$WQ_TEST_DIRECTORY/pid"; sleep $rest & wait ;;
    grandchild) sleep 600 & echo $! > "$WQ_TEST_DIRECTORY/pid"; wait ;;
esac
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """An executable script."""
    path = tmp_path / "by-word"
    path.write_text(BY_WORD)
    path.chmod(0o755)
    return path


def queue(program: Path, workers: int = 1, **settings: Any) -> dict[str, Any]:
    """A task_queue that is served by it."""
    retry = {"attempts": 2, "first": "1s", "jitter": 0}
    return {"task_queue": {"command": [str(program)], "workers": workers, "retry": retry, **settings}}


def pid_of(running: Daemon) -> int:
    """The process that the program wrote down."""
    file = running.directory / "pid"
    return int(eventually(lambda: file.exists() and file.read_text().strip(), what="a pid"))


def test_a_program_handles_messages_and_its_exit_code_is_the_verdict(
    daemon: Daemons, vhost: Vhost, program: Path
) -> None:
    """Done, again later, hopeless; what it prints is in the log, the end of its stderr in the dead letter."""
    with daemon(queue(program)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "exit 0", message_id="good")
        running.await_event("delivery.settled", outcome="done", message_id="good")
        running.await_event("handler.printed", line="exit in task_queue, attempt 1, id good", message_id="good")
        vhost.publish("task_queue", "exit 65", message_id="bad")
        dead = running.await_event("delivery.settled", outcome="dead", message_id="bad")
        assert (dead["reason"], dead["error"]) == ("rejected", "the command ended with 65 (EX_DATAERR): about to exit")
        headers = vhost.get("task_queue.dead")[0].headers
        assert (headers["x-wq-exit"], headers["x-wq-stderr"]) == (65, "about to exit\n")
        assert headers["x-wq-handler"] == str(program)
        vhost.publish("task_queue", "exit 75", message_id="later")
        running.await_event("delivery.settled", outcome="retried", message_id="later")
        running.await_event("delivery.settled", outcome="dead", message_id="later", attempt=2)


def test_a_program_that_takes_too_long_is_ended_with_its_whole_group(
    daemon: Daemons, vhost: Vhost, program: Path
) -> None:
    """A failed attempt with reason timeout."""
    with daemon(queue(program, time_limit="500ms", kill_after="500ms")) as running:
        running.consuming(1)
        vhost.publish("task_queue", "grandchild")
        settled = running.await_event("delivery.settled", outcome="retried")
        assert settled["reason"] == "timeout"
        pid = pid_of(running)
        eventually(lambda: not alive(pid))


@pytest.mark.parametrize("way", ["worker", "master", "everybody"])
def test_no_command_outlives_its_worker(daemon: Daemons, vhost: Vhost, program: Path, way: str) -> None:
    """Killed alone, it is the master's to end; an orphan ends it; after all were killed, the next master does."""
    with daemon(queue(program)) as running:
        worker = running.consuming(1)[0]["pid"]
        vhost.publish("task_queue", "grandchild")
        pid = pid_of(running)
        if way == "worker":
            os.kill(worker, signal.SIGKILL)
        else:
            os.kill(running.pid, signal.SIGKILL)
            if way == "everybody":
                os.kill(worker, signal.SIGKILL)
            running.wait()
        if way == "everybody":
            eventually(lambda: not alive(worker))
            with vhost.channel() as channel:
                channel.queue_purge("task_queue")
            running.start()
            running.await_event("master.started", 2)
        eventually(lambda: not alive(pid), within=30)


def test_a_stop_hands_back_what_a_command_holds_after_the_drain_timeout(
    daemon: Daemons, vhost: Vhost, program: Path
) -> None:
    """And ends it."""
    with daemon(queue(program), drain_timeout="500ms") as running:
        running.consuming(1)
        vhost.publish("task_queue", "grandchild")
        pid = pid_of(running)
        assert running.stop() == 0
        eventually(lambda: not alive(pid))
        eventually(lambda: vhost.count("task_queue") == 1)


@pytest.mark.parametrize("way", ["deleted", "not executable", "exit 78", "exit 127"])
def test_a_command_that_cannot_be_run_pauses_its_queue_with_one_error(
    daemon: Daemons, vhost: Vhost, program: Path, way: str
) -> None:
    """Its message is handed back and waits with the others; no loop; other queues go on; a reload resumes."""
    queues = {
        **queue(program, workers=4),
        "other": {"handler": "ledgers:work"},
    }
    with daemon(queues) as running:
        running.consuming(5)
        body = "exit 0"
        if way == "deleted":
            program.rename(program.with_suffix(".away"))
        elif way == "not executable":
            program.chmod(stat.S_IRUSR | stat.S_IWUSR)  # which stops root as well
        else:
            body = way
        vhost.publish("task_queue", *[body] * 10)
        paused = running.await_event("queue.paused")
        assert paused["queue"] == "task_queue"
        running.await_event("worker.stopped", 4, queue="task_queue")
        eventually(lambda: vhost.count("task_queue") == 10)
        vhost.publish("other", "0 fine")
        running.await_event("delivery.settled", queue="other", outcome="done")
        assert len(running.events("queue.paused")) == 1
        assert not running.events("worker.died")
        assert len(running.events("delivery.settled", outcome="handed_back")) <= 8
        assert (vhost.count("task_queue"), vhost.count("task_queue.dead")) == (10, 0)
        if way == "deleted":
            program.with_suffix(".away").rename(program)
        program.write_text("#!/bin/sh\nexit 0\n")
        program.chmod(0o755)
        running.signal(signal.SIGHUP)
        running.await_event("delivery.settled", 10, queue="task_queue", outcome="done", within=30)


def test_a_command_that_is_missing_at_the_first_start_is_told_with_78(daemon: Daemons, tmp_path: Path) -> None:
    """As a handler that cannot be imported: once."""
    with daemon(queue(tmp_path / "absent")) as running:
        assert running.wait() == os.EX_CONFIG
        assert "there is no" in running.await_event("handler.rejected")["error"]


def test_limits_hold_for_a_command(daemon: Daemons, vhost: Vhost, tmp_path: Path) -> None:
    """And its worker goes on."""
    script = tmp_path / "limited"
    script.write_text("#!/bin/sh\nulimit -n; ulimit -v; ulimit -t; nice\n")
    script.chmod(0o755)
    limits = {"memory": "1G", "nofile": 64, "cpu": "7s", "nice": 5}
    with daemon(queue(script, limits=limits)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "x")
        running.await_event("delivery.settled", outcome="done")
        assert [e["line"] for e in running.events("handler.printed")] == ["64", "1048576", "7", "5"]
