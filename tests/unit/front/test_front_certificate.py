"""What is wrong with the file of a certificate, each with one sentence. OpenSSL makes the files."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.certificate import (
    Certificate,
    read_certificate,
    read_expiry,
)

DAY = 24 * 3600.0


def make(path: Path, *, days: int = 90, key: Path | None = None) -> Path:
    """A certificate for so many days and its key, or another one in its place."""
    own_key = path.with_suffix(".key")
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(own_key)]
    command = ["openssl", "req", "-x509", *kind, "-subj", "/CN=shop", "-days", str(days), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    path.write_bytes(path.read_bytes() + (key or own_key).read_bytes())
    return path


def read(path: Path, now: float | None = None, user: str = "nobody-here") -> Certificate:
    return read_certificate(path, now, user=user, hidden_folders=())


def refusal(path: Path, now: float | None = None, user: str = "nobody-here") -> str:
    with pytest.raises(MobiusError) as raised:
        read(path, now, user)
    assert raised.value.outcome == "invalid_input"
    assert raised.value.reason.startswith(f"The certificate {path} ")
    assert raised.value.reason.isprintable()
    return raised.value.reason.removeprefix(f"The certificate {path} ")


def test_a_good_one_has_its_validity_and_only_what_haproxy_needs(tmp_path: Path) -> None:
    path = make(tmp_path / "tls.pem")
    path.write_bytes(b"Bag Attributes: none\n\n" + path.read_bytes().replace(b"-----BEGIN", b"\n\n-----BEGIN"))
    certificate = read(path)
    assert certificate.not_after - certificate.not_before == 90 * DAY
    assert abs(certificate.not_before - time.time()) < DAY
    assert certificate.pem.startswith(b"-----BEGIN CERTIFICATE-----\n")
    assert b"PRIVATE KEY-----\n" in certificate.pem
    assert b"Bag" not in certificate.pem
    assert b"\n\n" not in certificate.pem


def test_dates_after_2049_are_read(tmp_path: Path) -> None:
    certificate = read(make(tmp_path / "tls.pem", days=20_000))
    assert certificate.not_after - certificate.not_before == 20_000 * DAY


def test_the_expiry_is_read_of_one_that_cannot_be_used_too(tmp_path: Path) -> None:
    path = make(tmp_path / "tls.pem", days=20)
    expiry = read(path).not_after
    path.write_bytes(path.read_bytes().partition(b"-----BEGIN PRIVATE")[0])
    assert read_expiry(path) == expiry
    assert "key" in refusal(path)


@pytest.mark.parametrize(
    "content", [b"", b"no certificate", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_what_is_no_certificate_has_no_expiry(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tls.pem"
    path.write_bytes(content)
    with pytest.raises(MobiusError, match="The certificate"):
        read_expiry(path)


@pytest.mark.parametrize("make_path", [Path.mkdir, os.mkfifo, lambda path: None], ids=["folder", "pipe", "missing"])
def test_what_is_no_file_has_no_expiry(tmp_path: Path, make_path: Callable[[Path], None]) -> None:
    make_path(tmp_path / "tls.pem")
    with pytest.raises(MobiusError, match="cannot be read"):
        read_expiry(tmp_path / "tls.pem")


def test_it_warns_two_weeks_before_it_expires(tmp_path: Path) -> None:
    certificate = read(make(tmp_path / "tls.pem"))
    assert certificate.warnings(certificate.not_after - 15 * DAY) == ()
    assert certificate.warnings(certificate.not_after - 13 * DAY) == (
        f"The certificate {certificate.path} expires on {certificate.last_day}.",
    )


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "tls.pem") == "does not exist."


def test_a_folder(tmp_path: Path) -> None:
    assert refusal(tmp_path) == "cannot be read (it is not a regular file)."


@pytest.mark.parametrize("content", [b"", b"secret", b"-----BEGIN CERTIFICATE-----\n", b"\xff\x00"])
def test_no_certificate(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tls.pem"
    path.write_bytes(content)
    assert refusal(path) == "has no certificate in PEM."


@pytest.mark.parametrize("body", [b"AAAA", b"MIIBIjAN", b"%%%%", b"", b"MIGAMIGA"])
def test_a_damaged_certificate(tmp_path: Path, body: bytes) -> None:
    path = make(tmp_path / "tls.pem")
    key = path.with_suffix(".key").read_bytes()
    path.write_bytes(b"-----BEGIN CERTIFICATE-----\n" + body + b"\n-----END CERTIFICATE-----\n" + key)
    assert refusal(path) == "has a certificate that is damaged."


def test_no_key(tmp_path: Path) -> None:
    path = make(tmp_path / "tls.pem")
    path.write_bytes(path.read_bytes().partition(b"-----BEGIN PRIVATE")[0])
    assert refusal(path) == "has no private key."


def test_the_key_of_another_certificate(tmp_path: Path) -> None:
    make(tmp_path / "other.pem")
    path = make(tmp_path / "tls.pem", key=tmp_path / "other.key")
    assert refusal(path) == "has a private key that is not the certificate's."


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    path = make(tmp_path / "tls.pem")
    key = path.with_suffix(".key")
    locked = subprocess.run(
        ["openssl", "pkcs8", "-topk8", "-in", str(key), "-passout", "pass:secret"], check=True, capture_output=True
    )
    path.write_bytes(path.read_bytes().partition(b"-----BEGIN PRIVATE")[0] + locked.stdout)
    assert refusal(path).startswith("cannot be loaded (")


def test_one_that_has_expired_or_is_of_tomorrow(tmp_path: Path) -> None:
    path = make(tmp_path / "tls.pem")
    certificate = read(path)
    assert refusal(path, certificate.not_after).startswith("expired on 2")
    assert refusal(path, certificate.not_before - 1).startswith("is not valid before 2")


@pytest.mark.root("only root can act as another user")
def test_one_that_haproxy_may_not_read(tmp_path: Path) -> None:
    path = make(tmp_path / "tls.pem")
    assert refusal(path, user="nobody") == "cannot be read by nobody, the user of HAProxy."
    assert read(path, user="root").path == path


@pytest.mark.parametrize("folder", ["/home/shop", "/root", "/tmp"])
def test_one_where_the_unit_of_the_front_sees_nothing(folder: str) -> None:
    with pytest.raises(MobiusError, match="which the unit of the front does not see"):
        read_certificate(Path(folder) / "tls.pem")
