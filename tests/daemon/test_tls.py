"""TLS with a real broker: everything that connects, everything that is refused, and certificates that change."""

import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGHUP
from typing import Any

import pytest
from harness import Daemon, run_cli
from tls_broker import Authority, TlsNode

from workqueued import Sender
from workqueued.amqp.connection import connect
from workqueued.amqp.publisher import Publisher
from workqueued.broker_settings import Broker, Tls
from workqueued.errors import ConnectionLostError, RefusedError, WorkqueuedError
from workqueued.urls import BrokerUrl

RETRY = {"attempts": 2, "first": "1s", "jitter": 0}


@pytest.fixture
def vhost_of() -> Callable[[TlsNode], str]:
    """Makes a vhost that nobody else uses."""

    def make(node: TlsNode) -> str:
        name = f"v{time.monotonic_ns()}"
        node.ctl("add_vhost", name)
        node.ctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
        return name

    return make


Daemons = Callable[..., Daemon]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Daemons]:
    """Makes daemons with this broker section; all are gone at the end."""
    daemons: list[Daemon] = []

    def build(url: str | list[str], tls: dict[str, Any] | None, **settings: Any) -> Daemon:
        broker = {"url": url, **({} if tls is None else {"tls": tls}), **settings}
        queue = {"handler": "ledgers:by_word", "workers": 1, "retry": RETRY}
        daemons.append(Daemon(tmp_path / "daemon", "", {"task_queue": queue}, broker=broker))
        return daemons[-1]

    yield build
    for one in daemons:
        one.__exit__()


# --- all that connects ----------------------------------------------------------------------------------------------


def test_everything_works_over_tls_with_certificates_on_both_sides(
    make: Daemons, asking_node: TlsNode, authority: Authority, vhost_of: Callable[[TlsNode], str]
) -> None:
    """Work, a delay, a retry, the dead queue and its replay, depths, and bodies larger than what pika reads at once."""
    cert, key = authority.issue("worker")
    tls = {"ca": str(authority.file), "cert": str(cert), "key": str(key)}
    with make(asking_node.tls_url(vhost=vhost_of(asking_node)), tls) as running:
        config = ("--config", str(running.file))
        running.consuming(1)
        sent = run_cli("send", *config, "sleep 0", *["x" * 1000] * 120)
        assert sent.returncode == 0, sent.stderr
        running.await_event("delivery.settled", message_id=sent.stdout.strip(), outcome="done")
        lines = run_cli("send", *config, "--lines", stdin=b"".join(b"sleep 0 %d\n" % n for n in range(2000)))
        assert (lines.returncode, len(lines.stdout.split())) == (0, 2000), lines.stderr
        assert run_cli("send", *config, "--delay", "1s", "--message-id", "late", "sleep 0").returncode == 0
        assert run_cli("send", *config, "--message-id", "m", "fail 9").returncode == 0
        running.await_event("delivery.settled", message_id="late", outcome="done")
        running.await_event("delivery.settled", message_id="m", outcome="retried")
        running.await_event("delivery.settled", message_id="m", outcome="dead")
        assert "m " in run_cli("dead", *config, "list").stdout
        assert run_cli("dead", *config, "replay", "--all", "--yes").returncode == 0
        running.await_event("delivery.settled", 2, message_id="m", outcome="dead")
        running.await_event("queue.depth", dead=1, source="passive")
        assert len(running.events("delivery.settled", outcome="done")) == 2002
        assert running.stop() == 0
        assert running.events("broker.unreachable") == running.events("tls.unverified") == []


def test_heartbeats_flow_over_tls_while_a_handler_runs_for_long(
    make: Daemons, tls_node: TlsNode, authority: Authority, vhost_of: Callable[[TlsNode], str]
) -> None:
    """The keeper's thread reads and writes the same TLS session as the main thread, in turn."""
    url = tls_node.tls_url(vhost=vhost_of(tls_node))
    with make(url, {"ca": str(authority.file)}, heartbeat="2s") as running:
        running.consuming(1)
        for name, body in (("quiet", "sleep 9"), ("next", "sleep 0")):
            assert run_cli("send", "--config", str(running.file), "--message-id", name, body).returncode == 0
        for name in ("quiet", "next"):
            settled = running.await_event("delivery.settled", message_id=name, within=30)
            assert (settled["outcome"], settled.get("redelivered")) == ("done", None)
        assert len(running.events("worker.consuming")) == 1


def test_the_kernel_watches_a_tls_connection_as_it_does_a_plain_one(tls_node: TlsNode, authority: Authority) -> None:
    """The options are set before the handshake, and must be on the socket that TLS then takes over."""
    with connect(_broker(tls_node.tls_url(), Tls(ca=authority.file)), "test") as connection:
        link: ssl.SSLSocket = connection._impl._transport._sock
        assert link.version() in ("TLSv1.2", "TLSv1.3")
        assert link.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 10_000
        assert link.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_a_program_outside_the_group_sends_with_an_address_alone(
    tls_node: TlsNode, authority: Authority, vhost_of: Callable[[TlsNode], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The system's authorities are OpenSSL's, which SSL_CERT_FILE replaces."""
    url = tls_node.tls_url(vhost=vhost_of(tls_node))
    monkeypatch.setenv("WQ_URL", url)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    lost = run_cli("send", "--queue", "q", "hello")
    assert (lost.returncode, "there is no queue 'q'" in lost.stderr) == (69, True), lost.stderr
    with connect(Broker(url=(BrokerUrl.parse(url),)), "test") as connection:
        connection.channel().queue_declare("q", durable=True)
    sent = run_cli("send", "--queue", "q", "hello")
    assert sent.returncode == 0, sent.stderr
    with Sender(url) as sender:
        sender.send(b"hello", queue="q")


# --- all that is refused --------------------------------------------------------------------------------------------


def _block(url: str, tls: Tls | None) -> None:
    connect(_broker(url, tls), "test").close()


def _publish(url: str, tls: Tls | None) -> None:
    publisher = Publisher(_broker(url, tls), "test")
    publisher.open(time.monotonic() + 10)
    publisher.close()


def _broker(url: str, tls: Tls | None) -> Broker:
    return Broker(url=(BrokerUrl.parse(url),), tls=tls, connect_timeout=8.0)


Open = Callable[[str, Tls | None], None]
opens = pytest.mark.parametrize("open_", [_block, _publish], ids=["consumer", "publisher"])


def refusal(open_: Open, url: str, tls: Tls | None) -> WorkqueuedError:
    """Why a connection is refused."""
    with pytest.raises((RefusedError, ConnectionLostError)) as caught:
        open_(url, tls)
    assert "guest:guest" not in str(caught.value)
    return caught.value


@opens
def test_a_broker_signed_by_a_stranger_is_refused(
    open_: Open, tls_node: TlsNode, authority: Authority, tmp_path: Path
) -> None:
    """By another authority than `ca`, and by one that the system does not know; `verify: false` takes any."""
    for tls in (None, Tls(ca=Authority(tmp_path).file)):
        error = refusal(open_, tls_node.tls_url(), tls)
        assert isinstance(error, RefusedError)
        assert "its certificate is not signed by anybody we trust" in str(error)
        assert "broker.tls.ca" in str(error)
    open_(tls_node.tls_url(), Tls(verify=False))


@opens
def test_a_broker_of_another_name_or_past_its_time_is_refused(
    open_: Open, tls_node: TlsNode, authority: Authority
) -> None:
    """Whoever has a certificate of the same authority cannot pass for the broker."""
    tls = Tls(ca=authority.file)
    open_(tls_node.tls_url("localhost"), tls)
    open_(tls_node.tls_url("127.0.0.1"), tls)
    try:
        tls_node.present(authority.issue("elsewhere", "elsewhere.example"))
        for host in ("localhost", "127.0.0.1"):
            error = refusal(open_, tls_node.tls_url(host), tls)
            assert isinstance(error, RefusedError)
            assert f"its certificate is not for {host}: broker.url must have a name that is in" in str(error)
        tls_node.present(authority.issue("expired", expired=True))
        error = refusal(open_, tls_node.tls_url(), tls)
        assert "its certificate has expired; or the clock of this host is wrong" in str(error)
    finally:
        tls_node.present(authority.issue("broker"))


@opens
def test_a_client_without_a_certificate_or_with_a_strangers_is_told(
    open_: Open, asking_node: TlsNode, authority: Authority, tmp_path: Path
) -> None:
    """TLS 1.3 tells after the handshake; the word may be lost on the way, then it is one of three that are named."""
    error = refusal(open_, asking_node.tls_url(), Tls(ca=authority.file))
    assert "wants to see a certificate of ours" in str(error) or "wants a certificate of ours" in str(error)
    assert "broker.tls.cert" in str(error)
    for issued in (Authority(tmp_path).issue("stranger"), authority.issue("late", expired=True)):
        error = refusal(open_, asking_node.tls_url(), Tls(ca=authority.file, cert=issued[0], key=issued[1]))
        assert "refuses our certificate" in str(error) or "refuses the one it got" in str(error)


@opens
def test_a_certificate_may_be_the_login(open_: Open, asking_node: TlsNode, authority: Authority) -> None:
    """For the user of its name, whatever the address says; told apart from a wrong password where there is none."""
    cert, key = authority.issue("robot")
    tls = Tls(ca=authority.file, cert=cert, key=key, login=True)
    error = refusal(open_, asking_node.tls_url(), tls)
    assert isinstance(error, RefusedError)
    assert "does not log us in by our certificate" in str(error)
    asking_node.ctl("add_user", "robot", "unused")
    try:
        asking_node.ctl("clear_password", "robot")
        asking_node.ctl("set_permissions", "-p", "/", "robot", ".*", ".*", ".*")
        open_(asking_node.tls_url(), tls)
    finally:
        asking_node.ctl("delete_user", "robot")


@opens
def test_the_wrong_port_is_told(open_: Open, tls_node: TlsNode, authority: Authority) -> None:
    """TLS with the plain port, and the reverse."""
    plain, tls = tls_node.url, tls_node.tls_url()
    error = refusal(open_, plain.replace("amqp:", "amqps:"), Tls(ca=authority.file))
    assert "this port does not speak TLS; plain AMQP is amqp://" in str(error)
    error = refusal(open_, tls.replace("amqps:", "amqp:"), None)
    assert "speaks TLS at this port (amqps://)" in str(error)


def test_a_list_may_have_both_kinds(tls_node: TlsNode, tmp_path: Path) -> None:
    """The first cannot be trusted, so the second is taken."""
    urls = tuple(map(BrokerUrl.parse, (tls_node.tls_url(), tls_node.url)))
    connect(Broker(url=urls, tls=Tls(ca=Authority(tmp_path).file)), "test").close()


# --- certificates that change ---------------------------------------------------------------------------------------


def test_a_renewed_authority_is_taken_up_at_the_next_connection_and_by_a_reload(
    make: Daemons, tls_node: TlsNode, authority: Authority, tmp_path: Path
) -> None:
    """Under the same name without a reload, under another with one. A file that is spoilt meanwhile ends nothing."""
    new = Authority(tmp_path / "new")
    trusted = tmp_path / "trusted.pem"
    shutil.copy(authority.file, trusted)
    with make(tls_node.tls_url(), {"ca": str(trusted)}) as running:
        try:
            running.consuming(1)
            tls_node.present(new.issue("broker"))
            tls_node.ctl("close_all_connections", "the certificate is renewed")
            refused = running.await_event("broker.refused")
            assert "its certificate is not signed by anybody we trust" in refused["error"]
            trusted.write_text("half of it")
            running.await_event("broker.refused", 2)
            assert "broker.tls.ca: found nothing of the kind in" in running.events("broker.refused")[1]["error"]
            shutil.copy(new.file, trusted)
            running.consuming(2)
            running.write(broker={"url": tls_node.tls_url(), "tls": {"ca": str(new.file)}})
            running.signal(SIGHUP)
            assert running.await_event("reload.started")["changed"] == ["broker.tls.ca"]
            running.consuming(3)
            running.write(broker={"url": tls_node.tls_url(), "tls": {"ca": str(tmp_path / "absent")}})
            running.signal(SIGHUP)
            assert "broker.tls.ca: cannot read" in running.await_event("reload.rejected")["error"]
        finally:
            tls_node.present(authority.issue("broker"))


def test_without_verification_each_start_warns(make: Daemons, tls_node: TlsNode) -> None:
    """So does --check, which is satisfied all the same."""
    with make(tls_node.tls_url(), {"verify": False}) as running:
        running.consuming(1)
        assert "passes for the broker" in running.await_event("tls.unverified")["error"]
        running.signal(SIGHUP)
        running.await_event("tls.unverified", 2)
        checked = run_cli("daemon", "--check", "--config", str(running.file), PYTHONPATH=str(Path(__file__).parents[1]))
        assert checked.returncode == 0, checked.stderr
        assert "warning        broker.tls.verify is false" in checked.stdout
