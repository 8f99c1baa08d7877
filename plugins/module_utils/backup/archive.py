# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The format of a backup: one plain tar file that its manifest determines to the last byte.

    activation.json, config/..., state/...      folders and regular files, sorted by the parts of their paths
    manifest.jsonl                              last: what was really written

The manifest has one JSON object a line: the head (`schema`, `service`, `host`, `id`, ...), one entry for each file and
folder, and the tail (`entries`, `files`, `bytes`, `manifest_at`). It comes last because it holds the digests of what
was hashed while it was written. A reader finds it through the tail, and then knows every header of the archive, since
a header follows from its entry: it compares bytes instead of interpreting them. A link, a device, a setuid file, a path
that leads outside, an added, dropped, doubled or renamed member all end in the same way, before anything is extracted.

There is no compression: pictures do not compress, and a plain archive can be read in parts, copied within the kernel,
and restored by hand with tar alone. Entries are streamed in both directions, so memory does not grow with the archive.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from .safe_open import NoFileError, describe_kind, open_file

SCHEMA = 2
MANIFEST_NAME = "manifest.jsonl"
TOP_NAMES = ("activation.json", "config", "state")
"""What an archive may hold at its top, in the order of an archive."""

LIBRARY_PATH = "state/library"
"""Where an archive holds the pictures."""

CHUNK_BYTES = 1 << 20
BLOCK_BYTES = 512
END_MARK = bytes(2 * BLOCK_BYTES)
MTIME_MAX_SECONDS = (1 << 33) - 1
"""The latest time since 1970 that fits into a tar header, in the year 2242."""

OWNER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?")
"""What an owner or group may be called; any other is kept by its number."""

_TAIL_MAX_BYTES = 1024  # of the manifest's last line
_LINE_MAX_BYTES = 64 << 10  # of any other line
DEPTH_MAX_PARTS = 64
_DAMAGE_MAX_NAMED = 5
_ENTRIES_MAX = 20_000_000
_FILE_MAX_BYTES = 1 << 53
_NAME_MAX_BYTES = 255
_PATH_MAX_BYTES = 4096
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODE = re.compile(r"0[0-7]{3}")
_MEMBER_KINDS = {
    b"1": "a hard link",
    b"2": "a link",
    b"3": "a device",
    b"4": "a device",
    b"5": "a folder",
    b"6": "a pipe",
    b"S": "a sparse file",
}


class DamagedError(ValueError):
    """A backup is not what was written. The message is one sentence without the backup's name."""


@dataclass(frozen=True)
class ArchiveEntry:
    """A file or a folder, as the manifest has it.

    `size` in bytes; `sha256` None for a folder; `mode` four octal digits without setuid, setgid and sticky; `mtime` in
    seconds since 1970; `stamp` identifies, on the host itself, a version of the file, so that an equal one means that
    it did not change since; `stored`: its content is in the archive, and not its digest only.
    """

    path: str
    folder: bool
    mode: str
    owner: str
    group: str
    mtime: int
    size: int = 0
    sha256: str | None = None
    stored: bool = True
    stamp: str | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the path; entries are sorted by them."""
        return tuple(self.path.split("/"))

    @property
    def content(self) -> tuple[object, ...]:
        """All that makes it the same file or folder as another; times do not."""
        return (self.path, self.folder, self.mode, self.owner, self.group, self.size, self.sha256)

    @property
    def is_in_library(self) -> bool:
        """Whether it is the library's folder or lies in it."""
        return self.path == LIBRARY_PATH or self.path.startswith(f"{LIBRARY_PATH}/")

    def line(self) -> bytes:
        """Its line of the manifest."""
        fields: dict[str, object] = {"path": self.path, "kind": "folder" if self.folder else "file"}
        fields |= {"mode": self.mode, "owner": self.owner, "group": self.group, "mtime": self.mtime}
        if not self.folder:
            fields |= {"size": self.size, "sha256": self.sha256, "stored": self.stored, "stamp": self.stamp}
        return manifest_line(fields)

    def header(self) -> bytes:
        """Its header in the archive; several blocks for a long name."""
        member = tarfile.TarInfo(self.path)
        member.type = tarfile.DIRTYPE if self.folder else tarfile.REGTYPE
        member.size, member.mode, member.mtime = self.size, int(self.mode, 8), self.mtime
        member.uname, member.gname = self.owner, self.group
        return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


@dataclass(frozen=True)
class ArchiveManifest:
    """Head and tail of a manifest: `offset` of its header in the archive and `size` of its content, in bytes."""

    head: dict[str, Any]
    entries: int
    files: int
    bytes: int
    offset: int
    size: int

    @property
    def data_offset(self) -> int:
        """Offset of its first byte behind the header."""
        return self.offset + len(manifest_header(self.size))


def manifest_line(value: object) -> bytes:
    """A line of the manifest. It is ASCII: a file name that is no UTF-8 survives as an escaped surrogate."""
    return (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode("ascii")


def manifest_header(size: int) -> bytes:
    """The header of a manifest of this size."""
    return ArchiveEntry(MANIFEST_NAME, False, "0600", "root", "root", 0, size).header()


def padding_size(size: int) -> int:
    """Bytes that fill the last block of a member of this size."""
    return -size % BLOCK_BYTES


def printable(name: str) -> str:
    """A name that may be no UTF-8, so that every program can print it."""
    return name.encode("utf-8", "backslashreplace").decode()


def describe_damage(damage: Mapping[str, str]) -> str:
    """What was damaged by path, as a manifest's head has it, in one line; of many, the first ones."""
    named = [f"{path}: {reason}" for path, reason in sorted(damage.items())]
    others = len(named) - _DAMAGE_MAX_NAMED
    line = printable("; ".join(named[:_DAMAGE_MAX_NAMED])) + (f"; and {others} more" if others > 0 else "")
    return "".join(character if character.isprintable() else "?" for character in line)


def require_valid_entry(entry: ArchiveEntry) -> None:
    """Refuse what no archive may hold, when it is read as well as before it is written.

    Raises:
        DamagedError: the message begins with the path.
    """
    parts = entry.parts
    if (
        parts[0] not in TOP_NAMES
        or len(parts) > DEPTH_MAX_PARTS
        or any(part in ("", ".", "..") or not 0 < _bytes_on_disk(part) <= _NAME_MAX_BYTES for part in parts)
        or _bytes_on_disk(entry.path) > _PATH_MAX_BYTES
    ):
        raise DamagedError(f"{printable(entry.path)!r} leads out of the archive, or is too long or too deep")
    if not _MODE.fullmatch(entry.mode):
        raise DamagedError(f"{printable(entry.path)!r} has the mode {entry.mode!r}")
    owners_are_valid = OWNER_NAME.fullmatch(entry.owner) and OWNER_NAME.fullmatch(entry.group)
    if not (owners_are_valid and 0 <= entry.mtime <= MTIME_MAX_SECONDS):
        raise DamagedError(f"{printable(entry.path)!r} has an invalid owner, group or time")
    if not entry.folder and not (0 <= entry.size <= _FILE_MAX_BYTES and _SHA256.fullmatch(entry.sha256 or "")):
        raise DamagedError(f"{printable(entry.path)!r} has an invalid size or digest")


def _bytes_on_disk(name: str) -> int:
    """Bytes of a name on disk; 0 for one that no file can have."""
    try:
        return 0 if "\0" in name else len(os.fsencode(name))
    except UnicodeEncodeError:  # half of a surrogate pair
        return 0


# --- Reading ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_archive(path: Path) -> Iterator[BinaryIO]:
    """Open an archive for reading.

    Raises:
        DamagedError: there is no file under its name.
    """
    try:
        stream = open_file(path)
    except FileNotFoundError:
        raise DamagedError("its file does not exist any more") from None
    except NoFileError:
        raise DamagedError(f"under its name is {describe_kind(path.lstat().st_mode)}, and no archive") from None
    with stream:
        yield stream


def read_manifest(stream: BinaryIO) -> ArchiveManifest:
    """Find the manifest and read its head and tail; three short reads, whatever the size.

    Raises:
        DamagedError: there is none where it must be.
    """
    end = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, end - _TAIL_MAX_BYTES - BLOCK_BYTES - len(END_MARK)))
    tail_bytes = stream.read()
    if len(tail_bytes) < 2 * BLOCK_BYTES + len(END_MARK) or not tail_bytes.endswith(END_MARK):
        raise DamagedError("it does not end as an archive does, so its end is missing")
    line = tail_bytes.rstrip(b"\0").removesuffix(b"\n").rpartition(b"\n")[2]
    tail = _parse_line(line, {"entries": int, "files": int, "bytes": int, "manifest_at": int})
    offset = tail["manifest_at"]
    if not 0 <= offset < end or offset % BLOCK_BYTES or not 0 <= tail["entries"] <= _ENTRIES_MAX:
        raise DamagedError("its manifest is invalid")
    stream.seek(offset)
    block = stream.read(BLOCK_BYTES)
    try:
        size = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").size
    except tarfile.HeaderError:
        raise DamagedError("its manifest is not where it must be") from None
    if block != manifest_header(size) or offset + BLOCK_BYTES + size + padding_size(size) + len(END_MARK) != end:
        raise DamagedError("its manifest is not where it must be")
    head_types = {"schema": int, "service": str, "host": str, "id": str, "scope": str, "created": str}
    head = _parse_line(stream.readline(_LINE_MAX_BYTES).removesuffix(b"\n"), head_types)
    if head["schema"] != SCHEMA:
        raise DamagedError(f"its manifest has schema {head['schema']}, and this version reads {SCHEMA}")
    return ArchiveManifest(head, tail["entries"], tail["files"], tail["bytes"], offset, size)


def _parse_line(line: bytes, types: dict[str, type]) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or any(type(value.get(name)) is not kind for name, kind in types.items()):
        raise DamagedError("its manifest is invalid")
    return value


def read_entries(stream: BinaryIO, manifest: ArchiveManifest) -> Iterator[ArchiveEntry]:
    """The manifest's entries, each checked: its path lies in a folder that came before, and comes once.

    Args:
        stream: opened for this reader alone: its position is moved.

    Raises:
        DamagedError: an entry is not as the format demands.
    """
    stream.seek(manifest.data_offset)
    stream.readline(_LINE_MAX_BYTES)
    previous: tuple[str, ...] = ()
    folders: list[str] = []
    files = size = 0
    for _ in range(manifest.entries):
        entry = _parse_entry(stream.readline(_LINE_MAX_BYTES).removesuffix(b"\n"))
        parts = entry.parts
        if parts <= previous:
            raise DamagedError(f"{printable(entry.path)!r} is in it twice, or not in its order")
        del folders[len(parts) - 1 :]
        if list(parts[:-1]) != folders:
            raise DamagedError(f"{printable(entry.path)!r} lies in a folder that is not in it")
        if entry.folder:
            folders.append(parts[-1])
        else:
            files += 1
            size += entry.size if entry.stored else 0
        previous = parts
        yield entry
    stream.readline(_LINE_MAX_BYTES)  # the tail
    if (files, size) != (manifest.files, manifest.bytes) or stream.tell() != manifest.data_offset + manifest.size:
        raise DamagedError("its manifest contradicts itself")


def _parse_entry(line: bytes) -> ArchiveEntry:
    fields = _parse_line(line, {"path": str, "kind": str, "mode": str, "owner": str, "group": str, "mtime": int})
    if fields["kind"] not in ("file", "folder"):
        raise DamagedError(f"{printable(fields['path'])!r} is neither a file nor a folder")
    entry = ArchiveEntry(**{name: fields[name] for name in ("path", "mode", "owner", "group", "mtime")}, folder=True)
    if fields["kind"] == "file":
        fields = _parse_line(line, {"size": int, "sha256": str, "stored": bool})
        stamp = fields.get("stamp")
        values = {name: fields[name] for name in ("size", "sha256", "stored")}
        entry = replace(entry, folder=False, stamp=stamp if isinstance(stamp, str) else None, **values)
    require_valid_entry(entry)
    return entry


def read_members(lines: BinaryIO, stream: BinaryIO, manifest: ArchiveManifest) -> Iterator[tuple[ArchiveEntry, int]]:
    """Every entry with the offset of its content, once its header was compared with what must be there.

    Args:
        lines: the archive, opened for its manifest's lines alone.
        stream: the archive, opened for its headers alone.

    Raises:
        DamagedError: the archive holds something else than its manifest says.
    """
    offset = 0
    fill = b""  # what has to lie between the last content and the next header
    for entry in read_entries(lines, manifest):
        if not entry.folder and not entry.stored:
            yield entry, offset
            continue
        expected = fill + entry.header()
        actual = os.pread(stream.fileno(), len(expected), offset)
        if actual != expected:
            raise DamagedError(_describe_wrong_member(entry, actual[len(fill) :]))
        offset += len(expected)
        yield entry, offset
        offset += entry.size
        fill = bytes(padding_size(entry.size))
    if offset + len(fill) != manifest.offset or os.pread(stream.fileno(), len(fill), offset) != fill:
        raise DamagedError(_describe_wrong_member(None, os.pread(stream.fileno(), BLOCK_BYTES, offset + len(fill))))


def _describe_wrong_member(entry: ArchiveEntry | None, actual: bytes) -> str:
    """What is wrong where the header of `entry` (None: the manifest's) must be."""
    expected = repr(printable(entry.path)) if entry else "the manifest"
    try:
        member = tarfile.TarInfo.frombuf(actual[:BLOCK_BYTES], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return f"{expected} is not in it where it must be"
    kind = _MEMBER_KINDS.get(member.type, "a file")
    if member.name == (entry.path if entry else None) and member.type in (tarfile.REGTYPE, tarfile.DIRTYPE):
        return f"the size, mode, owner or time of {expected} is not what its manifest says"
    return f"it has {kind} {printable(member.name)!r} where its manifest has {expected}"


# --- Digests ----------------------------------------------------------------------------------------------------------


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file.

    Raises:
        NoFileError: it is a link, or something else that is no file.
    """
    with open_file(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def manifest_sha256(stream: BinaryIO, manifest: ArchiveManifest) -> str:
    """The SHA-256 of the manifest's bytes."""
    return range_sha256(stream.fileno(), manifest.data_offset, manifest.size)


def range_sha256(descriptor: int, offset: int, size: int) -> str:
    """The SHA-256 of `size` bytes of an open file; of fewer, where the file ends before."""
    digest = hashlib.sha256()
    while size and (chunk := os.pread(descriptor, min(size, CHUNK_BYTES), offset)):
        digest.update(chunk)
        offset += len(chunk)
        size -= len(chunk)
    return digest.hexdigest()
