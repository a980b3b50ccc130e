"""What the broker tests share: wq-send in this process, a configuration file, users with less than every right."""

import contextlib
import functools
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness import Vhost, memory_alarm

from workqueued.broker_settings import Broker
from workqueued.cli.send import main
from workqueued.node import Node
from workqueued.urls import BrokerUrl

CONNECTION_CLOSE = b"\x00\x0a\x00\x32"  # class 10, method 50
ESTABLISHED = 1  # tcp_states.h


@dataclass(frozen=True)
class Done:
    """What wq-send did."""

    code: int
    out: str
    err: str

    @property
    def ids(self) -> list[str]:
        """The lines it printed."""
        return self.out.splitlines()


Send = Callable[..., Done]
MakeConfig = Callable[..., Path]
MakeUser = Callable[..., str]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WQ_URL", "WQ_CONFIG"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def wq_send(capsys: pytest.CaptureFixture[str]) -> Iterator[Send]:
    """Runs wq-send in this process, which is ten times faster than a new one."""
    stdin = os.dup(0)

    def run(*arguments: str | Path, stdin: bytes = b"") -> Done:
        content = os.memfd_create("stdin")
        os.write(content, stdin)
        os.lseek(content, 0, os.SEEK_SET)
        os.dup2(content, 0)
        os.close(content)
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return Done(code, out, err)

    yield run
    os.dup2(stdin, 0)
    os.close(stdin)


@pytest.fixture
def make_config(tmp_path: Path, vhost: Vhost) -> MakeConfig:
    """Writes a configuration for the test's vhost; `queues` are classic unless they say otherwise."""

    def make(*names: str, url: str = vhost.url, queues: dict[str, Any] | None = None, **broker: Any) -> Path:
        plain = {name: {"handler": "workqueued.samples:dots", "type": "classic"} for name in names}
        file = tmp_path / "workqueued.yaml"
        file.write_text(yaml.safe_dump({"broker": {"url": url, **broker}, "queues": {**plain, **(queues or {})}}))
        return file

    return make


@pytest.fixture
def make_user(node: Node, vhost: Vhost) -> MakeUser:
    """Makes a user of the test's vhost (password pw) and returns its URL; made again, it has the new rights."""

    def make(name: str, configure: str = ".*", write: str = ".*", read: str = ".*") -> str:
        rights = ", ".join(f'<<"{word}">>' for word in (configure, write, read, "tests"))
        node.ctl(
            "eval",
            f'catch rabbit_auth_backend_internal:add_user(<<"{name}">>, <<"pw">>, <<"tests">>), '
            f'rabbit_auth_backend_internal:set_permissions(<<"{name}">>, <<"{vhost.name}">>, {rights}).',
        )
        return vhost.url.replace("guest:guest", f"{name}:pw")

    return make


@pytest.fixture
def broker(vhost: Vhost) -> Broker:
    """The test's vhost, as the parts of workqueued know it."""
    return Broker(url=(BrokerUrl.parse(vhost.url),))


@pytest.fixture
def paused(node: Node) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """A block in which the broker hangs."""

    @contextlib.contextmanager
    def block() -> Iterator[None]:
        node.pause()
        try:
            yield
        finally:
            node.resume()

    return block


@pytest.fixture
def alarm(node: Node) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """A block in which the broker's memory alarm blocks publishers."""
    return functools.partial(memory_alarm, node)


def hung_up(connection: Any) -> Callable[[], bool]:
    """Whether the broker ended a SelectConnection that nobody reads: it said so, or closed the socket."""
    link: socket.socket = connection._transport._sock

    def ended() -> bool:
        if link.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != ESTABLISHED:
            return True
        try:
            return CONNECTION_CLOSE in link.recv(4096, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False

    return ended


@pytest.fixture
def broker_hung_up() -> Callable[[Any], Callable[[], bool]]:
    """See `hung_up`."""
    return hung_up
