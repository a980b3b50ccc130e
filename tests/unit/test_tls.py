"""tls: what the configuration says of certificates, and what is wrong with their files."""

import ssl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from tls_broker import Authority

from workqueued import tls
from workqueued.broker_settings import Tls
from workqueued.config import read_config
from workqueued.errors import ConfigError

QUEUE = "queues: {q: {handler: 'a:b'}}\n"


@pytest.fixture(scope="module", autouse=True)
def _worker(authority: Authority) -> None:
    """The certificate `worker` and its key."""
    authority.issue("worker")


Read = Callable[..., str]


@pytest.fixture
def refused(tmp_path: Path, authority: Authority) -> Read:
    """What is wrong with a broker section; `{a}` is the authority's folder, `{t}` the file's own."""

    def read(broker: str) -> str:
        file = tmp_path / "workqueued.yaml"
        text = broker.replace("{a}", str(authority.file.parent)).replace("{t}", str(tmp_path))
        file.write_text(QUEUE + f"broker: {{{text}}}\n")
        with pytest.raises(ConfigError) as caught:
            read_config(file)
        return str(caught.value).replace(str(authority.file.parent), "A").replace(str(tmp_path), "T")

    return read


def test_a_file_of_each_kind_is_taken(tmp_path: Path, authority: Authority) -> None:
    """Relative paths are meant from the YAML file's folder."""
    for file in authority.file.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    file = tmp_path / "workqueued.yaml"
    file.write_text(QUEUE + "broker: {url: 'amqps://h', tls: {ca: ca.pem, cert: worker.pem, key: worker.key}}\n")
    assert read_config(file).broker.tls == Tls(
        ca=tmp_path / "ca.pem", cert=tmp_path / "worker.pem", key=tmp_path / "worker.key"
    )


def test_the_example_of_the_manual_is_right(tmp_path: Path, authority: Authority) -> None:
    """As it is printed, with files of those names beside it."""
    chapter = (Path(__file__).parents[2] / "docs/configuration.md").read_text().partition("\n## TLS\n")[2]
    example = chapter.partition("```yaml\n")[2].partition("```")[0]
    for file in authority.file.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "broker-password").write_text("secret\n")
    file = tmp_path / "workqueued.yaml"
    file.write_text(QUEUE + example)
    (url,) = read_config(file).broker.url
    assert (url.tls, url.host, url.port, url.user, url.secret) == (True, "rabbit.example.com", 5671, "wq", "secret")


def test_the_key_may_lie_in_the_file_of_the_certificate(tmp_path: Path, authority: Authority) -> None:
    """As many tools write it."""
    folder, both = authority.file.parent, tmp_path / "both.pem"
    both.write_bytes((folder / "worker.key").read_bytes() + (folder / "worker.pem").read_bytes())
    tls.context(Tls(ca=authority.file, cert=both))


@pytest.mark.parametrize(
    ("broker", "told"),
    [
        ("tls: {}", "T/workqueued.yaml:2: broker.tls: is for amqps addresses, and broker.url has none; expected amqps"),
        ("url: 'amqp://h', tls: {}", "T/workqueued.yaml:2: broker.tls: is for amqps addresses"),
        ("management_url: 'http://h', tls: {}", "T/workqueued.yaml:2: broker.tls: is for amqps addresses"),
        ("url: 'amqps://h', tls: {key: '{a}/worker.key'}", "T/workqueued.yaml:2: broker.tls.cert: missing"),
        ("url: 'amqps://h', tls: {login: true}", "T/workqueued.yaml:2: broker.tls.cert: missing; expected the file of"),
        ("url: 'amqps://h', tls: {verify: maybe}", "broker.tls.verify: found 'maybe' (text), expected true or false"),
        ("url: 'amqps://h', tls: {ca: no}", "broker.tls.ca: found 'no' (a truth value), expected the path of a file"),
        ("url: 'amqps://h', tls: {pem: x}", "broker.tls.pem: unknown key"),
        ("url: 'amqps://h', tls: {ca: x}", "T/workqueued.yaml: broker.tls.ca: cannot read T/x: No such file"),
        ("url: 'amqps://h', tls: {ca: '{t}'}", "broker.tls.ca: cannot read T: Is a directory"),
        (
            "url: 'amqps://h', tls: {ca: '{a}/worker.key'}",
            "broker.tls.ca: found nothing of the kind in A/worker.key, expected a certificate in PEM",
        ),
        ("url: 'amqps://h', tls: {cert: x}", "T/workqueued.yaml: broker.tls.cert: cannot read T/x: No such file"),
        (
            "url: 'amqps://h', tls: {cert: '{a}/worker.pem'}",
            "broker.tls.cert: found nothing of the kind in A/worker.pem, expected a private key in PEM; or name",
        ),
        (
            "url: 'amqps://h', tls: {cert: '{a}/worker.pem', key: '{a}/ca.pem'}",
            "broker.tls.key: found nothing of the kind in A/ca.pem, expected a private key in PEM",
        ),
        (
            "url: ['amqp://h', 'amqps://h'], tls: {cert: '{a}/ca.pem', key: '{a}/worker.key'}",
            "broker.tls.key: the private key in A/worker.key is not that of the certificate in A/ca.pem, exp",
        ),
    ],
)
def test_a_mistake_is_told_with_its_key(refused: Read, broker: str, told: str) -> None:
    """File, key, found, expected; OpenSSL's own words are "PEM lib"."""
    assert told in refused(broker)


@pytest.mark.parametrize("key", ["ca", "cert"])
def test_a_damaged_certificate_is_told(refused: Read, tmp_path: Path, authority: Authority, key: str) -> None:
    """It has the right first line, and was cut off."""
    (tmp_path / "cut.pem").write_bytes(authority.file.read_bytes()[:200])
    private = authority.file.parent / "worker.key"
    told = refused(f"url: 'amqps://h', tls: {{{key}: cut.pem{f', key: {private}' if key == 'cert' else ''}}}")
    assert told.startswith(f"T/workqueued.yaml: broker.tls.{key}: ")
    assert "T/cut.pem" in told


def test_a_key_with_a_passphrase_is_told_and_nobody_is_asked(
    refused: Read, tmp_path: Path, authority: Authority
) -> None:
    """OpenSSL would ask on the terminal, for ever where there is nobody."""
    plain = serialization.load_pem_private_key((authority.file.parent / "worker.key").read_bytes(), None)
    locked = plain.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    (tmp_path / "locked.key").write_bytes(locked)
    told = refused("url: 'amqps://h', tls: {cert: '{a}/worker.pem', key: locked.key}")
    assert told.startswith("T/workqueued.yaml: broker.tls.key: the private key in T/locked.key has a passphrase")
    assert "openssl pkey -in T/locked.key" in told


def test_chain_and_name_are_verified_unless_told_otherwise() -> None:
    """TLS 1.2 at least; without `ca` the system's authorities."""
    made = tls.context(None)
    assert (made.verify_mode, made.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert made.minimum_version == ssl.TLSVersion.TLSv1_2
    made = tls.context(Tls(verify=False))
    assert (made.verify_mode, made.check_hostname) == (ssl.CERT_NONE, False)


def test_with_a_ca_nobody_else_is_trusted(authority: Authority) -> None:
    """Not the hundred authorities of the system."""
    assert len(tls.context(Tls(ca=authority.file)).get_ca_certs()) == 1


def test_without_amqps_nobody_imports_ssl(tmp_path: Path) -> None:
    """It is a noticeable part of the start of a small command."""
    file = tmp_path / "workqueued.yaml"
    file.write_text(QUEUE)
    code = (
        "import sys, pathlib; from workqueued.config import read_config; read_config(pathlib.Path(sys.argv[1])); "
        "sys.exit('ssl' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(file)], check=False).returncode == 0
