"""The keeper: a helper thread that watches while the main thread is busy with a task.

Runs in: worker (a thread; it takes no signals, it reads their numbers).

It does three things and sleeps otherwise:
- hears the signals of the inbox and the end of the lifeline, also while a handler blocks the main thread;
- when a handler or a settlement has been running longer than a quarter of the heartbeat, it services the connection
  that the main thread lent it, so that heartbeats flow for hours;
- at the end of an orphan's grace, or when told to hand back at once, it gives the message back and ends the process.

The connection has one owner at a time: the main thread holds `lock`, except while it lends the connection.
"""

import os
import select
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field

from workqueued.logs import log
from workqueued.signals import Inbox, leave_to_main_thread

#: What an orphan gets to finish its task, seconds: so that it is gone after five. A new master's workers are at work.
ORPHAN_GRACE = 4.5
#: What an idle main thread gets to leave in order after SIGQUIT, seconds.
_QUIT_GRACE = 1.0


@dataclass(slots=True)
class Orders:
    """What a worker was told, written by the keeper and read by the main thread on every turn."""

    drain: bool = False
    orphaned: bool = False
    consume: threading.Event = field(default_factory=threading.Event)
    #: Set with any order: ends a wait of the main thread.
    news: threading.Event = field(default_factory=threading.Event)


class Keeper:
    """See the module's text.

    Args:
        inbox: the signals.
        lifeline: descriptor that ends when the master dies.
        heartbeat: of the connection, seconds.
        service: services the lent connection; may raise, then it is not called again until `lend`.
        wake: ends the main thread's wait for a message.
        abandon: gives back the message in hand, if any; called once, then the process ends.
        farewell: logs that the worker stops; called before the keeper ends the process.

    Attributes:
        free: True while nothing is in hand and no message can arrive (importing, connecting): then the process may
            end at any moment, and does so when told to drain, as those calls cannot be interrupted otherwise.
    """

    def __init__(
        self,
        inbox: Inbox,
        lifeline: int,
        heartbeat: float,
        *,
        service: Callable[[], None],
        wake: Callable[[], None],
        abandon: Callable[[], None],
        farewell: Callable[[], None],
    ) -> None:
        self.orders = Orders()
        self.lock = threading.Lock()
        self.lock.acquire()
        self._inbox = inbox
        self._lifeline = lifeline
        self._every = max(0.25, heartbeat / 4)
        self._service = service
        self._wake = wake
        self._abandon = abandon
        self._farewell = farewell
        self.free = True
        self._lent_at = 0.0
        self._loss: Exception | None = None
        self._leave_at = float("inf")
        self._leave_code = os.EX_OK
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Start the thread; after the fork, and after the signal handlers are in place."""
        self._thread.start()

    # --- main thread ---

    def lend(self) -> None:
        """Give the connection away for as long as a handler or a publish runs."""
        self._loss = None
        self._lent_at = time.monotonic()
        self.lock.release()

    def take_back(self) -> None:
        """Own the connection again."""
        self.lock.acquire()
        self._lent_at = 0.0

    @property
    def loss(self) -> Exception | None:
        """What ended the lent connection, if something did."""
        return self._loss

    # --- keeper thread ---

    def _run(self) -> None:
        try:
            self._watch()
        except BaseException as error:  # noqa: BLE001 - without its keeper a worker is deaf: better none than that
            log.error("child.failed", error=repr(error), traceback=traceback.format_exc(limit=-8)[-2500:])
            os._exit(os.EX_SOFTWARE)

    def _watch(self) -> None:
        leave_to_main_thread()
        poll = select.poll()
        poll.register(self._inbox, select.POLLIN)
        poll.register(self._lifeline, select.POLLIN | select.POLLHUP)
        while True:
            events = poll.poll(max(0.0, min(self._every, self._leave_at - time.monotonic())) * 1000)
            if not events and not self._lent_at:
                self._wake()  # an idle main thread waits without a limit; let it look around and tick
            for descriptor, _ in events:
                if descriptor == self._lifeline:
                    poll.unregister(descriptor)
                    self._become_orphan()
                else:
                    for number in self._inbox.take():
                        self._obey(number)
            if time.monotonic() >= self._leave_at:
                self._leave()
            self._service_if_lent_long()

    def _obey(self, number: int) -> None:
        if number == signal.SIGTERM:
            self.orders.drain = True
        elif number == signal.SIGQUIT:
            self.orders.drain = True
            # A main thread that has the connection, and nothing in hand, leaves in order, unless the broker hangs.
            self._leave_within(0.0 if self._lent_at else _QUIT_GRACE, os.EX_OK)
        elif number == signal.SIGUSR1:
            self.orders.consume.set()
        else:
            return
        self._tell_main()

    def _become_orphan(self) -> None:
        self.orders.drain = self.orders.orphaned = True
        self._leave_within(ORPHAN_GRACE, os.EX_TEMPFAIL)
        self._tell_main()

    def _leave_within(self, seconds: float, code: int) -> None:
        deadline = time.monotonic() + seconds
        if deadline < self._leave_at:
            self._leave_at, self._leave_code = deadline, code

    def _tell_main(self) -> None:
        if self.orders.drain and self.free:
            self._farewell()
            os._exit(os.EX_TEMPFAIL if self.orders.orphaned else os.EX_OK)
        self.orders.news.set()
        self._wake()

    def _service_if_lent_long(self) -> None:
        # Half the interval: a task that began just before the last look must not wait for two more.
        if self._loss or not self._lent_at or time.monotonic() - self._lent_at < self._every / 2:
            return
        # Never wait for the lock: the main thread may have taken the connection back this moment, and keeps it while it
        # is idle.
        if not self.lock.acquire(blocking=False):
            return
        try:
            self._service()
        except Exception as error:  # noqa: BLE001 - told to the main thread when it takes the connection back
            self._loss = error
        finally:
            self.lock.release()

    def _leave(self) -> None:
        """Give the message back and end the process, without the main thread: it may be inside a handler for hours."""
        try:
            if self.lock.acquire(timeout=_QUIT_GRACE):
                self._abandon()
            self._farewell()
        finally:
            os._exit(self._leave_code)
