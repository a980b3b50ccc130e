"""What systemd is told: datagrams on the socket that it named."""

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from histories import History, config

from workqueued.flow import Flow
from workqueued.herald import headline, is_complete
from workqueued.notify import Notifier
from workqueued.status import Condition, QueueStatus, Status, WorkerStatus


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """The other end, where systemd would be."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "notify"))
        end.setblocking(False)
        yield end


def heard(manager: socket.socket) -> list[str]:
    """All lines that arrived."""
    lines = []
    while True:
        try:
            lines += manager.recv(4096).decode().splitlines()
        except BlockingIOError:
            return lines


def notifier(manager: socket.socket, **more: str) -> Notifier:
    """One that talks to this manager."""
    return Notifier({"NOTIFY_SOCKET": str(manager.getsockname()), **more})


def test_without_a_manager_nothing_is_sent_and_nothing_is_due() -> None:
    """On a terminal, or under supervisord alone."""
    silent = Notifier({})
    silent.ready()
    silent.turned(0.0, "words")
    assert not silent.due(1e9)
    assert silent.next_deadline() is None


def test_each_turn_feeds_the_watchdog_and_words_are_sent_when_they_are_new(manager: socket.socket) -> None:
    """It writes a line into its memory each time; the same words again are noise."""
    one = notifier(manager, WATCHDOG_USEC="60000000", WATCHDOG_PID="1")
    one.turned(0.0, "4/4 consuming")
    one.turned(10.0, "4/4 consuming")
    one.turned(20.0, "3/4 consuming")
    assert heard(manager) == [
        *("WATCHDOG=1", "STATUS=4/4 consuming"),
        "WATCHDOG=1",
        *("WATCHDOG=1", "STATUS=3/4 consuming"),
    ]


def test_without_a_watchdog_only_words_are_sent(manager: socket.socket) -> None:
    """The unit may do without WatchdogSec."""
    one = notifier(manager)
    one.turned(0.0, "4/4 consuming")
    one.turned(10.0, "4/4 consuming")
    one.rest("stopped")
    assert heard(manager) == ["STATUS=4/4 consuming", "STATUS=stopped"]


@pytest.mark.parametrize(("watchdog", "rhythm"), [("60000000", 10.0), ("3000000", 1.0), ("", 10.0)])
def test_a_turn_is_due_three_times_within_the_time_of_the_watchdog(
    manager: socket.socket, watchdog: str, rhythm: float
) -> None:
    """One datagram may be late; two may be."""
    one = notifier(manager, WATCHDOG_USEC=watchdog)
    assert one.due(100.0)
    one.turned(100.0, "words")
    assert not one.due(100.0 + rhythm * 0.9)
    assert one.next_deadline() == pytest.approx(100.0 + rhythm)


def test_ready_is_said_once_and_wakes_a_watchdog_that_was_put_to_rest(manager: socket.socket) -> None:
    """After `supervisorctl stop` nobody feeds it; after `start` it watches again."""
    one = notifier(manager, WATCHDOG_USEC="60000000")
    one.ready()
    one.ready()
    one.rest("stopped, as it was told")
    assert heard(manager) == [
        *("WATCHDOG_USEC=60000000", "READY=1"),
        *("WATCHDOG_USEC=0", "STATUS=stopped, as it was told"),
    ]


def test_the_last_word_is_waited_for_until_it_was_read(manager: socket.socket) -> None:
    """The manager looks the sender up when it reads: one that is gone by then it does not believe."""
    one = notifier(manager, WATCHDOG_USEC="60000000")
    ending = threading.Thread(target=one.rest, args=("stopped",))
    ending.start()
    manager.setblocking(True)
    data, _, _, _ = manager.recvmsg(4096, 0, socket.MSG_PEEK)
    assert ending.is_alive()
    assert manager.recv(4096) == data == b"WATCHDOG_USEC=0\nSTATUS=stopped"
    ending.join(60)
    assert not ending.is_alive()


def test_the_variables_are_taken_out_of_the_environment(manager: socket.socket) -> None:
    """A handler or a command with sd_notify of its own would speak for the whole service."""
    environ = {"NOTIFY_SOCKET": str(manager.getsockname()), "WATCHDOG_USEC": "1", "WATCHDOG_PID": "2", "HOME": "/"}
    Notifier(environ)
    assert environ == {"HOME": "/"}


def test_a_manager_that_does_not_read_or_is_gone_holds_nobody_up(manager: socket.socket) -> None:
    """The next turn says it again."""
    one = notifier(manager, WATCHDOG_USEC="60000000")
    for number in range(2000):
        one.turned(float(number), f"{number}")
    assert 0 < len(heard(manager)) < 4000
    manager.close()
    one.turned(0.0, "nobody")


def test_an_abstract_socket_is_spoken_to() -> None:
    """A name that begins with @ stands for one without a file (sd_notify(3))."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind("")  # the kernel picks an abstract name
        end.setblocking(False)
        name = end.getsockname()
        Notifier({"NOTIFY_SOCKET": "@" + name[1:].decode()}).ready()
        assert heard(end) == ["READY=1"]


# --- the words ------------------------------------------------------------------------------------------------------


def worker(slot: str, state: str = "idle", busy: float | None = None) -> WorkerStatus:
    """A worker that lives."""
    queue = slot.partition("/")[0]
    return WorkerStatus(slot, queue, state, 1, True, True, 1, 5.0, 0.1, None, busy, 0, 0, 0, 0, 0, None)


def queue(**facts: Any) -> QueueStatus:
    """A queue of which all is known."""
    known = QueueStatus(
        "mail", 4, 4, 0, None, False, 130, None, 4, 0, Flow(), None, None, 0, (), 0, 0, 0, 0, 0, {}, 0.5
    )
    return known._replace(**facts)


def test_the_headline_is_what_an_operator_asks_first() -> None:
    """How many work, at what, since when, and how much waits."""
    workers = (worker("mail/0", "busy", 252.0), worker("mail/1", "busy", 1.0), worker("mail/2"), worker("mail/3"))
    status = Status(Condition.RUNNING, (), queues=(queue(), queue(name="b", ready=2)), workers=workers)
    assert headline(status) == "8/8 consuming, 2 busy, oldest 4m12s, ready 132"


def test_the_headline_says_what_is_wrong() -> None:
    """The first reason; a depth that is not known is left out, not made up."""
    workers = (worker("mail/0", "connecting"), worker("mail/1", "connecting"))
    reasons = ("mail: 0 of 2 workers (mail/0 is connecting)", "there is no monitor")
    status = Status(Condition.DEGRADED, reasons, queues=(queue(wanted=2, serving=0, ready=None),), workers=workers)
    assert headline(status) == (
        "degraded: 0/2 consuming, 2 connecting; mail: 0 of 2 workers (mail/0 is connecting) (and 1 more)"
    )


def test_a_paused_queue_wants_nobody() -> None:
    """Nobody is missing there."""
    status = Status(
        Condition.PAUSED,
        ("mail: paused, by the configuration",),
        queues=(queue(paused="by the configuration", serving=0), queue(name="b", wanted=2, serving=2)),
    )
    assert headline(status) == "paused: 2/2 consuming, ready 260; mail: paused, by the configuration"


def test_a_headline_is_one_short_printable_line() -> None:
    """A queue may have any printable name, and a damaged board any text."""
    status = Status(Condition.DEGRADED, ("x\n\x1b[2J" + "é" * 500,), queues=(queue(),))
    line = headline(status)
    assert len(line) == 200
    assert line.isprintable()


# --- when a change is over ------------------------------------------------------------------------------------------


def test_a_start_is_complete_once_every_worker_is_ready() -> None:
    """Not with the canary alone."""
    history = History(config(a=2))
    assert not is_complete(history.pool, history.now)
    history.step()
    history.ready("monitor", "a/0")
    history.step()
    assert not is_complete(history.pool, history.now)
    history.ready("a/1")
    assert is_complete(history.pool, history.now)


def test_a_reload_is_complete_once_the_last_old_worker_is_gone() -> None:
    """Also that of a queue that was taken out."""
    history = History(config(a=1, b=1))
    history.settle_in()
    old = dict(history.pids)
    history.pool.reload(config(a=1))
    history.settle_in()
    for slot in ("monitor", "a/0"):
        history.dies(slot, code=0, pid=old[slot])
        history.settle_in()
    assert not is_complete(history.pool, history.now)
    history.dies("b/0", code=0, pid=old["b/0"])
    history.settle_in()
    assert is_complete(history.pool, history.now)


def test_a_refused_or_paused_queue_holds_no_start_up() -> None:
    """Its workers will not be there soon; the status says so."""
    history = History(config(a=1, b={"handler": None, "command": ("x",)}))
    history.settle_in()
    history.dies("a/0", code=77)
    history.pool.pause("b", generation=1)
    history.step()
    assert is_complete(history.pool, history.now)
    assert not is_complete(replace(history.pool), history.now + 61)
