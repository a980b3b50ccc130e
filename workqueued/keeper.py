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
from collections.abc import Callable
from dataclasses import dataclass, field

from workqueued.signals import Inbox

#: What an orphan gets to finish its task, seconds; a new master's workers are already at work.
ORPHAN_GRACE = 5.0


@dataclass(slots=True)
class Orders:
    """What a worker was told, written by the keeper and read by the main thread on every turn."""

    drain: bool = False
    hand_back: bool = False
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
        abandon: gives back the message in hand, if any, and closes the connection; called once, then the process ends.
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
        self._broken = False
        self._orphan_deadline: float | None = None
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)

    def start(self) -> None:
        """Start the thread; after the fork, and after the signal handlers are in place."""
        self._thread.start()

    # --- main thread ---

    def lend(self) -> None:
        """Give the connection away for as long as a handler or a publish runs."""
        self._broken = False
        self._lent_at = time.monotonic()
        self.lock.release()
        if self.orders.hand_back:
            # The order came between the main thread's last look and this line: let it be heard again.
            self._inbox.post(signal.SIGQUIT)

    def take_back(self) -> None:
        """Own the connection again."""
        self.lock.acquire()
        self._lent_at = 0.0

    @property
    def broken(self) -> bool:
        """Whether the lent connection was found to be lost."""
        return self._broken

    # --- keeper thread ---

    def _run(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        poll = select.poll()
        poll.register(self._inbox, select.POLLIN)
        poll.register(self._lifeline, select.POLLIN | select.POLLHUP)
        while True:
            events = poll.poll(self._next_wait() * 1000)
            if not events and not self._lent_at:
                self._wake()  # an idle main thread waits without a limit; let it look around and tick
            for descriptor, _ in events:
                if descriptor == self._lifeline:
                    poll.unregister(descriptor)
                    self._become_orphan()
                else:
                    for number in self._inbox.take():
                        self._obey(number)
            if self._orphan_deadline is not None and time.monotonic() >= self._orphan_deadline:
                self._end(os.EX_TEMPFAIL)
            self._service_if_lent_long()

    def _next_wait(self) -> float:
        if self._orphan_deadline is None:
            return self._every
        return min(self._every, max(0.0, self._orphan_deadline - time.monotonic()))

    def _obey(self, number: int) -> None:
        if number == signal.SIGTERM:
            self.orders.drain = True
        elif number == signal.SIGQUIT:
            self.orders.drain = self.orders.hand_back = True
            if self._lent_at:
                self._end(os.EX_OK)
        elif number == signal.SIGUSR1:
            self.orders.consume.set()
        else:
            return
        self._tell_main()

    def _become_orphan(self) -> None:
        self.orders.drain = self.orders.orphaned = True
        self._orphan_deadline = time.monotonic() + ORPHAN_GRACE
        self._tell_main()

    def _tell_main(self) -> None:
        if self.orders.drain and self.free:
            self._farewell()
            os._exit(os.EX_TEMPFAIL if self.orders.orphaned else os.EX_OK)
        self.orders.news.set()
        self._wake()

    def _service_if_lent_long(self) -> None:
        # Half the interval: a task that began just before the last look must not wait for two more.
        if self._broken or not self._lent_at or time.monotonic() - self._lent_at < self._every / 2:
            return
        with self.lock:
            if not self._lent_at:
                return
            try:
                self._service()
            except Exception:  # noqa: BLE001 - the main thread meets the same loss when it takes the connection back
                self._broken = True

    def _end(self, code: int) -> None:
        """Give the message back and leave, without the main thread: it may be inside a handler for hours."""
        if self.lock.acquire(timeout=2.0):
            self._abandon()
        self._farewell()
        os._exit(code)
