"""The books of `make chaos` cannot flatter: what is planted is found."""

from pathlib import Path

import pytest
from chaos.books import POISON, Account, Books, Witness, audit, kind_of, read_body, share_out, write_body
from chaos.report import Happened, Story, accounts, table
from chaos.soak import Sample, report

SEED = 7
MANY = 3_000
GOOD = [number for number in range(MANY) if kind_of(SEED, number) not in POISON]
BAD = [number for number in range(MANY) if kind_of(SEED, number) in POISON]


def books(**changes: object) -> Books:
    """The books of a run in which all went well."""
    facts: dict[str, object] = {
        "confirmed": [(number, float(number)) for number in range(MANY)],
        "finished": [(number, number + 0.5) for number in GOOD],
        "dead": list(BAD),
    }
    return Books(SEED, MANY - 1, **(facts | changes))  # type: ignore[arg-type]


def story(account: Account, **changes: object) -> Story:
    """A run with one fault."""
    happened = [Happened("broker killed", 10.0, 12.0, 1.5)]
    facts: dict[str, object] = {"removed": 0, "seconds": 60.0, "most": 8}
    return Story(happened, account, Account(), **(facts | changes))  # type: ignore[arg-type]


def test_a_run_in_which_all_went_well_balances() -> None:
    """And has poison in it, which lies where it should."""
    account = audit(books())
    assert account.balanced
    assert account.buried == len(BAD) > 0
    assert story(account).kept


def test_a_planted_loss_is_caught() -> None:
    """A number that was confirmed, and that nobody finished."""
    gone = GOOD[500]
    account = audit(books(finished=[(number, number + 0.5) for number in GOOD if number != gone]))
    assert account.lost == [(gone, float(gone))]
    assert not story(account).kept
    assert "LOST 1" in accounts(story(account))
    assert table(story(account)).endswith("| **all** | 1 | | | 1 | 0 |")


def test_poison_that_vanished_is_lost() -> None:
    """It need not be finished, but it must be in the dead queue."""
    account = audit(books(dead=BAD[1:]))
    assert [number for number, _ in account.lost] == BAD[:1]


def test_what_was_not_confirmed_may_turn_up_or_not() -> None:
    """The publisher knew neither."""
    some = [(number, float(number)) for number in range(MANY - 10)]
    assert audit(books(confirmed=some)).balanced


def test_what_was_never_sent_is_invented() -> None:
    """Finished or dead."""
    assert audit(books(finished=[*((number, 1.0) for number in GOOD), (MANY + 5, 2.0)])).invented == 1
    assert audit(books(corrupt=2)).invented == 2


def test_an_innocent_in_the_dead_queue_is_falsely_dead() -> None:
    """Also when it was finished as well."""
    account = audit(books(dead=[*BAD, GOOD[3]]))
    assert account.falsely_dead == [GOOD[3]]
    assert not account.balanced


def test_poison_that_was_done_was_no_poison() -> None:
    """Then the run proves less than it says."""
    assert audit(books(finished=[(number, 1.0) for number in range(MANY)])).unburied == len(BAD)


def test_duplicates_fall_to_the_fault_before_them() -> None:
    """By the time of the later one."""
    twice = sorted([*((number, number + 0.5) for number in GOOD), (GOOD[0], 11.0)], key=lambda line: line[1])
    account = audit(books(finished=twice))
    assert account.duplicates == [(GOOD[0], 11.0)]
    assert story(account).kept
    assert table(story(account)).splitlines()[2] == "| broker killed | 1 | 1.5 s | 1.5 s | 0 | 1 |"
    assert share_out([9.0, 10.0, 99.0], [10.0, 20.0]) == {-1: 1, 0: 1, 1: 1}


def test_more_duplicates_than_workers_break_the_promise_of_a_quorum_queue() -> None:
    """A classic queue may run more again: what its killed broker had not written."""
    account = Account(duplicates=[(number, 11.0) for number in range(9)])
    assert not story(account).kept
    assert story(account, most=None).kept


def test_what_was_purged_may_be_missing_and_no_more() -> None:
    """The two faults that may lose."""
    victim = Account(lost=[(1, 11.0), (2, 11.0)])
    run = story(Account(), removed=2)
    run.victim = victim
    assert run.kept
    run.removed = 1
    assert not run.kept


@pytest.mark.parametrize("changes", [{"stuck": "task_queue 1"}, {"leftovers": ["child 7 lives"]}])
def test_what_is_stuck_or_left_over_breaks_the_promise(changes: dict[str, object]) -> None:
    """Nothing lost is not enough."""
    assert not story(Account(), **changes).kept


def test_a_fleet_that_never_recovered_breaks_the_promise() -> None:
    """However full the books."""
    run = story(Account())
    run.happened[0].whole = None
    assert not run.kept
    assert "never" in table(run)


def test_a_body_says_when_it_is_not_what_was_sent() -> None:
    """One byte is enough."""
    body = write_body(SEED, 100)
    assert read_body(body) == (100, kind_of(SEED, 100))
    with pytest.raises(ValueError, match="checksum"):
        read_body(body.replace(b"100 ", b"101 "))


@pytest.mark.parametrize(
    ("memory", "descriptors", "threads"), [(2.0, 0.0, 0.0), (0.0, 0.1, 0.0), (0.0, 0.0, 0.1)], ids=str
)
def test_a_planted_leak_is_found_by_the_soak(
    memory: float, descriptors: float, threads: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of memory, descriptors or threads, each so much a sample; what only breathes is no leak."""
    times = range(200)
    leaks = [
        Sample(at * 5.0, 9000 + memory * at, 20 + int(descriptors * at), 2 + int(threads * at)) for at in times
    ]
    breathes = [Sample(at * 5.0, 9000 + at % 7, 20, 2) for at in times]
    assert report({"worker 1": leaks, "master 2": breathes}) == ["worker 1"]
    assert "| master | 900" in capsys.readouterr().out


def test_the_books_are_read_from_what_the_witnesses_wrote(tmp_path: Path) -> None:
    """A file for each process."""
    Witness(tmp_path / "attempted").note((MANY - 1, 0.0))
    Witness(tmp_path / "confirmed").note(*((number, 1.0) for number in range(MANY)))
    half = len(GOOD) // 2
    Witness(tmp_path / "finished.1").note(*((number, 2.0) for number in GOOD[:half]))
    Witness(tmp_path / "finished.2").note(*((number, 3.0) for number in GOOD[half:]))
    account = audit(Books.read(tmp_path, SEED, [write_body(SEED, number) for number in BAD]))
    assert account.balanced
    assert (account.confirmed, account.finished, account.buried) == (MANY, len(GOOD), len(BAD))
    assert audit(Books.read(tmp_path, SEED, [b"garbage"])).invented == 1
