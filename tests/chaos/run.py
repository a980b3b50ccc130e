"""`make chaos`: run the daemon under a steady load while all breaks around it, then settle the accounts.

    python -m chaos.run --seed 1 --minutes 5 --type quorum

Exit code: 0 when the promise was kept, 1 when not (then the folder of the run stays), as well as its seed.
"""

import argparse
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness import alive

from chaos.books import Books, audit
from chaos.brokers import use_broker
from chaos.faults import DECK, inject
from chaos.report import Happened, Story, accounts, table
from chaos.world import MAIN, VICTIM, Plan, World, stage
from workqueued.node import Node
from workqueued.scoreboard import Kind

#: A fleet that is not whole again after so many seconds is stuck.
_RECOVERS_WITHIN = 120.0
#: It is whole when it stays so: just after a fault it may only not have noticed.
_STAYS_WHOLE = 0.3
#: How long the queues may take to run empty at the end.
_EMPTY_WITHIN = 300.0
_KILLS_THE_MASTER = ("master killed", "supervisord killed")


def main() -> int:
    """The command."""
    options = parse()
    directory = Path(options.directory).absolute()
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    use_broker(options.broker, directory.parent)
    plan = Plan(
        seed=options.seed,
        minutes=options.minutes,
        tasks=options.tasks,
        faults=options.faults,
        type=options.type,
        rate=options.rate,
        workers=options.workers,
        only=options.only,
    )
    with stage(directory, Node(directory / "broker"), plan) as world:
        version = world.node.ctl("version").strip()
        print(f"chaos: RabbitMQ {version}, {plan}", flush=True)
        story = run(world)
    text = f"{table(story)}\n\n{accounts(story)}"
    print(f"\n{text}")
    if story.kept:
        shutil.rmtree(directory)
        return 0
    print(f"\nchaos: the folder of this run, with its logs: {directory}", file=sys.stderr)
    return 1


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--minutes", type=float, default=10.0, help="how long faults are drawn")
    parser.add_argument("--tasks", type=int, default=0, help="until so many are confirmed, instead of --minutes")
    parser.add_argument("--faults", type=int, default=0, help="at least so many")
    parser.add_argument("--broker", default="", help="3.10 or 4.0: Debian's, installed aside if need be (as root)")
    parser.add_argument("--type", default="quorum", choices=["quorum", "classic"])
    parser.add_argument("--rate", type=float, default=300.0, help="messages a second")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--only", default="", metavar="FAULT", help="this one alone, again and again")
    parser.add_argument("--directory", default=".run/chaos/run", help="made anew; stays when the promise was broken")
    return parser.parse_args()


def run(world: World) -> Story:
    """Draw faults until it is time, let all come to rest, and settle the accounts."""
    began = time.monotonic()
    happened = list(draw(world, lambda count: is_over(world, began, count)))
    world.stop_senders()
    seconds = time.monotonic() - began
    world.workers = world.plan.workers
    world.write_config()
    world.reload()
    stuck = world.await_rest(_EMPTY_WITHIN)
    children = [*world.children(Kind.WORKER), *world.children(Kind.MONITOR)]
    world.supervisor.ctl("stop", "workqueued")
    left = [f"child {pid} lives after the stop" for pid in children if alive(pid)]
    books = {
        queue: Books.read(world.directory / queue, world.plan.seed, world.take_dead(queue)) for queue in (MAIN, VICTIM)
    }
    most = world.plan.workers if world.plan.type == "quorum" else None
    return Story(happened, audit(books[MAIN]), audit(books[VICTIM]), world.removed, seconds, most, stuck, left)


def is_over(world: World, began: float, count: int) -> bool:
    """Whether enough has happened."""
    if count < world.plan.faults:
        return False
    if world.plan.tasks:
        return world.load_is_over
    return time.monotonic() - began > world.plan.minutes * 60


def draw(world: World, over: Callable[[int], bool]) -> Iterator[Happened]:
    """Draw card after card; a deck is played to its end before it is shuffled again, so that nothing is left out."""
    deck: list[str] = []
    count = 0
    while not over(count):
        if not deck:
            deck = [name for name, (_, cards) in DECK.items() for _ in range(cards)]
            deck = [world.plan.only] if world.plan.only else deck
            world.chance.shuffle(deck)
        yield suffer(world, deck.pop())
        count += 1
        time.sleep(world.chance.uniform(0.2, 1.5))


def suffer(world: World, name: str) -> Happened:
    """One fault, and the recovery from it."""
    former = [*world.children(Kind.WORKER), *world.children(Kind.MONITOR)]
    one = Happened(name, time.monotonic())
    finished = world.finished()
    inject(world, name)
    one.over = time.monotonic()
    orphaned = name in _KILLS_THE_MASTER
    since = None
    while time.monotonic() - one.over < _RECOVERS_WITHIN:
        now = time.monotonic()
        if orphaned and not any(map(alive, former)):
            one.orphans, orphaned = now - one.began, False
        since = (since or now) if is_whole(world, finished) else None
        if since and now - since > _STAYS_WHOLE and not orphaned:
            one.whole = since - one.over
            break
        time.sleep(0.01)
    told = "NEVER" if one.whole is None else f"{one.whole:.2f} s"
    print(f"chaos: {one.began:.1f} {name} ({one.over - one.began:.1f} s), whole again after {told}", flush=True)
    return one


def is_whole(world: World, finished: int) -> bool:
    """Whether all workers consume, the broker agrees (orphans may be there as well), and something was finished."""
    progress = world.load_is_over or world.finished() > finished
    return progress and len(world.at_work()) == world.workers and world.consumers() >= world.workers


if __name__ == "__main__":
    sys.exit(main())
