"""The endpoint: what it answers, over real sockets, and that nobody who asks can hurt it."""

import contextlib
import http.client
import json
import socket
from collections.abc import Callable
from typing import Any

import pytest
from harness import eventually
from prometheus_client import CollectorRegistry, Gauge

from workqueued import endpoint
from workqueued.endpoint import Pages, serve
from workqueued.status import PAUSED_BY_CONFIGURATION, Condition, QueueStatus, Status
from workqueued.urls import Address

Events = list[tuple[str, dict[str, Any]]]


class Service:
    """What there is to tell."""

    def __init__(self) -> None:
        self.status = Status(Condition.RUNNING, ())
        self.ailments: list[str] = []
        self.registry = CollectorRegistry()
        Gauge("test", "A gauge.", registry=self.registry).set(7)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.address = Address("127.0.0.1", probe.getsockname()[1])
        self.pages = Pages(self.look, lambda it: {"state": it.condition.value}, lambda: self.ailments, self.registry)

    def look(self) -> Status:
        """As the scoreboard would tell."""
        return self.status

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], str]:
        """Status, headers and body."""
        connection = http.client.HTTPConnection(self.address.host, self.address.port, timeout=10)
        with contextlib.closing(connection):
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    """What is logged."""
    found: Events = []

    class Log:
        def __getattr__(self, _level: str) -> Callable[..., None]:
            return lambda event, **facts: found.append((event, facts))

    monkeypatch.setattr(endpoint, "log", Log())
    monkeypatch.setattr(endpoint, "_AGAIN", 0.1)
    return found


@pytest.fixture
def service(events: Events) -> Service:
    """One that serves; its threads are daemons, and end with the tests."""
    service = Service()
    serve(service.pages, service.address)
    eventually(lambda: events)
    assert events == [("endpoint.opened", {"address": str(service.address)})]
    return service


def queue(paused: str | None) -> QueueStatus:
    """A queue of which nothing else is of interest."""
    fields = dict.fromkeys(QueueStatus._fields)
    return QueueStatus(**{**fields, "name": "q", "paused": paused})  # type: ignore[arg-type]


def test_metrics_are_served_as_prometheus_reads_them(service: Service) -> None:
    """In the format that it asks for."""
    code, headers, body = service.ask("/metrics")
    assert (code, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    assert "\ntest 7.0\n" in body
    code, headers, body = service.ask("/metrics?x=1", Accept="application/openmetrics-text;version=1.0.0")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


def test_status_is_served_as_json(service: Service) -> None:
    """And is never taken from a cache."""
    code, headers, body = service.ask("/status.json")
    assert (code, headers["Content-Type"], headers["Cache-Control"]) == (200, "application/json", "no-store")
    assert json.loads(body) == {"state": "running"}


def test_health_tells_what_is_ill(service: Service) -> None:
    """200, or 503 with the reasons."""
    assert service.ask("/healthz")[::2] == (200, "ok\n")
    service.ailments = ["the master has shown no sign of life for 91 s"]
    assert service.ask("/healthz")[::2] == (503, "the master has shown no sign of life for 91 s\n")


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (Status(Condition.RUNNING, ()), 200),
        (Status(Condition.PAUSED, ("why",), queues=(queue(PAUSED_BY_CONFIGURATION), queue(None))), 200),
        (Status(Condition.PAUSED, ("why",), queues=(queue("its command cannot be run"),)), 503),
        (Status(Condition.DEGRADED, ("why",)), 503),
        (Status(Condition.DRAINING, ()), 503),
        (Status(Condition.DOWN, ("why",)), 503),
    ],
)
def test_it_is_ready_when_it_does_what_it_was_asked_for(service: Service, status: Status, code: int) -> None:
    """A queue that the configuration pauses is no fault."""
    service.status = status
    told = "".join(f"{line}\n" for line in [status.condition.value, *status.reasons])
    assert service.ask("/readyz")[::2] == (code, told)


def test_other_methods_and_other_paths_are_refused(service: Service) -> None:
    """HEAD is as GET, without the body."""
    code, headers, body = service.ask("/metrics", "HEAD")
    assert (code, body) == (200, "")
    assert int(headers["Content-Length"]) > 10
    code, headers, _ = service.ask("/metrics", "POST")
    assert (code, headers["Allow"]) == (405, "GET, HEAD")
    code, _, body = service.ask("/")
    assert (code, body) == (404, "there are /metrics, /healthz, /readyz, /status.json\n")


def test_a_page_that_cannot_be_made_is_told_and_the_others_go_on(service: Service, events: Events) -> None:
    """Nobody sees what went wrong but the log."""
    service.look = lambda: 1 / 0  # type: ignore[assignment,return-value,method-assign]
    service.pages._look = service.look
    code, _, body = service.ask("/readyz")
    assert (code, body) == (500, "see endpoint.failed in the log\n")
    assert events[-1] == ("endpoint.failed", {"page": "/readyz", "error": "ZeroDivisionError('division by zero')"})
    assert service.ask("/healthz")[0] == 200


@pytest.mark.parametrize("said", [b"", b"GET /metrics HT", b"GET /metrics HTTP/1.1\r\nX: " + b"y" * 100_000])
def test_clients_that_say_nothing_hold_up_nobody(service: Service, said: bytes) -> None:
    """Forty of them at once; a request that is too large is refused."""
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            client = stack.enter_context(socket.create_connection((service.address.host, service.address.port)))
            with contextlib.suppress(OSError):
                client.sendall(said)
        assert service.ask("/healthz")[0] == 200


@pytest.mark.parametrize("line", [b"\x00\xff\xfe\r\n\r\n", b"GET\r\n\r\n", b"GET /%zz%00 HTTP/9.9\r\n\r\n"])
def test_garbage_is_refused(service: Service, line: bytes) -> None:
    """Whatever is answered, the next one is served."""
    with socket.create_connection((service.address.host, service.address.port), timeout=10) as client:
        client.sendall(line)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass
    assert service.ask("/healthz")[0] == 200


def test_a_port_that_is_taken_is_told_once_and_tried_again(events: Events) -> None:
    """And taken as soon as it is free."""
    service = Service()
    with socket.create_server((service.address.host, service.address.port)):
        serve(service.pages, service.address)
        eventually(lambda: events)
        event, facts = events[0]
        assert event == "endpoint.blocked"
        assert facts["address"] == str(service.address)
        assert "Address already in use" in facts["error"]
        assert "monitor.listen" in facts["hint"]
    eventually(lambda: len(events) > 1)
    assert [event for event, _ in events] == ["endpoint.blocked", "endpoint.opened"]
    assert service.ask("/healthz")[0] == 200
