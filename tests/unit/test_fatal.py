"""When supervisord's event listener finds that it is enough."""

import io

from workqueued.cli.fatal import IN_A_ROW, MOST_ENDS, Patience, end, listen

EXITED, FATAL = "PROCESS_STATE_EXITED", "PROCESS_STATE_FATAL"
OURS = {"groupname": "workqueued", "expected": "0"}


def _event(expected: int) -> str:
    name, payload = EXITED, f"processname:workqueued groupname:workqueued from_state:RUNNING expected:{expected} pid:7"
    return f"ver:3.0 server:supervisor serial:1 pool:fatal poolserial:1 eventname:{name} len:{len(payload)}\n{payload}"


def test_a_loop_is_enough_after_twenty_ends() -> None:
    """One a second, as supervisord starts it again."""
    patience = Patience()
    verdicts = [patience.verdict(EXITED, OURS, now) for now in range(MOST_ENDS)]
    assert [verdict is None for verdict in verdicts] == [True] * (MOST_ENDS - 1) + [False]


def test_ends_with_time_between_them_are_never_enough() -> None:
    """A daemon that lived for a while was not beyond help."""
    patience = Patience()
    assert not any(patience.verdict(EXITED, OURS, number * IN_A_ROW) for number in range(100))


def test_other_programs_do_not_matter() -> None:
    """What an operator has added to supervisord.conf may fail alone."""
    assert Patience().verdict(FATAL, {"groupname": "sidecar"}, 0.0) is None


def test_the_protocol_is_spoken() -> None:
    """READY before each event, RESULT after it; the end of the events is supervisord's."""
    answers = io.StringIO()
    events = io.StringIO(_event(expected=0))
    assert listen(events, answers, clock=lambda: 0.0) is None
    assert answers.getvalue() == "READY\nRESULT 2\nOKREADY\n"
    events = io.StringIO(_event(expected=1))
    assert "78" in str(listen(events, answers, clock=lambda: 0.0))


def test_supervisord_is_ended_by_the_signal_that_the_unit_excepts_from_its_restarts() -> None:
    """And by TERM where it is deaf to that."""
    sent: list[tuple[int, str]] = []
    end(4711, lambda pid, number: sent.append((pid, number.name)))
    assert sent == [(4711, "SIGUSR1"), (4711, "SIGTERM")]
