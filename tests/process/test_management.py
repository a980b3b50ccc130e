"""The management API: what is understood of it, and that the password goes nowhere else."""

import base64
import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from tls_broker import Authority

from workqueued import management
from workqueued.broker_settings import Broker, Tls
from workqueued.flow import Flow, Whole
from workqueued.management import Clerk, ManagementError, ManagementReader, understand
from workqueued.urls import BrokerUrl, ManagementUrl

BROKER = Broker(url=(BrokerUrl.parse("amqp://sue:pa%2Fss@127.0.0.1/my%2Fhost"),))


class Api:
    """A server that answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.code = 200
        self.headers: dict[str, str] = {}
        self.body = b"{}"
        self.asked: list[tuple[str, str | None]] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                api.asked.append((self.path, self.headers["Authorization"]))
                self.send_response(api.code)
                for name, value in {"Content-Length": str(len(api.body)), **api.headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(api.body)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def reader(self, url: str | None = None) -> ManagementReader:
        """A reader that asks here."""
        return ManagementReader(BROKER, ManagementUrl.parse(url or self.url))


@pytest.fixture
def api() -> Iterator[Api]:
    """One that serves."""
    api = Api()
    thread = threading.Thread(target=api.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield api
    api.server.shutdown()
    thread.join()
    api.server.server_close()


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        ({}, Whole()),
        ([], Whole()),
        ({"messages_unacknowledged": None}, Whole()),
        ({"messages_unacknowledged": 3}, Whole(3)),
        ({"messages_unacknowledged": 3, "message_stats": []}, Whole(3)),
        ({"messages_unacknowledged": 0, "message_stats": {"publish_details": {"rate": 1.5}}}, Whole(0, Flow(1.5, 0.0))),
        (
            {
                "messages_unacknowledged": 1,
                "message_stats": {
                    "ack_details": {"rate": 2},
                    "deliver_no_ack_details": {"rate": 0.5},
                    "get_no_ack_details": {"rate": "x"},
                },
            },
            Whole(1, Flow(0.0, 2.5)),
        ),
    ],
)
def test_what_is_not_told_is_unknown(answer: Any, whole: Whole) -> None:
    """A queue that was declared a moment ago has no figures; one that was never used has no rates."""
    assert understand(answer) == whole


def test_the_queue_is_asked_for_as_the_brokers_user(api: Api) -> None:
    """Whatever is in the names."""
    api.body = json.dumps({"messages_unacknowledged": 4}).encode()
    assert api.reader().read("a/b?c") == Whole(4)
    ((path, authorization),) = api.asked
    assert path.startswith("/api/queues/my%2Fhost/a%2Fb%3Fc?columns=messages_unacknowledged,")
    assert authorization == "Basic " + base64.b64encode(b"sue:pa/ss").decode()


def test_over_https_the_brokers_certificates_are_used(api: Api, tmp_path: Path) -> None:
    """Those that `broker.tls` names; a certificate by anybody else is refused."""
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others")
    cert, key = ours.issue("api")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    api.server.socket = context.wrap_socket(api.server.socket, server_side=True)
    api.body = json.dumps({"messages_unacknowledged": 4}).encode()
    url = ManagementUrl.parse(api.url.replace("http:", "https:"))

    def read(ca: Path) -> Whole:
        return ManagementReader(replace(BROKER, tls=Tls(ca=ca)), url).read("q")

    assert read(ours.file) == Whole(4)
    with pytest.raises(ManagementError, match="certificate verify failed"):
        read(others.file)
    ours.file.unlink()
    with pytest.raises(ManagementError, match=r"broker\.tls\.ca: cannot read"):
        read(ours.file)


def test_a_user_of_the_urls_own_is_preferred(api: Api) -> None:
    """And so is a prefix."""
    api.reader(api.url.replace("//", "//ann:x%40@") + "/rabbit/").read("q")
    ((path, authorization),) = api.asked
    assert path.startswith("/rabbit/api/queues/")
    assert authorization == "Basic " + base64.b64encode(b"ann:x@").decode()


def test_a_queue_that_is_not_there_is_unknown(api: Api) -> None:
    """The depth says so as well."""
    api.code = 404
    assert api.reader().read("q") == Whole()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (401, "rabbitmqctl set_user_tags sue monitoring"),
        (403, "rabbitmqctl set_user_tags sue monitoring"),
        (500, "found status 500, expected 200"),
        (302, "found status 302, expected 200"),
    ],
)
def test_a_refusal_says_what_to_do(api: Api, code: int, told: str) -> None:
    """And never the password; a redirection is not followed, as it would be given that."""
    api.code, api.headers = code, {"Location": f"{api.url}/elsewhere"}
    with pytest.raises(ManagementError) as caught:
        api.reader().read("q")
    assert told in str(caught.value)
    assert "pa/ss" not in str(caught.value)
    assert len(api.asked) == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b"\xff", b"[" * 100_000])
def test_an_answer_that_is_none_is_told(api: Api, body: bytes) -> None:
    """Some other server has the port."""
    api.body = body
    told: list[str] = []
    try:
        api.reader().read("q")
    except (ManagementError, RecursionError) as error:
        told.append(type(error).__name__)
    assert told


def test_no_proxy_of_the_environment_is_asked(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would read the password."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    assert api.reader().read("q") == Whole()


def test_a_silent_api_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, as the kernel of a server that hangs accepts all the same."""
    monkeypatch.setattr(management, "_TIMEOUT", 0.2)
    api = Api()  # listens, and nobody answers
    with contextlib.closing(api.server.socket), pytest.raises(ManagementError, match="timed out"):
        api.reader().read("q")


def test_the_clerk_forgets_what_is_old_and_complains_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of a minute ago are none."""
    told: list[dict[str, str]] = []

    class Log:
        def warning(self, event: str, **facts: str) -> None:
            assert event == "management.unreachable"
            told.append(facts)

    monkeypatch.setattr(management, "log", Log())
    trouble: list[Exception] = []

    def read(queue: str) -> Whole:
        if trouble:
            raise trouble[0]
        return Whole(len(queue))

    clerk = Clerk(read, ["a", "bb"], 1.0)
    clerk.ask()
    assert clerk.answers == {"a": Whole(1), "bb": Whole(2)}
    trouble.append(ManagementError("no"))
    clerk.ask()
    clerk.ask()
    assert clerk.answers == {}
    assert told == [{"error": "no"}]
    trouble.clear()
    clerk.ask()
    assert clerk.answers == {"a": Whole(1), "bb": Whole(2)}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://127.0.0.1", "http://127.0.0.1:15672"),
        ("https://mq.example.org", "https://mq.example.org:15671"),
        ("https://[::1]:443/rabbit/", "https://[::1]:443/rabbit"),
        ("http://ann:secret@host:1", "http://ann:***@host:1"),
    ],
)
def test_a_management_url_is_shown_without_its_password(text: str, shown: str) -> None:
    """With the port where the plugin listens by default."""
    url = ManagementUrl.parse(text)
    assert str(url) == shown
    assert "secret" not in repr(url)


@pytest.mark.parametrize(
    "text", ["amqp://host", "host:15672", "http://", "http://u:se/cret@host", "http://h/api", "http://h/?x", "http://h:x"]
)
def test_what_is_no_management_url_is_refused(text: str) -> None:
    """And the mistake does not quote what may be a password."""
    with pytest.raises(ValueError) as caught:
        ManagementUrl.parse(text)
    assert "cret" not in str(caught.value)
