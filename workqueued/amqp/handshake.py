"""Why a connection to a broker fails before AMQP begins: certificates, and a port that speaks something else.

Runs in: whatever connects.
"""

import re
import ssl
from typing import Any

from pika.exceptions import IncompatibleProtocolError

from workqueued.errors import ConnectionLostError, RefusedError, WorkqueuedError
from workqueued.urls import BrokerUrl

#: Codes of X509_verify_cert_error_string(3).
_NOT_YET, _EXPIRED, _OTHER_NAME, _OTHER_ADDRESS = 9, 10, 62, 64
#: "Unable to get issuer", "self-signed", "self-signed in chain", "unable to get local issuer", "cannot verify leaf".
_UNKNOWN_SIGNER = (2, 18, 19, 20, 21)
#: OpenSSL's name of an error, as Python shows it. After the handshake pika keeps of it only this text.
_REASON = re.compile(r"\[SSL: (\w+)\]")
#: What the broker says of our certificate (RFC 8446, 6.2). A broker of TLS 1.2 says of none that the handshake failed.
_WANTS_OURS = ("CERTIFICATE_REQUIRED", "ALERT_HANDSHAKE_FAILURE")
_REFUSES_OURS = re.compile(r"ALERT_((?:\w+_)?CERTIFICATE(?:_\w+)?|UNKNOWN_CA|ACCESS_DENIED|DECRYPT_ERROR)$")
#: What was read is no TLS; OpenSSL 3.2 has the second name for it.
_NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
_TOO_OLD = ("UNSUPPORTED_PROTOCOL", "ALERT_PROTOCOL_VERSION")


def explain(error: BaseException, url: BrokerUrl) -> WorkqueuedError | None:
    """A failure of the handshake in our words; None: it was none."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return RefusedError(f"no connection to the broker {url}: its certificate {_doubt(error, url)}")
    found = _REASON.search(str(error))
    reason = found[1] if found else ""
    at = f"no connection to the broker {url}"
    if reason.endswith(_WANTS_OURS):
        return RefusedError(f"{at}: it wants to see a certificate of ours: give broker.tls.cert and broker.tls.key")
    if refused := _REFUSES_OURS.search(reason):
        word = refused[1].lower().replace("_", " ")
        return RefusedError(f"{at}: it refuses our certificate, broker.tls.cert ({word})")
    if reason.endswith(_TOO_OLD):
        return RefusedError(f"{at}: it offers no TLS 1.2 or later")
    if reason in _NO_TLS:
        return ConnectionLostError(f"{at}: this port does not speak TLS; plain AMQP is amqp://, often at port 5672")
    if isinstance(error, IncompatibleProtocolError):
        return ConnectionLostError(f"{at}: it hangs up at our greeting: {_guess(url)}")
    return None


def _doubt(error: Any, url: BrokerUrl) -> str:
    code, words = error.verify_code, error.verify_message
    if code in _UNKNOWN_SIGNER:
        return (
            f"is not signed by anybody we trust ({words}): give the certificate of whoever signed it as broker.tls.ca; "
            "without that only the system's authorities are trusted"
        )
    if code in (_OTHER_NAME, _OTHER_ADDRESS):
        return f"is not for {url.host}: broker.url must have a name that is in the certificate ({words})"
    if code == _EXPIRED:
        return "has expired; or the clock of this host is wrong"
    if code == _NOT_YET:
        return "is not valid yet; or the clock of this host is wrong"
    return f"cannot be trusted: {words}"


def _guess(url: BrokerUrl) -> str:
    # The alert that tells why may be lost, when the broker closes before it has read all that we wrote.
    if url.tls:
        return "it is starting or stopping, or wants a certificate of ours (broker.tls.cert), or refuses the one it got"
    return "it is starting or stopping, or speaks TLS at this port (amqps://), or is no RabbitMQ"
