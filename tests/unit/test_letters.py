"""What a dead letter tells, which ones are meant, what a replay makes of them, and their lines of NDJSON."""

import datetime as dt
import decimal
import json
from typing import Any

import pytest

from workqueued import archive, letters
from workqueued.cli.screen import clip, columns, pad, visible
from workqueued.delivery import Properties
from workqueued.errors import DataError
from workqueued.letters import Filter, Letter, parse_when, replayed

NOW = 1_700_000_000.123
NOW_MS = 1_700_000_000_123


def letter(**headers: Any) -> Letter:
    """A letter with these headers; _ stands for -."""
    told = {name.replace("_", "-"): value for name, value in headers.items()}
    return Letter(1, "id", Properties(message_id="id", type="t", headers=told), 4, b"body")


# --- why it is dead ---


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"x_wq_reason": "timeout"}, "timeout"),
        ({"x_wq_reason": "of a later version"}, "of a later version"),
        ({"x_wq_reason": b"\xff"}, "\\xff"),
        ({"x_wq_reason": 5}, "5"),
        ({"x_wq_reason": ["a", b"\x00"]}, '["a", {"$bytes": "AA=="}]'),
        ({"x_wq_reason": ""}, "unknown"),
        ({"x_wq_reason": "broker:expired"}, "unknown"),
        ({"x_death": [{"reason": "expired"}, {"reason": "rejected"}]}, "broker:expired"),
        ({"x_wq_reason": "broker:x", "x_death": [{"reason": "maxlen"}]}, "broker:maxlen"),
        ({"x_wq_reason": "failed", "x_death": [{"reason": "expired"}]}, "failed"),
        ({"x_death": [{"reason": 5}, None, 7, {"reason": "rejected"}]}, "broker:rejected"),
        ({"x_death": "no list", "x_first_death_reason": "delivery_limit"}, "broker:delivery_limit"),
        ({"x_death": {}, "x_first_death_reason": 3}, "unknown"),
        ({}, "unknown"),
    ],
)
def test_the_reason_is_ours_or_clearly_the_broker_s(headers: dict[str, Any], reason: str) -> None:
    """Nobody but the broker can make it look like the broker's."""
    assert letter(**headers).reason == reason


@pytest.mark.parametrize(
    ("headers", "failed_at"),
    [
        ({"x_wq_last_failed_at": NOW_MS}, NOW_MS),
        ({"x_wq_last_failed_at": str(NOW_MS)}, None),
        ({"x_wq_last_failed_at": True}, None),
        ({"x_wq_last_failed_at": -1}, None),
        ({"x_wq_last_failed_at": 2**62 - 1}, None),
        ({"x_wq_last_failed_at": dt.datetime(2023, 11, 14, tzinfo=dt.UTC)}, 1_699_920_000_000),
        ({"x_death": [{"reason": "expired", "time": dt.datetime(2023, 11, 14, tzinfo=dt.UTC)}]}, 1_699_920_000_000),
        ({"x_death": [{"reason": "expired", "time": "noon"}]}, None),
        ({}, None),
    ],
)
def test_the_time_of_the_failure_is_a_time_or_nothing(headers: dict[str, Any], failed_at: int | None) -> None:
    """The worker's, else the broker's."""
    found = letter(**headers)
    assert found.failed_at == failed_at
    assert letters.local(found.failed_at) == "" or failed_at is not None
    json.dumps(found.facts())


def test_facts_hold_for_a_letter_that_tells_nothing() -> None:
    """Null, not a guess."""
    facts = letter().facts()
    assert {name for name, value in facts.items() if value is not None} == {
        "id", "reason", "type", "crashes", "redeliveries", "size",
    }  # fmt: skip


# --- which are meant ---


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        (Filter(), True),
        (Filter(ids=frozenset({"id", "other"})), True),
        (Filter(ids=frozenset({"i"})), False),
        (Filter(reasons=frozenset({"failed"})), True),
        (Filter(reasons=frozenset({"broker"})), False),
        (Filter(error="no such"), True),
        (Filter(error="NO SUCH"), False),
        (Filter(types=frozenset({"t"})), True),
        (Filter(types=frozenset({"u"})), False),
        (Filter(handlers=frozenset({"a:b"})), True),
        (Filter(handlers=frozenset({"a"})), False),
        (Filter(hosts=frozenset({"h"})), True),
        (Filter(hosts=frozenset({"g"})), False),
        (Filter(after=NOW_MS), True),
        (Filter(after=NOW_MS + 1), False),
        (Filter(before=NOW_MS), False),
        (Filter(before=NOW_MS + 1), True),
        (Filter(after=NOW_MS, before=NOW_MS + 1, reasons=frozenset({"failed"}), error="ValueError"), True),
        (Filter(after=NOW_MS, reasons=frozenset({"timeout"})), False),
    ],
)
def test_a_filter_means_what_fits_all_of_it(wanted: Filter, meant: bool) -> None:
    """An empty one means everything."""
    one = letter(
        x_wq_reason="failed", x_wq_error="ValueError: no such", x_wq_handler="a:b", x_wq_host="h",
        x_wq_last_failed_at=NOW_MS,
    )  # fmt: skip
    assert wanted.matches(one) is meant


def test_a_letter_that_does_not_say_when_it_failed_is_in_no_time() -> None:
    """Neither before nor after."""
    assert not Filter(after=0).matches(letter())
    assert not Filter(before=2**62).matches(letter())


def test_broker_means_all_of_the_broker_s_reasons() -> None:
    """`--reason broker`, or one of them alone."""
    one = letter(x_death=[{"reason": "expired"}])
    assert Filter(reasons=frozenset({"broker"})).matches(one)
    assert Filter(reasons=frozenset({"broker:expired"})).matches(one)
    assert not Filter(reasons=frozenset({"expired"})).matches(one)


def test_a_moment_is_so_long_ago_or_a_date() -> None:
    """Local time, unless it says otherwise."""
    assert parse_when("90m", NOW) == NOW_MS - 90 * 60_000
    assert parse_when("2026-05-12T03:14:15Z", NOW) == 1_778_555_655_000
    assert parse_when("2026-05-12T03:14:15+02:00", NOW) == 1_778_555_655_000 - 7_200_000
    local = dt.datetime(2026, 5, 12).astimezone()
    assert parse_when("2026-05-12", NOW) == local.timestamp() * 1000
    for wrong in ("", "soon", "1", "2026-13-01", "-5m"):
        with pytest.raises(ValueError) as raised:
            parse_when(wrong, NOW)
        assert repr(wrong) in str(raised.value)


# --- a replay ---


def test_a_replay_resets_what_told_of_the_failure() -> None:
    """And nothing else: the sender's headers and properties stay, the broker's notes do not travel."""
    told = dict.fromkeys(
        [
            "attempt", "crashes", "redeliveries", "reason", "error", "exit", "signal", "stderr", "handler",
            "first-failed-at", "last-failed-at", "host", "queue", "due-at", "expires-at",
        ],
        5,
    )  # fmt: skip
    headers: dict[str, Any] = {f"x-wq-{name}": value for name, value in told.items()}
    headers |= {"x-wq-enqueued-at": 1, "x-wq-headers-left-out": "a", "tenant": "t", "x-death": [], "CC": ["q"]}
    headers |= {"x-delivery-count": 3, "x-wq-replayed": 1}
    properties = Properties(message_id="m", type="t", priority=3, correlation_id="c", timestamp=5, headers=headers)
    message = replayed(Letter(1, "m", properties, 1, b"\xff"), "work", NOW)
    assert (message.queue, message.body, message.delay) == ("work", b"\xff", 0)
    assert message.properties.headers == {
        "x-wq-enqueued-at": 1, "x-wq-headers-left-out": "a", "tenant": "t", "x-wq-replayed": NOW_MS,
    }  # fmt: skip
    assert message.properties.message_id == "m"
    assert (message.properties.priority, message.properties.correlation_id) == (3, "c")


# --- NDJSON ---

VALUES: list[Any] = [
    None, True, False, 0, -1, 2**63 - 1, 1.5, -0.0, 2.0, "", "é\x00\u2028", b"", b"\xff", [], [1, [b"a"]], {},
    {"a": {}},
    decimal.Decimal("-1.50"), dt.datetime(1970, 1, 1, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, tzinfo=dt.UTC),
    {"$bytes": "x"}, {"$object": {}}, {"$timestamp": 1, "b": 2}, {"$decimal": [{"$bytes": b"x"}]}, {"$other": 1},
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_header_survives_its_line(value: Any) -> None:
    """Whatever AMQP can hold, also what looks like a tag of ours."""
    line = archive.to_line(Properties(headers={"h": value}), b"")
    properties, _ = archive.from_line(line.encode())
    found = properties.headers["h"]
    assert found == value
    assert type(found) is type(value)
    assert "\n" not in line
    assert line.isascii()


@pytest.mark.parametrize("body", [b"", b"text", "é\n\x00".encode(), b"\xff", bytes(range(256)), b"\xed\xa0\x80"])
def test_a_body_survives_its_line(body: bytes) -> None:
    """As text where it is some, else in base64."""
    assert archive.from_line(archive.to_line(Properties(), body).encode()) == (Properties(), body)


def test_all_properties_survive_their_line() -> None:
    """The broker's notes on a delivery do not: a stale one would be believed."""
    properties = Properties(
        message_id="m", type="t", content_type="a/b", content_encoding="gzip", correlation_id="c", reply_to="r",
        app_id="a", priority=9, timestamp=2**40, expiration="5000", headers={"h": 1},
    )  # fmt: skip
    assert archive.from_line(archive.to_line(properties, b"x").encode()) == (properties, b"x")
    noted = Properties(headers={"x-delivery-count": 19, "x-acquired-count": 1})
    assert archive.to_line(noted, b"") == '{"headers":{},"body":""}'
    routed = b'{"headers": {"CC": ["a"], "BCC": ["b"], "x-delivery-count": 5, "h": 1}, "body": ""}'
    assert archive.from_line(routed)[0].headers == {"h": 1}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[]", 'expected an object with a "body"'),
        (b"{}", 'expected an object with a "body"'),
        (b'{"body": 1}', "body: expected text"),
        (b'{"body": {"$bytes": "!"}}', "$bytes: found"),
        (b'{"body": {"$timestamp": 1}}', "body: expected text"),
        (b'{"body": "\\ud800"}', "half of a surrogate pair"),
        (b'{"body": "", "id": "x"}', "unknown key 'id'"),
        (b'{"body": "", "message_id": 5}', "message_id: found 5, expected text"),
        (b'{"body": "", "message_id": null}', "message_id: found null, expected text"),
        (b'{"body": "", "priority": 256}', "expected a whole number from 0 to 255"),
        (b'{"body": "", "priority": true}', "priority: found true"),
        (b'{"body": "", "timestamp": -1}', "timestamp: found -1"),
        (b'{"body": "", "expiration": "soon"}', "expected milliseconds as text"),
        (b'{"body": "", "headers": []}', "headers: found []"),
        (b'{"body": "", "headers": {"a": {"$timestamp": "x"}}}', "$timestamp: found"),
        (b'{"body": "", "headers": {"a": {"$timestamp": 1e300}}}', "$timestamp: found"),
        (b'{"body": "", "headers": {"a": {"$decimal": "NaN"}}}', "$decimal: found"),
        (b'{"body": "", "headers": {"a": {"$decimal": "x"}}}', "$decimal: found"),
        (b'{"body": "", "headers": {"a": {"$object": 1}}}', "$object: found 1"),
        (b'{"body": "", "headers": {"a": NaN}}', "not valid JSON (NaN)"),
        (b'{"body": "\xff"}', "not UTF-8"),
        (b'{"body": "", "headers": ' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_line_that_is_no_letter_says_what_is_wrong(line: bytes, words: str) -> None:
    """Before anything is sent."""
    with pytest.raises(DataError) as raised:
        archive.from_line(line)
    assert words in str(raised.value)


# --- on a screen ---


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("\x1b[2J\x07", "\\x1b[2J\\x07"),
        ("a\nb\tc", "a\\x0ab\\x09c"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202eright to left", "\\u202eright to left"),
        ("\u2028", "\\u2028"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
        ("é漢😀", "é漢😀"),
    ],
)
def test_what_does_something_to_a_terminal_is_shown_as_an_escape(text: str, shown: str) -> None:
    """Also what turns the direction of text, or shows nothing."""
    assert visible(text) == shown


def test_columns_are_counted_as_a_terminal_shows_them() -> None:
    """A wide character takes two, a combining one none."""
    assert (columns("abc"), columns("漢字"), columns("e\u0301")) == (3, 4, 1)
    assert clip("abcdef", 4) == "abc…"
    assert clip("漢字漢字", 4) == "漢…"
    assert clip("abc", 3) == clip("abc", None) == "abc"
    assert pad("漢", 4) == "漢  "
