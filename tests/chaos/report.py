"""What a chaos run prints: a line per fault as it happens, a table, and the accounts."""

import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from chaos.books import Account, share_out


@dataclass
class Happened:
    """One fault.

    Attributes:
        began, over: when it was injected, and when its cause was over; seconds, monotonic.
        whole: seconds from then until all workers consumed, and one had finished something; None: never.
        orphans: seconds until the last child of a killed master was gone.
    """

    name: str
    began: float
    over: float = 0.0
    whole: float | None = None
    orphans: float | None = None


@dataclass
class Story:
    """A whole run.

    Attributes:
        removed: messages that were purged or deleted by our own hand.
        most: duplicates that a fault may cause, one for each worker; None on classic queues, which write late.
        stuck: what was still in the queues at the end.
        leftovers: what else should not be.
    """

    happened: list[Happened]
    main: Account
    victim: Account
    removed: int
    seconds: float
    most: int | None = None
    stuck: str = ""
    leftovers: Sequence[str] = field(default_factory=list)

    @property
    def kept(self) -> bool:
        """Whether the promise was kept: nothing lost but what was taken out of the victim queue."""
        victim = self.victim
        only_removed = len(victim.lost) <= self.removed and not (victim.invented or victim.falsely_dead)
        recovered = all(one.whole is not None for one in self.happened)
        twice = self.most is not None and len(self.main.duplicates) > self.most * len(self.happened)
        return self.main.balanced and only_removed and recovered and not (twice or self.stuck or self.leftovers)


def table(story: Story) -> str:
    """Fault by (times, recovery median and worst, lost, duplicates), in Markdown."""
    begins = [one.began for one in story.happened]
    lost = share_out((at for _, at in story.main.lost), begins)
    again = share_out((at for _, at in story.main.duplicates), begins)
    rows = ["| fault | times | recovery, median | worst | lost | duplicates |", "|---|--:|--:|--:|--:|--:|"]
    for name in sorted({one.name for one in story.happened}):
        numbers = [number for number, one in enumerate(story.happened) if one.name == name]
        times = [story.happened[number].whole for number in numbers]
        rows.append(
            f"| {name} | {len(numbers)} | {_median(times)} | {_worst(times)} "
            f"| {_sum(lost, numbers)} | {_sum(again, numbers)} |"
        )
    before = (lost[-1], again[-1])
    if any(before):
        rows.append(f"| (before the first) | | | | {before[0]} | {before[1]} |")
    rows.append(f"| **all** | {len(begins)} | | | {len(story.main.lost)} | {len(story.main.duplicates)} |")
    return "\n".join(rows)


def accounts(story: Story) -> str:
    """The sums, a line each."""
    main, victim = story.main, story.victim
    orphans = [one.orphans for one in story.happened if one.orphans is not None]
    lines = [
        f"confirmed {main.confirmed:,}, finished {main.finished:,}, dead {main.buried:,} (all poison)",
        f"in {story.seconds:.0f} s, under {len(story.happened)} faults",
        f"LOST {len(main.lost)}, invented {main.invented}, falsely dead {len(main.falsely_dead)}",
        f"poison that was done {main.unburied}, duplicates {len(main.duplicates)}, stuck: {story.stuck or 'nothing'}",
        f"the queue that was purged and deleted: confirmed {victim.confirmed:,}, finished {victim.finished:,}",
        f"missing there: {len(victim.lost)} of the {story.removed} that were removed",
    ]
    if orphans:
        lines.append(f"children of a killed master were gone after {_median(orphans)}, worst {_worst(orphans)}")
    lines += story.leftovers
    if not story.kept:
        lines.append(f"lost: {main.lost[:10]}; falsely dead: {main.falsely_dead[:10]}")
    lines.append("the promise was kept" if story.kept else "THE PROMISE WAS BROKEN")
    return "\n".join(lines)


def _sum(counts: Mapping[int, int] | Counter[int], numbers: Iterable[int]) -> int:
    return sum(counts[number] for number in numbers)


def _median(times: Sequence[float | None]) -> str:
    known = [one for one in times if one is not None]
    return _time(statistics.median(known)) if known else "never"


def _worst(times: Sequence[float | None]) -> str:
    return "never" if None in times else _time(max(one for one in times if one is not None))


def _time(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
