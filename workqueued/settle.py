"""Settle: make the outcome of a delivery safe, tell the broker, write it down.

Runs in: worker.

    DONE → ack
    RETRIED → copy to the delay levels, confirmed → ack
    DEAD → copy to the dead queue, confirmed → ack
    COUNTED → copy to its own queue, confirmed → ack
    connection gone → nothing, `delivery.lost`

If the process dies before the ack, the broker gives the message out again: it is handled, retried or buried twice, and
never lost.
"""

import socket
import time
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from workqueued import timings
from workqueued.amqp.consumer import Consumer
from workqueued.amqp.copies import Copies
from workqueued.delivery import CRASHES, Delivery
from workqueued.errors import ConnectionLostError, WorkqueuedError
from workqueued.keeper import Keeper
from workqueued.logs import Reminder, log
from workqueued.outcome import Outcome, Verdict, copy_of, redacted
from workqueued.scoreboard import Cell, Row

#: The tail of a traceback that is logged, characters.
_TRACEBACK_TAIL = 2000
_CELLS = {
    Outcome.DONE: Cell.DONE,
    Outcome.RETRIED: Cell.RETRIED,
    Outcome.DEAD: Cell.DEAD,
    Outcome.HANDED_BACK: Cell.HANDED_BACK,
    Outcome.LOST: Cell.LOST,
}
#: Outcomes that need a copy in a queue before the ack.
_COPIED = (Outcome.RETRIED, Outcome.DEAD, Outcome.COUNTED)
#: Outcomes after which a message is not given out again as it was.
_TIMED = (Outcome.DONE, Outcome.RETRIED, Outcome.DEAD)


class Ended(NamedTuple):
    """A delivery whose handler has ended: what it raised, how long it waited (ms) and ran (ns), and which it was."""

    delivery: Delivery
    verdict: Verdict
    raised: BaseException | None
    waited: int | None
    duration: int
    handler: str


class Settler:
    """Settles the deliveries of one worker.

    Args:
        row: where the counts go.
        keeper: services the consumer's connection while a copy is published.
        copies: publishes dead letters.
        pause: waits so many seconds, or less when the worker is told something.
        done_at: the level at which deliveries that are done are logged, `info` or `debug`.
    """

    def __init__(
        self, row: Row, keeper: Keeper, copies: Copies, pause: Callable[[float], None], done_at: str = "info"
    ) -> None:
        self._row = row
        self._keeper = keeper
        self._copies = copies
        self._pause = pause
        self._host = socket.gethostname()
        self._trouble = Reminder()
        self._done_at = done_at
        self._tells_done = log.hears(done_at)

    def settle(self, consumer: Consumer, ended: Ended, *, last: bool) -> None:
        """Make it safe, acknowledge, log.

        Args:
            consumer: the one that the delivery came from.
            ended: what became of it.
            last: no further message is wanted.

        Raises:
            ConnectionLostError: the connection of the delivery is gone; the broker has given the message out again.
        """
        try:
            if self._keeper.loss is not None:
                raise ConnectionLostError(str(self._keeper.loss)) from self._keeper.loss
            if last:
                consumer.stop()  # before the ack, upon which the broker would send the next message
            if ended.verdict.outcome is Outcome.HANDED_BACK:
                consumer.hand_back(ended.delivery)
            else:
                if ended.verdict.outcome in _COPIED:
                    self._copy(ended)
                consumer.ack(ended.delivery)
        except ConnectionLostError:
            self._note(ended, Outcome.LOST)
            raise
        self._note(ended, ended.verdict.outcome)

    def rest(self) -> None:
        """Nothing to do at the moment: close what is idle."""
        self._copies.close_if_idle()

    def close(self) -> None:
        """Close the connection for copies."""
        self._copies.close()

    def _copy(self, ended: Ended) -> None:
        copy = copy_of(ended.delivery, ended.verdict, host=self._host, handler=ended.handler, now=time.time())

        def complain(error: WorkqueuedError) -> None:
            if self._trouble.due(str(error)):
                log.error("copy.delayed", error=str(error), message_id=copy.properties.message_id)

        self._keeper.lend()
        try:
            sent = self._copies.send(
                copy, give_up=lambda: self._keeper.loss is not None, pause=self._pause, complain=complain
            )
        finally:
            self._keeper.take_back()
        if not sent:
            raise ConnectionLostError("the connection was lost before the copy was confirmed")
        self._trouble.end()

    def _note(self, ended: Ended, outcome: Outcome) -> None:
        """One line per delivery, and the counts."""
        delivery, verdict = ended.delivery, ended.verdict
        cell = _CELLS.get(outcome)
        if cell is not None:
            self._row.words[cell] += 1
        if outcome in _TIMED:
            timings.note(self._row, ended.waited, ended.duration)
        if outcome is Outcome.DONE and not self._tells_done:
            return
        facts: dict[str, Any] = {
            "outcome": str(outcome),
            "attempt": delivery.attempt,
            "wait_ms": ended.waited,
            "duration_ms": round(ended.duration / 1e6, 3),
            "message_id": delivery.properties.message_id,
        }
        if delivery.given_before:
            facts["redelivered"] = True
        if outcome is Outcome.DONE:
            log.say("delivery.settled", self._done_at, facts)
        elif outcome is Outcome.LOST:
            log.warning("delivery.lost", verdict=verdict.outcome.value, error=verdict.error, **facts)
        else:
            facts |= {"reason": verdict.reason, "error": verdict.error}
            if outcome is Outcome.RETRIED:
                facts["delay_s"] = verdict.delay
            if delivery.crashes or CRASHES in verdict.headers:
                facts["crashes"] = verdict.headers.get(CRASHES, delivery.crashes)
            log.warning("delivery.settled", traceback=_traceback(ended.raised), **facts)


def _traceback(error: BaseException | None) -> str | None:
    """A traceback without locals."""
    if error is None:
        return None
    try:
        text = "".join(traceback.format_exception(error, limit=-20))
    except Exception:  # noqa: BLE001 - an exception whose __str__ raises
        return None
    return redacted(text[-_TRACEBACK_TAIL:])
