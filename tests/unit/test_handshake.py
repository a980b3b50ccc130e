"""handshake: what OpenSSL and pika say, in our words. The texts are theirs, seen with OpenSSL 3.0 and 3.5."""

import ssl

import pytest
from pika.exceptions import IncompatibleProtocolError

from workqueued.amqp.connection import translate
from workqueued.amqp.handshake import explain
from workqueued.errors import ConnectionLostError, RefusedError
from workqueued.urls import BrokerUrl

URL = BrokerUrl.parse("amqps://u:secret@rabbit")
AT = "no connection to the broker amqps://u:***@rabbit:5671/%2F: "


def lost(text: str) -> IncompatibleProtocolError:
    """What pika makes of an error that comes after the handshake, as all alerts of TLS 1.3 about our certificate do."""
    return IncompatibleProtocolError(f"StreamLostError: ('Stream connection lost: SSLError(1, {text} (_ssl.c:1))',)")


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (
            lost("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required"),
            RefusedError,
            "it wants to see a certificate of ours: give broker.tls.cert and broker.tls.key",
        ),
        (
            ssl.SSLError(1, "[SSL: SSLV3_ALERT_HANDSHAKE_FAILURE] sslv3 alert handshake failure (_ssl.c:1)"),
            RefusedError,
            "it wants to see a certificate of ours: give broker.tls.cert and broker.tls.key",
        ),
        (
            lost("[SSL: TLSV1_ALERT_UNKNOWN_CA] tlsv1 alert unknown ca"),
            RefusedError,
            "it refuses our certificate, broker.tls.cert (unknown ca)",
        ),
        (
            lost("[SSL: SSLV3_ALERT_CERTIFICATE_EXPIRED] sslv3 alert certificate expired"),
            RefusedError,
            "it refuses our certificate, broker.tls.cert (certificate expired)",
        ),
        (
            ssl.SSLError(1, "[SSL: SSLV3_ALERT_BAD_CERTIFICATE] ssl/tls alert bad certificate (_ssl.c:1)"),
            RefusedError,
            "it refuses our certificate, broker.tls.cert (bad certificate)",
        ),
        (
            ssl.SSLError(1, "[SSL: TLSV1_ALERT_PROTOCOL_VERSION] tlsv1 alert protocol version (_ssl.c:1)"),
            RefusedError,
            "it offers no TLS 1.2 or later",
        ),
        (
            ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"),
            ConnectionLostError,
            "this port does not speak TLS; plain AMQP is amqp://, often at port 5672",
        ),
        (
            ssl.SSLError(1, "[SSL: RECORD_LAYER_FAILURE] record layer failure (_ssl.c:1)"),
            ConnectionLostError,
            "this port does not speak TLS; plain AMQP is amqp://, often at port 5672",
        ),
        (
            IncompatibleProtocolError("StreamLostError: ('Stream connection lost: ConnectionResetError(104, …)',)"),
            ConnectionLostError,
            "it hangs up at our greeting: it is starting or stopping, or wants a certificate of ours",
        ),
    ],
)
def test_each_failure_has_its_words(error: Exception, kind: type[Exception], told: str) -> None:
    """What does not heal by itself is a refusal (77), what may is not (75)."""
    found = translate(error, URL)
    assert type(found) is kind
    assert str(found).startswith(AT + told)


def certificate(code: int, words: str) -> ssl.SSLCertVerificationError:
    """What Python raises."""
    error = ssl.SSLCertVerificationError(1, f"[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed: {words}")
    error.verify_code, error.verify_message = code, words
    return error


@pytest.mark.parametrize(
    ("code", "words", "told"),
    [
        (18, "self-signed certificate", "is not signed by anybody we trust (self-signed certificate): give"),
        (20, "unable to get local issuer certificate", "is not signed by anybody we trust (unable to get local"),
        (10, "certificate has expired", "has expired; or the clock of this host is wrong"),
        (9, "certificate is not yet valid", "is not valid yet; or the clock of this host is wrong"),
        (62, "Hostname mismatch", "is not for rabbit: broker.url must have a name that is in the certificate"),
        (64, "IP address mismatch", "is not for rabbit: broker.url must have a name that is in the certificate"),
        (23, "certificate revoked", "cannot be trusted: certificate revoked"),
    ],
)
def test_a_certificate_that_is_not_trusted_is_told_why(code: int, words: str, told: str) -> None:
    """In the order in which an operator meets them."""
    found = explain(certificate(code, words), URL)
    assert type(found) is RefusedError
    assert str(found).startswith(AT + "its certificate " + told)


def test_what_is_no_handshake_is_left_to_others() -> None:
    """A refused connection, a name that nobody knows."""
    assert explain(ConnectionRefusedError(111, "Connection refused"), URL) is None
