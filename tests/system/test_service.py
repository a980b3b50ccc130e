"""The service on real Debians: installed by `make install`, run by systemd, looked at as an operator does."""

import json
import re
from pathlib import Path

import pytest

from system.machine import CONF, CONFIG, HOME, SHORTER, SOURCES, Machine, Service, files_of

pytestmark = pytest.mark.timeout(600)

#: A handler of the tests, as an operator would put it on a host.
_HANDLERS = """
def burst(task):
    for number in range(int(task.text)):
        task.log.info("burst.line", number=number)

def long_line(task):
    task.log.info("long.line", text="x" * int(task.text))
"""


# --- install, and a new user -----------------------------------------------------------------------------------------


def test_the_first_ten_minutes_of_a_new_user_go_well(first_ten_minutes: str) -> None:
    """As the README says it: install, edit, enable, send, look, reload, measure, read, stop. Shown with -rP."""
    print(first_ten_minutes)
    for promised in (
        "systemctl enable --now workqueued",  # what to do next
        "active (running)",
        '"outcome":"done"',
        "task_queue/0",
        "3/3 consuming",
        "workqueued_",
        "workqueued.yaml(5)",
        "inactive",
    ):
        assert promised in first_ten_minutes


def test_installing_over_a_running_version_drains_and_restarts_it(service: Service) -> None:
    """A task in hand is finished by the old version; an edited configuration is kept, with the new one beside it."""
    machine, before = service.machine, service.show("MainPID")
    task = service.send("A task of three seconds...")
    machine.do("cp", "-r", SOURCES, "/root/next")
    machine.do("sed", "-i", "s/^__version__ = .*/__version__ = '99.0'/", "/root/next/workqueued/__init__.py")
    said = machine.upgrade("/root/next")
    assert "draining and restarting" in said
    assert f"{CONFIG} is as you have it" in said
    assert service.show("ActiveState") == "active"
    assert service.show("MainPID") != before
    service.await_record(f"WQ_MESSAGE_ID={task}", "WQ_EVENT=delivery.settled", "WQ_OUTCOME=done")
    assert "99.0" in machine.run("wq-status").stdout
    machine.do("test", "-e", f"{CONFIG}.new")
    machine.do("test", "!", "-e", f"{CONF}.new")


# --- what systemd sees -----------------------------------------------------------------------------------------------


def test_a_file_with_mistakes_fails_the_reload_and_stops_nothing(service: Service) -> None:
    """The journal has the line and what is wrong."""
    before = service.master()
    service.configure(queues={"task_queue": {"handler": "workqueued.samples:dots", "workers": "many"}})
    assert service.machine.run("systemctl", "reload", "workqueued").returncode != 0
    assert service.show("ActiveState") == "active"
    assert service.master() == before

    def told() -> bool:
        journal = service.machine.do("journalctl", "-u", "workqueued", "--no-pager", "-n", "20")
        return "queues.task_queue.workers: found 'many'" in journal

    service.wait(told, within=20)


def test_a_stop_drains(service: Service) -> None:
    """The task in hand is finished, and nothing killed."""
    task = service.send("A task of three seconds...")
    service.wait(lambda: "busy" in service.machine.run("wq-status").stdout, within=10)
    service.machine.do("systemctl", "stop", "workqueued")
    service.await_record(f"WQ_MESSAGE_ID={task}", "WQ_EVENT=delivery.settled", "WQ_OUTCOME=done")
    assert service.show("Result") == "success"


def test_a_master_that_hangs_is_ended_by_the_watchdog(service: Service) -> None:
    """SIGSTOP: systemd hears nothing, ends all of it and starts it again; the message in hand is handled."""
    service.drop_in("WatchdogSec=4", "RestartSec=1")
    service.restart()
    task, master, before = service.send("dots..."), service.master(), service.show("MainPID")
    since = service.machine.now()
    service.machine.do("kill", "-STOP", master)
    service.await_successor(before)
    assert service.restarts(since) == 1
    assert "Watchdog timeout" in service.machine.do("journalctl", "-u", "workqueued", "--since", since)
    service.await_settled(task)


def test_a_killed_supervisord_is_started_again(service: Service) -> None:
    """Kill -9: nobody of the old ones is left, and work goes on."""
    before, master = service.show("MainPID"), service.master()
    service.machine.do("kill", "-KILL", before)
    service.await_successor(before)
    assert service.master() != master
    assert service.machine.run("kill", "-0", master).returncode != 0
    service.await_settled(service.send("hello"))


def test_a_broker_that_is_away_restarts_nothing(service: Service) -> None:
    """Neither one that goes nor one that is not there at the start: the service is active and says how it is."""
    before = service.show("MainPID"), service.master()
    service.machine.do("systemctl", "stop", "rabbitmq-server")
    service.wait(lambda: "connecting" in service.show("StatusText"), within=30)
    assert (service.show("MainPID"), service.master()) == before
    service.restart()
    assert service.show("ActiveState") == "active"
    before = service.show("MainPID"), service.master()
    service.wait(lambda: "connecting" in service.show("StatusText"), within=15)
    service.machine.start("rabbitmq-server")
    service.await_settled(service.send("hello"))
    assert (service.show("MainPID"), service.master()) == before


def test_what_supervisorctl_stops_stays_stopped(service: Service) -> None:
    """For longer than the watchdog's time; the unit is active, and says that it was told to."""
    service.drop_in("WatchdogSec=5")
    service.restart()
    before = service.show("MainPID")
    ctl = (f"{HOME}/bin/supervisorctl", "-c", CONF)
    assert "stopped" in service.machine.do(*ctl, "stop", "workqueued")
    service.machine.do("sleep", "7")  # the passing of time is what is tested
    assert service.show("MainPID") == before
    assert "stopped" in service.show("StatusText")
    service.machine.do(*ctl, "start", "workqueued")
    service.await_settled(service.send("hello"))


# --- beyond help: never green, never a loop --------------------------------------------------------------------------


def _fails(service: Service, within: float) -> str:
    """Restart it and wait for its failure; returns the status text. It must not be started again."""
    since = service.machine.now()
    service.machine.run("systemctl", "restart", "workqueued")
    service.await_state("failed", within)
    assert service.restarts(since) == 0
    return service.show("StatusText")


def test_a_wrong_configuration_fails_the_unit_at_once(service: Service) -> None:
    """Exit code 78: the status says so, and the journal what is wrong."""
    service.configure(queues={"task_queue": {"handler": "nowhere:nothing", "workers": 2}})
    assert "exit code 78" in _fails(service, within=25)
    service.await_record("WQ_EVENT=service.failed")
    service.await_record("WQ_EVENT=handler.rejected")


def test_a_mistake_in_the_file_is_in_the_journal(service: Service) -> None:
    """As the daemon meets it before it knows where to log to."""
    service.configure(queues={})
    assert "exit code 78" in _fails(service, within=25)
    service.wait(lambda: any("queues" in line for line in service.records("WQ_EVENT=master.refused")), within=20)


def test_a_command_that_cannot_be_run_fails_the_unit(service: Service) -> None:
    """FATAL."""
    conf = service.machine.read(CONF)
    service.machine.write(CONF, re.sub(r"(?m)^command=.*/workqueued .*$", "command=/nowhere/workqueued", conf))
    assert "cannot be started" in _fails(service, within=50)


def test_a_daemon_that_dies_again_and_again_fails_the_unit(service: Service) -> None:
    """Before the first READY, in half a minute."""
    conf = service.machine.read(CONF)
    service.machine.write(CONF, re.sub(r"(?m)^command=.*/workqueued .*$", "command=/bin/false", conf))
    assert "20 times" in _fails(service, within=60)


# --- logs ------------------------------------------------------------------------------------------------------------


def _with_handler(service: Service, name: str) -> None:
    service.machine.write("/opt/handlers/system_handlers.py", _HANDLERS)
    service.configure(
        queues={"task_queue": {"handler": f"system_handlers:{name}", "workers": 2}}, pythonpath="/opt/handlers"
    )
    service.restart()


def test_the_journal_keeps_a_hundred_thousand_lines_of_a_burst(service: Service) -> None:
    """All of them, each whole and JSON, while they come as fast as a handler can log."""
    _with_handler(service, "burst")
    for _ in range(3):
        task = service.send("100000")
        service.await_record(f"WQ_MESSAGE_ID={task}", "WQ_EVENT=delivery.settled", within=90)
        lines = [json.loads(line) for line in service.records(f"WQ_MESSAGE_ID={task}", "WQ_EVENT=burst.line")]
        numbers = [line["number"] for line in lines]
        if numbers == list(range(100_000)):
            return
        # A journald that stood still for longer than a record waits. What that cost is told, and no more is missing.
        assert numbers == sorted(set(numbers))
        told = [json.loads(line)["lines"] for line in service.records("WQ_EVENT=log.dropped")]
        assert len(numbers) + sum(told) >= 100_000
    pytest.fail("three bursts, and none was kept whole")


def test_a_long_line_is_whole_and_everything_is_json(service: Service) -> None:
    """A line of 100,000 characters, and every other line of the daemon so far."""
    _with_handler(service, "long_line")
    task = service.send("100000")
    service.await_settled(task)
    (line,) = service.records(f"WQ_MESSAGE_ID={task}", "WQ_EVENT=long.line")
    assert len(json.loads(line)["text"]) == 100_000
    for line in service.records("-n", "2000"):
        assert "event" in json.loads(line)


# --- access ----------------------------------------------------------------------------------------------------------


def test_the_sandbox_is_as_tight_as_was_promised(service: Service) -> None:
    """The score of systemd-analyze, 0 is best, is the budget; and `limits` work within it."""
    said = service.machine.do("systemd-analyze", "security", "workqueued")
    assert float(re.findall(r"Overall exposure level .*: ([\d.]+)", said)[0]) <= 1.5
    limits = {"nice": 5, "nofile": 512, "memory": "2G"}
    queue = {"handler": "workqueued.samples:dots", "workers": 1, "limits": limits}
    service.configure(queues={"task_queue": queue})
    service.restart()
    service.await_settled(service.send("hello"))
    worker = service.machine.do("pgrep", "-f", "workqueued: worker").split()[0]
    assert service.machine.do("ps", "-o", "ni=", "-p", worker).strip() == "5"
    assert re.search(r"Max open files +512", service.machine.read(f"/proc/{worker}/limits"))
    assert re.search(r"Max core file size +0", service.machine.read(f"/proc/{worker}/limits"))


def test_members_of_the_group_may_work_with_it_and_others_may_not(service: Service) -> None:
    """Others are told what to ask for."""
    machine = service.machine
    machine.run("useradd", "-m", "-G", "workqueued", "member")
    machine.run("useradd", "-m", "stranger")
    service.await_settled(machine.do("wq-send", "hello", user="member").strip())
    assert "task_queue/0" in machine.run("wq-status", user="member").stdout
    machine.do("wq-dead", "list", user="member")
    for command in (("wq-send", "hello"), ("wq-status",), ("wq-dead", "list")):
        refused = machine.run(*command, user="stranger")
        assert refused.returncode == 78
        assert "group workqueued" in refused.stderr
        assert "Traceback" not in refused.stderr


def test_the_password_may_be_in_a_file_that_is_roots_alone(service: Service) -> None:
    """As a credential, systemd hands it over as a credential; a reload works as well."""
    machine = service.machine
    machine.do("rabbitmqctl", "-q", "add_user", "wq", "secret of the tests")
    machine.do("rabbitmqctl", "-q", "set_permissions", "wq", ".*", ".*", ".*")
    machine.write("/etc/workqueued/broker-password", "secret of the tests\n", mode="600")
    try:
        service.configure(
            broker={"url": "amqp://wq@127.0.0.1:5672/%2F"},
            queues={"task_queue": {"handler": "workqueued.samples:dots", "workers": 1}},
        )
        service.restart()
        address = "amqp://guest:guest@127.0.0.1/%2F"
        service.await_settled(service.send("--url", address, "--queue", "task_queue", "hello"))
        machine.do("systemctl", "reload", "workqueued")
    finally:
        machine.do("rm", "/etc/workqueued/broker-password")


# --- the end ---------------------------------------------------------------------------------------------------------


def test_uninstall_leaves_the_configuration_and_nothing_else(
    machine: Machine, files_before: set[str], service: Service
) -> None:
    """The running service is stopped first. The last test, as nothing is left to test then."""
    machine.do("rm", "-r", str(Path(SHORTER).parent))
    said = machine.do("make", "-C", SOURCES, "uninstall")
    assert "/etc/workqueued" in said
    left = files_of(machine) - files_before
    ours = {name for name in left if "workqueued" in name or "/wq-" in name}
    assert {name for name in ours if not name.startswith("/etc/workqueued")} == set()
    assert CONFIG in ours
    assert machine.do("stat", "-c", "%U:%G %a", CONFIG).strip() == "root:root 640"
    assert machine.run("getent", "passwd", "workqueued").returncode != 0
    assert machine.run("systemctl", "cat", "workqueued").returncode != 0
