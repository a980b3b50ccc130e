"""The report: docs/benchmarks.md with its tables, and the plot."""

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

from matplotlib.figure import Figure

from bench.consume import CELLS, Cell
from bench.goals import GOALS, Goal
from bench.results import Results, row
from bench.systems import AMQP_CONSUME, HANDLERS, PIKA

IMAGE = Path("images/benchmarks.png")

_HEAD = """# Benchmarks

Written by `make bench`; edits are lost. What it does, in under fifteen minutes: one private broker on loopback with its
default settings; every system on the same queue, or on one of its own where its messages have a format of their own.
All are started, and all but one are stopped (SIGSTOP): each goes on for half a second at a time, in turns, in
alternating order, and is measured for a third of a second of it. All take **one message at a time** (prefetch 1),
**acknowledge by hand** after the handler, and messages are **persistent**. The handler counts and does nothing else:
measured is everything around it, and beside a handler that takes 10 ms these differences vanish. Messages are as each
system's own producer writes them, those for C, the bare socket and pika as `wq-send` does.

Rates are steady: start-up is left out, nobody publishes meanwhile. **A ratio is taken between windows of one turn**,
seconds apart, and the table has the median of the ratios; beside it the middle half of them, from the lower quartile to
the upper. Absolute rates of two machines, or two days, compare little.
Processor time is that of all processes of a system (master and monitor included) from the scheduler's accounts.

workqueued does for each task what it always does: keeper, scoreboard, time limit, verdict, one line of log at `info`.
The others have no daemon's duties (C, bare socket, pika), or fewer: Celery runs with late acknowledgement, prefork,
`-O fair` and no events; Dramatiq with its own middleware and one thread a process. amqp-consume starts a program for
each message, as `command` does. Where the microseconds of a worker go is told in [profile](profile.md).
"""


def write(results: Results, docs: Path) -> None:
    """Write the document and its picture into a folder."""
    (docs / IMAGE.parent).mkdir(parents=True, exist_ok=True)
    plot(results, docs / IMAGE)
    parts = [_HEAD, "## This run\n", *(f"- {key}: {value}" for key, value in results.about.items()), _noise(results)]
    parts += ["\n## Goals\n", *_goals(results), f"\n![Rates and processor time]({IMAGE})\n"]
    cells = [cell for cell in CELLS if any(results.of(cell.systems[0].name, **_key(cell)))]
    parts += [line for cell in cells for line in _table(results, cell)]
    parts += ["## Other figures\n", "| figure | median | middle half |", "|---|---|---|"]
    show = "{:.3g}".format
    parts += [row(name, show(statistics.median(v)), _span(v, show)) for name, v in results.figures.items()]
    parts += ["\nRates (bulk) in messages/s, times in s, memory in MiB, idle CPU in percent of one processor."]
    (docs / "benchmarks.md").write_text("\n".join(parts) + "\n")


def _noise(results: Results) -> str:
    others = [one["others"] for one in results.samples] or [0.0]
    return (
        f"- processors that other programs used meanwhile: median {statistics.median(others):.2f}, "
        f"at most {max(others):.2f} in a window"
    )


def _goals(results: Results) -> Iterator[str]:
    yield "Classic queue, 100 B, no-op handler, one worker, unless said; median (middle half).\n"
    yield "| | goal | measured | |"
    yield "|---|---|---|---|"
    for goal in GOALS:
        figures = goal.figures(results)
        if figures:
            yield row(goal.what, f"{goal.sign} {goal.show(goal.bound)}", *_verdict(goal, figures, results))


def _verdict(goal: Goal, figures: list[float], results: Results) -> tuple[str, str]:
    median = statistics.median(figures)
    measured = f"**{goal.show(median)}**"
    if len(figures) > 1:
        measured += f" ({_span(figures, goal.show)})"
    also = goal.also(results)
    if also:
        measured += f"; {also}"
    return measured, "met" if goal.met(median) else f"missed: {goal.missed}"


def _table(results: Results, cell: Cell) -> Iterator[str]:
    base = PIKA if cell.group == "handlers" else AMQP_CONSUME
    what = "" if cell.group == "handlers" else ", a program for each"
    yield f"## {cell.kind.capitalize()} queue, {cell.size:,} B, {_workers(cell)}{what}\n"
    costs = ("client CPU, µs/task", "broker CPU, µs/task")
    yield row("system", "tasks/s", "middle half", f"against {base.name}", "middle half", *costs)
    yield "|---|---|---|---|---|---|---|"
    for system in cell.systems:
        samples = list(results.of(system.name, **_key(cell)))
        ratios = results.ratios(system.name, base.name, **_key(cell))
        if not ratios:
            continue
        rates, client, broker = ([one[key] for one in samples] for key in ("rate", "client_us", "broker_us"))
        yield row(
            system.name, f"{statistics.median(rates):,.0f}", _span(rates, "{:,.0f}".format),
            f"**{statistics.median(ratios):.2f}**", _span(ratios, "{:.2f}".format),
            f"{statistics.median(client):.0f}" if system.counts else "not seen", f"{statistics.median(broker):.0f}",
        )  # fmt: skip
    yield ""


def plot(results: Results, file: Path) -> None:
    """Rates by workers on a classic queue, with their spread; beside, processor time of a task by one worker."""
    figure = Figure(figsize=(12, 5), layout="constrained")  # not pyplot's, which would look for a screen
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    colours = {system.name: f"C{number}" for number, system in enumerate(HANDLERS)}
    for name, colour in colours.items():
        points: dict[int, list[float]] = {}
        for one in results.of(name, kind="classic", size=100, group="handlers"):
            points.setdefault(one["workers"], []).append(one["rate"])
        medians = [statistics.median(points[count]) for count in sorted(points)]
        halves = [_middle_half(points[count]) for count in sorted(points)]
        below = [median - half[0] for median, half in zip(medians, halves, strict=True)]
        above = [half[1] - median for median, half in zip(medians, halves, strict=True)]
        left.errorbar(sorted(points), medians, [below, above], label=name, color=colour, marker="o", capsize=3)
    left.set(xscale="log", xlabel="workers", ylabel="tasks/s", ylim=(0, None), title="classic queue, 100 B, no-op")
    left.set_xticks([1, 2, 4, 8], ["1", "2", "4", "8"])
    left.minorticks_off()
    left.legend()
    for place, (name, colour) in enumerate(reversed(colours.items())):
        costs = [one["client_us"] for one in results.of(name, kind="classic", size=100, workers=1, group="handlers")]
        if costs:
            right.barh(place, statistics.median(costs), color=colour)
            right.text(statistics.median(costs), place, f" {statistics.median(costs):.0f}", va="center")
    right.set_yticks(range(len(colours)), list(reversed(colours)))
    right.set(xlabel="µs", title="client CPU of a task, one worker")
    figure.savefig(file, dpi=80)


def _key(cell: Cell) -> dict[str, object]:
    return {"kind": cell.kind, "size": cell.size, "workers": cell.workers, "group": cell.group}


def _workers(cell: Cell) -> str:
    return f"{cell.workers} worker{'s' * (cell.workers > 1)}"


def _middle_half(values: list[float]) -> tuple[float, float]:
    lower, _, upper = statistics.quantiles(values, method="inclusive") if len(values) > 1 else values * 3
    return lower, upper


def _span(values: list[float], show: Callable[[float], str]) -> str:
    return "–".join(show(value) for value in _middle_half(values))
