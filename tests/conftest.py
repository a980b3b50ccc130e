"""Fixtures: one private RabbitMQ node for the whole run, a vhost for each test."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
from harness import Daemon, Vhost
from tls_broker import Authority, TlsNode

from workqueued import node as broker_nodes
from workqueued.node import BrokerError, Node

AnyNode = TypeVar("AnyNode", bound=Node)
_VHOSTS_AT_ONCE = 30
_RENEW_VHOSTS = """[rabbit_vhost:delete(V, <<"tests">>) || V <- [%s]], [begin
    rabbit_vhost:add(V, <<"tests">>),
    rabbit_auth_backend_internal:set_permissions(<<"guest">>, V, <<".*">>, <<".*">>, <<".*">>, <<"tests">>)
end || V <- [%s]]."""


def pytest_configure() -> None:
    """Of several processes each chooses from ports of its own: while a node is stopped, its ports are free."""
    number, all_of_them = (os.environ.get(f"PYTEST_XDIST_WORKER{what}") for what in ("", "_COUNT"))
    if number and all_of_them:
        broker_nodes.PORTS = broker_nodes.PORTS[int(number.removeprefix("gw")) :: int(all_of_them)]


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A private RabbitMQ node. Without rabbitmq-server a test is skipped at a desk and fails in CI."""
    with running(Node(tmp_path_factory.mktemp("broker"), name="wqtest")) as node:
        yield node


@pytest.fixture(scope="session")
def mortal_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node for tests that stop it: with few vhosts, each of which takes its time at every start."""
    with running(Node(tmp_path_factory.mktemp("mortal"), name="wqtest")) as node:
        yield node


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Whoever signed the certificates of the nodes that speak TLS."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def tls_node(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[TlsNode]:
    """A node that speaks TLS with anybody."""
    with running(TlsNode(tmp_path_factory.mktemp("tls"), authority, asks=False)) as node:
        yield node


@pytest.fixture(scope="session")
def asking_node(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[TlsNode]:
    """A node that speaks TLS with those alone who have a certificate of the authority."""
    with running(TlsNode(tmp_path_factory.mktemp("asking"), authority, asks=True)) as node:
        yield node


@contextlib.contextmanager
def running(node: AnyNode) -> Iterator[AnyNode]:
    """A node that runs."""
    try:
        node.start()
    except BrokerError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    try:
        yield node
    finally:
        node.stop()


@pytest.fixture
def mortal(mortal_node: Node, request: pytest.FixtureRequest) -> Vhost:
    """A vhost of its own on the node that may be stopped."""
    name = f"m{abs(hash(request.node.nodeid))}"
    mortal_node.ctl("add_vhost", name)
    mortal_node.ctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
    return Vhost(mortal_node.port, name)


@pytest.fixture(scope="session")
def vhosts(node: Node) -> Callable[[], Vhost]:
    """Makes vhosts, many with one call, as rabbitmqctl takes half a second each time, and deletes those of old.

    Each takes memory and files: RabbitMQ 4.0 did not survive the 280th. The last batch stays, as a test may have
    begun with one.
    """
    ready: list[str] = []
    batches: list[list[str]] = []
    made = 0

    def make() -> Vhost:
        nonlocal made
        if not ready:
            names = [f"test{number}" for number in range(made, made + _VHOSTS_AT_ONCE)]
            made += _VHOSTS_AT_ONCE
            old = batches.pop(0) if len(batches) > 1 else []
            node.ctl("eval", _RENEW_VHOSTS % (_binaries(old), _binaries(names)), timeout=120)
            batches.append(names)
            ready.extend(reversed(names))
        return Vhost(node.port, ready.pop())

    return make


def _binaries(names: list[str]) -> str:
    return ", ".join(f'<<"{name}">>' for name in names)


@pytest.fixture
def vhost(vhosts: Callable[[], Vhost]) -> Vhost:
    """A vhost that nobody else uses."""
    return vhosts()


@pytest.fixture
def daemon(tmp_path: Path, vhost: Vhost) -> Iterator[Callable[..., Daemon]]:
    """Makes daemons on the test's vhost, not started yet; all are gone at the end."""
    daemons: list[Daemon] = []

    def make(queues: dict[str, Any] | None = None, *, name: str = "daemon", **settings: Any) -> Daemon:
        queues = queues or {"task_queue": {"handler": "ledgers:work", "workers": 2}}
        daemons.append(Daemon(tmp_path / name, settings.pop("url", vhost), queues, **settings))
        return daemons[-1]

    yield make
    for one in daemons:
        one.__exit__()
