"""The private RabbitMQ node: it keeps what it promised to keep, and leaves nothing behind.

Needs rabbitmq-server; without it these tests are skipped at a desk and fail in CI.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest

from workqueued import node as node_module
from workqueued.node import BrokerError, DirectoryError, Node, find_server
from workqueued.proc import is_stopped

OWNER = """
import signal, sys
from pathlib import Path
from workqueued.node import Node
node = Node(Path(sys.argv[1]))
node.start()
print(node.url, flush=True)
signal.pause()
"""

PARENT = """
import signal, subprocess, sys
subprocess.Popen([sys.executable, "-m", "workqueued.cli.broker", "--directory", sys.argv[1]])
signal.pause()
"""


def eventually(condition: Callable[[], bool], within: float) -> bool:
    """Poll until the condition holds or the time is up."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


def processes_of(directory: Path) -> dict[int, str]:
    """The living processes that have the node's directory as their home (RabbitMQ, epmd, every helper)."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and f"HOME={directory}\0".encode() in (entry / "environ").read_bytes():
                found[int(entry.name)] = (entry / "cmdline").read_text(errors="replace").replace("\0", " ")
        except (OSError, ValueError):
            continue
    return found


def nothing_left(directory: Path) -> bool:
    """Whether the node's processes are all gone; the VM's helpers see end-of-file and take a moment."""
    return eventually(lambda: not processes_of(directory), within=30)


def program(source: str, directory: Path) -> subprocess.Popen[str]:
    """A Python process that runs the source for this directory."""
    return subprocess.Popen([sys.executable, "-c", source, str(directory)], stdout=subprocess.PIPE, text=True)


def wq_broker(*arguments: str | Path) -> subprocess.Popen[str]:
    """The command, as a process."""
    command = [sys.executable, "-m", "workqueued.cli.broker", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def first_line(process: subprocess.Popen[str]) -> str:
    """What the process prints first; waits for it."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def speaks(url: str) -> bool:
    """Whether guest can log in there."""
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        return bool(connection.is_open)


@pytest.fixture(scope="module", autouse=True)
def server() -> Path:
    """The installed rabbitmq-server."""
    try:
        return find_server()
    except BrokerError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A running node that the tests of this file share."""
    # A blank in the path: RabbitMQ's scripts are shell.
    with Node(tmp_path_factory.mktemp("private broker")) as running:
        yield running
    assert nothing_left(running.directory)


@pytest.mark.parametrize("ending", ["stop", "kill"])
def test_a_durable_queue_and_the_port_outlive_the_node(node: Node, ending: str) -> None:
    """A persistent message is there after stop (or kill) and start, at the same URL."""
    url = node.url
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        channel.queue_declare(ending, durable=True)
        time.sleep(5 if ending == "kill" else 0)  # RabbitMQ may lose a queue that is two seconds old (#15725)
        channel.basic_publish("", ending, b"kept", pika.BasicProperties(delivery_mode=2))
    getattr(node, ending)()
    assert not node.running
    assert nothing_left(node.directory)
    node.start()
    assert node.url == url
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        assert connection.channel().basic_get(ending, auto_ack=True)[2] == b"kept"


def test_a_node_remembers_its_port(node: Node) -> None:
    """Another Node for the same directory, in another run, has the same URL."""
    assert Node(node.directory).url == node.url


def test_everything_listens_on_loopback_only(node: Node) -> None:
    """AMQP, Erlang's distribution and epmd are out of reach of the network."""
    inodes = set()
    for pid in processes_of(node.directory):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a helper that has just ended
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):  # closed meanwhile: nothing that listens
                    inodes.add(str(descriptor.readlink()))
    hosts = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in inodes:
                hosts.append(local.split(":")[0])
    loopback4, loopback6 = "0100007F", "00000000000000000000000001000000"
    assert len(hosts) >= 3
    assert set(hosts) <= {loopback4, loopback6}


def test_ctl_returns_what_rabbitmqctl_prints(node: Node) -> None:
    """It reaches the node, with its cookie and its epmd."""
    assert node.ctl("list_vhosts").split() == ["name", "/"]


def test_ctl_fails_with_the_words_of_rabbitmqctl(node: Node) -> None:
    """A command that fails is an error that carries its output."""
    with pytest.raises(BrokerError, match=r"(?s)delete_vhost nowhere ended with \d+.*'nowhere'"):
        node.ctl("delete_vhost", "nowhere")


def test_a_paused_node_is_silent_until_it_is_resumed(node: Node) -> None:
    """SIGSTOP leaves the port open and unanswered; SIGCONT ends that."""
    node.pause()
    try:
        assert node.running
        assert is_stopped(node.pid)
        assert not node_module._speaks_amqp(node.port)
    finally:
        node.resume()
    assert speaks(node.url)


def test_a_second_node_in_the_directory_is_refused_and_the_first_unharmed(node: Node) -> None:
    """Within one process too; the text names the process that has it."""
    with pytest.raises(BrokerError, match=f"process {os.getpid()} already runs"):
        Node(node.directory).start()
    with wq_broker("--directory", node.directory, "--port", "1") as second:
        _, words = second.communicate(timeout=20)
    assert second.returncode == os.EX_UNAVAILABLE
    assert f"wq-broker: process {os.getpid()} already runs a RabbitMQ node in {node.directory}" in words
    assert speaks(node.url)
    assert Node(node.directory).port == node.port


def test_a_forked_child_cannot_stop_its_parents_node(node: Node) -> None:
    """After a fork the node belongs to the parent alone."""
    pid = os.fork()
    if pid == 0:
        node.stop()
        os._exit(0)
    os.waitpid(pid, 0)
    assert node.running
    assert speaks(node.url)


def test_a_busy_port_is_named_with_what_to_do(tmp_path: Path) -> None:
    """A port for life that another program took is an error for people, not another port."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BrokerError, match=rf"port {port} .* in use[^$]*--port N") as caught:
            Node(tmp_path, port=port).start()
    assert caught.value.exit_code == os.EX_UNAVAILABLE
    assert nothing_left(tmp_path)


def test_a_node_that_cannot_boot_says_why(tmp_path: Path) -> None:
    """The error carries the end of RabbitMQ's own log, and nothing is left."""
    with pytest.raises(BrokerError, match=r"(?s)ended with status \d+; its log:.*no\.such\.setting"):
        Node(tmp_path, settings={"no.such.setting": "1"}).start()
    assert nothing_left(tmp_path)


def test_a_late_node_is_killed(tmp_path: Path) -> None:
    """When the time is up, the half-booted node goes too."""
    with pytest.raises(BrokerError, match=r"is not ready after 0\.2 s"):
        Node(tmp_path).start(timeout=0.2)
    assert nothing_left(tmp_path)


def test_a_node_is_started_in_the_main_thread_only(tmp_path: Path) -> None:
    """The kernel would kill it at the end of the thread; so that is refused."""
    errors: list[BrokerError] = []

    def start() -> None:
        with pytest.raises(BrokerError, match="main thread") as caught:
            Node(tmp_path).start()
        errors.append(caught.value)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert errors
    assert nothing_left(tmp_path)


def test_kill_9_of_the_owner_leaves_nothing(tmp_path: Path) -> None:
    """RabbitMQ, epmd and their helpers die with the process that owns the node."""
    with program(OWNER, tmp_path) as owner:
        assert first_line(owner).startswith("amqp://guest:guest@127.0.0.1:")
        commands = " ".join(processes_of(tmp_path).values())
        owner.kill()
    assert "beam" in commands
    assert "epmd" in commands
    assert nothing_left(tmp_path)


def test_wq_broker_prints_the_url_and_stops_on_term(tmp_path: Path) -> None:
    """One line on stdout, words on stderr, 0 after a requested stop, nothing left."""
    with wq_broker("--directory", tmp_path) as command:
        url = first_line(command)
        assert speaks(url)
        command.terminate()
        rest, words = command.communicate(timeout=30)
    assert rest == ""
    assert url in words
    assert command.returncode == 0
    assert nothing_left(tmp_path)


def test_wq_broker_stops_at_once_while_it_boots(tmp_path: Path) -> None:
    """Ctrl-C is heard before the node is ready."""
    with wq_broker("--directory", tmp_path) as command:
        assert eventually(lambda: "beam" in " ".join(processes_of(tmp_path).values()), within=30)
        command.send_signal(signal.SIGINT)
        url, _ = command.communicate(timeout=10)
    assert (url, command.returncode) == ("", 0)
    assert nothing_left(tmp_path)


def test_wq_broker_ends_with_its_parent(tmp_path: Path) -> None:
    """`make run` dies of kill -9: its broker stops."""
    with program(PARENT, tmp_path) as parent:
        assert eventually(lambda: "beam" in " ".join(processes_of(tmp_path).values()), within=30)
        parent.kill()
    assert nothing_left(tmp_path)


def test_wq_broker_says_when_rabbitmq_ended_by_itself(tmp_path: Path) -> None:
    """69, and the log's end on stderr."""
    with wq_broker("--directory", tmp_path, "--quiet") as command:
        assert first_line(command)
        (vm,) = [pid for pid, text in processes_of(tmp_path).items() if "beam.smp" in text.split(" ")[0]]
        os.kill(vm, signal.SIGKILL)
        _, words = command.communicate(timeout=20)
    assert command.returncode == os.EX_UNAVAILABLE
    assert words.startswith("wq-broker: RabbitMQ ended by itself, status -9; its log:\n")
    assert nothing_left(tmp_path)


def test_a_missing_rabbitmq_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The text says how to install it, how to keep its service off, and that an own broker will do."""
    monkeypatch.delenv("WQ_RABBITMQ_HOME", raising=False)
    monkeypatch.setattr(node_module, "PACKAGED", tmp_path)
    with pytest.raises(BrokerError) as caught:
        find_server()
    for words in (str(tmp_path), "apt-get install rabbitmq-server", "disable --now", "`broker: url:`"):
        assert words in str(caught.value)


def test_wq_broker_without_rabbitmq_exits_69(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same words on stderr, and a status that scripts can read."""
    monkeypatch.setenv("WQ_RABBITMQ_HOME", str(tmp_path))
    with wq_broker("--directory", tmp_path / "node", "--quiet") as command:
        _, words = command.communicate(timeout=20)
    assert command.returncode == os.EX_UNAVAILABLE
    assert words.startswith(f"wq-broker: there is no rabbitmq-server in {tmp_path}/sbin or {tmp_path}/bin")


def test_a_directory_that_cannot_be_made_exits_73(tmp_path: Path) -> None:
    """A file where the directory should be, for one."""
    (tmp_path / "file").touch()
    with pytest.raises(DirectoryError):
        Node(tmp_path / "file" / "node").start()
    with wq_broker("--directory", tmp_path / "file") as command:
        command.communicate(timeout=20)
    assert command.returncode == os.EX_CANTCREAT


@pytest.mark.parametrize("arguments", [["--port", "0"], ["--port", "x"], ["--no-such"], ["extra"]])
def test_a_wrong_command_line_exits_64(arguments: list[str]) -> None:
    """EX_USAGE, not argparse's 2."""
    with wq_broker(*arguments) as command:
        _, words = command.communicate(timeout=20)
    assert command.returncode == os.EX_USAGE
    assert "wq-broker: " in words
