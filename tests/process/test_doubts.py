"""What is dangerous about a configuration without a mistake is told: by --check, at the start, and at each reload."""

from collections.abc import Iterator
from pathlib import Path
from signal import SIGHUP

import pytest
from harness import TESTS, Daemon, run_cli

#: supervisord waits for less than the 35 s that a stop may need.
CONF = "[program:workqueued]\ncommand=/opt/bin/workqueued --config {file}\nstopwaitsecs=20\n"


@pytest.fixture
def doubtful(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon with a password that all can read, without a broker."""
    daemon = Daemon(tmp_path, "amqp://u:secret@127.0.0.1:1/", {"q": {"handler": "ledgers:work"}})
    daemon.file.chmod(0o644)
    yield daemon
    daemon.__exit__()


def check(file: Path) -> tuple[int, str]:
    """What `workqueued --check` says."""
    done = run_cli("daemon", "--check", "--config", str(file), PYTHONPATH=str(TESTS))
    return done.returncode, done.stdout + done.stderr


def test_check_warns_of_a_password_that_all_can_read(doubtful: Daemon) -> None:
    """With the command that mends it; it would run all the same."""
    code, said = check(doubtful.file)
    assert (code, said.splitlines()[-1]) == (0, "ok")
    assert f"warning        {doubtful.file} has a password in broker.url or management_url, and " in said
    assert f"               chgrp workqueued {doubtful.file} && chmod 640 {doubtful.file}\n" in said
    doubtful.file.chmod(0o640)
    assert "warning" not in check(doubtful.file)[1]


def test_check_refuses_stop_times_that_do_not_nest(doubtful: Daemon) -> None:
    """From the supervisord.conf beside the file; whose tasks would be killed in the middle at each stop."""
    conf = doubtful.file.with_name("supervisord.conf")
    conf.write_text(CONF.format(file=doubtful.file))
    code, said = check(doubtful.file)
    assert (code, said.splitlines()[-1]) == (78, "not ok: see the messages above")
    assert f"wrong          stopwaitsecs in {conf} is 20 s, and must be longer than drain_timeout, and 5 s" in said
    doubtful.write(drain_timeout="10s")
    assert check(doubtful.file)[0] == 0


def test_the_daemon_warns_and_starts(doubtful: Daemon) -> None:
    """At the start and at each reload: whoever mends the one file may have forgotten the other."""
    conf = doubtful.file.with_name("supervisord.conf")
    conf.write_text(CONF.format(file=doubtful.file))
    with doubtful.start() as running:
        for count in (1, 2):
            for event in ("config.exposed", "stop_times.contradicted"):
                told = running.await_event(event, count)
                assert (told["role"], bool(told["error"]), bool(told["hint"])) == ("master", True, True)
            running.signal(SIGHUP)
            running.await_event("reload.started", count)
        running.file.chmod(0o640)
        conf.unlink()
        running.signal(SIGHUP)
        running.await_event("reload.started", 3)
        assert len(running.events("config.exposed")) == len(running.events("stop_times.contradicted")) == 3
