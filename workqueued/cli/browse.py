"""What `wq-dead` does without changing anything: list, show, stats, export."""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping

from workqueued import archive, letters
from workqueued.cli.errand import Errand, NotFoundError, messages
from workqueued.cli.screen import Screen, clip, note, pad, visible
from workqueued.delivery import ATTEMPT, CRASHES, ENQUEUED_AT, EXPIRES_AT, REDELIVERIES, REPLAYED
from workqueued.errors import UsageError
from workqueued.letters import Letter

#: Columns of a time-ordered UUID, of the longest of our reasons.
_ID, _REASON = 36, 11
#: A terminal with fewer columns gets short times.
_NARROW = 100
#: So many letters are named when an abbreviated id means several.
_NAMED = 10

_STATS: Mapping[str, Callable[[Letter], str]] = {
    "reason": lambda letter: letter.reason,
    "error": lambda letter: letter.text(letters.ERROR) or "",
    "handler": lambda letter: letter.text(letters.HANDLER) or "",
    "host": lambda letter: letter.text(letters.HOST) or "",
}
#: What `stats --by` takes.
GROUPS = tuple(_STATS)


def list_letters(errand: Errand) -> int:
    """A line for each letter, as they come."""
    if not errand.anything():
        return os.EX_OK
    selection = errand.select()
    table = Table(errand.screen, as_json=errand.options.json)
    total = 0
    for letter, look in errand.letters(selection):
        total = look.total
        table.row(letter)
    errand.screen.flush()
    if not selection.taken:
        among = f" among {messages(selection.passed)}" if selection.passed else ""
        note(f"nothing {'is dead' if not among else 'fits'}{among} in {errand.dead.name}")
    elif errand.screen.terminal and not errand.options.json:
        note(f"{selection.taken} of {messages(total)} in {errand.dead.name}")
    return os.EX_OK


class Table:
    """Letters as rows, or as JSON, one object a line."""

    def __init__(self, screen: Screen, *, as_json: bool) -> None:
        self._screen = screen
        self._json = as_json
        self._narrow = screen.width is not None and screen.width < _NARROW
        self._headed = as_json

    def row(self, letter: Letter) -> None:
        """Print a letter."""
        if self._json:
            self._screen.line(json.dumps(letter.facts()))
            return
        if not self._headed:
            self._headed = True
            self._line("ID", "FAILED", "REASON", "TRY", "ERROR")
        attempt = letter.count(ATTEMPT)
        self._line(
            letter.identity,
            letters.local(letter.failed_at),
            letter.reason,
            str(attempt) if attempt else "",
            letter.text(letters.ERROR) or "",
        )

    def _line(self, identity: str, failed: str, reason: str, attempt: str, error: str) -> None:
        on_terminal = self._screen.width is not None
        identity = visible(identity)
        if self._narrow and failed[:1].isdigit():
            failed = failed[5:16]
        row = "  ".join(
            (
                pad(clip(identity, _ID) if on_terminal else identity, _ID),
                pad(failed, 11 if self._narrow else 19),
                pad(visible(reason), _REASON),
                attempt.rjust(3),
                visible(error),
            )
        )
        self._screen.line(clip(row.rstrip(), self._screen.width))


def stats(errand: Errand) -> int:
    """How many letters there are of each kind, most first."""
    if not errand.anything():
        return os.EX_OK
    by = errand.options.by
    counts = Counter(_STATS[by](letter) for letter, _ in errand.letters(errand.select()))
    width = len(str(max(counts.values(), default=0)))
    for value, count in counts.most_common():
        if errand.options.json:
            errand.screen.line(json.dumps({by: value or None, "count": count}))
        else:
            row = f"{count:>{width}}  {visible(value) or '-'}"
            errand.screen.line(clip(row, errand.screen.width))
    errand.screen.flush()
    if not counts:
        note(f"nothing is dead in {errand.dead.name}")
    return os.EX_OK


def export(errand: Errand) -> int:
    """The letters as NDJSON; they stay in the queue."""
    if not errand.anything():
        return os.EX_OK
    selection = errand.select()
    for letter, _ in errand.letters(selection, bodies=True):
        errand.screen.line(archive.to_line(letter.properties, letter.body or b""))
    errand.screen.flush()
    if selection.missing:
        raise NotFoundError(f"not in {errand.dead.name}: {', '.join(selection.missing)}")
    return os.EX_OK


def show(errand: Errand) -> int:
    """One letter: its envelope and headers, or its body alone.

    Raises:
        NotFoundError: there is none with such an id.
        UsageError: the beginning of an id means several.
    """
    letter = _find(errand, errand.options.id) if errand.anything() else None
    if letter is None:
        raise NotFoundError(f"{errand.options.id!r} is not in {errand.dead.name}")
    screen, options = errand.screen, errand.options
    body = letter.body or b""
    if options.json:
        message = archive.to_object(letter.properties, body)
        if not options.body:
            del message["body"]
        screen.line(json.dumps({**letter.facts(), "message": message}))
    elif options.body and not screen.terminal:
        screen.write(body)
    elif options.body:
        screen.line(visible(body.decode("utf-8", "backslashreplace"), keep="\n\t"))
    else:
        for line in _envelope(letter):
            screen.line(line)
    screen.flush()
    return os.EX_OK


def _find(errand: Errand, wanted: str) -> Letter | None:
    """The letter with this id, or else the only one whose id begins so."""
    others: dict[str, Letter] = {}
    for letter, _ in errand.letters(errand.select(), bodies=True):
        if letter.identity == wanted:
            return letter
        if letter.identity.startswith(wanted) and len(others) <= _NAMED:
            others.setdefault(letter.identity, letter)
    if len(others) > 1:
        named = "\n  ".join(visible(identity) for identity in list(others)[:_NAMED])
        more = "\n  …" if len(others) > _NAMED else ""
        raise UsageError(f"{wanted!r} may be any of\n  {named}{more}")
    return next(iter(others.values()), None)


def _envelope(letter: Letter) -> Iterator[str]:
    """The lines of `show`; nothing in them can do something to a terminal."""
    for name, value in _told(letter):
        if value:
            yield f"{name:<17} {visible(value)}"
    for death in letter.deaths:
        where = f" in {death.queue}" if death.queue else ""
        at = f", last {letters.local(death.at)}" if death.at else ""
        yield f"{'broker says':<17} {visible(f'{death.reason} x{death.count}{where}{at}')}"
    stderr = letter.text(letters.STDERR)
    if stderr:
        yield "stderr"
        for line in stderr.splitlines():
            yield f"  {visible(line, keep=chr(9))}"
    rest = {name: value for name, value in letter.properties.headers.items() if name not in _TOLD}
    if rest:
        yield "headers"
        for name, value in rest.items():
            shown = value if isinstance(value, str) else letters.compact(value)
            yield f"  {visible(name)}: {visible(shown)}"
    yield f"{'body':<17} {letter.size} byte{'' if letter.size == 1 else 's'}; show it with --body"


#: Headers that an envelope tells in words.
_TOLD = {
    letters.REASON, letters.ERROR, letters.HANDLER, letters.HOST, letters.QUEUE, letters.EXIT, letters.SIGNAL,
    letters.STDERR, letters.FIRST_FAILED_AT, letters.LAST_FAILED_AT, letters.LEFT_OUT, ATTEMPT, CRASHES, REDELIVERIES,
    ENQUEUED_AT, EXPIRES_AT, REPLAYED, "x-death",
}  # fmt: skip


def _told(letter: Letter) -> Iterator[tuple[str, str | None]]:
    properties = letter.properties
    yield "id", letter.identity
    yield "reason", letter.reason
    for name, header in (
        ("error", letters.ERROR),
        ("attempt", ATTEMPT),
        ("crashes", CRASHES),
        ("redeliveries", REDELIVERIES),
        ("exit", letters.EXIT),
        ("signal", letters.SIGNAL),
        ("handler", letters.HANDLER),
        ("host", letters.HOST),
        ("queue", letters.QUEUE),
    ):
        yield name, letter.text(header)
    for name, header in (
        ("enqueued", ENQUEUED_AT),
        ("first failed", letters.FIRST_FAILED_AT),
        ("last failed", letters.LAST_FAILED_AT),
        ("replayed", REPLAYED),
        ("expires", EXPIRES_AT),
    ):
        yield name, letters.local(letter.at(header)) or letter.text(header)
    yield "headers left out", letter.text(letters.LEFT_OUT)
    for name in ("type", "content_type", "content_encoding", "correlation_id", "reply_to", "app_id", "expiration"):
        yield name.replace("_", " "), getattr(properties, name)
    yield "priority", None if properties.priority is None else str(properties.priority)
    yield "timestamp", letters.local(letters.milliseconds((properties.timestamp or 0) * 1000))
