# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Bearer tokens: made here, kept as hashes in a file, several at once so that they can be rotated.

A line of the file is a name and a hash, `ada sha256:<64 hex>`; what follows a # is a remark. A token has 256 random
bits, so a plain SHA-256 is enough: there is nothing to guess that a slow hash would have to protect.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from pathlib import Path
from typing import Final

from loguru import logger

from mobius.errors import MobiusError

PREFIX: Final = "mobius_"
"""Marks a token, so that scanners for leaked secrets find it."""
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_LINE: Final = re.compile(rf"({NAME.pattern})\s+sha256:([0-9a-f]{{64}})")


def new_token() -> str:
    """A token that nobody has had before."""
    return PREFIX + secrets.token_urlsafe(32)


def line_for(name: str, token: str) -> str:
    """The line of the tokens file.

    Raises:
        MobiusError: the name cannot stand there.
    """
    if not NAME.fullmatch(name):
        raise MobiusError("invalid_input", f"A token's name is 1 to 64 of A-Z a-z 0-9 . _ @ -, not {name[:80]!r}.")
    return f"{name} sha256:{_digest(token)}"


class Tokens:
    """The tokens that count at this moment: the file is read again whenever it has changed.

    Args:
        path: the file; None when nobody has a token.

    Raises:
        MobiusError: the file cannot be read, or a line of it means nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.trouble = ""
        self._seen = self._stamp() if path is not None else None
        self._names = _read(path) if path is not None else {}

    def __len__(self) -> int:
        """The number of tokens that count."""
        return 0 if self.trouble else len(self._names)

    def name_of(self, token: str) -> str | None:
        """Whose token this is; None when it is nobody's. Takes the same time for each of them.

        Raises:
            MobiusError: the file has become unreadable; until it is mended no token counts, since nobody knows which
                were taken back.
        """
        self._follow()
        digest, found = _digest(token), None
        for known, name in self._names.items():
            if hmac.compare_digest(known, digest):
                found = name
        return found

    def _follow(self) -> None:
        if self.path is None:
            return
        if (seen := self._stamp()) != self._seen or self.trouble:
            try:
                self._names, self._seen, before, self.trouble = _read(self.path), seen, self.trouble, ""
            except MobiusError as error:
                if error.reason != self.trouble:
                    logger.error("{}", error.reason)
                self.trouble = error.reason
                raise
            logger.info("The tokens were read again: {}{}", len(self._names), " (mended)" if before else "")

    def _stamp(self) -> tuple[int, int, int] | None:
        assert self.path is not None
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> dict[str, str]:
    """Hash to name."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise MobiusError("invalid_input", f"The tokens {path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise MobiusError("invalid_input", f"The tokens {path} are not text.") from error
    names = {}
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _LINE.fullmatch(text)
        if match is None:
            # the line itself is not repeated: somebody may have put the token there
            raise MobiusError("invalid_input", f"Line {number} of {path} is not NAME sha256:<64 hexadecimal digits>.")
        names[match[2]] = match[1]
    return names


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
