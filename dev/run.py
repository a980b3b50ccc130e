"""`make run`: a broker, supervisord and the daemon in the foreground, and what to try next.

Runs in: its own process, the parent of all the others; when it ends, they end.

The configuration is ./workqueued.yaml, made the first time and the user's own from then on. What else a run leaves
behind lies in .run/.
"""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from dev.stage import ROOT, TUTORIAL, Daemon, Interrupt, StageError, adapted, tell
from workqueued.config import Config, read_config
from workqueued.errors import WorkqueuedError
from workqueued.node import Node, eventually
from workqueued.scoreboard import Cell
from workqueued.sender import Sender

CONFIG = ROOT / "workqueued.yaml"
STATE = ROOT / ".run"
#: The handler that understands the tutorial's messages.
SAMPLE = "workqueued.samples:dots"

MADE_BY = "# Made by `make run`, for you to change; delete it and the next `make run` makes it anew.\n"

NEXT = """
---- It works. In another terminal, in {root}, try:

    .venv/bin/wq-send Hello...                                a task of three seconds
    .venv/bin/wq-send --delay 10s Later.                      a task of a second, in ten seconds
    seq 1 10000 | .venv/bin/wq-send --lines --quiet           ten thousand that take no time
    pgrep -af workqueued:                                     the workers; kill -9 one of them
    pkill -9 -f $PWD/.run/broker                              the broker as well; it is started again
    .venv/bin/wq-status --watch                               how it is, live; q ends it
    .venv/bin/wq-dead list                                    what failed for good: nothing yet
    {ctl} status

  Change `workers:` in workqueued.yaml, or anything else there, and have it read again:

    {ctl} signal HUP workqueued

---- Ctrl-C here stops everything, when the running tasks are done; twice: at once, the tasks stay in the queue.
"""


def say(text: str) -> None:
    """Tell the user something, apart from the log's lines."""
    tell(f"make run: {text}")


def main() -> int:
    """Run until Ctrl-C; returns the exit code."""
    interrupt = Interrupt(_hand_back)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        STATE.mkdir(exist_ok=True)
        with broker() as node:
            _link_config()
            # /dev/fd/1: supervisord's own stdout, be it a terminal, a pipe or a file.
            with Daemon(read_config(CONFIG), STATE, Path("/dev/fd/1")) as daemon:
                _play(daemon, node)
            say("stopped")
    except KeyboardInterrupt:
        say("stopped, nothing is left running")
    except WorkqueuedError as error:
        print(f"make run: {error}", file=sys.stderr)
        return error.exit_code
    return os.EX_OK


def _hand_back() -> None:
    """Ctrl-C once more: do not wait for the running tasks."""
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((STATE / "workqueued/pid").read_text()), signal.SIGQUIT)


@contextlib.contextmanager
def broker() -> Iterator[Node | None]:
    """Have the broker that workqueued.yaml names: the private one, or (None) one that is none of our business."""
    port = _port_in_config()
    node = Node(STATE / "broker", port=None if (STATE / "broker/port").exists() else port)
    if port is not None and port != node.port:
        say(f"workqueued.yaml names port {port}; the private broker has {node.port} and is not started.")
        say(f"Is that a mistake? Then write `url: {node.url}` into workqueued.yaml.")
        yield None
        return
    if port is None and CONFIG.exists():
        say("workqueued.yaml names a broker that is not on this host; no private one is started")
        yield None
        return
    say("starting a private RabbitMQ …")
    begin = time.monotonic()
    with node:
        say(f"RabbitMQ is ready after {time.monotonic() - begin:.1f} s: {node.url}")
        _make_config(node.url)
        yield node


def _port_in_config() -> int | None:
    """The port of the broker on this host that workqueued.yaml names, if it does."""
    if not CONFIG.exists():
        return None
    ports = [url.port for url in read_config(CONFIG).broker.url if url.host in ("127.0.0.1", "localhost")]
    return ports[0] if ports else None


def _make_config(url: str) -> None:
    """Write workqueued.yaml, the first time."""
    if CONFIG.exists():
        return
    sample = (ROOT / "etc/workqueued.yaml").read_text(encoding="utf-8")
    changes = {
        "url": url,
        "pythonpath": "[.]",
        "monitor": "{interval: 5s}",
        "log": "{level: info, format: console}",
        "run_directory": ".run/workqueued",
    }
    CONFIG.write_text(MADE_BY + adapted(sample, changes), encoding="utf-8")
    say("made workqueued.yaml")


def _link_config() -> None:
    """Let the commands of .venv find workqueued.yaml without an option."""
    link = Path(sys.prefix, "etc/workqueued/workqueued.yaml")
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.exists():
        link.unlink(missing_ok=True)  # one that points nowhere
        link.symlink_to(os.path.relpath(CONFIG, link.parent))


def _play(daemon: Daemon, node: Node | None) -> None:
    """Send the tutorial's messages once the workers are there, and say what to do next."""
    wanted = sum(queue.active_workers for queue in daemon.config.queues.values())

    def ready() -> bool:
        return len(daemon.workers()) >= wanted or not daemon.running

    if not eventually(ready, within=23) or not daemon.running:
        raise StageError(f"{len(daemon.workers())} of {wanted} workers take messages: see the log above.")
    sent = _send_tutorial(daemon.config)
    eventually(lambda: _done(daemon) >= sent or not daemon.running, within=15)
    if daemon.running:
        tell(NEXT.format(root=ROOT, ctl=daemon.ctl_command))
    daemon.wait(look=lambda: _revive(node))


def _revive(node: Node | None) -> None:
    """Start the private broker again when somebody has killed it, to see what happens."""
    if node is not None and not node.running:
        say("RabbitMQ is gone; starting it again …")
        node.start()
        say("RabbitMQ is back")


def _send_tutorial(config: Config) -> int:
    """Send the tutorial's messages to the queue whose handler understands them; returns how many."""
    queue = next((name for name, queue in config.queues.items() if queue.handler == SAMPLE), None)
    if queue is None:
        say(f"no queue has the handler {SAMPLE}: the tutorial's messages are not sent")
        return 0
    say(f"sending the tutorial's messages: {', '.join(TUTORIAL)}")
    with Sender(config=config.file) as sender:
        for text in TUTORIAL:
            sender.send(text, queue=queue)
    return len(TUTORIAL)


def _done(daemon: Daemon) -> int:
    return sum(row.words[Cell.DONE] for row in daemon.workers())


if __name__ == "__main__":
    sys.exit(main())
