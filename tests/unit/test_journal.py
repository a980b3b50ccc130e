"""Records of the journal: whole, with fields, and never a reason to fail. The real journald is in tests/system."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from workqueued import journal, logs
from workqueued.errors import ConfigError
from workqueued.journal import JournalSink, datagram
from workqueued.logs import log
from workqueued.outlet import Outlet


@pytest.fixture
def journald(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A socket in the place of journald's."""
    path = str(tmp_path / "socket")
    monkeypatch.setattr(journal, "SOCKET", path)
    monkeypatch.setattr(logs, "_identity", logs._identity)  # put back afterwards
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(path)
        end.setblocking(False)
        yield end
    logs.configure("info", "json")


def fields(record: bytes) -> dict[str, str]:
    """A record as journald reads it."""
    found, rest = {}, record
    while rest:
        line, _, rest = rest.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            length = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + length], rest[9 + length :]
        found[name.decode()] = value.decode()
    return found


def test_a_record_is_the_json_line_with_fields_beside_it(journald: socket.socket) -> None:
    """`journalctl -o cat | jq` reads the one, `journalctl WQ_MESSAGE_ID=…` the others."""
    logs.configure("info", "auto", target="journal")
    logs.identify("worker", slot="mail/0", queue="mail")
    log.warning("delivery.settled", outcome="retried", message_id="m1", reason="failed", attempt=2)
    record = fields(journald.recv(1 << 20))
    event = json.loads(record.pop("MESSAGE"))
    assert (event["event"], event["attempt"], event["role"]) == ("delivery.settled", 2, "worker")
    assert record == {
        "SYSLOG_IDENTIFIER": "workqueued",
        "PRIORITY": "4",
        "WQ_EVENT": "delivery.settled",
        "WQ_ROLE": "worker",
        "WQ_SLOT": "mail/0",
        "WQ_QUEUE": "mail",
        "WQ_MESSAGE_ID": "m1",
        "WQ_OUTCOME": "retried",
        "WQ_REASON": "failed",
    }


@pytest.mark.parametrize(("level", "priority"), [("debug", "7"), ("info", "6"), ("warning", "4"), ("error", "3")])
def test_a_level_becomes_a_priority(level: str, priority: str) -> None:
    """`journalctl -p warning` finds what an operator must see."""
    assert fields(datagram("{}", {"level": level}))["PRIORITY"] == priority


def test_what_a_message_carries_cannot_forge_a_field() -> None:
    """An id with a newline in it is written with its length; surrogates, which no encoding has, are escaped."""
    record = fields(datagram("{}", {"message_id": "x\nPRIORITY=0\nWQ_EVENT=forged", "type": "\udc80"}))
    assert record["WQ_MESSAGE_ID"] == "x\nPRIORITY=0\nWQ_EVENT=forged"
    assert record["PRIORITY"] == "6"
    assert record["WQ_TYPE"] == "\\udc80"
    assert "WQ_EVENT" not in record


def test_a_long_line_stays_whole(journald: socket.socket) -> None:
    """On a pipe it would be cut at 4096 bytes, and journald's own stream splits at 48 KiB."""
    logs.configure("info", "json", target="journal")
    log.info("sample.finished", text="x" * 100_000)
    assert json.loads(fields(journald.recv(1 << 21))["MESSAGE"])["text"] == "x" * 100_000
    log.info("sample.finished", text="y" * 1_000_000)
    cut = json.loads(fields(journald.recv(1 << 21))["MESSAGE"])
    assert cut["shortened"] is True
    assert 50_000 < len(cut["text"]) < journal.LONGEST


def test_a_journal_that_does_not_read_costs_one_wait_and_is_told_how_many_it_missed(journald: socket.socket) -> None:
    """As a pipe does; the count comes first when it reads again."""
    outlet = Outlet(JournalSink(journal.SOCKET), lambda lines: datagram(f'{{"lines": {lines}}}', {}))
    for number in range(5000):
        outlet.msg(datagram(f"{number}", {}))
    dropped = outlet.dropped
    assert 0 < dropped < 5000
    kept = [fields(journald.recv(4096))["MESSAGE"] for _ in range(5000 - dropped)]
    assert kept == [str(number) for number in range(5000 - dropped)]
    outlet.msg(datagram("after", {}))
    assert [fields(journald.recv(4096))["MESSAGE"] for _ in range(2)] == [f'{{"lines": {dropped}}}', "after"]


def test_a_socket_that_is_made_anew_is_found_again(tmp_path: Path) -> None:
    """As when systemd's socket unit is restarted."""
    path = str(tmp_path / "socket")
    first = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    first.bind(path)
    sink = JournalSink(path)
    first.close()
    assert not sink.write(b"MESSAGE=lost\n")
    os.unlink(path)  # noqa: PTH108 - a socket's name
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as second:
        second.bind(path)
        assert sink.write(b"MESSAGE=found\n")
        assert second.recv(100) == b"MESSAGE=found\n"


def test_the_last_words_of_a_process_are_waited_for(journald: socket.socket) -> None:
    """Until the journal has read them and gone on: it looks their unit up when it has them, in /proc."""
    sink = JournalSink(journal.SOCKET)
    sink.write(b"MESSAGE=last words\n")
    patient = threading.Thread(target=sink.flush, args=(60.0,))
    patient.start()
    journald.setblocking(True)
    assert journald.recv(4096) == b"MESSAGE=last words\n"
    assert patient.is_alive()  # it may not have looked yet
    assert journald.recv(4096) == b""
    patient.join(60)
    assert not patient.is_alive()


def test_last_words_are_waited_for_where_there_is_no_room_for_more(journald: socket.socket) -> None:
    """Just when the journal is behind it matters."""
    sink = JournalSink(journal.SOCKET)
    sent = 0
    while sink.write(b"MESSAGE=one of many\n"):
        sent += 1
    patient = threading.Thread(target=sink.flush, args=(60.0,))
    patient.start()
    patient.join(0.2)
    assert patient.is_alive()
    journald.setblocking(True)
    for _ in range(sent):
        journald.recv(4096)
    patient.join(60)
    assert not patient.is_alive()


def test_a_journal_that_does_not_read_holds_up_no_end(journald: socket.socket) -> None:
    """Nor does one that is not there any more."""
    logs.configure("info", "json", target="journal")
    log.error("handler.rejected")
    log.flush()
    journald.close()
    log.flush()


def test_a_host_without_a_journal_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`log.target: journal` in a container."""
    with pytest.raises(ConfigError, match=r"log\.target: found journal, and .*nowhere.*use auto or stdout"):
        JournalSink(str(tmp_path / "nowhere"))


def test_auto_takes_the_journal_only_where_stdout_or_stderr_is_its_stream(
    journald: socket.socket, tmp_path: Path
) -> None:
    """All that a service starts has $JOURNAL_STREAM, a test suite or a cron job with output of its own as well."""
    own = os.fstat(2)
    assert journal.is_ours({"JOURNAL_STREAM": f"{own.st_dev}:{own.st_ino}"})
    assert not journal.is_ours({"JOURNAL_STREAM": "1:1"})
    assert not journal.is_ours({"JOURNAL_STREAM": "1:1", "SUPERVISOR_ENABLED": "1"})
    assert not journal.is_ours({"JOURNAL_STREAM": "nonsense"})
    assert not journal.is_ours({})


def test_under_supervisord_its_streams_count(journald: socket.socket) -> None:
    """We have its pipes in their place."""
    parent = os.stat(f"/proc/{os.getppid()}/fd/2")  # noqa: PTH116
    stream = f"{parent.st_dev}:{parent.st_ino}"
    assert journal.is_ours({"JOURNAL_STREAM": stream, "SUPERVISOR_ENABLED": "1"})
