"""A worker: takes one message at a time from one queue, has it handled, settles it.

Runs in: worker.

    connect → declare → consume(QoS 1) → [ take → handle → decide → settle ]* → cancel → close

The main thread owns both the connection and the handler, in turn; while a handler runs, the connection is lent to the
keeper thread. If the process dies on any line between take and settle, the broker gives the message to another worker.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from workqueued.amqp.consumer import Consumer, ConsumerCancelledError
from workqueued.amqp.copies import Copies
from workqueued.backoff import Backoff
from workqueued.callee import Callee
from workqueued.config import Config
from workqueued.delivery import Delivery
from workqueued.errors import ConfigError, ConnectionLostError, QueueRefusedError, RefusedError, WorkqueuedError
from workqueued.evidence import Evidence
from workqueued.keeper import Keeper
from workqueued.logs import Reminder, identify, log
from workqueued.outcome import Outcome, Result, Verdict, decide, judge_unhandled
from workqueued.overlooked import Lookout, OverlookedError
from workqueued.printed import LineLogger, Output
from workqueued.queue_settings import Queue
from workqueued.recycle import Recycler
from workqueued.scoreboard import Cell, QueueCell, Row, Scoreboard, State
from workqueued.settle import Ended, Settler
from workqueued.signals import Inbox, forget_in_forks, send
from workqueued.task import Task

#: Ceilings of the waits between attempts to connect, seconds.
_RECONNECT_FIRST, _RECONNECT_MOST = 0.1, 3.0
#: A session of this many seconds was a good one: the next reconnect starts with the first delay.
_GOOD_SESSION = 5.0
#: How long the master has to drain the queue of a command that cannot be run, seconds, and how long the other workers
#: have to stop taking messages before we give ours back: or it would go round among them, and be counted each time.
_PAUSE_WITHIN, _LET_OTHERS_GO = 5.0, 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """Where a worker stands: what it is given at the fork.

    Attributes:
        hold: wait for the master's word (SIGUSR1) before taking messages.
        board: where the evidence of crashes lies, and the monitor's samples.
    """

    config: Config
    queue_name: str
    slot: str
    generation: int
    row: Row
    lifeline: int
    hold: bool
    board: Scoreboard


def run(place: Place) -> int:
    """Serve one queue until told to stop.

    Returns:
        The exit code: 0 drained or handed back; 75 orphaned; 77 the broker refuses the queue; 78 no usable handler.
    """
    inbox = Inbox()
    inbox.install()
    forget_in_forks()
    identify("worker", slot=place.slot, queue=place.queue_name, generation=place.generation)
    output = Output(log)
    sys.stdout, sys.stderr = LineLogger("stdout", output), LineLogger("stderr", output)
    try:
        return Worker(place, inbox, output).run()
    except QueueRefusedError as error:
        log.error("queue.refused", error=str(error))
        return error.exit_code
    except ConfigError as error:
        place.row.note = str(error)
        log.error("handler.rejected", error=str(error))
        return error.exit_code


class Worker:
    """The state of a worker over its life."""

    def __init__(self, place: Place, inbox: Inbox, output: Output) -> None:
        self._place = place
        self._output = output
        self._queue: Queue = place.config.queues[place.queue_name]
        self._row = place.row
        self._inbox = inbox
        self._pid = os.getpid()
        self._master = os.getppid()
        # A concrete logger: the lazy one is made anew at every call, which is a noticeable part of a short task.
        self._log = log.bind()
        self._limit = self._queue.time_limit
        self._hard_limit = int((self._queue.hard_limit or 0) * 1e9)
        self._evidence = Evidence(place.board)
        self._sample = place.board.queue_row(place.queue_name)
        self._lookout = Lookout()
        self._recycler = Recycler(self._queue.recycle)
        self._recycled: str | None = None
        self._settled = 0
        self._callee: Callee
        self._consumer: Consumer | None = None
        self._delivery: Delivery | None = None
        self._consuming_since = 0.0
        self._broker_trouble = Reminder()
        self._keeper = Keeper(
            inbox,
            place.lifeline,
            place.config.broker.rhythm,
            service=self._service,
            wake=self._wake,
            abandon=self._abandon,
            farewell=self._say_farewell,
        )
        self._orders = self._keeper.orders
        copies = Copies(place.config.broker, f"workqueued {place.slot} copies")
        self._settler = Settler(self._row, self._keeper, copies, self._pause, place.config.log.settled)
        if not place.hold:
            self._orders.consume.set()

    # --- life -------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Import the handler, then serve session after session; see `run` of the module."""
        self._enter(State.STARTING)
        self._keeper.start()
        self._prepare()
        backoff = Backoff(_RECONNECT_FIRST, _RECONNECT_MOST)
        while not self._leaving():
            self._session()
            if self._consuming_since and time.monotonic() - self._consuming_since > _GOOD_SESSION:
                backoff.reset()
            self._consuming_since = 0.0
            if not self._leaving():
                self._pause(backoff.next_delay())
        self._keeper.free = False  # whoever is told to leave again may still finish its `close()`
        self._settler.close()
        self._callee.close()
        self._say_farewell()
        return os.EX_TEMPFAIL if self._orders.orphaned else os.EX_OK

    def _prepare(self) -> None:
        """Import the handler; raises ConfigError when it cannot be used."""
        place = self._place
        self._callee = Callee(place.queue_name, self._queue, place.config.pythonpath, self._row, self._log)
        self._recycler.keep_descriptors()
        self._inbox.install()  # again: a module may have taken a signal for itself (faulthandler.register(SIGUSR1))

    def _session(self) -> None:
        """One connection, from opening to closing.

        Raises:
            QueueRefusedError: the broker refuses this queue.
        """
        self._enter(State.CONNECTING)
        try:
            consumer = Consumer(
                self._place.config.broker, self._place.queue_name, self._queue, f"workqueued {self._place.slot}"
            )
            self._consumer, self._keeper.free = consumer, False
            self._report_ready()
            self._await_word(consumer)
            if not self._draining():
                self._consume(consumer)
            consumer.stop()
        except ConsumerCancelledError as error:
            log.warning("consumer.cancelled", error=str(error))
        except OverlookedError as error:
            log.warning(
                "consumer.overlooked", ready=error.ready, idle_s=round(error.idle_s, 1), uncounted=error.uncounted
            )
        except QueueRefusedError:
            raise  # it is a RefusedError as well, and the only one that ends the worker
        except RefusedError as error:
            self._complain_of_broker(error)  # not ready: a password that is wrong must not drain those that got in
        except ConnectionLostError as error:
            self._complain_of_broker(error)
            self._report_ready()  # an outage of the broker must not hold up a reload
        finally:
            self._close_consumer()

    def _close_consumer(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close()
        self._keeper.free = not self._leaving()

    def _await_word(self, consumer: Consumer) -> None:
        """After a reload: the old worker of this slot drains first."""
        while not self._orders.consume.is_set() and not self._draining():
            consumer.service(None)
            self._tick()

    def _consume(self, consumer: Consumer) -> None:
        consumer.start()
        self._consuming_since = time.monotonic()
        self._lookout.begin()
        self._enter(State.IDLE)
        self._tell_master()
        outage = self._broker_trouble.end()
        log.info("worker.consuming", **({} if outage is None else {"outage_s": outage}))
        while not self._leaving():
            delivery = consumer.next()
            self._tick()
            if delivery is None:
                self._put_signals_back()
                self._settler.rest()
                self._look_around()
            elif self._draining():
                consumer.stop()  # first, or the broker would give it to us again
                consumer.hand_back(delivery)
            else:
                self._work(consumer, delivery)
        self._enter(State.DRAINING)

    def _look_around(self) -> None:
        """Raises OverlookedError when messages are ready and the broker gives us none, or does not know of us."""
        if self._sample is not None:
            ready = self._sample.words[QueueCell.READY] - 1
            sampled_at = self._sample.words[QueueCell.SAMPLED] / 1e9
            uncounted = self._sample.words[QueueCell.UNCOUNTED]
            self._lookout.check(self._row.words[Cell.DELIVERED], ready, sampled_at, uncounted)

    # --- one message ------------------------------------------------------------------------------------------------

    def _work(self, consumer: Consumer, delivery: Delivery) -> None:
        now = time.time()
        waited = delivery.waited_ms(now)
        started = self._take(delivery, waited)
        proof = None
        if delivery.redelivered:
            proof = self._evidence.look(self._place.queue_name, delivery.identity, delivery.life)
        result: Result = None
        verdict = judge_unhandled(delivery, self._queue, proof, now)
        if verdict is None:
            self._begin()
            result = self._handle(delivery)
            verdict = decide(result, delivery.attempt, self._queue.retry, timed_out=self._callee.timed_out)
        duration = time.monotonic_ns() - started
        self._settled += 1
        self._recycled = self._recycler.due(self._settled)
        if self._leaving() or verdict.outcome is not Outcome.DONE:  # an ack alone takes no time
            self._enter(State.SETTLING)
        raised = result if isinstance(result, BaseException) else None
        handler = "" if verdict.outcome is Outcome.DONE else self._callee.name(delivery)  # a copy's header
        ended = Ended(delivery, verdict, raised, waited, duration, handler)
        try:
            if verdict.outcome is Outcome.HANDED_BACK:
                self._have_the_queue_paused(verdict)
            self._settler.settle(consumer, ended, last=self._leaving())
        finally:
            self._delivery = None
            self._row.words[Cell.TASK_STARTED] = 0
            self._enter(State.IDLE)

    def _take(self, delivery: Delivery, waited: int | None) -> int:
        """Write down what we hold before anything else happens to it; returns monotonic ns."""
        row = self._row
        started = time.monotonic_ns()
        self._delivery = delivery
        row.message_id = delivery.identity
        row.words[Cell.LIFE] = delivery.life
        row.words[Cell.CRASHES] = delivery.crashes
        row.words[Cell.REDELIVERIES] = delivery.redeliveries
        row.words[Cell.WAITED] = 0 if waited is None else waited + 1
        row.words[Cell.TASK_STARTED] = started
        row.words[Cell.DELIVERED] += 1
        return started

    def _begin(self) -> None:
        """From here on, the end of this process is taken for the message's fault."""
        if self._hard_limit:
            self._row.words[Cell.DEADLINE] = time.monotonic_ns() + self._hard_limit
        self._row.words[Cell.STATE] = State.BUSY

    def _handle(self, delivery: Delivery) -> Result:
        """Run the handler on the lent connection; returns what it ended with."""
        task = Task(delivery, self._log, self._limit)
        self._output.begin(task.message_id)
        self._keeper.lend()
        result: Result = None
        try:
            result = self._callee.call(task)
        except BaseException as error:  # noqa: BLE001 - whatever it is, it ends the attempt and not the worker
            # Without our own frame, which holds the error: a cycle that would keep the body until the next collection.
            result = error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
        if os.getpid() != self._pid:
            os._exit(os.EX_OK)  # the handler forked and came back in the child, which must not touch the connection
        self._output.end()
        self._keeper.take_back()
        self._put_signals_back()
        return result

    def _put_signals_back(self) -> None:
        if self._inbox.restore(time.monotonic_ns()) | self._callee.restore():
            log.warning("handler.meddled", error="the handler changed our signal handlers; they were put back")

    def _have_the_queue_paused(self, verdict: Verdict) -> None:
        """The command cannot be run: tell the master, which drains all workers of the queue, and wait for that."""
        self._row.note = verdict.error or ""
        self._row.words[Cell.UNUSABLE] = 1
        self._tell_master()
        self._keeper.lend()
        try:
            deadline = time.monotonic() + _PAUSE_WITHIN
            while not self._draining() and time.monotonic() < deadline:
                self._pause(deadline - time.monotonic())
            time.sleep(_LET_OTHERS_GO)
        finally:
            self._keeper.take_back()
        self._orders.drain = True

    # --- called by the keeper thread --------------------------------------------------------------------------------

    def _service(self) -> None:
        consumer = self._consumer
        if consumer is not None:
            consumer.service()

    def _wake(self) -> None:
        consumer = self._consumer
        if consumer is not None:
            consumer.wake()

    def _abandon(self) -> None:
        """Give the message back; the process ends right after, which closes the connection."""
        consumer, delivery = self._consumer, self._delivery
        if delivery is not None:
            self._callee.kill()
        if consumer is None:
            return
        if delivery is not None:
            try:
                consumer.abandon(delivery)
            except WorkqueuedError as error:
                log.warning("delivery.lost", message_id=delivery.properties.message_id, error=str(error))
            else:
                self._row.add(Cell.HANDED_BACK)
                log.warning(
                    "delivery.settled",
                    outcome=Outcome.HANDED_BACK.value,
                    attempt=delivery.attempt,
                    message_id=delivery.properties.message_id,
                )
            self._row.words[Cell.TASK_STARTED] = 0  # or the master would take this end for a death in the task

    def _draining(self) -> bool:
        return self._orders.drain

    def _leaving(self) -> bool:
        return self._orders.drain or self._recycled is not None

    def _say_farewell(self) -> None:
        if self._recycled is not None and not self._draining():
            self._row.words[Cell.RECYCLED] = 1
            log.info("worker.stopped", reason="recycled", after=self._recycled)
        else:
            log.info("worker.stopped", reason="orphaned" if self._orders.orphaned else "drained")

    # --- small things -----------------------------------------------------------------------------------------------

    def _enter(self, state: State) -> None:
        self._tick()  # first: "not busy" beside a tick of hours ago would look like a dead worker
        self._row.words[Cell.STATE] = state

    def _tick(self) -> None:
        self._row.words[Cell.TICK] = time.monotonic_ns()

    def _report_ready(self) -> None:
        """Once: the handler is imported, and the queue is declared or the broker is away."""
        if not self._row.words[Cell.PROVEN]:
            self._row.words[Cell.PROVEN] = 1
            self._tell_master()
        if not self._orders.consume.is_set():
            self._enter(State.READY)

    def _tell_master(self) -> None:
        if os.getppid() == self._master:
            send(self._master, signal.SIGUSR2)

    def _pause(self, seconds: float) -> None:
        """Wait, or less when told something."""
        self._orders.news.wait(seconds)
        self._orders.news.clear()
        self._tick()

    def _complain_of_broker(self, error: WorkqueuedError) -> None:
        if self._broker_trouble.due(str(error)):
            event = "broker.refused" if isinstance(error, RefusedError) else "broker.unreachable"
            say: Callable[..., None] = log.error if isinstance(error, RefusedError) else log.warning
            say(event, error=str(error))
