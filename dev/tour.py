"""`make tour`: every way in which a message can end, told while it happens.

Runs in: its own process, the parent of all the others; when it ends, they end.

Each act types a command, shows what came of it in the daemon's log, and checks that it is what it tells. Nothing is
waited for by the clock alone, and what does not come in time ends the tour. The service's folder is .run/tour/, with
copies of dev/tour.yaml, dev/tour_handlers.py and dev/tour_label.sh; it stays until the next tour. docs/tour.md tells
the same, with the output of a run.
"""

import contextlib
import fcntl
import functools
import itertools
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from dev.narrator import FINAL, Event, Narrator, Ran, at, died, expect, named, outcomes, say
from dev.stage import ROOT, Daemon, Interrupt, StageError, adapted, tell
from workqueued.config import Config, read_config
from workqueued.errors import WorkqueuedError
from workqueued.node import Node

STATE = ROOT / ".run/tour"
LOG = STATE / "workqueued.log"
DEV = Path(__file__).resolve().parent
#: In dev/, and copied to the service's folder.
YAML, HANDLERS, SCRIPT = "tour.yaml", "tour_handlers.py", "tour_label.sh"
#: How many workers a message may take down: the default of `crashes`.
CRASHES = 3

PLACE = "All is typed in .run/tour/, and WQ_CONFIG=workqueued.yaml tells the commands where the broker is."
#: Before the service is started.
CHECK = "workqueued --check --config workqueued.yaml"

Check = Callable[[Narrator, Ran], None]


@dataclass(frozen=True, slots=True)
class Step:
    """A command as a user types it, and what must come of it."""

    command: str
    check: Check


@dataclass(frozen=True, slots=True)
class Act:
    """A thing that can happen to a message."""

    title: str
    story: str
    steps: tuple[Step, ...]


def nothing_more(_tour: Narrator, _ran: Ran) -> None:
    """It is enough that the command succeeds."""


def is_done(tour: Narrator, ran: Ran) -> None:
    """At the first attempt."""
    expect(outcomes(tour.follow_sent(ran)) == ["done"], "the message is done")


def is_done_at_the_third(tour: Narrator, ran: Ran) -> None:
    """Two attempts fail; the delays are kept, measured from call to call."""
    events = tour.follow_sent(ran)
    expect(outcomes(events) == ["retried", "retried", "done"], "the third attempt succeeds")
    calls = [at(event) for event in named(events, "supplier.called")]
    gaps = [later - earlier for earlier, later in itertools.pairwise(calls)]
    asked = [event["delay_s"] for event in named(events, "delivery.settled")[:2]]
    expect(asked == [1, 2], "the delays are 1 s and 2 s")
    expect(all(gap >= delay for gap, delay in zip(gaps, asked, strict=True)), f"no attempt is early: {gaps}")
    say(f"from the first call to the second {gaps[0]:.2f} s, to the third {gaps[1]:.2f} s: a little late, never early")


def is_rejected(tour: Narrator, ran: Ran) -> None:
    """At once."""
    (settled,) = named(tour.follow_sent(ran), "delivery.settled")
    expect((settled["outcome"], settled["reason"]) == ("dead", "rejected"), "the message is rejected at once")


def times_out(tour: Narrator, ran: Ran) -> None:
    """Three times, and not after the minute that the handler sleeps."""
    settled = named(tour.follow_sent(ran), "delivery.settled")
    expect(outcomes(settled) == ["retried", "retried", "dead"], "three attempts end in the dead queue")
    expect({event["reason"] for event in settled} == {"timeout"}, "the reason is the time limit")
    expect(len({event["pid"] for event in settled}) <= 2 and not died(settled), "the workers live on")
    longest = max(event["duration_ms"] for event in settled)
    expect(1000 <= longest < 30_000, f"the handler is interrupted after a second: {longest} ms")


def takes_three_workers_down(tour: Narrator, ran: Ran) -> None:
    """No more, and both places are taken again."""
    events = tour.follow_sent(ran, deaths=CRASHES)
    deaths = died(events)
    expect([event["crashes"] for event in deaths] == [1, 2, 3], "three workers die of it")
    expect({event["signal"] for event in deaths} == {"SIGSEGV"}, "they die of the segfault")
    (last,) = [event for event in events if event.get("outcome") == "dead"]
    expect((last["reason"], last["crashes"]) == ("crashed", CRASHES), "then it is buried, as crashed")
    slots = {event["slot"] for event in deaths}
    final = {slot: max(at(event) for event in deaths if event["slot"] == slot) for slot in slots}
    say("and workers have taken the places of the dead:")

    def replaces(event: Event, slot: str) -> bool:
        return event["event"] == "worker.consuming" and event["slot"] == slot and at(event) > final[slot]

    for slot in sorted(slots, key=lambda slot: final[slot]):
        tour.await_events(f"{slot} is replaced", ran.mark, functools.partial(replaces, slot=slot))


def is_printed_by_the_program(tour: Narrator, ran: Ran) -> None:
    """With the message's id, which it has from its environment."""
    events = tour.follow_sent(ran)
    expect(outcomes(events) == ["done"], "exit code 0 means done")
    (printed,) = named(events, "handler.printed")
    expect(printed["line"] == f"label for Ada Lovelace (message {tour.sent[-1]})", "the program has body and id")


def comes_later(tour: Narrator, ran: Ran) -> None:
    """After its delay, and soon."""
    events = tour.follow_sent(ran)
    expect(outcomes(events) == ["done"], "the message is done")
    after = at(named(events, "greeting.given")[0]) - ran.began_at
    expect(after >= 3, f"it is not handled early: after {after} s")
    wait = named(events, "delivery.settled")[0]["wait_ms"]
    say(f"handled {after:.2f} s after wq-send was called, {wait} ms after it was due")


def lists_three(_tour: Narrator, ran: Ran) -> None:
    """In the order in which they died."""
    rows = [line.split() for line in ran.output.splitlines()[1:]]
    expect([row[3] for row in rows] == ["rejected", "timeout", "crashed"], "these three are dead")


def tells_the_story(_tour: Narrator, ran: Ran) -> None:
    """Of the crashed one."""
    expect("crashed" in ran.output and "SIGSEGV" in ran.output, "show tells what it died of")


def runs_again(tour: Narrator, ran: Ran) -> None:
    """And succeeds: the order is there now."""
    events = tour.follow(ran, "invoice-7")
    expect(outcomes(events) == ["done"], "the replayed message is done")
    (settled,) = named(events, "delivery.settled")
    expect(settled["attempt"] == 1, "it starts again with its first attempt")
    tour.replayed.append("invoice-7")


def lists_two(_tour: Narrator, ran: Ran) -> None:
    """The replayed one has left."""
    rows = [line.split() for line in ran.output.splitlines()[1:]]
    expect([row[3] for row in rows] == ["timeout", "crashed"], "two are still dead")


ACTS = (
    Act(
        "Done",
        "The handler returns, and the message is acknowledged: not before, and nothing else does it.",
        (Step("wq-send --queue shop --type greet World", is_done),),
    ),
    Act(
        "Fails twice, then succeeds",
        "An exception is a failed attempt. The message waits in the broker, and the worker serves others meanwhile.",
        (Step("wq-send --queue shop --type order 12 red apples", is_done_at_the_third),),
    ),
    Act(
        "Rejected",
        "Reject says that another attempt is no use: to the dead queue, at once, with the reason.\n"
        "(An id of our own, for later; without one wq-send makes one.)",
        (Step("wq-send --queue shop --type invoice --message-id invoice-7 order-7.txt", is_rejected),),
    ),
    Act(
        "Timed out",
        "The handler sleeps for a minute. After its time limit, a second, it is interrupted in the middle of the\n"
        "system call; the worker goes on. Three attempts, then the dead queue.",
        (Step("wq-send --queue shop --type nap zzz", times_out),),
    ),
    Act(
        "Takes its worker down",
        "A segfault. The broker gives the message to the next worker, which dies as well; after three deaths it is\n"
        "buried, by evidence: the master has seen which message each of the dead had in hand.",
        (Step("wq-send --queue shop --type crash --message-id poison boom", takes_three_workers_down),),
    ),
    Act(
        "Handled by a program",
        "A queue may have any program instead of a Python handler. What it prints is in the log.",
        (Step("wq-send --queue labels Ada Lovelace", is_printed_by_the_program),),
    ),
    Act(
        "Sent for later",
        "The message waits in the broker until it is due; wait_ms counts from then.",
        (Step("wq-send --queue shop --type greet --delay 3s Moon", comes_later),),
    ),
    Act(
        "Back from the dead",
        "Three messages are in the dead queue shop.dead, each with its story. Looking takes nothing out.",
        (
            Step("wq-dead list --queue shop", lists_three),
            Step("wq-dead show --queue shop poison", tells_the_story),
            Step("touch order-7.txt", nothing_more),
            Step("wq-dead replay --queue shop --yes invoice-7", runs_again),
            Step("wq-dead list --queue shop", lists_two),
        ),
    ),
)


def play(tour: Narrator) -> None:
    """All acts."""
    for number, act in enumerate(ACTS, start=1):
        tell(f"\n--- {number}. {act.title}\n\n{act.story}")
        for step in act.steps:
            step.check(tour, tour.run(step.command))


def account(tour: Narrator, config: Config) -> str:
    """Wait until the broker holds nothing but the dead letters of the log, and say what became of the messages."""
    mark = len(tour.events())
    settled = [event for event in tour.events() if event.get("outcome") in FINAL]
    last = {event["message_id"]: event for event in settled if event["message_id"] in tour.sent}
    done = sum(event["outcome"] == "done" for event in last.values())

    def has_only(event: Event, queue: str, letters: int) -> bool:
        depth = [event.get(key) for key in ("queue", "ready", "in_flight", "dead")]
        return event["event"] == "queue.depth" and depth == [queue, 0, 0, letters]

    dead = 0
    for queue in config.queues:
        letters = sum(event["outcome"] == "dead" and event["queue"] == queue for event in last.values())
        what = f"{queue} is empty, {letters} messages are in its dead queue"
        (depth,) = tour.await_events(what, mark, functools.partial(has_only, queue=queue, letters=letters))
        dead += depth["dead"]
    lost = len(tour.sent) - done - dead
    expect(lost == 0, f"no message is lost: {len(tour.sent)} sent, {done} done, {dead} dead")
    expect(len(died(tour.events())) == CRASHES, f"{CRASHES} workers died in all")
    return (
        f"{len(tour.sent)} messages sent, {done} done, {dead} dead; "
        f"{len(tour.replayed)} of the done was dead and replayed; {lost} lost"
    )


@contextlib.contextmanager
def service() -> Iterator[tuple[Narrator, Config, Daemon]]:
    """The broker, the daemon and its folder, in which we are then."""
    config = Path("workqueued.yaml")
    for name in (HANDLERS, SCRIPT):
        shutil.copy(DEV / name, STATE)
    os.chdir(STATE)
    tell("starting a private RabbitMQ")
    with Node(STATE / "broker") as node:
        text = (DEV / YAML).read_text(encoding="utf-8")
        config.write_text(adapted(text, {"url": node.url}), encoding="utf-8")
        tour = Narrator(LOG)
        daemon = Daemon(read_config(STATE / config), STATE, LOG)
        with contextlib.closing(daemon):
            yield tour, daemon.config, daemon


def perform() -> None:
    """The tour."""
    with service() as (tour, config, daemon):
        tell(f"\n--- The service\n\n{PLACE}")
        tour.run(CHECK)
        tell("\nIt is right; supervisord starts `workqueued --config workqueued.yaml`.\n")
        daemon.start()
        wanted = sum(queue.active_workers for queue in config.queues.values())
        tour.await_events("the workers are there", 0, lambda e: e["event"] == "worker.consuming", wanted)
        play(tour)
        tell("\n--- The end\n\nWhat is left in the queues; then the service is stopped.\n")
        summary = account(tour, config)
        daemon.close()
        tour.await_events("the service stops", 0, lambda e: e["event"] == "master.stopped" and e["exit_code"] == 0)
    tell(f"\ntour: {summary}")


@contextlib.contextmanager
def fresh_state() -> Iterator[None]:
    """Empty .run/tour, and keep a second tour out of it."""
    STATE.parent.mkdir(exist_ok=True)
    with (STATE.parent / "tour.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StageError("another `make tour` runs in this folder") from error
        shutil.rmtree(STATE, ignore_errors=True)
        STATE.mkdir()
        yield


def main() -> int:
    """Run the tour; returns its exit code."""
    interrupt = Interrupt(lambda: None)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    try:
        with fresh_state():
            perform()
    except KeyboardInterrupt:
        print("tour: interrupted; nothing is left running", file=sys.stderr)
        return 130
    except WorkqueuedError as error:
        print(f"tour: FAILED: {error}\n(the service's log: {LOG})", file=sys.stderr)
        return error.exit_code
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
