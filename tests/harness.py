"""What the tests stand on: a running daemon whose log is read as events, and waiting for a condition."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGTERM, Signals
from typing import Any, Self

import pika
import yaml

from workqueued.node import Node

TESTS = Path(__file__).parent
HOT_PATH = os.environ.get("WQ_TEST_HOT_PATH") != "0"
Event = dict[str, Any]


def eventually(condition: Callable[[], object], within: float = 30.0, what: str = "") -> Any:
    """Wait until the condition is truthy and return its value; fail after `within` seconds."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what or condition}")
        time.sleep(0.02)


@contextlib.contextmanager
def memory_alarm(node: Node) -> Iterator[None]:
    """A block in which the broker's memory alarm blocks publishers.

    It starts when the connections know: one that publishes earlier is told nothing before it publishes again.
    """
    # The alarm handler tells the connections before it answers the question.
    node.ctl(
        "eval",
        """vm_memory_monitor:set_vm_memory_high_watermark(0.0000001),
        (fun Wait() -> case rabbit_alarm:get_alarms() of [] -> timer:sleep(20), Wait(); _ -> ok end end)().""",
    )
    try:
        yield
    finally:
        node.ctl("set_vm_memory_high_watermark", "0.4")


class Vhost:
    """A vhost of its own for one test."""

    def __init__(self, port: int, name: str) -> None:
        self.port, self.name = port, name
        self.url = f"amqp://guest:guest@127.0.0.1:{port}/{name}"

    def connect(self) -> Any:
        """A pika connection."""
        return pika.BlockingConnection(pika.URLParameters(self.url))

    @contextlib.contextmanager
    def channel(self, *, confirmed: bool = False) -> Iterator[Any]:
        """A pika channel on a connection that lives as long as the block.

        Args:
            confirmed: each publish is waited for. Else a quorum queue may lose what it has not taken when the channel
                goes: it can hear of that end before it gets to the last messages.
        """
        connection = self.connect()
        try:
            channel = connection.channel()
            if confirmed:
                channel.confirm_delivery()
            yield channel
        finally:
            if connection.is_open:
                connection.close()

    def count(self, queue: str) -> int:
        """Ready messages of a queue; -1 when there is none."""
        with self.channel() as channel:
            try:
                return int(channel.queue_declare(queue, passive=True).method.message_count)
            except pika.exceptions.ChannelClosedByBroker:
                return -1

    def get(self, queue: str) -> tuple[Any, bytes]:
        """Take one message off a queue: its properties and its body."""

        def take() -> tuple[Any, bytes] | None:
            with self.channel() as channel:
                method, properties, body = channel.basic_get(queue, auto_ack=True)
                return (properties, body) if method else None

        message: tuple[Any, bytes] = eventually(take, what=f"a message in {queue}")
        return message

    def publish(self, queue: str, *bodies: bytes | str, **properties: Any) -> None:
        """Publish as a stranger would: confirmed, mandatory, persistent."""
        with self.channel(confirmed=True) as channel:
            for body in bodies:
                channel.basic_publish(
                    "",
                    queue,
                    body if isinstance(body, bytes) else body.encode(),
                    pika.BasicProperties(delivery_mode=2, **properties),
                    mandatory=True,
                )


class Daemon:
    """`workqueued` as an operator runs it: a process, a YAML file, a log."""

    def __init__(self, directory: Path, vhost: Vhost | str, queues: dict[str, Any], **settings: Any) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.file = directory / "workqueued.yaml"
        self.log = directory / "log"
        self.settings: dict[str, Any] = {
            # A whole run may go the other way: WQ_TEST_HOT_PATH=0.
            "broker": {"url": vhost if isinstance(vhost, str) else vhost.url, "hot_path": HOT_PATH},
            "queues": queues,
            "run_directory": "run",
            "pythonpath": str(TESTS),
            "monitor": {"interval": "1s"},
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.write()

    def write(self, **changes: Any) -> None:
        """Write the YAML file, with some top-level keys changed."""
        self.settings |= changes
        # Tests run side by side, and there is one default port.
        monitor = {"listen": "none", **self.settings.get("monitor", {})}
        self.file.write_text(yaml.safe_dump(self.settings | {"monitor": monitor}, sort_keys=False))

    def start(self, **environment: str) -> Self:
        """Start the daemon; its ledger (see `ledgers`) is `directory/ledger`."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "workqueued.cli.daemon", "--config", str(self.file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "WQ_TEST_DIRECTORY": str(self.directory), **environment},
            )
        return self

    def __enter__(self) -> Self:
        return self.start() if self.process is None else self

    def __exit__(self, *_: object) -> None:
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, SIGCONT)
            os.killpg(self.process.pid, SIGKILL)
        self.process.wait()

    @property
    def pid(self) -> int:
        """The master's pid."""
        assert self.process is not None
        return self.process.pid

    def signal(self, number: Signals) -> None:
        """Send the master a signal."""
        os.kill(self.pid, number)

    def wait(self, within: float = 40.0) -> int:
        """Wait for the master's end; returns its exit code."""
        assert self.process is not None
        return self.process.wait(within)

    def stop(self, number: Signals = SIGTERM, within: float = 40.0) -> int:
        """Signal the master and wait for its end."""
        self.signal(number)
        return self.wait(within)

    def events(self, name: str | None = None, **facts: Any) -> list[Event]:
        """The log's events with this name and these facts, oldest first; a line that is no JSON fails the test."""
        found: list[Event] = []
        if not self.log.exists():
            return found
        for line in self.log.read_bytes().split(b"\n")[:-1]:
            event = json.loads(line)
            if name in (None, event["event"]) and all(event.get(key) == value for key, value in facts.items()):
                found.append(event)
        return found

    def await_event(self, name: str, count: int = 1, within: float = 30.0, **facts: Any) -> Event:
        """Wait for the count-th event of this name with these facts, and return it."""

        def there() -> Event | None:
            found = self.events(name, **facts)
            return found[count - 1] if len(found) >= count else None

        try:
            event: Event = eventually(there, within)
        except AssertionError as error:
            seen = "\n".join(json.dumps(e) for e in self.events()[-15:])
            raise AssertionError(f"no {name} {facts} (x{count}) within {within} s; the log's end:\n{seen}") from error
        return event

    def consuming(self, count: int, within: float = 30.0) -> list[Event]:
        """Wait until so many worker.consuming events were logged in all."""
        self.await_event("worker.consuming", count, within)
        return self.events("worker.consuming")

    def ledger(self) -> list[Event]:
        """What the handlers of `ledgers` wrote down, oldest first."""
        path = self.directory / "ledger"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def started(self, body: str | None = None) -> list[Event]:
        """The ledger's beginnings, of all tasks or of those with a body, in order."""
        return [entry for entry in self.ledger() if entry["what"] == "started" and body in (None, entry["body"])]

    def done(self) -> list[str]:
        """The bodies whose handler finished, in order."""
        return [entry["body"] for entry in self.ledger() if entry["what"] == "finished"]


def run_cli(module: str, *arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one of our commands to its end."""
    done = subprocess.run(
        [sys.executable, "-m", f"workqueued.cli.{module}", *arguments],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=90,
        env={**os.environ, **environment},
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode(errors="replace")
    )


def alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"
