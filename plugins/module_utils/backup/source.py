# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One file or folder of a host, as a backup meets it."""

from __future__ import annotations

import contextlib
import grp
import hashlib
import io
import os
import pwd
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol

from .. import durable
from ..errors import MobiusError
from ..host.config import Host
from ..host.failures import MEDIUM_ERRNOS
from .archive import CHUNK_BYTES, MTIME_MAX_SECONDS, OWNER_NAME, ArchiveEntry
from .clock import Clock, utc_now
from .safe_open import NoFileError, open_file, open_folder

_HOST_LOCK_TIMEOUT_SECONDS = 30.0  # to wait for a switch that is going on
_STAMP_MIN_AGE_NS = 2_000_000_000  # from this age on, a file's times show every later change

ReadFile = tuple[os.stat_result, bytes]


@dataclass(frozen=True)
class SourceItem:
    """A file or folder as the walk meets it; its content is `data`, or `copy`, or else the file in its folder."""

    entry: ArchiveEntry
    folder: int  # descriptor; open until the walk goes on
    path: Path  # for messages; never opened
    clock: Clock = utc_now
    data: bytes | None = None
    copy: Path | None = None

    def open(self) -> tuple[ArchiveEntry, BinaryIO]:
        """Its content, and the entry as it is now.

        Raises:
            FileNotFoundError: it was removed.
            NoFileError: it is no file any more, or lies behind a link.
        """
        if self.data is not None:
            return self.entry, io.BytesIO(self.data)
        if self.copy is not None:
            return self.entry, open(self.copy, "rb")
        stream = open_file(self.path.name, self.folder)
        status = os.fstat(stream.fileno())
        return to_entry(self.entry.path, status, self.clock, stored=self.entry.stored), stream

    def sha256(self) -> str:
        """Its digest, computed now."""
        _, stream = self.open()
        with stream:
            digest = hashlib.sha256()
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
        return digest.hexdigest()


def file_stamp(status: os.stat_result) -> str:
    """What identifies a version of a file on its host."""
    return f"{status.st_mtime_ns}.{status.st_ctime_ns}.{status.st_ino}"


def to_entry(
    path: str, status: os.stat_result, clock: Clock, *, stored: bool = True, size: int | None = None
) -> ArchiveEntry:
    """The entry of a file or folder; `size` of a content that is not the file's own."""
    changed_ns = max(status.st_mtime_ns, status.st_ctime_ns)
    is_old_enough = changed_ns < clock().timestamp() * 1e9 - _STAMP_MIN_AGE_NS
    is_folder = stat.S_ISDIR(status.st_mode)
    return ArchiveEntry(
        path=path,
        folder=is_folder,
        mode=f"{status.st_mode & 0o777:04o}",
        owner=_account_name(pwd.getpwuid, status.st_uid),
        group=_account_name(grp.getgrgid, status.st_gid),
        mtime=min(max(0, int(status.st_mtime)), MTIME_MAX_SECONDS),
        size=0 if is_folder else status.st_size if size is None else size,
        stored=stored,
        stamp=file_stamp(status) if is_old_enough and size is None else None,
    )


def _account_name(look_up: Callable[[int], Sequence[Any]], number: int) -> str:
    try:
        name = str(look_up(number)[0])
    except KeyError:
        return str(number)
    return name if OWNER_NAME.fullmatch(name) else str(number)


class Content(Protocol):
    """The content of a file: it is read in chunks, and closed."""

    def read(self, size: int, /) -> bytes: ...

    def __enter__(self) -> object: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> object: ...


class SalvagedContent:
    """A file's content with zeros from where the disk cannot give it; `on_failure` gets the reason."""

    def __init__(self, stream: BinaryIO, on_failure: Callable[[str], None]) -> None:
        self._stream = stream
        self._on_failure = on_failure
        self._bytes_read = 0
        self._failed = False

    def read(self, size: int, /) -> bytes:
        """The next bytes, of a failed file as many zeros."""
        if self._failed:
            return bytes(size)
        try:
            chunk = self._stream.read(size)
        except OSError as error:
            if error.errno not in MEDIUM_ERRNOS:
                raise
            self._failed = True
            self._on_failure(f"it cannot be read from byte {self._bytes_read} on ({error.strerror}); zeros are saved")
            return bytes(size)
        self._bytes_read += len(chunk)
        return chunk

    def __enter__(self) -> SalvagedContent:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()


def read_together(host: Host, locks_held: bool) -> tuple[ReadFile | None, ReadFile | None]:
    """Activation record and journal as they belong together: no switch goes on while they are read."""
    needs_no_lock = locks_held or not host.lock_path.exists()
    try:
        with contextlib.nullcontext() if needs_no_lock else durable.locked(host.lock_path, _HOST_LOCK_TIMEOUT_SECONDS):
            return read_file(host.root, host.activation_path), read_file(host.state_dir, host.journal_path)
    except TimeoutError as error:
        raise MobiusError(
            "timeout", f"A switch of {host.service} held the host's lock for {_HOST_LOCK_TIMEOUT_SECONDS:g} s."
        ) from error


def read_file(top: Path, path: Path) -> ReadFile | None:
    """A file directly in the folder `top`; None when there is none, or something else in its place."""
    try:
        folder = open_folder(top)
        try:
            with open_file(path.name, folder) as stream:
                return os.fstat(stream.fileno()), stream.read()
        finally:
            os.close(folder)
    except (FileNotFoundError, NotADirectoryError, NoFileError):
        return None
