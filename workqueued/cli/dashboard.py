"""Dashboard: a status as lines for people; `facts` has it for programs.

Whatever a stranger chose (message ids) or a file says (names, paths) goes through `visible` before it is shown.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from workqueued import durations
from workqueued.cli.screen import clip, columns, pad, visible
from workqueued.status import Condition, DeathStatus, QueueStatus, Status, WorkerStatus

#: Stands for what is not known.
UNKNOWN = "-"
#: A sparkline's steps, where the terminal has them and where not, and how many samples it shows.
BLOCKS, PLAIN_BLOCKS, SPARKS = "▁▂▃▄▅▆▇█", "_.-=+*#@", 24
#: No column is made narrower than this for the others' sake.
_NARROWEST = 8
#: SGR codes (ECMA-48).
_BOLD = "1"
_COLOURS = {
    Condition.RUNNING: "32",
    Condition.PAUSED: "33",
    Condition.DEGRADED: "33",
    Condition.DRAINING: "36",
    Condition.DOWN: "31",
}


class Style(NamedTuple):
    """How to draw.

    Attributes:
        width: columns of the terminal; None: lines may be as long as they are.
        colour: whether to use any.
        blocks: the steps of a sparkline.
    """

    width: int | None = None
    colour: bool = False
    blocks: str = BLOCKS


class History:
    """The depths of late, one for each of the monitor's samples."""

    def __init__(self) -> None:
        self._depths: dict[str, deque[int | None]] = {}
        self._taken: dict[str, float] = {}

    def note(self, status: Status, now: float) -> None:
        """Remember what is new in a status that was taken at `now`, monotonic seconds."""
        for queue in status.queues:
            if queue.age_s is None:
                continue
            taken = now - queue.age_s
            if abs(taken - self._taken.get(queue.name, -1.0)) > 0.01:
                self._taken[queue.name] = taken
                self._depths.setdefault(queue.name, deque(maxlen=SPARKS)).append(queue.ready)

    def line(self, queue: str, blocks: str = BLOCKS) -> str:
        """The sparkline of a queue."""
        return sparkline(self._depths.get(queue, ()), blocks)


def sparkline(values: Iterable[int | None], blocks: str = BLOCKS) -> str:
    """A character for each value, the lowest for 0 and the highest for the most; a blank for what is unknown."""
    values = list(values)
    most = max((value for value in values if value is not None), default=0)
    top = len(blocks) - 1
    return "".join(" " if value is None else blocks[-(-value * top // most) if most else 0] for value in values)


def lines(status: Status, style: Style, *, changed: bool | None = None, history: History | None = None) -> list[str]:
    """All of it: a line for the whole, the reasons, and tables of queues, workers and deaths.

    Args:
        status: what to show.
        style: how.
        changed: whether the configuration on the disk is another one by now.
        history: with it, each queue has a sparkline.
    """
    shown = [_header(status, style, changed=changed)]
    for reason in status.reasons:
        shown.append(_coloured(clip(f"  {visible(reason)}", style.width), status.condition, style))
    for queue in status.queues:
        for alert in queue.alerts:
            line = f"  {visible(queue.name)}: alert, {alert.replace('_', ' ')}"
            shown.append(_coloured(clip(line, style.width), Condition.DEGRADED, style))
    if status.queues:
        shown += ["", *_queues(status.queues, style, history)]
    if status.delayed:
        what = "message waits for its time" if status.delayed == 1 else "messages wait for their time"
        shown.append(clip(f"{status.delayed} delayed {what}, in all queues of the vhost", style.width))
    if status.workers:
        shown += ["", *_table(_WORKER_TITLES, [_worker_cells(one) for one in status.workers], style, left=(0, 1, 4))]
    if status.deaths:
        deaths = [_death_cells(one) for one in status.deaths]
        shown += ["", *_table(("LAST DEATHS", "SLOT", "PID", "CAUSE", "MESSAGE"), deaths, style, left=(0, 1, 3, 4))]
    return shown


def _header(status: Status, style: Style, *, changed: bool | None) -> str:
    word = status.condition.value
    if status.since is None:
        return _coloured(word, status.condition, style)
    parts = [f" since {_local(status.since)} ({span(status.uptime_s)})", f"  version {status.version or UNKNOWN}"]
    parts.append(f"  {status.config or UNKNOWN} {status.config_hash or UNKNOWN}")
    if changed:
        parts.append(" (the file has changed since)")
    parts.append(f"  generation {status.generation}")
    rest = clip(visible("".join(parts)), None if style.width is None else max(1, style.width - len(word)))
    return _coloured(word, status.condition, style) + rest


def _coloured(text: str, condition: Condition, style: Style) -> str:
    return f"\x1b[{_COLOURS[condition]}m{text}\x1b[0m" if style.colour else text


# --- tables ----------------------------------------------------------------------------------------------------------

_WORKER_TITLES = ("SLOT", "STATE", "PID", "UPTIME", "MESSAGE", "AGE", "DONE", "RETRIED", "DEAD", "RSS")


def _queues(queues: Sequence[QueueStatus], style: Style, history: History | None) -> list[str]:
    titles = ["QUEUE", "READY", "UNACKED", "CONSUMERS", "IN/S", "OUT/S", "ETA", "OLDEST", "DEAD"]
    titles += ["WORKERS", "SAMPLED", "STATE"] + (["DEPTH"] if history else [])
    rows = []
    for queue in queues:
        row = [
            visible(queue.name),
            *map(_number, (queue.ready, queue.unacked, queue.consumers)),
            *map(_rate, (queue.flow.in_rate, queue.flow.out_rate)),
            *map(span, (queue.eta_s, queue.oldest_s)),
            _number(queue.dead),
        ]
        wanted = 0 if queue.wanted is None else queue.wanted
        row += [f"{queue.serving}/{wanted}", span(queue.age_s), queue.state]
        rows.append(row + ([history.line(queue.name, style.blocks)] if history else []))
    words = (0, len(titles) - 1, len(titles) - 2) if history else (0, len(titles) - 1)
    return _table(titles, rows, style, left=words)


def _worker_cells(worker: WorkerStatus) -> list[str]:
    return [
        visible(worker.slot),
        worker.state,
        str(worker.pid),
        span(worker.uptime_s),
        UNKNOWN if worker.message_id is None else visible(worker.message_id),
        span(worker.busy_s),
        *map(_number, (worker.done, worker.retried, worker.dead)),
        UNKNOWN if worker.rss_bytes is None else f"{worker.rss_bytes / 2**20:.0f}M",
    ]


def _death_cells(death: DeathStatus) -> list[str]:
    message = UNKNOWN if death.message_id is None else visible(death.message_id)
    return [_local(death.at), visible(death.slot), str(death.pid), visible(death.cause), message]


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]], style: Style, left: Sequence[int]) -> list[str]:
    """Lines in columns; those in `left` are words, which begin at the left and are cut when the terminal is narrow."""
    keep = list(range(len(titles)))
    if style.width is not None and sum(_widths(titles, rows)) + 2 * (len(titles) - 1) > style.width:
        # What nobody knows of anything is the first to go.
        keep = [at for at in keep if at in left or any(row[at] != UNKNOWN for row in rows)]
    left = [new for new, old in enumerate(keep) if old in left]
    grid = [[row[at] for at in keep] for row in (titles, *rows)]
    widths = _widths(grid[0], grid[1:])
    if style.width is not None:
        _narrow(widths, left, style.width - 2 * (len(widths) - 1))
    shown = []
    for number, row in enumerate(grid):
        cells = [
            pad(clip(text, width), width) if at in left else " " * (width - columns(text)) + text
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        line = clip("  ".join(cells).rstrip(), style.width)
        shown.append(f"\x1b[{_BOLD}m{line}\x1b[0m" if style.colour and number == 0 else line)
    return shown


def _widths(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(columns(row[at]) for row in (titles, *rows)) for at in range(len(titles))]


def _narrow(widths: list[int], flexible: Sequence[int], room: int) -> None:
    """Take from the widest of the flexible columns what is missing."""
    while sum(widths) > room:
        widest = max(flexible, key=lambda at: widths[at])
        if widths[widest] <= _NARROWEST:
            return
        widths[widest] -= 1


def _number(value: int | None) -> str:
    return UNKNOWN if value is None else str(value)


def _rate(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def span(seconds: float | None) -> str:
    """A duration for eyes, such as 3m05s."""
    return UNKNOWN if seconds is None else durations.span(seconds)


def _local(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))
