# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes an archive; every digest is computed from the bytes on their way."""

from __future__ import annotations

import hashlib
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from .archive import (
    CHUNK_BYTES,
    END_MARK,
    SCHEMA,
    ArchiveEntry,
    manifest_header,
    manifest_line,
    padding_size,
    require_valid_entry,
)
from .source import Content

_QUEUE_MAX_CHUNKS = 8  # that wait for the digest of the whole archive


class FileShrankError(Exception):
    """A file had fewer bytes than its size promised. The message is its path."""


@dataclass(frozen=True)
class WrittenArchive:
    """An archive that was written: its SHA-256 and its manifest's, its size in bytes, and the number of its files."""

    sha256: str
    manifest_sha256: str
    bytes: int
    files: int


class _Sink:
    """Writes to a file; a thread hashes all of it meanwhile, and the disk gets each chunk at once."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._parts: list[bytes] = []
        self._waiting = 0
        self.written = 0
        self.digest = hashlib.sha256()
        self._chunks: queue.Queue[bytes | None] = queue.Queue(_QUEUE_MAX_CHUNKS)
        self._thread = threading.Thread(target=self._hash_chunks, daemon=True)
        self._thread.start()

    def _hash_chunks(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            self.digest.update(chunk)

    def write(self, data: bytes) -> None:
        self._parts.append(data)
        self._waiting += len(data)
        self.written += len(data)
        if self._waiting >= CHUNK_BYTES:
            self.flush()

    def flush(self) -> None:
        chunk = b"".join(self._parts)
        self._parts, self._waiting = [], 0
        self._chunks.put(chunk)
        remaining = memoryview(chunk)
        while remaining:
            remaining = remaining[os.write(self._raw.fileno(), remaining) :]
        # starts the writing to disk now, without waiting for it: at the end little is left to wait for
        os.posix_fadvise(self._raw.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """End the thread; the digest is complete when `flush` came before."""
        if self._thread.is_alive():
            self._chunks.put(None)
            self._thread.join()


def write_archive(
    raw: BinaryIO,
    head: Callable[[], dict[str, Any]],
    sources: Iterable[tuple[ArchiveEntry, Content | None]],
    spool_dir: Path,
) -> WrittenArchive:
    """Write an archive into the unbuffered file `raw`.

    Args:
        head: gives the manifest's first line, without the schema, once all sources were read.
        sources: entries in the order of their parts, each with the stream of its content (closed here), or with None
            for folders and for files whose content is left out (these have their digest).
        spool_dir: where the manifest waits, without a name, until all files are written.

    Raises:
        FileShrankError: a file has become shorter than its entry says.
        DamagedError: an entry could not be read again: its path is too long or too deep.
    """
    sink = _Sink(raw)
    entries = files = size = 0
    try:
        with tempfile.TemporaryFile(dir=spool_dir) as spool:
            for source, stream in sources:
                entry = source
                if stream is not None:
                    with stream:
                        entry = replace(source, sha256=_write_file(sink, source, stream))
                elif entry.folder:
                    sink.write(entry.header())
                require_valid_entry(entry)
                entries += 1
                files += not entry.folder
                size += entry.size if entry.stored else 0
                spool.write(entry.line())
            offset = sink.written
            spool.write(manifest_line({"entries": entries, "files": files, "bytes": size, "manifest_at": offset}))
            first_line = manifest_line({**head(), "schema": SCHEMA})
            length = len(first_line) + spool.tell()
            spool.seek(0)
            manifest_digest = hashlib.sha256(first_line)
            sink.write(manifest_header(length) + first_line)
            while chunk := spool.read(CHUNK_BYTES):
                manifest_digest.update(chunk)
                sink.write(chunk)
            sink.write(bytes(padding_size(length)) + END_MARK)
            sink.flush()
    finally:
        sink.close()
    return WrittenArchive(sink.digest.hexdigest(), manifest_digest.hexdigest(), sink.written, files)


def _write_file(sink: _Sink, entry: ArchiveEntry, stream: Content) -> str:
    """Write header and content of a file; the SHA-256 of the content."""
    sink.write(entry.header())
    digest = hashlib.sha256()
    remaining = entry.size
    while remaining:
        chunk = stream.read(min(remaining, CHUNK_BYTES))
        if not chunk:
            raise FileShrankError(entry.path)
        digest.update(chunk)
        sink.write(chunk)
        remaining -= len(chunk)
    sink.write(bytes(padding_size(entry.size)))
    return digest.hexdigest()
