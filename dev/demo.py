"""`make demo`: what workqueued promises, shown in under a minute, with figures.

Runs in: its own process, the parent of all the others; when it ends, they end.

Every step waits for an event in the daemon's log, and fails when that does not come in time. State, configuration and
log lie in .run/demo/ until the next demo; a `make run` beside it is not disturbed.
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from dev.ledger import LEDGER, STATE
from dev.stage import BIN, ROOT, TUTORIAL, Daemon, Interrupt, StageError, adapted, tell
from workqueued.config import read_config
from workqueued.errors import WorkqueuedError
from workqueued.node import Node, eventually
from workqueued.scoreboard import Cell, Row, State
from workqueued.sender import Sender

CONFIG, LOG = STATE / "workqueued.yaml", STATE / "workqueued.log"
QUEUE = "task_queue"
#: How long a step may take before the demo fails, seconds.
PATIENCE = 30.0
#: How often something is measured whose median is told.
TIMES = 5

#: The shortest program that does with pika what `wq-send` does for an unwary user: it does not wait for a confirm.
PIKA_SEND = """
import pika, sys
connection = pika.BlockingConnection(pika.URLParameters(sys.argv[1]))
properties = pika.BasicProperties(delivery_mode=2, message_id=sys.argv[2])
connection.channel().basic_publish("", "task_queue", b"hello", properties)
connection.close()
"""

Event = dict[str, Any]


def say(text: str) -> None:
    """Tell what happens, as it happens."""
    tell(f"demo {time.monotonic() - _BEGIN:5.1f} s  {text}")


_BEGIN = time.monotonic()


class Log:
    """The daemon's log, read as it grows."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("rb")
        self._rest = b""
        self.events: list[Event] = []

    def now(self) -> int:
        """The present end of the log, for `wait`."""
        self._read()
        return len(self.events)

    def wait(self, event: str, since: int, *, count: int = 1, **facts: object) -> list[Event]:
        """Wait until `count` events with this name and these facts have come after `since`; return them.

        Raises:
            StageError: they did not come in time.
        """

        def found() -> list[Event]:
            self._read()
            wanted = {"event": event, **facts}
            return [e for e in self.events[since:] if all(e.get(key) == value for key, value in wanted.items())]

        if not eventually(lambda: len(found()) >= count, PATIENCE):
            what = " ".join([event, *(f"{key}={value}" for key, value in facts.items())])
            raise StageError(f"{len(found())} of {count} events `{what}` came within {PATIENCE:g} s; {LOG} has more")
        return found()[:count]

    def _read(self) -> None:
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        # A daemon that cannot start says why in words.
        self.events += [json.loads(line) for line in lines if line.startswith(b"{")]


def at(event: Event) -> float:
    """When an event was logged, seconds since 1970, to the millisecond."""
    return datetime.fromisoformat(event["time"]).timestamp()


def milliseconds(seconds: float) -> str:
    """A duration for eyes."""
    return f"{seconds * 1000:.0f} ms"


class Demo:
    """The steps, in the order of `main`. Each one adds to `figures`."""

    def __init__(self, daemon: Daemon, log: Log, sender: Sender, url: str) -> None:
        self._daemon = daemon
        self._log = log
        self._sender = sender
        self._url = url
        self.sent: set[str] = set()
        self.figures: dict[str, str] = {}

    def send(self, *texts: str) -> list[str]:
        """Send messages, each confirmed by the broker; returns their ids."""
        ids = list(self._sender.send_many(self._sender.message(text, queue=QUEUE) for text in texts))
        self.sent.update(ids)
        return ids

    def await_start(self) -> None:
        """From nothing to workers that take messages."""
        begin = time.time()
        self._daemon.start()
        first = self._log.wait("worker.consuming", 0)[0]
        self._log.wait("worker.consuming", 0, count=4)
        (master,) = self._log.wait("master.started", 0)
        alone = at(first) - started_at(master["pid"])
        self.figures["start to first worker"] = (
            f"{milliseconds(alone)} (with supervisord's own start {milliseconds(at(first) - begin)})"
        )
        say(f"supervisord runs, and four workers take messages {at(first) - begin:.1f} s after its start")

    def send_tutorial(self) -> None:
        """The five messages of the tutorial, and hundreds that take no time, which pass them by."""
        begin = time.monotonic()
        self.send(*TUTORIAL)
        quick = self.send(*map(str, range(500)))
        say(f"sent the tutorial's messages and {len(quick)} quick ones in {time.monotonic() - begin:.2f} s")
        self._await_handled()
        say(f"all were handled after {time.monotonic() - begin:.1f} s; the longest of them takes 5 s")

    def measure_memory(self) -> None:
        """What a worker adds: pages shared with the master count in part (PSS)."""
        sizes = [proportional_size(row.words[Cell.PID]) for row in self._daemon.workers()]
        self.figures["memory per worker (PSS)"] = f"{statistics.mean(sizes):.1f} MB, with {len(sizes)} workers"

    def compare_with_pika(self) -> None:
        """The time of the `wq-send` command, beside a program of five lines."""
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        ours: list[float] = []
        theirs: list[float] = []
        for turn in range(TIMES + 1):  # the first one fills caches
            hello = [str(BIN / "wq-send"), "--config", str(CONFIG), "--message-id", f"wq-send-{turn}", "hello"]
            bare = [sys.executable, "-c", PIKA_SEND, self._url, f"pika-{turn}"]
            for command, times in ((hello, ours), (bare, theirs)):
                begin = time.perf_counter()
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
                times.append(time.perf_counter() - begin)
            self.sent |= {f"wq-send-{turn}", f"pika-{turn}"}
        mine, other = statistics.median(ours[1:]), statistics.median(theirs[1:])
        figure = f"{milliseconds(mine)}, the shortest pika script {milliseconds(other)}"
        self.figures["wq-send hello"] = f"{figure}, ratio {mine / other:.2f}"
        say(f"`wq-send hello` takes {figure}")

    def kill_workers(self) -> None:
        """SIGKILL in mid-task, five times: the message goes to another worker, the slot gets a new one."""
        delays = []
        for turn in range(TIMES):
            mark = self._log.now()
            (message,) = self.send("A task that is killed..")
            victim = self._busy_with(message)
            slot, pid = victim.name, victim.words[Cell.PID]
            begin = time.time()
            os.kill(pid, signal.SIGKILL)
            self._log.wait("worker.died", mark, message_id=message, pid_died=pid)
            (consuming,) = self._log.wait("worker.consuming", mark, slot=slot)
            delays.append(at(consuming) - begin)
            (settled,) = self._log.wait("delivery.settled", mark, message_id=message, redelivered=True)
            if turn == 0:
                say(f"kill -9 of worker {slot} (pid {pid}) in mid-task: a new one after {milliseconds(delays[0])},")
                say(f"    and the task was given to {settled['slot']} (pid {settled['pid']}), which finished it")
            # A worker that dies before it has settled anything is replaced more slowly each time.
            self.send(*map(str, range(50)))
            self._await_handled()
        self.figures[f"kill -9 to replacement ({TIMES} x)"] = (
            f"median {milliseconds(statistics.median(delays))}, most {milliseconds(max(delays))}"
        )

    def reload(self) -> None:
        """From four workers to six, by an edit and a HUP, while messages flow."""
        mark = self._log.now()
        CONFIG.write_text(adapted(CONFIG.read_text(), {"workers": "6"}))
        self.send(*map(str, range(300)))
        begin = time.time()
        self._daemon.ctl("signal", "HUP", "workqueued")
        self._log.wait("reload.started", mark)
        last = self._log.wait("worker.consuming", mark, count=6, generation=2)[-1]
        self.figures["reload, 4 to 6 workers"] = milliseconds(at(last) - begin)
        say(f"reload from four workers to six, each of them new: {milliseconds(at(last) - begin)}")
        self._await_handled()

    def kill_master(self) -> None:
        """SIGKILL of the master in mid-task: its workers finish theirs and go, supervisord starts a new one."""
        ids = self.send(*["A task of a second."] * 12)
        self._busy_with(*ids)
        mark = self._log.now()
        begin = time.time()
        os.kill(self._daemon.master_pid or 0, signal.SIGKILL)
        first = self._log.wait("worker.consuming", mark, generation=1)[0]
        self._log.wait("worker.consuming", mark, generation=1, count=6)
        self.figures["kill -9 of the master to first worker"] = milliseconds(at(first) - begin)
        say(f"kill -9 of the master: new workers after {milliseconds(at(first) - begin)}, by supervisord")

    def finish(self) -> None:
        """Wait until the queue is empty, and count."""
        self._await_handled()
        self._log.wait("queue.depth", self._log.now(), queue=QUEUE, ready=0, in_flight=0)
        begin = time.monotonic()
        self._daemon.close()
        say(f"the queue is empty; stopped in {time.monotonic() - begin:.1f} s")

    def _await_handled(self) -> None:
        if not eventually(lambda: self.sent <= handled().keys(), PATIENCE):
            missing = self.sent - handled().keys()
            raise StageError(f"{len(missing)} messages are not handled after {PATIENCE:g} s: {sorted(missing)[:3]} …")

    def _busy_with(self, *ids: str) -> Row:
        """Wait until a worker has one of these messages in hand."""
        found: list[Row] = []

        def look() -> list[Row]:
            rows = self._daemon.workers()
            found.extend(row for row in rows if row.state is State.BUSY and row.message_id in ids)
            return found

        if not eventually(look, PATIENCE):
            raise StageError(f"no worker took message {ids[0]} within {PATIENCE:g} s")
        return found[0]

    def summary(self) -> str:
        """The figures, and what became of the messages."""
        counts = handled()
        lost = len(self.sent - counts.keys())
        twice = sum(count > 1 for count in counts.values())
        given_again = sum(e["event"] == "delivery.settled" and "redelivered" in e for e in self._log.events)
        words = f"{len(self.sent)} sent, {len(counts)} handled, {lost} lost, {twice} handled twice"
        table = {"messages": f"{words} ({given_again} were given to a second worker)", **self.figures}
        return "\n".join(f"  {name:<38} {value}" for name, value in table.items())


def handled() -> Counter[str]:
    """How often each message was handled to the end."""
    return Counter(LEDGER.read_text().split()) if LEDGER.exists() else Counter()


def started_at(pid: int) -> float:
    """When a process was started, seconds since 1970, to 10 ms: field 22 of proc(5)'s stat, ticks since boot."""
    ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def proportional_size(pid: int) -> float:
    """A process's PSS, MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


@contextlib.contextmanager
def fresh_state() -> Iterator[None]:
    """Empty .run/demo, and keep a second demo out of it."""
    STATE.parent.mkdir(exist_ok=True)
    with (STATE.parent / "demo.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StageError("another `make demo` runs in this folder") from error
        shutil.rmtree(STATE, ignore_errors=True)
        STATE.mkdir()
        yield


def write_config(url: str) -> None:
    """The sample configuration, with the handler that keeps a ledger, and JSON lines to wait for."""
    changes = {
        "url": url,
        "handler": "dev.ledger:dots",
        "pythonpath": "[../..]",
        "monitor": "{interval: 500ms}",
        "log": "{level: info, format: json}",
        "run_directory": "workqueued",
    }
    CONFIG.write_text(adapted((ROOT / "etc/workqueued.yaml").read_text(encoding="utf-8"), changes))


def perform() -> Demo:
    """All steps."""
    say("starting a private RabbitMQ")
    with Node(STATE / "broker") as node:
        write_config(node.url)
        log = Log(LOG)
        daemon = Daemon(read_config(CONFIG), STATE, LOG)
        with contextlib.closing(daemon), Sender(config=CONFIG) as sender:
            demo = Demo(daemon, log, sender, node.url)
            demo.await_start()
            demo.send_tutorial()
            demo.measure_memory()
            demo.compare_with_pika()
            demo.kill_workers()
            demo.reload()
            demo.kill_master()
            demo.finish()
    return demo


def main() -> int:
    """Run the demo; returns its exit code."""
    interrupt = Interrupt(lambda: None)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        with fresh_state():
            demo = perform()
            tell(f"\n{demo.summary()}\n")
    except KeyboardInterrupt:
        print("demo: interrupted; nothing is left running", file=sys.stderr)
        return 130
    except WorkqueuedError as error:
        print(f"demo: FAILED: {error}", file=sys.stderr)
        return error.exit_code
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
