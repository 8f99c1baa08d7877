# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bearer tokens: created here, stored as hashes in a file; several are valid at once, so that they can be rotated.

A line of the file is a name and a hash, `ada sha256:<64 hex>`; a # starts a comment. A token has 256 random bits, so a
plain SHA-256 is enough: it cannot be guessed, so it does not need a slow hash.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

from loguru import logger

from mobius.errors import MobiusError

PREFIX: Final = "mobius_"
"""Marks a token, so that secret scanners find it."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_LINE: Final = re.compile(rf"({NAME.pattern})\s+sha256:([0-9a-f]{{64}})")


def new_token() -> str:
    """Create a random token."""
    return PREFIX + secrets.token_urlsafe(32)


def line_for(name: str, token: str) -> str:
    """The line of the tokens file.

    Raises:
        MobiusError: the name is not valid.
    """
    if not NAME.fullmatch(name):
        raise MobiusError("invalid_input", f"A token's name is 1 to 64 of A-Z a-z 0-9 . _ @ -, not {name[:80]!r}.")
    return f"{name} sha256:{_digest(token)}"


class Tokens:
    """The valid tokens; the file is read again when it has changed.

    Args:
        path: the file; None for no tokens.

    Raises:
        MobiusError: the file cannot be read, or a line of it is not valid.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.error = ""
        self.warning = ""
        self._read_stamp = self._stamp() if path is not None else None
        self._names = self._read(path) if path is not None else {}

    def __len__(self) -> int:
        """The number of valid tokens."""
        return 0 if self.error else len(self._names)

    def name_of(self, token: str) -> str | None:
        """The name of a token; None when it is not valid. Takes the same time for every token.

        Raises:
            MobiusError: the file has become unreadable. Until it is repaired no token is valid, because it is unknown
                which were revoked.
        """
        self._reload_if_changed()
        digest, match = _digest(token), None
        for known, name in self._names.items():
            if hmac.compare_digest(known, digest):
                match = name
        return match

    def refresh(self) -> None:
        """Read the file again if it has changed, its mode included; what is wrong is in `error` and `warning`."""
        with contextlib.suppress(MobiusError):
            self._reload_if_changed()

    def _reload_if_changed(self) -> None:
        if self.path is None:
            return
        if (stamp := self._stamp()) != self._read_stamp or self.error:
            try:
                names = self._read(self.path)
            except MobiusError as error:
                if error.reason != self.error:
                    logger.error("{}", error.reason)
                self.error = error.reason
                raise
            logger.info("The tokens were read again: {}{}", len(names), " (after an error)" if self.error else "")
            self._names, self._read_stamp, self.error = names, stamp, ""

    def _read(self, path: Path) -> dict[str, str]:
        names = _read(path)
        self.warning = _warning(path)
        if self.warning:
            logger.warning("{}", self.warning)
        return names

    def _stamp(self) -> tuple[int, int, int, int] | None:
        assert self.path is not None
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino, status.st_mode


def _warning(path: Path) -> str:
    """What is wrong with the file's mode; "" when nothing is."""
    try:
        mode = stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return ""
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"The tokens file {path} has mode {mode:04o}: others than its owner can add tokens to it."
    return ""


def _read(path: Path) -> dict[str, str]:
    """Hash to name."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise MobiusError("invalid_input", f"The tokens file {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise MobiusError("invalid_input", f"The tokens file {path} is not UTF-8 text.") from error
    names = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            # the message does not quote the line: it may hold the token itself
            raise MobiusError("invalid_input", f"Line {number} of {path} is not NAME sha256:<64 hexadecimal digits>.")
        names[match[2]] = match[1]
    return names


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
