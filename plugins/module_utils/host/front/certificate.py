# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The TLS certificate of a front: a PEM file with the certificate, its chain and its key, checked before it is used.

Source of the fields that are read: RFC 5280, 4.1 (the certificate) and 4.1.2.5 (its validity).
"""

from __future__ import annotations

import os
import pwd
import re
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ...errors import MobiusError
from ..config import read_regular_file
from .configuration import HAPROXY_USER

SOON_SECONDS = 14 * 24 * 3600.0  # before a certificate expires, a warning
HIDDEN_FOLDERS = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # the unit of the front does not see them
ACCESS_TIMEOUT_SECONDS = 10.0

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s.*?-----END \1-----", re.DOTALL)
_VERSION, _UTC_TIME, _GENERALIZED_TIME = 0xA0, 0x17, 0x18  # tags


@dataclass(frozen=True)
class Certificate:
    """A certificate that HAProxy can use.

    Attributes:
        pem: the certificate, its chain and its key, without whatever else the file has, such as blank lines.
        not_before, not_after: seconds since the epoch.
    """

    path: Path
    pem: bytes
    not_before: float
    not_after: float

    @property
    def last_day(self) -> str:
        """The day on which it expires, in UTC."""
        return f"{datetime.fromtimestamp(self.not_after, UTC):%Y-%m-%d}"

    def warnings(self, now: float) -> tuple[str, ...]:
        """A sentence when it expires soon."""
        if self.not_after - now > SOON_SECONDS:
            return ()
        return (f"The certificate {self.path} expires on {self.last_day}.",)


def read_certificate(
    path: Path, now: float | None = None, *, user: str = HAPROXY_USER, hidden_folders: Sequence[str] = HIDDEN_FOLDERS
) -> Certificate:
    """Read the file of a certificate, and require that HAProxy can use it.

    Args:
        now: seconds since the epoch; by default, the time of this host.
        user: the one that HAProxy runs as. Whether that user may read the file is checked where there is such a user,
            and this process may act as it.
        hidden_folders: those that HAProxy does not see.

    Raises:
        MobiusError: `invalid_input`, with one sentence of what is wrong with the file.
    """
    now = time.time() if now is None else now
    if hidden := next((folder for folder in hidden_folders if path.is_relative_to(folder)), None):
        raise _refusal(path, f"is below {hidden}, which the unit of the front does not see", "Keep it below /etc.")
    try:
        content = read_regular_file(path)
    except FileNotFoundError:
        raise _refusal(path, "does not exist", "Bring it to the host first.") from None
    except OSError as error:
        raise _refusal(path, f"cannot be read ({error.strerror or error})", "Make it a file that root reads.") from None
    blocks = [(match[1], match[0]) for match in _BLOCK.finditer(content)]
    complete = "The file has the certificate, then its chain, and the key without a passphrase."
    first = next((block for name, block in blocks if name == b"CERTIFICATE"), None)
    if first is None:
        raise _refusal(path, "has no certificate in PEM", complete)
    if not any(name.endswith(b"PRIVATE KEY") for name, _ in blocks):
        raise _refusal(path, "has no private key", complete)
    not_before, not_after = _read_validity(path, first)
    _require_pair(path, complete)
    if now >= not_after:
        raise _refusal(path, f"expired on {_day(not_after)}", "Renew it.")
    if now < not_before:
        raise _refusal(path, f"is not valid before {_day(not_before)}", "Compare the clock of the host, or wait.")
    _require_readable(path, user)
    return Certificate(path, b"".join(block + b"\n" for _, block in blocks), not_before, not_after)


def read_expiry(path: Path) -> float:
    """When the certificate in a file expires, in seconds since the epoch, whether it can be used or not.

    Raises:
        MobiusError: `invalid_input` without a certificate that can be read.
    """
    try:
        content = read_regular_file(path)
    except OSError as error:
        raise _refusal(path, f"cannot be read ({error.strerror or error})", "Make it a file that root reads.") from None
    first = next((match[0] for match in _BLOCK.finditer(content) if match[1] == b"CERTIFICATE"), None)
    if first is None:
        raise _refusal(path, "has no certificate in PEM", "Bring an intact one to the host.")
    return _read_validity(path, first)[1]


def _refusal(path: Path, problem: str, do_next: str) -> MobiusError:
    return MobiusError("invalid_input", f"The certificate {path} {problem}.", do_next=do_next)


def _day(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def _require_pair(path: Path, complete: str) -> None:
    """Require that the key is that of the certificate, and needs no passphrase."""
    try:
        # without a passphrase here, OpenSSL would ask for one at the terminal
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, password="")
    except (ssl.SSLError, ValueError) as error:
        reason = str(getattr(error, "reason", None) or error)
        if "MISMATCH" in reason:
            raise _refusal(path, "has a private key that is not the certificate's", complete) from None
        raise _refusal(path, f"cannot be loaded ({reason.replace('_', ' ').lower()})", complete) from None


def _require_readable(path: Path, user: str) -> None:
    """Require that HAProxy may read the file, where this process may find out."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        return  # its package makes the user
    if os.geteuid() != 0:
        return
    done = subprocess.run(
        ["test", "-r", str(path)],
        user=entry.pw_uid,
        group=entry.pw_gid,
        extra_groups=os.getgrouplist(user, entry.pw_gid),
        timeout=ACCESS_TIMEOUT_SECONDS,
        check=False,
    )
    if done.returncode:
        raise _refusal(
            path,
            f"cannot be read by {user}, the user of HAProxy",
            f"Give it and its folders to the group {user}: `chgrp {user} {path}; chmod 0640 {path}`.",
        )


def _read_validity(path: Path, block: bytes) -> tuple[float, float]:
    """When the certificate of a PEM block begins and ends to be valid, in seconds since the epoch."""
    try:
        der = ssl.PEM_cert_to_DER_cert(block.decode("ascii"))
        certificate = next(_elements(der))[1]
        fields = _elements(next(_elements(certificate))[1])
        tag, _ = next(fields)  # the version, which may be left out, or the serial number
        if tag == _VERSION:
            next(fields)
        next(fields)  # the algorithm of the signature
        next(fields)  # the issuer
        _, validity = next(fields)
        begin, end = (_time(tag, value) for tag, value in _elements(validity))
    except (ValueError, StopIteration, IndexError):
        raise _refusal(path, "has a certificate that is damaged", "Bring an intact one to the host.") from None
    return begin, end


def _elements(der: bytes) -> Iterator[tuple[int, bytes]]:
    """The elements of a sequence in DER: the tag and the content of each."""
    at = 0
    while at < len(der):
        tag, length = der[at], der[at + 1]
        at += 2
        if length >= 0x80:
            size = length & 0x7F
            length = int.from_bytes(der[at : at + size], "big")
            at += size
        if at + length > len(der):
            raise ValueError("cut off")
        yield tag, der[at : at + length]
        at += length


def _time(tag: int, value: bytes) -> float:
    text = value.decode("ascii")
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif tag != _GENERALIZED_TIME:
        raise ValueError("no time")
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
