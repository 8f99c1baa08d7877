# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The form of a backup: one plain tar file that its manifest determines to the last byte.

    activation.json, config/..., state/...      folders and regular files, in the order of a walk
    manifest.jsonl                              last: what was really written

The manifest has one JSON object a line: the head (`schema`, `service`, `host`, `id`, ...), one entry for each file and
folder, and the tail (`entries`, `files`, `bytes`, `manifest_at`). It comes last because it holds what was hashed while
it was written. A reader finds it through the tail, and then knows every header of the archive, since a header follows
from its entry: it compares bytes instead of interpreting them. A link, a device, a setuid file, a path that leads
outside, an added, dropped, doubled or renamed member all end in the same way, before anything is extracted.

There is no compression: pictures do not compress, and a plain archive can be read in parts, copied within the kernel,
and restored by hand with tar alone. Entries are streamed in both directions, so memory does not grow with the archive.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import queue
import re
import stat
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

SCHEMA = 2
MANIFEST = "manifest.jsonl"
TOPS = ("activation.json", "config", "state")
"""What an archive may hold at its top; the order of a walk."""

CHUNK = 1 << 20
_BLOCK = 512
_END = bytes(2 * _BLOCK)
_TAIL_LIMIT = 1024  # bytes of the manifest's last line
_LINE_LIMIT = 64 << 10  # bytes of any other line
_DEPTH_LIMIT = 64
_ENTRIES_LIMIT = 20_000_000
_SIZE_LIMIT = 1 << 53  # bytes of a file
_NAME_LIMIT = 255  # bytes of a file's name
_PATH_LIMIT = 4096  # bytes
LATEST = (1 << 33) - 1
"""The latest time in seconds since 1970 that a tar header has room for, in the year 2242."""
_QUEUED = 8  # chunks that wait for the digest of the whole archive
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MODE = re.compile(r"0[0-7]{3}")
OWNER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?")
"""What an owner or group may be called; another is kept by its number."""
_CHANGED = "{!r} is another than its manifest says after it was extracted"
_KINDS = {
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
class Entry:
    """A file or a folder, as the manifest has it.

    `size` in bytes; `sha256` None for a folder; `mode` four octal digits without setuid, setgid and sticky; `mtime` in
    seconds since 1970; `stamp` tells on the host itself whether a file was touched since; `stored`: its content is in
    the archive, and not its digest only.
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

    def line(self) -> bytes:
        """Its line of the manifest."""
        about: dict[str, object] = {"path": self.path, "kind": "folder" if self.folder else "file"}
        about |= {"mode": self.mode, "owner": self.owner, "group": self.group, "mtime": self.mtime}
        if not self.folder:
            about |= {"size": self.size, "sha256": self.sha256, "stored": self.stored, "stamp": self.stamp}
        return _line(about)

    def header(self) -> bytes:
        """Its header in the archive; several blocks for a long name."""
        member = tarfile.TarInfo(self.path)
        member.type = tarfile.DIRTYPE if self.folder else tarfile.REGTYPE
        member.size, member.mode, member.mtime = self.size, int(self.mode, 8), self.mtime
        member.uname, member.gname = self.owner, self.group
        return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


@dataclass(frozen=True)
class Manifest:
    """Head and tail of a manifest, and where it lies: `at` is the offset of its header, `size` its own in bytes."""

    head: dict[str, Any]
    entries: int
    files: int
    bytes: int
    at: int
    size: int

    @property
    def data_at(self) -> int:
        """Offset of its first byte."""
        return self.at + len(_manifest_header(self.size))


def _line(value: object) -> bytes:
    # ASCII: a file name that is no UTF-8 survives as an escaped surrogate
    return (json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n").encode("ascii")


def _manifest_header(size: int) -> bytes:
    return Entry(MANIFEST, False, "0600", "root", "root", 0, size).header()


def padding(size: int) -> int:
    """Bytes that fill the last block of a member of this size."""
    return -size % _BLOCK


def shown(name: str) -> str:
    """A name that may be no UTF-8, so that every program can print it."""
    return name.encode("utf-8", "backslashreplace").decode()


# --- Writing ----------------------------------------------------------------------------------------------------------


class Hashing:
    """A stream that takes the digest of all that is read through it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read and count in."""
        data = self._stream.read(size)
        self.digest.update(data)
        return data


class _Sink:
    """Writes to a file; a thread takes the digest of it all meanwhile, and the disk gets each chunk at once."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._parts: list[bytes] = []
        self._waiting = 0
        self.written = 0
        self.digest = hashlib.sha256()
        self._chunks: queue.Queue[bytes | None] = queue.Queue(_QUEUED)
        self._thread = threading.Thread(target=self._count, daemon=True)
        self._thread.start()

    def _count(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            self.digest.update(chunk)

    def write(self, data: bytes) -> None:
        self._parts.append(data)
        self._waiting += len(data)
        self.written += len(data)
        if self._waiting >= CHUNK:
            self.flush()

    def flush(self) -> None:
        chunk = b"".join(self._parts)
        self._parts, self._waiting = [], 0
        self._chunks.put(chunk)
        rest = memoryview(chunk)
        while rest:
            rest = rest[os.write(self._raw.fileno(), rest) :]
        # starts the writing to disk now, without waiting for it: at the end little is left to wait for
        os.posix_fadvise(self._raw.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def close(self) -> None:
        """End the thread; the digest is whole when `flush` came before."""
        if self._thread.is_alive():
            self._chunks.put(None)
            self._thread.join()


class ShorterError(Exception):
    """A file had fewer bytes than its size promised."""


@dataclass(frozen=True)
class Written:
    """An archive that was written: its SHA-256 and its manifest's, its size, and how many files it tells of."""

    sha256: str
    manifest_sha256: str
    bytes: int
    files: int


def write(
    raw: BinaryIO,
    head: dict[str, Any],
    sources: Iterable[tuple[Entry, BinaryIO | None]],
    spool_dir: Path,
) -> Written:
    """Write an archive into the unbuffered file `raw`; every digest is taken from the bytes on their way.

    Args:
        sources: entries in the order of their parts, each with the stream of its content (closed here), or with None
            for folders and for files whose content stays out (these have their digest).
        spool_dir: where the manifest waits, without a name, until all files are written.

    Raises:
        ShorterError: a file has become shorter than its entry says; the message is its path.
        DamagedError: an entry could not be read back: its path is too long or too deep.
    """
    sink = _Sink(raw)
    entries = files = size = 0
    try:
        with tempfile.TemporaryFile(dir=spool_dir) as spool:
            spool.write(_line({**head, "schema": SCHEMA}))
            for entry, stream in sources:
                told = entry
                if stream is not None:
                    with stream:
                        told = replace(entry, sha256=_write_file(sink, entry, stream))
                elif entry.folder:
                    sink.write(entry.header())
                _require_sane(told)
                entries += 1
                files += not entry.folder
                size += entry.size if entry.stored else 0
                spool.write(told.line())
            at = sink.written
            spool.write(_line({"entries": entries, "files": files, "bytes": size, "manifest_at": at}))
            length = spool.tell()
            spool.seek(0)
            own = hashlib.sha256()
            sink.write(_manifest_header(length))
            while chunk := spool.read(CHUNK):
                own.update(chunk)
                sink.write(chunk)
            sink.write(bytes(padding(length)) + _END)
            sink.flush()
    finally:
        sink.close()
    return Written(sink.digest.hexdigest(), own.hexdigest(), sink.written, files)


def _write_file(sink: _Sink, entry: Entry, stream: BinaryIO) -> str:
    sink.write(entry.header())
    digest = hashlib.sha256()
    left = entry.size
    while left:
        chunk = stream.read(min(left, CHUNK))
        if not chunk:
            raise ShorterError(entry.path)
        digest.update(chunk)
        sink.write(chunk)
        left -= len(chunk)
    sink.write(bytes(padding(entry.size)))
    return digest.hexdigest()


# --- Reading the manifest ---------------------------------------------------------------------------------------------


def open_manifest(stream: BinaryIO) -> Manifest:
    """Find the manifest and read its head and tail; three short reads, whatever the size.

    Raises:
        DamagedError: there is none where it must be.
    """
    end = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, end - _TAIL_LIMIT - _BLOCK - len(_END)))
    tail_bytes = stream.read()
    if len(tail_bytes) < 2 * _BLOCK + len(_END) or not tail_bytes.endswith(_END):
        raise DamagedError("it does not end as an archive does, so its end is missing")
    line = tail_bytes.rstrip(b"\0").removesuffix(b"\n").rpartition(b"\n")[2]
    tail = _object(line, {"entries": int, "files": int, "bytes": int, "manifest_at": int})
    at = tail["manifest_at"]
    if not 0 <= at < end or at % _BLOCK or not 0 <= tail["entries"] <= _ENTRIES_LIMIT:
        raise DamagedError("its manifest cannot be understood")
    stream.seek(at)
    block = stream.read(_BLOCK)
    try:
        size = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape").size
    except tarfile.HeaderError:
        raise DamagedError("its manifest is not where it must be") from None
    if block != _manifest_header(size) or at + _BLOCK + size + padding(size) + len(_END) != end:
        raise DamagedError("its manifest is not where it must be")
    head_types = {"schema": int, "service": str, "host": str, "id": str, "scope": str, "created": str}
    head = _object(stream.readline(_LINE_LIMIT).removesuffix(b"\n"), head_types)
    if head["schema"] != SCHEMA:
        raise DamagedError(f"its manifest has schema {head['schema']}, and this version reads {SCHEMA}")
    return Manifest(head, tail["entries"], tail["files"], tail["bytes"], at, size)


def _object(line: bytes, types: dict[str, type]) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or any(type(value.get(name)) is not kind for name, kind in types.items()):
        raise DamagedError("its manifest cannot be understood")
    return value


def entries(stream: BinaryIO, manifest: Manifest) -> Iterator[Entry]:
    """The manifest's entries, each checked: its path leads nowhere but under a folder before it, and comes once.

    `stream` is the reader's own: its position is moved.

    Raises:
        DamagedError: an entry is not as the format wants it.
    """
    stream.seek(manifest.data_at)
    stream.readline(_LINE_LIMIT)
    last: tuple[str, ...] = ()
    folders: list[str] = []
    files = size = 0
    for _ in range(manifest.entries):
        entry = _entry(stream.readline(_LINE_LIMIT).removesuffix(b"\n"))
        parts = entry.parts
        if parts <= last:
            raise DamagedError(f"{shown(entry.path)!r} is in it twice, or not in its place")
        del folders[len(parts) - 1 :]
        if list(parts[:-1]) != folders:
            raise DamagedError(f"{shown(entry.path)!r} lies in a folder that is not in it")
        if entry.folder:
            folders.append(parts[-1])
        else:
            files += 1
            size += entry.size if entry.stored else 0
        last = parts
        yield entry
    stream.readline(_LINE_LIMIT)  # the tail
    if (files, size) != (manifest.files, manifest.bytes) or stream.tell() != manifest.data_at + manifest.size:
        raise DamagedError("its manifest contradicts itself")


def _entry(line: bytes) -> Entry:
    about = _object(line, {"path": str, "kind": str, "mode": str, "owner": str, "group": str, "mtime": int})
    if about["kind"] not in ("file", "folder"):
        raise DamagedError(f"{shown(about['path'])!r} is neither a file nor a folder")
    entry = Entry(**{name: about[name] for name in ("path", "mode", "owner", "group", "mtime")}, folder=True)
    if about["kind"] == "file":
        about = _object(line, {"size": int, "sha256": str, "stored": bool})
        stamp = about.get("stamp")
        values = {name: about[name] for name in ("size", "sha256", "stored")}
        entry = replace(entry, folder=False, stamp=stamp if isinstance(stamp, str) else None, **values)
    _require_sane(entry)
    return entry


def _require_sane(entry: Entry) -> None:
    """Refuse what no archive may hold, when it is read as well as before it is written.

    Raises:
        DamagedError: the message begins with the path.
    """
    parts = entry.parts
    if (
        parts[0] not in TOPS
        or len(parts) > _DEPTH_LIMIT
        or any(part in ("", ".", "..") or not 0 < _length(part) <= _NAME_LIMIT for part in parts)
        or _length(entry.path) > _PATH_LIMIT
    ):
        raise DamagedError(f"{shown(entry.path)!r} leads out of it, or is too long or too deep")
    if not _MODE.fullmatch(entry.mode):
        raise DamagedError(f"{shown(entry.path)!r} has the mode {entry.mode!r}")
    if not (OWNER.fullmatch(entry.owner) and OWNER.fullmatch(entry.group) and 0 <= entry.mtime <= LATEST):
        raise DamagedError(f"{shown(entry.path)!r} has an owner or a time that nothing has")
    if not entry.folder and not (0 <= entry.size <= _SIZE_LIMIT and _SHA256.fullmatch(entry.sha256 or "")):
        raise DamagedError(f"{shown(entry.path)!r} has a size or a digest that nothing has")


def _length(name: str) -> int:
    """Bytes of a name on disk; 0 for one that no file can have."""
    try:
        return 0 if "\0" in name else len(os.fsencode(name))
    except UnicodeEncodeError:  # half of a pair
        return 0


# --- Verifying --------------------------------------------------------------------------------------------------------


def check(path: Path, expected: str) -> tuple[Manifest, str]:
    """Read an archive whole: its digest, and each byte against the manifest; gives the manifest and its SHA-256.

    Both readers go side by side, each in a thread of its own.

    Raises:
        DamagedError: anything is another than what was written.
    """
    with _opened(path) as stream, ThreadPoolExecutor(1) as pool:
        digest = pool.submit(file_sha256, path)
        why: DamagedError | None = None
        try:
            manifest = open_manifest(stream)
            own = manifest_sha256(stream, manifest)
            _compare(path, manifest, part=None)
        except DamagedError as error:
            why = error
        found = digest.result()
        if found != expected:
            raise DamagedError(f"its SHA-256 is {found}, not {expected}" + (f"; {why}" if why else ""))
        if why:
            raise why
        return manifest, own


def check_part(path: Path, part: int, of: int, manifest_sha256_wanted: str | None) -> Manifest:
    """Compare all headers with the manifest, and the content of every `of`-th file, beginning with the `part`-th.

    Raises:
        DamagedError: anything that was read is another than what was written.
    """
    with _opened(path) as stream:
        manifest = open_manifest(stream)
        if manifest_sha256_wanted is not None and manifest_sha256(stream, manifest) != manifest_sha256_wanted:
            raise DamagedError("its manifest is not the one that was written")
    _compare(path, manifest, part=(part, of))
    return manifest


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise DamagedError("it is gone") from None
    with os.fdopen(descriptor, "rb") as stream:
        yield stream


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(CHUNK))
    with open(path, "rb", buffering=0) as stream:
        while size := stream.readinto(buffer):
            digest.update(buffer[:size])
    return digest.hexdigest()


def manifest_sha256(stream: BinaryIO, manifest: Manifest) -> str:
    """The SHA-256 of the manifest's bytes."""
    digest = hashlib.sha256()
    stream.seek(manifest.data_at)
    left = manifest.size
    while left and (chunk := stream.read(min(left, CHUNK))):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def members(lines: BinaryIO, stream: BinaryIO, manifest: Manifest) -> Iterator[tuple[Entry, int]]:
    """Every entry with the offset of its content, once its header is proven to be in its place.

    Args:
        lines, stream: the same archive, opened twice for this alone: for its manifest, and for its headers.

    Raises:
        DamagedError: the archive holds something else than its manifest says.
    """
    at = 0
    fill = b""  # what has to lie between the last content and the next header
    for entry in entries(lines, manifest):
        if not entry.folder and not entry.stored:
            yield entry, at
            continue
        wanted = fill + entry.header()
        found = os.pread(stream.fileno(), len(wanted), at)
        if found != wanted:
            raise DamagedError(_instead(entry, found[len(fill) :]))
        at += len(wanted)
        yield entry, at
        at += entry.size
        fill = bytes(padding(entry.size))
    if at + len(fill) != manifest.at or os.pread(stream.fileno(), len(fill), at) != fill:
        raise DamagedError(_instead(None, os.pread(stream.fileno(), _BLOCK, at + len(fill))))


def _instead(entry: Entry | None, found: bytes) -> str:
    """What is wrong where the header of `entry` (None: the manifest's) must be."""
    wanted = repr(shown(entry.path)) if entry else "the manifest"
    try:
        member = tarfile.TarInfo.frombuf(found[:_BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return f"{wanted} is not in it where it must be"
    kind = _KINDS.get(member.type, "a file")
    if member.name == (entry.path if entry else None) and member.type in (tarfile.REGTYPE, tarfile.DIRTYPE):
        return f"the size, mode, owner or time of {wanted} is another than its manifest says"
    return f"it has {kind} {shown(member.name)!r} where its manifest has {wanted}"


def _compare(path: Path, manifest: Manifest, part: tuple[int, int] | None) -> None:
    number = 0
    with _opened(path) as lines, _opened(path) as stream:
        for entry, at in members(lines, stream, manifest):
            if entry.folder or not entry.stored:
                continue
            number += 1
            if part and (number - part[0]) % part[1]:
                continue
            if _range_sha256(stream.fileno(), at, entry.size) != entry.sha256:
                raise DamagedError(f"the content of {shown(entry.path)!r} is another than its manifest says")


def _range_sha256(descriptor: int, at: int, size: int) -> str:
    digest = hashlib.sha256()
    while size and (chunk := os.pread(descriptor, min(size, CHUNK), at)):
        digest.update(chunk)
        at += len(chunk)
        size -= len(chunk)
    return digest.hexdigest()


# --- Extracting -------------------------------------------------------------------------------------------------------


def extract(path: Path, manifest: Manifest, folder: int, *, user: int | None) -> None:
    """Write every stored file into the empty folder behind the descriptor, in a child process of its own.

    Nothing is believed of what the child leaves: `publish` looks at all of it again.

    Args:
        user: number of the user that the child becomes, without any group but its own; None: who runs this.

    Raises:
        DamagedError: the archive changed since it was checked.
        OSError: with its number, of the first thing that failed.
    """
    with _opened(path) as lines, _opened(path) as stream:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            said = b"0 the child that extracts ended by a fault of the program"
            try:
                if user is not None:
                    os.fchown(folder, user, user)
                    os.setgroups([])
                    os.setresgid(user, user, user)
                    os.setresuid(user, user, user)
                _extract(members(lines, stream, manifest), stream.fileno(), folder)
                said = b"done"
            except OSError as error:
                said = f"{error.errno or errno.EIO} {error.strerror}".encode()
            except DamagedError as error:
                said = f"0 {error}".encode()
            finally:
                os.write(writing, said)
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            said = pipe.read()
        os.waitpid(child, 0)
    if said != b"done":
        number, _, why = said.decode(errors="replace").partition(" ")
        if number in ("", "0"):
            raise DamagedError(why or "the child that extracts was killed")
        raise OSError(int(number), why)


class _Descent:
    """The open folders from the top to where a walk is."""

    def __init__(self, top: int) -> None:
        self._open = [os.dup(top)]
        self._wanted = [0]
        self._names: list[str] = []

    def parent(self, entry: Entry) -> int:
        """The descriptor of the folder that the entry lies in; it counts as one of that folder's."""
        while len(self._open) > len(entry.parts):
            self._leave()
        self._wanted[-1] += 1
        return self._open[-1]

    def enter(self, entry: Entry) -> int:
        """Open a folder of which the parent is open, never through a link."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        self._open.append(os.open(entry.parts[-1], flags, dir_fd=self._open[-1]))
        self._wanted.append(0)
        self._names.append(entry.path)
        return self._open[-1]

    def _leave(self) -> None:
        descriptor, wanted, name = self._open.pop(), self._wanted.pop(), self._names.pop() if self._names else ""
        found = len(os.listdir(descriptor))
        os.close(descriptor)
        if found != wanted:
            raise DamagedError(f"{shown(name)!r} holds {found} names after it was extracted, and not {wanted}")

    def end(self) -> None:
        """Leave all folders; each must hold as many names as were met in it."""
        while self._open:
            self._leave()

    def close(self) -> None:
        """Close what is still open."""
        while self._open:
            os.close(self._open.pop())


def _extract(found: Iterator[tuple[Entry, int]], source: int, folder: int) -> None:
    descent = _Descent(folder)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for entry, at in found:
        if not entry.stored:
            continue
        parent = descent.parent(entry)
        if entry.folder:
            os.mkdir(entry.parts[-1], 0o700, dir_fd=parent)
            descent.enter(entry)
            continue
        target = os.open(entry.parts[-1], flags, 0o600, dir_fd=parent)
        try:
            _copy_range(source, at, entry.size, target)
        finally:
            os.close(target)
    descent.end()


def _copy_range(source: int, at: int, size: int, target: int) -> None:
    """Copy within the kernel where it can, else through memory."""
    while size:
        try:
            copied = os.copy_file_range(source, target, min(size, 64 * CHUNK), offset_src=at)
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
                raise
            copied = os.write(target, os.pread(source, min(size, CHUNK), at))
        if not copied:
            raise DamagedError("it became shorter while it was extracted")
        at += copied
        size -= copied


def publish(
    path: Path,
    manifest: Manifest,
    folder: int,
    *,
    owner_of: Callable[[Entry], tuple[int, int]],
    threads: int = 2,
) -> int:
    """Give what was extracted its owners, modes and times, and read all of it again; how many files there are.

    The owner first: from then on nobody else can change the file, and what is read is what stays.

    Args:
        owner_of: user and group of an entry; (-1, -1) leaves both.

    Raises:
        DamagedError: a file or folder is not what the manifest says; what else lies there counts, too.
    """
    descent = _Descent(folder)
    pending: list[tuple[Entry, int, Future[str]]] = []
    files = 0

    def settle(left: int) -> None:
        while len(pending) > left:
            entry, descriptor, digest = pending.pop(0)
            try:
                if digest.result() != entry.sha256:
                    raise DamagedError(
                        f"{shown(entry.path)!r} is another than its manifest says after it was extracted"
                    )
            finally:
                os.close(descriptor)

    with _opened(path) as lines, ThreadPoolExecutor(threads) as pool:
        try:
            for entry in entries(lines, manifest):
                if not entry.stored:
                    continue
                parent = descent.parent(entry)
                if entry.folder:
                    _own(descent.enter(entry), entry, owner_of)
                    continue
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                descriptor = os.open(entry.parts[-1], flags, dir_fd=parent)
                about = os.fstat(descriptor)
                if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1 or about.st_size != entry.size:
                    os.close(descriptor)
                    raise DamagedError(
                        f"{shown(entry.path)!r} is another than its manifest says after it was extracted"
                    )
                _own(descriptor, entry, owner_of)
                pending.append((entry, descriptor, pool.submit(_range_sha256, descriptor, 0, entry.size)))
                files += 1
                settle(4 * threads)
            settle(0)
            descent.end()
        finally:
            for _, descriptor, digest in pending:
                digest.cancel()
                with contextlib.suppress(Exception):
                    digest.result()
                os.close(descriptor)
            descent.close()
    return files


def _own(descriptor: int, entry: Entry, owner_of: Callable[[Entry], tuple[int, int]]) -> None:
    os.fchown(descriptor, *owner_of(entry))
    os.fchmod(descriptor, int(entry.mode, 8) & ~0o002)
    os.utime(descriptor, (entry.mtime, entry.mtime))
