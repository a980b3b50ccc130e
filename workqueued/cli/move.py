"""What `wq-dead` does to letters: replay, discard, import; with a question before, and an account afterwards."""

import contextlib
import gc
import json
import os
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from workqueued import archive, letters
from workqueued.amqp.look import PREFETCH, Look
from workqueued.amqp.replay import Replay, checked
from workqueued.cli.arguments import open_input
from workqueued.cli.browse import Table
from workqueued.cli.bulk import Bar
from workqueued.cli.errand import Errand, NotFoundError, Selection, messages
from workqueued.cli.screen import note, visible
from workqueued.delivery import Message
from workqueued.errors import WorkqueuedError
from workqueued.letters import Letter

#: An ack is never answered, so after so many of them the broker is asked something that it answers in turn.
_ASK_AFTER = 1000


class StoppedError(WorkqueuedError):
    """A signal asked to stop; the account says what was done."""


class Deed(Protocol):
    """What is done to a selected letter."""

    past: str
    doubt: str

    @property
    def done(self) -> int:
        """How many it was done to."""

    @property
    def unknown(self) -> int:
        """How many it was begun with and is not known to be done to."""

    @property
    def finished(self) -> bool:
        """Whether no more is to be done."""

    def put(self, look: Look, letter: Letter) -> None:
        """Do it, or begin to."""

    def turn(self, look: Look) -> None:
        """Go on with what was begun."""

    def drain(self, look: Look) -> None:
        """Wait until everything that was begun is done."""


class Replaying:
    """Publish it to its queue again."""

    past = "replayed"
    doubt = "they are still in the dead queue, and perhaps in the work queue as well"

    def __init__(self, replay: Replay, destination: Callable[[Letter], str]) -> None:
        self._replay = replay
        self._destination = destination

    @property
    def done(self) -> int:
        """Confirmed and taken out."""
        return self._replay.moved

    @property
    def unknown(self) -> int:
        """Published, and neither confirmed nor refused."""
        return self._replay.unknown

    @property
    def finished(self) -> bool:
        """Whether a queue is full."""
        return self._replay.full is not None

    def put(self, look: Look, letter: Letter) -> None:
        """Publish."""
        self._replay.put(look, letter, letters.replayed(letter, self._destination(letter), time.time()))

    def turn(self, look: Look) -> None:
        """Wait for a confirm only when nothing else is to be done."""
        self._replay.turn(look, 0.05 if look.quiet else 0)

    def drain(self, look: Look) -> None:
        """Wait for every confirm."""
        self._replay.drain(look)


class Discarding:
    """Take it out."""

    past = "discarded"
    doubt = "what is still there, is still in the dead queue"
    finished = False

    def __init__(self) -> None:
        self.done = self.unknown = 0

    def put(self, look: Look, letter: Letter) -> None:
        """Acknowledge."""
        look.ack(letter)
        self.unknown += 1

    def turn(self, look: Look) -> None:
        """Tell the broker, and now and then ask whether it has heard."""
        if self.unknown >= _ASK_AFTER:
            self.drain(look)
        else:
            look.flush()

    def drain(self, look: Look) -> None:
        """Tell the broker, and ask."""
        look.sync()
        self.done += self.unknown
        self.unknown = 0


def replay(errand: Errand) -> int:
    """Publish the selected letters to their queues again, and take out what is confirmed."""
    to = errand.options.to

    def destination(letter: Letter) -> str:
        origin = letter.origin
        return to or (errand.work if origin is None or origin == errand.dead.name else origin)

    plan = _plan(errand, "replay", destination)
    if plan is None:
        return os.EX_OK
    with Replay(errand.where.broker, errand.options.timeout) as moves, rare_collections():
        account = Account(errand, plan, Replaying(moves, destination))
        try:
            account.run(bodies=True)
        finally:
            account.tell(left=moves.left)
        for identity, error in moves.reasons:
            note(f"{identity} stays: {error}")
        if moves.left > len(moves.reasons):
            note(f"… and {moves.left - len(moves.reasons)} more")
        account.check()
        if moves.full is not None:
            return moves.full.exit_code
        return moves.reasons[0][1].exit_code if moves.reasons else os.EX_OK


def discard(errand: Errand) -> int:
    """Take the selected letters out, for good."""
    plan = _plan(errand, "discard", None)
    if plan is None:
        return os.EX_OK
    account = Account(errand, plan, Discarding())
    try:
        account.run(bodies=False)
    finally:
        account.tell()
    account.check()
    return os.EX_OK


def _plan(errand: Errand, verb: str, destination: Callable[[Letter], str] | None) -> Selection | None:
    """What is to be done it to; None: nothing, and everything is said already."""
    options = errand.options
    if not errand.anything():
        _check_missing(errand, errand.select())
        return None
    if options.yes and not options.dry_run:
        return errand.select()
    counted, identities, places = errand.select(), set(), Counter[str]()
    table = Table(errand.screen, as_json=options.json) if options.dry_run else None
    total = 0
    for letter, look in errand.letters(counted):
        total = look.total
        identities.add(hash(letter.identity))
        if destination is not None:
            places[destination(letter)] += 1
        if table is not None:
            table.row(letter)
    errand.screen.flush()
    to = f" to {_named(places)}" if places else ""
    what = f"{verb} {counted.taken} of {messages(max(total, counted.passed))} from {errand.dead.name}{to}"
    if options.dry_run or not counted.taken:
        note(f"would {what}" if options.dry_run else f"nothing to do: {what}")
        _check_missing(errand, counted)
        return None
    if not _agreed(errand, what):
        note("nothing was changed")
        return None
    return Selection(errand.filter, options.limit, frozenset(identities))


def _named(places: Counter[str]) -> str:
    """Queues, with how many each gets when there are several."""
    if len(places) == 1:
        return next(iter(places))
    named = ", ".join(f"{name} ({count})" for name, count in places.most_common(5))
    return named + (f" and {len(places) - 5} other queues" if len(places) > 5 else "")


def _agreed(errand: Errand, what: str) -> bool:
    """Ask; the connection, and with it the lock, lives on meanwhile."""
    print(f"{visible(what)}? [y/N] ", end="", file=sys.stderr, flush=True)
    while not select.select([0], [], [], 1.0)[0]:
        errand.dead.service()
    answer = os.read(0, 1024)  # a terminal gives a line at a time
    if not answer.endswith(b"\n"):
        print(file=sys.stderr)
    return answer.strip().lower() in (b"y", b"yes")


def _check_missing(errand: Errand, selection: Selection) -> None:
    if selection.missing:
        raise NotFoundError(f"not in {errand.dead.name}: {', '.join(selection.missing)}")


class Account:
    """One run over the queue, and what is to be said of it."""

    def __init__(self, errand: Errand, selection: Selection, deed: Deed) -> None:
        self._errand, self._selection, self._deed = errand, selection, deed
        self._pace = Pace(errand.options.rate)
        self._stopped = 0
        self._bar = Bar()
        self._shown = 0

    def run(self, *, bodies: bool) -> None:
        """Look through the queue once, or again when it takes so long that the broker would take it all back.

        Raises:
            WorkqueuedError: something broke; what was not done is still in the dead queue.
        """
        prefetch = max(1, min(PREFETCH, int(self._errand.options.rate or PREFETCH)))
        with signals() as stopped:
            again = True
            while again:
                look = self._errand.dead.look(bodies=bodies, prefetch=prefetch)
                self._errand.mention(look)
                try:
                    self._pass(look, stopped)
                    self._deed.drain(look)
                    again = not (look.ended or self._enough(stopped))
                    look.finish()
                finally:
                    look.abandon()
            self._stopped = stopped()

    def _pass(self, look: Look, stopped: Callable[[], int]) -> None:
        while not (look.ended or look.old or self._enough(stopped)):
            for letter in look.take(0 if self._deed.unknown else 0.2):
                if stopped() or self._deed.finished or not self._selection.takes(letter):
                    look.hold(letter)
                    continue
                self._pace.wait(lambda: self._turn(look), stopped)
                self._deed.put(look, letter)
            self._turn(look)

    def _turn(self, look: Look) -> None:
        self._deed.turn(look)
        self._bar.add(self._deed.done - self._shown)
        self._shown = self._deed.done

    def _enough(self, stopped: Callable[[], int]) -> bool:
        return bool(stopped()) or self._deed.finished or self._selection.full

    def tell(self, left: int = 0) -> None:
        """Say what was done, whatever happened."""
        self._bar.close()
        unknown = self._deed.unknown
        done, past, name = self._deed.done, self._deed.past, self._errand.dead.name
        if self._errand.options.json:
            facts: dict[str, Any] = {past: done, "failed": left, "unknown": unknown, "queue": name}
            self._errand.screen.line(json.dumps(facts))
        else:
            self._errand.screen.line(f"{past} {messages(done)} of {name}")
        self._errand.screen.flush()
        if left:
            note(f"{messages(left)} could not be {past} and {'is' if left == 1 else 'are'} still in {name}")
        if unknown:
            note(f"{unknown} more may be {past}, or not: the broker did not confirm it ({self._deed.doubt})")

    def check(self) -> None:
        """Raise what the exit code is to tell, after everything was said."""
        if self._stopped:
            error = StoppedError(f"stopped by {signal.Signals(self._stopped).name}; the rest is untouched")
            error.exit_code = 128 + self._stopped
            raise error
        _check_missing(self._errand, self._selection)


class Pace:
    """At most so many a second."""

    def __init__(self, rate: float | None) -> None:
        self._interval = 1 / rate if rate else 0.0
        self._next = time.monotonic()

    def wait(self, turn: Callable[[], None], stopped: Callable[[], int]) -> None:
        """Until the next may go; `turn` keeps connections alive meanwhile."""
        while self._interval and not stopped() and (left := self._next - time.monotonic()) > 0:
            turn()
            time.sleep(min(left, 0.1))
        self._next = max(self._next, time.monotonic() - 0.1) + self._interval


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """A block in which Python looks for reference cycles rarely: a fifth of the time of a replay otherwise.

    Thousands of messages are alive at any moment, and each look walks through all of them.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(50_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


@contextlib.contextmanager
def signals() -> Iterator[Callable[[], int]]:
    """A block that SIGINT and SIGTERM do not tear apart: they are noted, and a second one ends the process as usual."""
    seen: list[int] = []

    def on_signal(number: int, _frame: object) -> None:
        seen.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, on_signal)
    try:
        yield lambda: seen[0] if seen else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def import_letters(errand: Errand) -> int:
    """Publish the lines of an export into the dead queue.

    Raises:
        WorkqueuedError: the text says up to which line everything is safe.
    """
    from workqueued.cli import bulk
    from workqueued.sender import Sender

    options, where, count = errand.options, errand.where, 0
    if not errand.dead.exists:
        errand.check_name()
        errand.dead.declare()

    def make(line: bytes) -> Message | None:
        if not line.strip():
            return None
        properties, body = archive.from_line(line)
        return checked(Message(errand.dead.name, body, properties))

    def report(safe: list[Message]) -> None:
        nonlocal count
        count += len(safe)
        bar.add(len(safe))

    bar = Bar()
    sender = Sender(where.url or None, config=where.config, timeout=options.timeout)
    try:
        with sender, errand.dead.kept_alive():
            bulk.Bulk(sender, make, report, options.skip).run(open_input(options.file))
    except WorkqueuedError as error:
        again = type(error)(str(error).replace("\nwq-send: ", "\nwq-dead: "))
        again.exit_code = error.exit_code
        raise again from error
    finally:
        bar.close()
    words = f"imported {messages(count)} into {errand.dead.name}"
    errand.screen.line(json.dumps({"imported": count, "queue": errand.dead.name}) if options.json else words)
    errand.screen.flush()
    return os.EX_OK
