"""Copies for the dead queue: what AMQP cannot carry must not keep a message from getting there."""

from typing import Any

import pytest

from workqueued.amqp.connection import encoded_size
from workqueued.amqp.copies import fit
from workqueued.delivery import Message, Properties

#: One frame holds all properties and headers of a message.
FRAME = 131_072
LEFT_OUT = "x-wq-headers-left-out"


def fitted(headers: dict[str, Any], **properties: Any) -> Properties:
    """The properties after `fit`, which must then fit."""
    message = fit(Message("q.dead", b"body", Properties(headers=headers, **properties)))
    assert (message.queue, message.body) == ("q.dead", b"body")
    assert encoded_size(message.properties.headers) < FRAME - 2000
    return message.properties


def test_a_message_that_fits_is_not_touched() -> None:
    """The usual case."""
    message = Message("q.dead", b"body", Properties(message_id="m", headers={"a": 1, "b": [{"c": None}]}))
    assert fit(message) == message


@pytest.mark.parametrize("value", [2**70, 1.5, object(), {1, 2}, {"nested": [2**64]}, {"x" * 256: 1}])
def test_a_header_that_cannot_be_encoded_is_left_out_and_named(value: object) -> None:
    """The message must arrive; that something is missing must be seen."""
    assert fitted({"bad": value, "good": 1}).headers == {"good": 1, LEFT_OUT: "bad"}


def test_a_header_whose_name_is_too_long_is_left_out() -> None:
    """AMQP's short strings hold 255 bytes."""
    kept = fitted({"n" * 256: 1, "é" * 128: 1, "n" * 255: 1}).headers
    assert set(kept) == {"n" * 255, LEFT_OUT}


def test_the_largest_headers_are_left_out_until_the_rest_fits() -> None:
    """As few as possible; ours, which tell why the message is dead, stay."""
    headers = {"small": "x", "medium": "x" * 60_000, "large": "x" * 80_000, "x-wq-error": "x" * 400}
    kept = fitted(headers).headers
    assert set(kept) == {"small", "medium", "x-wq-error", LEFT_OUT}
    assert kept[LEFT_OUT] == "large"


def test_many_small_headers_are_cut_to_what_fits() -> None:
    """And the list of their names is short."""
    kept = fitted({f"header{number:05}": "x" * 50 for number in range(3000)}).headers
    assert 1500 < len(kept) < 3000
    assert len(kept[LEFT_OUT]) == 500


def test_a_huge_header_that_passes_for_ours_is_left_out() -> None:
    """A stranger may call a header x-wq-anything; it would keep the copy, and with it the worker, for ever."""
    fitted({"x-wq-anything": "x" * 130_000, "x-wq-error": "x"})


def test_text_that_is_too_long_is_cut() -> None:
    """Decoding made it longer than it was on the wire; cut in the middle of a character it stays text."""
    properties = fitted({}, message_id="x" * 300, type="xx" + "é" * 200, correlation_id="short")
    assert properties.message_id == "x" * 255
    assert properties.type == "xx" + "é" * 126
    assert properties.correlation_id == "short"


def test_text_that_is_not_utf_8_is_made_so() -> None:
    """Properties are UTF-8 on the wire."""
    assert fitted({}, app_id="a\udcff").app_id == "a?"
