"""The monitor beside real work: HTTP, metrics, alerts, and what only the management API tells."""

import contextlib
import http.client
import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Daemon, Vhost, eventually, run_cli
from prometheus_client.parser import text_string_to_metric_families

from workqueued.node import BrokerError, Node

Daemons = Callable[..., Daemon]


def free_port() -> int:
    """One that nobody has at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def monitor(port: int, **settings: Any) -> dict[str, Any]:
    """Section monitor."""
    return {"interval": "500ms", "listen": f"127.0.0.1:{port}", **settings}


def queue(workers: int = 2) -> dict[str, Any]:
    """A task_queue whose handler waits for a file `release`."""
    return {"task_queue": {"handler": "ledgers:until_released", "workers": workers}}


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body; 0 when nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        except ConnectionError:
            return 0, ""


def metrics(port: int) -> dict[str, float]:
    """A scrape: `name{label=value,…}` without the name of the queue."""
    found = {}
    for family in text_string_to_metric_families(get(port, "/metrics")[1]):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()) if name != "queue")
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_what_was_done_is_counted_over_the_death_of_a_worker(daemon: Daemons, vhost: Vhost) -> None:
    """By outcome, in buckets, and the deaths by cause; no count falls."""
    port = free_port()
    with daemon(queue(workers=1), monitor=monitor(port)) as running:
        (first,) = running.consuming(1)
        vhost.publish("task_queue", "1", "2", "3", "reject")
        eventually(lambda: metrics(port).get("workqueued_queue_messages_in_work") == 1)
        (running.directory / "release").touch()
        running.await_event("delivery.settled", 4)
        before = metrics(port)
        assert before["workqueued_settled_total{outcome=done}"] == 3
        assert before["workqueued_settled_total{outcome=dead}"] == 1
        assert before["workqueued_run_seconds_count"] == 4
        assert before["workqueued_run_seconds_bucket{le=86400.0}"] == 4
        assert 0 < before["workqueued_run_seconds_sum"] < 20
        assert before["workqueued_wait_seconds_count"] == 0  # nobody said when these were sent
        sent = run_cli("send", "--config", str(running.file), "sent")
        assert sent.returncode == 0
        running.await_event("delivery.settled", 5)
        os.kill(first["pid"], signal.SIGKILL)
        running.consuming(2)
        after = metrics(port)
        assert after["workqueued_worker_deaths_total{cause=signal}"] == 1
        assert after["workqueued_settled_total{outcome=done}"] == 4
        assert after["workqueued_run_seconds_count"] == 5
        assert after["workqueued_wait_seconds_bucket{le=10.0}"] == 1
        assert after["workqueued_run_seconds_sum"] > before["workqueued_run_seconds_sum"]


def test_the_status_is_that_of_the_command(daemon: Daemons, vhost: Vhost) -> None:
    """The same keys and, but for ages, the same values."""
    port = free_port()
    with daemon(queue(), monitor=monitor(port)) as running:
        running.consuming(2)
        eventually(lambda: get(port, "/readyz") == (200, "running\n"))
        served = json.loads(get(port, "/status.json")[1])
        printed = json.loads(run_cli("status", "--config", str(running.file), "--json").stdout)
        assert served.keys() == printed.keys()
        for key in ("state", "ready", "version", "config", "config_sha256", "config_changed", "master_pid", "deaths"):
            assert served[key] == printed[key], key
        assert [one["slot"] for one in served["workers"]] == [one["slot"] for one in printed["workers"]]
        assert get(port, "/healthz") == (200, "ok\n")


def test_readiness_follows_the_broker_and_health_does_not(daemon: Daemons, mortal: Vhost, mortal_node: Node) -> None:
    """Restarting the daemon would not bring the broker back."""
    port = free_port()
    with daemon(queue(workers=1), monitor=monitor(port), url=mortal) as running:
        running.consuming(1)
        eventually(lambda: get(port, "/readyz")[0] == 200)
        eventually(lambda: metrics(port).get("workqueued_broker_up") == 1)
        mortal_node.stop()
        try:
            code, body = eventually(lambda: (it := get(port, "/readyz"))[0] == 503 and it)
            assert code == 503
            assert body.startswith("degraded\ntask_queue: 0 of 1 worker (task_queue/0 is connecting)\n")
            found = eventually(lambda: (it := metrics(port))["workqueued_broker_up"] == 0 and it)
            assert found["workqueued_ready"] == 0
            assert found["workqueued_state{state=degraded}"] == 1
            assert get(port, "/healthz") == (200, "ok\n")
        finally:
            mortal_node.start()
        eventually(lambda: get(port, "/readyz")[0] == 200, within=40)


def test_a_port_that_is_taken_costs_nothing_but_the_endpoint(daemon: Daemons, vhost: Vhost) -> None:
    """Depths and work go on; it is there when the port is free."""
    port = free_port()
    taken = socket.create_server(("127.0.0.1", port))
    with taken, daemon(queue(workers=1), monitor=monitor(port)) as running:
        with taken:
            running.consuming(1)
            blocked = running.await_event("endpoint.blocked")
            assert (blocked["level"], blocked["address"]) == ("warning", f"127.0.0.1:{port}")
            vhost.publish("task_queue", "reject")
            running.await_event("delivery.settled")
            running.await_event("queue.depth", 3)
        running.await_event("endpoint.opened", within=30)
        assert get(port, "/healthz")[0] == 200
        assert len(running.events("endpoint.blocked")) == 1


def test_a_reload_moves_the_endpoint(daemon: Daemons, vhost: Vhost) -> None:
    """The monitor is replaced, and what it counted lies in the scoreboard."""
    old, new = free_port(), free_port()
    with daemon(queue(workers=1), monitor=monitor(old)) as running:
        running.consuming(1)
        vhost.publish("task_queue", "reject")
        running.await_event("delivery.settled")
        eventually(lambda: get(old, "/healthz")[0] == 200)
        running.write(monitor=monitor(new))
        running.signal(signal.SIGHUP)
        eventually(lambda: get(new, "/healthz")[0] == 200)
        assert get(old, "/healthz") == (0, "")
        running.consuming(2)
        found = metrics(new)
        assert found["workqueued_settled_total{outcome=dead}"] == 1
        assert found["workqueued_reloads_total{result=applied}"] == 1
        running.write(monitor={"interval": "never"})
        running.signal(signal.SIGHUP)
        running.await_event("reload.rejected")
        assert metrics(new)["workqueued_reloads_total{result=rejected}"] == 1
        running.write(monitor={"interval": "1s", "listen": "none"})
        running.signal(signal.SIGHUP)
        eventually(lambda: get(new, "/healthz") == (0, ""))


def test_a_backlog_is_told_when_it_is_high_and_when_it_is_gone(daemon: Daemons, vhost: Vhost) -> None:
    """Once each; it shows in the metrics and in the status, and a reload in between repeats nothing."""
    port = free_port()
    alerts = {"ready": 5, "after": "1s"}
    with daemon(queue(workers=1), monitor=monitor(port, alerts=alerts)) as running:
        running.consuming(1)
        vhost.publish("task_queue", *map(str, range(11)))
        high = running.await_event("queue.backlog_high")
        assert (high["level"], high["queue"], high["ready"], high["consumers"]) == ("warning", "task_queue", 10, 1)
        assert metrics(port)["workqueued_alert_active{alert=backlog_high}"] == 1
        assert "  task_queue: alert, backlog high\n" in run_cli("status", "--config", str(running.file)).stdout
        running.signal(signal.SIGHUP)
        running.await_event("monitor.stopped")
        (running.directory / "release").touch()
        cleared = running.await_event("queue.backlog_cleared", within=30)
        assert cleared["ready"] == 0
        assert metrics(port)["workqueued_alert_active{alert=backlog_high}"] == 0
        assert len(running.events("queue.backlog_high")) == 1


def test_messages_that_nobody_consumes_are_told(daemon: Daemons, vhost: Vhost, tmp_path: Path) -> None:
    """A queue whose command is gone, which nobody meant to pause."""
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\nexit 78\n")
    program.chmod(0o755)
    settings = {"task_queue": {"command": [str(program)], "workers": 1}}
    with daemon(settings, monitor=monitor(free_port(), alerts={"unconsumed": "1s"})) as running:
        running.consuming(1)
        vhost.publish("task_queue", "1", "2")
        running.await_event("queue.paused")
        assert running.await_event("queue.unconsumed")["ready"] == 2


# --- the management API ----------------------------------------------------------------------------------------------


class ManagedNode(Node):
    """A node with RabbitMQ's management plugin, on a port of its own."""

    def __init__(self, directory: Path) -> None:
        self.management_port = free_port()
        settings = {"management.tcp.ip": "127.0.0.1", "management.tcp.port": str(self.management_port)}
        super().__init__(directory, name="wqmanaged", settings=settings)

    def _write_files(self) -> None:
        super()._write_files()
        (self.directory / "enabled_plugins").write_text("[rabbitmq_management].\n")


@pytest.fixture(scope="module")
def managed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManagedNode]:
    """One that runs."""
    node = ManagedNode(tmp_path_factory.mktemp("managed"))
    try:
        node.start()
    except BrokerError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    yield node
    node.stop()


def test_unacknowledged_messages_are_known_with_the_management_api(daemon: Daemons, managed: ManagedNode) -> None:
    """Those of a stranger too, who consumes elsewhere; and the rates are of the whole queue."""
    broker = {"url": managed.url, "management_url": f"http://127.0.0.1:{managed.management_port}"}
    port = free_port()
    with daemon(queue(workers=1), broker=broker, monitor=monitor(port)) as running:
        running.consuming(1)
        vhost = Vhost(managed.port, "%2F")
        vhost.publish("task_queue", *map(str, range(5)))
        running.await_event("queue.depth", in_flight=1)
        with vhost.channel() as channel:
            for _ in range(3):
                channel.basic_get("task_queue")
            told = running.await_event("queue.depth", unacked=4, within=40)
            assert (told["ready"], told["source"]) == (1, "passive, management")
            assert metrics(port)["workqueued_queue_messages_unacked"] == 4
            (shown,) = json.loads(run_cli("status", "--config", str(running.file), "--json").stdout)["queues"]
            assert shown["unacked"] == 4
        (running.directory / "release").touch()
        running.await_event("queue.depth", unacked=0, within=40)
        assert not running.events("management.unreachable")


def test_a_user_without_the_tag_is_told_what_it_needs(daemon: Daemons, managed: ManagedNode) -> None:
    """Depths go on, unacknowledged messages are unknown; the password is nowhere."""
    managed.ctl("add_user", "plain", "s3cr3t")
    managed.ctl("set_permissions", "plain", ".*", ".*", ".*")
    broker = {
        "url": managed.url.replace("guest:guest", "plain:s3cr3t"),
        "management_url": f"http://127.0.0.1:{managed.management_port}",
    }
    with daemon(queue(workers=1), broker=broker) as running:
        told = running.await_event("management.unreachable")
        assert told["level"] == "warning"
        assert "rabbitmqctl set_user_tags plain monitoring" in told["error"]
        depth = running.await_event("queue.depth", 2, level="info")
        assert (depth["ready"], depth["unacked"], depth["source"]) == (0, None, "passive")
        managed.ctl("set_user_tags", "plain", "monitoring")
        running.await_event("queue.depth", unacked=0, within=40)
        assert "s3cr3t" not in running.log.read_text()
