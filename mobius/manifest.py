# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The format of a bundle, and of a release that is staged on a host.

A bundle is one gzipped tar file whose members are `manifest.json` and then `tree/...`, sorted, regular files only; the
manifest names every file with its SHA-256, size and mode. Nothing but what the manifest says is ever read out of it:
each member is compared with the entry that must come next, so a link, a device, a path that leads outside, an added, a
dropped and a renamed member all end in the same way.

A staged release is the folder `<releases>/<release id>/{manifest.json,release.json,tree/}`, which appears in one step
and can be compared with its manifest at any later day.

Hosts use this same file (`plugins/module_utils/manifest.py` is a link to it), so it imports the standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gzip
import hashlib
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

SCHEMA = 1
MANIFEST_NAME = "manifest.json"
RELEASE_NAME = "release.json"
TREE = "tree"
MODES = {"0644": 0o644, "0755": 0o755}
STAGING_PREFIX = ".staging-"
FULL = (errno.ENOSPC, errno.EDQUOT)  # what a full disk and a full quota say

VERSION = re.compile(r"[0-9a-z]+(\.[0-9a-z]+)*")
RELEASE_ID = re.compile(r"[0-9a-z.]+-[0-9a-f]{12}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS = {
    "service": re.compile(r"[a-z][a-z0-9-]{0,62}"),
    "version": VERSION,
    "commit": re.compile(r"[0-9a-f]{40}"),
    "built_at": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
    "python": re.compile(r"3\.\d{1,2}"),
    "platform": re.compile(r"[a-z0-9]+_[a-z0-9_]+"),
    "tree_sha256": _SHA256,
}
_CONTROL_OR_BACKSLASH = re.compile(r"[\x00-\x1f\x7f\\]")
_BLOCK = 512  # bytes of a tar header, and what every member is padded to
_CHUNK = 1 << 20
_MANIFEST_LIMIT = 32 << 20  # bytes; a manifest has about 150 per file
_SIGNATURE_LIMIT = 16 << 10  # bytes; one by an RSA key of 4096 bits has 1.6 KB
_TRAILER_LIMIT = 1 << 20  # bytes of zeros after the last member; tar writes at most one record of 10 KiB
# A gzip header without a time, a name or any flag: the bytes before the deflate stream that no digest covers.
_GZIP_HEADERS = (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff")


class ManifestError(ValueError):
    """A bundle, a manifest or a staged release is not what it must be. The message is one sentence."""


@dataclass(frozen=True)
class FileEntry:
    """One file of the tree: SHA-256 in hex, size in bytes, mode as four octal digits."""

    sha256: str
    size: int
    mode: str


@dataclass(frozen=True)
class Manifest:
    """What was built, from which commit, for which Python and platform; `files` by path relative to `tree/`."""

    service: str
    version: str
    commit: str
    built_at: str
    python: str
    platform: str
    tree_sha256: str
    files: Mapping[str, FileEntry]

    @property
    def timestamp(self) -> int:
        """`built_at` in seconds since 1970.

        Raises:
            ManifestError: there is no such time.
        """
        try:
            return int(datetime.strptime(self.built_at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
        except ValueError:
            raise ManifestError(f"{MANIFEST_NAME} has {self.built_at!r} for built_at, which is no time.") from None

    def as_dict(self) -> dict[str, Any]:
        """The content of `manifest.json`."""
        return {
            "schema": SCHEMA,
            **{name: getattr(self, name) for name in _FIELDS},
            "files": {
                path: {"sha256": entry.sha256, "size": entry.size, "mode": entry.mode}
                for path, entry in self.files.items()
            },
        }


@dataclass(frozen=True)
class Bundle:
    """A bundle file that was read whole and is what its manifest says; `size` is the file's, in bytes.

    `signature` is the text of the SSH signature beside it, which nobody has judged yet; None without one.
    """

    path: Path
    sha256: str
    release_id: str
    manifest: Manifest
    size: int
    signature: str | None = None


# --- The manifest -----------------------------------------------------------------------------------------------------


def tree_sha256(files: Mapping[str, FileEntry]) -> str:
    """The digest of a whole tree: SHA-256 over the lines `<sha256> <mode> <size> <path>`, sorted by path."""
    lines = "".join(f"{files[path].sha256} {files[path].mode} {files[path].size} {path}\n" for path in sorted(files))
    return hashlib.sha256(lines.encode()).hexdigest()


def release_id(version: str, bundle_sha256: str) -> str:
    """`<version>-<first 12 hex digits of the bundle's SHA-256>`.

    Raises:
        ManifestError: the version has characters that a release id may not have.
    """
    _check_field("version", version)
    return f"{version}-{bundle_sha256[:12]}"


def json_bytes(value: Any) -> bytes:
    """The one form in which manifests are written: sorted keys, two spaces, a final newline."""
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def make_manifest(files: Mapping[str, FileEntry], **fields: str) -> Manifest:
    """The manifest of a tree, checked as strictly as one that is read.

    Args:
        files: by path relative to `tree/`.
        fields: service, version, commit, built_at, python, platform.

    Raises:
        ManifestError: a field or a path is not as the format wants it.
    """
    made = Manifest(**fields, tree_sha256=tree_sha256(files), files=files)
    return parse_manifest(json_bytes(made.as_dict()))


def parse_manifest(data: bytes) -> Manifest:
    """Read `manifest.json`.

    Raises:
        ManifestError: it is no JSON, a field is missing, unknown or malformed, a path leads outside of the tree, or
            the tree digest does not follow from the files.
    """
    value = _load_json(data, MANIFEST_NAME)
    if not isinstance(value, dict) or set(value) != {"schema", "files", *_FIELDS}:
        raise ManifestError(f"{MANIFEST_NAME} does not have exactly the fields schema, files, {', '.join(_FIELDS)}.")
    if value["schema"] != SCHEMA:
        raise ManifestError(f"{MANIFEST_NAME} has schema {value['schema']!r}; this MOBIUS reads schema {SCHEMA}.")
    for name in _FIELDS:
        _check_field(name, value[name])
    if not isinstance(value["files"], dict) or not value["files"]:
        raise ManifestError(f"{MANIFEST_NAME} names no files.")
    files = {path: _parse_entry(path, entry) for path, entry in value["files"].items()}
    for path in files:
        for folder in _folders_of(path):
            if folder in files:
                raise ManifestError(f"{MANIFEST_NAME} has {folder!r} both as a file and as a folder.")
    if tree_sha256(files) != value["tree_sha256"]:
        raise ManifestError(f"{MANIFEST_NAME} has a tree_sha256 that is not the digest of its files.")
    parsed = Manifest(**{name: value[name] for name in _FIELDS}, files=files)
    _ = parsed.timestamp  # a time that does not exist is refused here, not where somebody first needs it
    return parsed


def _load_json(data: bytes, name: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ManifestError(f"{name} names a key twice.")
        return dict(pairs)

    try:
        return json.loads(data, object_pairs_hook=unique)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ManifestError(f"{name} is not JSON.") from None


def _check_field(name: str, value: object) -> None:
    if not isinstance(value, str) or not _FIELDS[name].fullmatch(value):
        raise ManifestError(f"{MANIFEST_NAME} has {_short(value)} for {name}, which wants {_FIELDS[name].pattern}.")


def _parse_entry(path: str, value: object) -> FileEntry:
    if path != path.strip("/") or any(part in ("", ".", "..") for part in path.split("/")):
        raise ManifestError(f"{MANIFEST_NAME} names the path {_short(path)}, which is not inside the tree.")
    if _CONTROL_OR_BACKSLASH.search(path) or not path.isprintable():
        raise ManifestError(f"{MANIFEST_NAME} names the path {_short(path)}, which has characters that no path has.")
    if not isinstance(value, dict) or set(value) != {"sha256", "size", "mode"}:
        raise ManifestError(f"{MANIFEST_NAME} does not give sha256, size and mode of {_short(path)}.")
    digest, size, mode = value["sha256"], value["size"], value["mode"]
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise ManifestError(f"{MANIFEST_NAME} gives {_short(path)} something else than a SHA-256.")
    if type(size) is not int or size < 0:
        raise ManifestError(f"{MANIFEST_NAME} gives {_short(path)} a size that is no number of bytes.")
    if mode not in MODES:
        raise ManifestError(f"{MANIFEST_NAME} gives {_short(path)} the mode {_short(mode)}; 0644 and 0755 are known.")
    return FileEntry(digest, size, mode)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _folders_of(path: str) -> Iterator[str]:
    parts = path.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        yield "/".join(parts[:count])


def needs_bytes(manifest: Manifest, block: int = 4096) -> int:
    """How many bytes of a disk with that block size the staged release takes, folders and manifests included."""
    folders = {folder for path in manifest.files for folder in _folders_of(path)}
    own = len(json_bytes(manifest.as_dict()))
    sizes = [entry.size for entry in manifest.files.values()] + [own, block, *(block for _ in folders), block, block]
    return sum(-(-size // block) * block for size in sizes)


def expectation(bundle: Bundle) -> dict[str, Any]:
    """What a host compares itself with before it is sent the bundle: the argument `expect` of modules."""
    return {
        "release": bundle.release_id,
        "sha256": bundle.sha256,
        "signature": bundle.signature,
        "service": bundle.manifest.service,
        "python": bundle.manifest.python,
        "platform": bundle.manifest.platform,
        "needs_bytes": needs_bytes(bundle.manifest),
        "bundle_bytes": bundle.size,
        "files": len(bundle.manifest.files),
    }


# --- The bundle -------------------------------------------------------------------------------------------------------


def sha256_file(path: Path | str) -> str:
    """SHA-256 of a file's content, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sidecar(path: Path | str) -> Path:
    """Where a bundle's digest lies: `<bundle>.sha256`, beside the file itself when `path` is a link to it."""
    return Path(f"{_file_of(path)}.sha256")


def signature_path(path: Path | str) -> Path:
    """Where a bundle's signature lies: `<bundle>.sig`, beside the file itself when `path` is a link to it."""
    return Path(f"{_file_of(path)}.sig")


def _signature(path: Path) -> str | None:
    try:
        with open(signature_path(path), "rb") as stream:
            return stream.read(_SIGNATURE_LIMIT).decode("ascii", "replace")
    except FileNotFoundError:
        return None


def _file_of(path: Path | str) -> Path:
    place = Path(path)
    return place.resolve() if place.is_symlink() else place


def read_sidecar(path: Path | str) -> str:
    """The SHA-256 that `<bundle>.sha256` promises.

    Raises:
        ManifestError: it is no line of `sha256sum`, or speaks of another file.
        OSError: it cannot be read.
    """
    beside = sidecar(path)
    match = re.fullmatch(rb"([0-9a-f]{64}) [ *]([^\n/]+)\n?", beside.read_bytes()[:4096])
    if match is None:
        raise ManifestError(f"{beside.name} is not one line of sha256sum.")
    if match[2] != os.fsencode(_file_of(path).name):
        raise ManifestError(f"{beside.name} speaks of another file than {_file_of(path).name}.")
    return match[1].decode()


def read_bundle(path: Path | str, *, expected_sha256: str | None = None, require_sidecar: bool = False) -> Bundle:
    """Read a bundle whole: its digest, its form, and every member against the manifest.

    Args:
        path: the bundle; when `<path>.sha256` lies beside it, the two must agree.
        expected_sha256: what the file's digest must be, in hex.
        require_sidecar: refuse a bundle without its `.sha256`.

    Raises:
        ManifestError: it is not a whole, unchanged bundle.
        OSError: it cannot be read.
    """
    with _opened(path, expected_sha256, require_sidecar) as (stream, digest):
        return _bundle(Path(path), stream, digest, _read_archive(stream, None))


def expect_digest(name: str, digest: str, expected: str | None) -> None:
    """Refuse the bundle `name` when its digest is another than the one that is expected, if one is.

    Raises:
        ManifestError: it is.
    """
    if expected is not None and digest != expected:
        raise ManifestError(f"{name} has SHA-256 {digest}, but {expected} was expected.")


@contextlib.contextmanager
def _opened(path: Path | str, expected_sha256: str | None, require_sidecar: bool) -> Iterator[tuple[BinaryIO, str]]:
    """The open file at its start, and its digest: what is read afterwards is what was digested."""
    name = Path(path).name
    with open(path, "rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0)
        expect_digest(name, digest, expected_sha256)
        if require_sidecar or sidecar(path).exists():
            try:
                promised = read_sidecar(path)
            except FileNotFoundError:
                raise ManifestError(f"{sidecar(path).name} is missing beside {name}.") from None
            if digest != promised:
                raise ManifestError(f"{name} has SHA-256 {digest}, but its .sha256 says {promised}.")
        yield stream, digest


def _bundle(path: Path, stream: BinaryIO, digest: str, manifest: Manifest) -> Bundle:
    size = os.fstat(stream.fileno()).st_size
    return Bundle(path, digest, release_id(manifest.version, digest), manifest, size, _signature(path))


def _read_archive(stream: BinaryIO, out: Path | None) -> Manifest:
    """Compare the whole archive with its manifest, and write its files under `out` when given."""
    if stream.read(10) not in _GZIP_HEADERS:
        raise ManifestError("The bundle is not a gzip file as MOBIUS writes it.")
    stream.seek(0)
    try:
        with gzip.GzipFile(fileobj=stream, mode="rb") as plain:
            return _read_members(plain, out)
    except (gzip.BadGzipFile, zlib.error, EOFError):
        raise ManifestError("The bundle is damaged: its compressed data is cut short or changed.") from None


def _read_members(plain: gzip.GzipFile, out: Path | None) -> Manifest:
    info = _next_member(plain)
    if info is None or info.name != MANIFEST_NAME or not info.isreg() or info.size > _MANIFEST_LIMIT:
        raise ManifestError(f"The bundle does not begin with {MANIFEST_NAME}.")
    raw = b"".join(_content(plain, info.size))
    manifest = parse_manifest(raw)
    built_at = manifest.timestamp
    _check_member(info, MANIFEST_NAME, FileEntry(hashlib.sha256(raw).hexdigest(), len(raw), "0644"), built_at)
    if out is not None:
        _write_file(out / MANIFEST_NAME, 0o644, iter([raw]))
    for path in sorted(manifest.files):
        entry = manifest.files[path]
        info = _next_member(plain)
        if info is None:
            raise ManifestError(f"The bundle ends before {TREE}/{path}, which its manifest names.")
        _check_member(info, f"{TREE}/{path}", entry, built_at)
        hasher = hashlib.sha256()
        chunks = _hashed(_content(plain, info.size), hasher)
        if out is None:
            for _ in chunks:
                pass
        else:
            target = out / TREE / path
            target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            _write_file(target, MODES[entry.mode], chunks)
        if hasher.hexdigest() != entry.sha256:
            raise ManifestError(f"{TREE}/{path} in the bundle has another SHA-256 than the manifest says.")
    info = _next_member(plain)
    if info is not None:
        raise ManifestError(f"The bundle has the member {_short(info.name)}, which its manifest does not name.")
    trailer = plain.read(_TRAILER_LIMIT + 1)
    if len(trailer) > _TRAILER_LIMIT or trailer.strip(b"\0"):
        raise ManifestError("The bundle goes on after its last member.")
    return manifest


def _next_member(plain: gzip.GzipFile) -> tarfile.TarInfo | None:
    """The next tar header, or None at the end. Read one by one, so that extended headers, of any size, stay out."""
    header = _read_exactly(plain, _BLOCK)
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except (tarfile.TarError, ValueError):
        raise ManifestError("The bundle is damaged: a member's header cannot be read.") from None


def _check_member(info: tarfile.TarInfo, name: str, entry: FileEntry, built_at: int) -> None:
    if info.name != name:
        raise ManifestError(f"The bundle has the member {_short(info.name)} where its manifest says {_short(name)}.")
    if info.type != tarfile.REGTYPE:
        raise ManifestError(f"{_short(name)} in the bundle is not a regular file.")
    if (info.size, info.mode) != (entry.size, MODES[entry.mode]):
        raise ManifestError(f"{_short(name)} in the bundle has another size or mode than the manifest says.")
    if (info.uid, info.gid, info.uname, info.gname, info.linkname) != (0, 0, "", "", "") or info.mtime != built_at:
        raise ManifestError(f"{_short(name)} in the bundle has an owner, a link or a time that MOBIUS does not write.")


def _read_exactly(plain: gzip.GzipFile, size: int) -> bytes:
    data = plain.read(size)
    if len(data) != size:
        raise ManifestError("The bundle is cut short.")
    return data


def _content(plain: gzip.GzipFile, size: int) -> Iterator[bytes]:
    left = size
    while left:
        chunk = _read_exactly(plain, min(left, _CHUNK))
        left -= len(chunk)
        yield chunk
    if _read_exactly(plain, -size % _BLOCK).strip(b"\0"):
        raise ManifestError("The bundle has data between two members.")


def _hashed(chunks: Iterator[bytes], hasher: Any) -> Iterator[bytes]:
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk


def _write_file(path: Path, mode: int, chunks: Iterator[bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as target:
        for chunk in chunks:
            target.write(chunk)
        target.flush()
        os.fchmod(target.fileno(), mode)
        os.fsync(target.fileno())


# --- A release on a host ----------------------------------------------------------------------------------------------


def host_platform(machine: str | None = None) -> str:
    """The platform of this host as manifests name it, for example `linux_x86_64`."""
    return f"{sys.platform}_{machine or os.uname().machine}"


def release_record(bundle: Bundle) -> dict[str, Any]:
    """The content of `release.json`: what this release is and which bundle it came from."""
    manifest = bundle.manifest
    return {
        "schema": SCHEMA,
        "release": bundle.release_id,
        "bundle_sha256": bundle.sha256,
        **{name: getattr(manifest, name) for name in _FIELDS},
    }


def stage(
    bundle_path: Path | str,
    releases_dir: Path | str,
    expected_sha256: str | None = None,
    *,
    service: str | None = None,
    replace_damaged: bool = False,
) -> str:
    """Put the release of a bundle beside the others; it appears whole or not at all.

    The bundle is verified while it is written to a hidden sibling, the result is hashed again from the disk, made
    durable, and renamed. A release that is there already and whole is left alone. What killed runs left is removed.

    Args:
        releases_dir: the folder of releases; it must exist.
        expected_sha256: what the bundle's digest must be, in hex.
        service: refuse a bundle of another service.
        replace_damaged: put a new tree in the place of a damaged one; only for a release that nothing uses.

    Returns:
        the release id.

    Raises:
        ManifestError: the bundle is not whole, or the release is there and damaged.
        OSError: it could not be read or written (ENOSPC among them); nothing is visible then.
    """
    releases = Path(releases_dir)
    remove_leftovers(releases)
    with _opened(bundle_path, expected_sha256, False) as (stream, digest), _hidden_folder(releases) as hidden:
        bundle = _bundle(Path(bundle_path), stream, digest, _read_archive(stream, hidden))
        if service is not None and bundle.manifest.service != service:
            raise ManifestError(f"The bundle is of the service {bundle.manifest.service}, not of {service}.")
        target = releases / bundle.release_id
        _write_file(hidden / RELEASE_NAME, 0o644, iter([json_bytes(release_record(bundle))]))
        for folder, _, _ in os.walk(hidden):
            os.chmod(folder, 0o755)  # noqa: S103 - the service's user reads what root owns
            if os.geteuid() == 0:
                os.chown(folder, 0, 0)
            _fsync_dir(folder)
        _evict_from_cache(hidden)
        problems = verify_tree(hidden, bundle.release_id)
        if problems:
            raise ManifestError(f"What was written is not what was read: {summary(problems)}.")
        _publish(hidden, target, releases, replace_damaged)
        return bundle.release_id


def _publish(hidden: Path, target: Path, releases: Path, replace_damaged: bool) -> None:
    if target.exists():
        problems = verify_tree(target)
        if not problems:
            return
        if not replace_damaged:
            raise ManifestError(f"The release {target.name} is staged already, but damaged: {summary(problems)}.")
        with _hidden_folder(releases) as aside:
            os.rename(target, aside / "damaged")
            os.rename(hidden, target)
            _fsync_dir(releases)
        return
    try:
        os.rename(hidden, target)
    except OSError as e:
        # another run staged the same release meanwhile: its tree went through the same checks
        if e.errno not in (errno.ENOTEMPTY, errno.EEXIST) or verify_tree(target):
            raise
    _fsync_dir(releases)


def unstage(release: str, releases_dir: Path | str) -> bool:
    """Remove a release; it disappears in one step. Whether anything still needs it is the caller's to ask.

    Returns:
        False when it was not there.

    Raises:
        ManifestError: that is no release id.
        OSError: it could not be removed.
    """
    if not RELEASE_ID.fullmatch(release):
        raise ManifestError(f"{_short(release)} is not a release id.")
    releases = Path(releases_dir)
    remove_leftovers(releases)
    if not (releases / release).exists():
        return False
    with _hidden_folder(releases) as hidden:
        os.rename(releases / release, hidden / "removed")
        _fsync_dir(releases)
    return True


@contextlib.contextmanager
def _hidden_folder(releases: Path) -> Iterator[Path]:
    """A hidden folder beside the releases, held by a lock on the folder itself: one that nobody holds is a leftover."""
    while True:
        hidden = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=releases))
        try:
            descriptor = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another run took it for a leftover before it was open
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if hidden.exists():
            break
        os.close(descriptor)  # another run took it for a leftover before the lock was ours
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)  # renamed away when all went well; else the next run tries again
        os.close(descriptor)


def remove_leftovers(releases_dir: Path | str) -> None:
    """Remove the hidden folders that killed runs left, and none that a living run holds."""
    for leftover in Path(releases_dir).glob(f"{STAGING_PREFIX}*"):
        try:
            descriptor = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(descriptor)


def _fsync_dir(path: Path | str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _evict_from_cache(folder: Path) -> None:
    """Let the following read come from the disk: what is fsynced already can leave the page cache."""
    for parent, _, names in os.walk(folder):
        for name in names:
            descriptor = os.open(os.path.join(parent, name), os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def read_release(release_dir: Path | str) -> dict[str, Any]:
    """`release.json` of a staged release.

    Raises:
        ManifestError: it is missing or cannot be understood.
    """
    path = Path(release_dir) / RELEASE_NAME
    try:
        value = _load_json(path.read_bytes(), RELEASE_NAME)
    except OSError as e:
        raise ManifestError(f"{RELEASE_NAME} cannot be read: {e.strerror}.") from None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA or not isinstance(value.get("release"), str):
        raise ManifestError(f"{RELEASE_NAME} is not a release record of schema {SCHEMA}.")
    return value


def verify_tree(release_dir: Path | str, release: str | None = None) -> list[str]:
    """Compare a staged release with what was built, file by file.

    Args:
        release_dir: the release's folder, whose name is the release id.
        release: the release id where the folder has another name.

    Returns:
        one line per difference, sorted (`missing tree/x`, `extra tree/x`, `changed tree/x`, `mode tree/x`,
        `owner tree/x`, ...); empty when it is whole.
    """
    root = Path(release_dir)
    try:
        manifest = parse_manifest((root / MANIFEST_NAME).read_bytes())
        record = read_release(root)
    except OSError as e:
        return [f"unreadable {MANIFEST_NAME}: {e.strerror}"]
    except ManifestError as e:
        return [f"unreadable {str(e).rstrip('.')}"]
    problems = []
    digest = str(record.get("bundle_sha256"))
    if record["release"] != (release or root.name) or record["release"] != f"{manifest.version}-{digest[:12]}":
        problems.append(f"changed {RELEASE_NAME}: it speaks of the release {_short(record['release'])}")
    for name in _FIELDS:
        if record.get(name) != getattr(manifest, name):
            problems.append(f"changed {RELEASE_NAME}: its {name} is not the manifest's")
    expected = {f"{TREE}/{path}": entry for path, entry in manifest.files.items()}
    folders = {TREE} | {folder for path in expected for folder in _folders_of(path)}
    about = root.stat()
    owner = about.st_uid
    if about.st_mode & 0o7777 != 0o755:
        problems.append(f"mode ./: {about.st_mode & 0o7777:04o}, not 0755")
    seen = set()
    for path, item in _walk(root):
        seen.add(path)
        status = item.stat(follow_symlinks=False)
        mode = f"{status.st_mode & 0o7777:04o}"
        if status.st_uid != owner:
            problems.append(f"owner {path}: uid {status.st_uid}, not {owner}")
        if item.is_dir(follow_symlinks=False):
            if path not in folders:
                problems.append(f"extra {path}/")
            elif mode != "0755":
                problems.append(f"mode {path}/: {mode}, not 0755")
            continue
        if path in (MANIFEST_NAME, RELEASE_NAME):
            if mode != "0644":
                problems.append(f"mode {path}: {mode}, not 0644")
            continue
        entry = expected.get(path)
        if entry is None:
            problems.append(f"extra {path}")
        elif not item.is_file(follow_symlinks=False):
            problems.append(f"changed {path}: it is not a regular file")
        else:
            if mode != entry.mode:
                problems.append(f"mode {path}: {mode}, not {entry.mode}")
            if status.st_size != entry.size:
                problems.append(f"changed {path}: {status.st_size} bytes, not {entry.size}")
            elif sha256_file(item.path) != entry.sha256:
                problems.append(f"changed {path}")
    problems += [f"missing {path}" for path in expected if path not in seen]
    return sorted(problems)


def _walk(root: Path) -> Iterator[tuple[str, os.DirEntry[str]]]:
    pending = [""]
    while pending:
        folder = pending.pop()
        with os.scandir(root / folder) as items:
            for item in items:
                path = f"{folder}/{item.name}" if folder else item.name
                yield os.fsencode(path).decode("utf-8", "backslashreplace"), item
                if item.is_dir(follow_symlinks=False):
                    pending.append(path)


def summary(problems: list[str], limit: int = 3) -> str:
    """The first differences in one line, and how many there are in all."""
    shown = "; ".join(problems[:limit])
    return shown if len(problems) <= limit else f"{shown}; and {len(problems) - limit} more"
