# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The format of a bundle, and reading one.

A bundle is one gzipped tar file whose members are `manifest.json` and then `tree/...`, sorted, regular files only; the
manifest names every file with its SHA-256, size and mode. Nothing but what the manifest says is ever read out of it:
each member is compared with the entry that must come next, so a link, a device, a path that leads outside, an added, a
dropped and a renamed member are all refused in the same way.

Hosts use this same file (`plugins/module_utils/manifest.py` is a link to it), so it imports the standard library only.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from .durable import json_bytes

SCHEMA = 1
MANIFEST_NAME = "manifest.json"
TREE = "tree"
MODES = {"0644": 0o644, "0755": 0o755}

VERSION = re.compile(r"[0-9a-z]+(\.[0-9a-z]+)*")
RELEASE_ID = re.compile(r"[0-9a-z.]+-[0-9a-f]{12}")
SERVICE_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
FIELDS = {
    "service": SERVICE_NAME,
    "version": VERSION,
    "commit": re.compile(r"[0-9a-f]{40}"),
    "built_at": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"),
    "python": re.compile(r"3\.\d{1,2}"),
    "platform": re.compile(r"[a-z0-9]+_[a-z0-9_]+"),
    "tree_sha256": _SHA256,
}
_CONTROL_OR_BACKSLASH = re.compile(r"[\x00-\x1f\x7f\\]")
_TAR_BLOCK_BYTES = 512  # of a tar header; every member is padded to a multiple of it
_CHUNK_BYTES = 1 << 20
_MANIFEST_MAX_BYTES = 32 << 20  # a manifest has about 150 bytes per file
_SIGNATURE_MAX_BYTES = 16 << 10  # one by an RSA key of 4096 bits has 1.6 KB
_TRAILER_MAX_BYTES = 1 << 20  # zeros after the last member; tar writes at most one record of 10 KiB
# A gzip header without a time, a name or any flag: the bytes before the deflate stream that no digest covers.
_GZIP_HEADERS = (b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff")


class ManifestError(ValueError):
    """A bundle, a manifest or a staged release is invalid or damaged. The message is one sentence."""


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
            raise ManifestError(f"{MANIFEST_NAME} has {self.built_at!r} for built_at, which is not a time.") from None

    def as_dict(self) -> dict[str, Any]:
        """The content of `manifest.json`."""
        return {
            "schema": SCHEMA,
            **{name: getattr(self, name) for name in FIELDS},
            "files": {
                path: {"sha256": entry.sha256, "size": entry.size, "mode": entry.mode}
                for path, entry in self.files.items()
            },
        }


@dataclass(frozen=True)
class Bundle:
    """A bundle file that was read whole and is what its manifest says; `size` is the file's, in bytes.

    `signature` is the text of the SSH signature beside it, not verified yet; None without one.
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


def make_manifest(files: Mapping[str, FileEntry], **fields: str) -> Manifest:
    """The manifest of a tree, checked as strictly as one that is read.

    Args:
        files: by path relative to `tree/`.
        fields: service, version, commit, built_at, python, platform.

    Raises:
        ManifestError: a field or a path does not match the format.
    """
    manifest = Manifest(**fields, tree_sha256=tree_sha256(files), files=files)
    return parse_manifest(json_bytes(manifest.as_dict()))


def parse_manifest(data: bytes) -> Manifest:
    """Read `manifest.json`.

    Raises:
        ManifestError: it is not JSON, a field is missing, unknown or malformed, a path leads outside of the tree, or
            the tree digest does not follow from the files.
    """
    value = load_json(data, MANIFEST_NAME)
    if not isinstance(value, dict) or set(value) != {"schema", "files", *FIELDS}:
        raise ManifestError(f"{MANIFEST_NAME} does not have exactly the fields schema, files, {', '.join(FIELDS)}.")
    if value["schema"] != SCHEMA:
        raise ManifestError(f"{MANIFEST_NAME} has schema {value['schema']!r}; this MOBIUS reads schema {SCHEMA}.")
    for name in FIELDS:
        _check_field(name, value[name])
    if not isinstance(value["files"], dict) or not value["files"]:
        raise ManifestError(f"{MANIFEST_NAME} names no files.")
    files = {path: _parse_entry(path, entry) for path, entry in value["files"].items()}
    for path in files:
        for folder in parent_folders(path):
            if folder in files:
                raise ManifestError(f"{MANIFEST_NAME} has {folder!r} both as a file and as a folder.")
    if tree_sha256(files) != value["tree_sha256"]:
        raise ManifestError(f"{MANIFEST_NAME} has a tree_sha256 that is not the digest of its files.")
    parsed = Manifest(**{name: value[name] for name in FIELDS}, files=files)
    _ = parsed.timestamp  # a time that does not exist is refused here, not at its first use
    return parsed


def load_json(data: bytes, name: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ManifestError(f"{name} names a key twice.")
        return dict(pairs)

    try:
        return json.loads(data, object_pairs_hook=unique)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        raise ManifestError(f"{name} is not JSON.") from None


def _check_field(name: str, value: object) -> None:
    if not isinstance(value, str) or not FIELDS[name].fullmatch(value):
        raise ManifestError(f"{MANIFEST_NAME} has {shorten(value)} for {name}; it must match {FIELDS[name].pattern}.")


def _parse_entry(path: str, value: object) -> FileEntry:
    if path != path.strip("/") or any(part in ("", ".", "..") for part in path.split("/")):
        raise ManifestError(f"{MANIFEST_NAME} names the path {shorten(path)}, which is not inside the tree.")
    if _CONTROL_OR_BACKSLASH.search(path) or not path.isprintable():
        raise ManifestError(f"{MANIFEST_NAME} names the path {shorten(path)}, which has forbidden characters.")
    if not isinstance(value, dict) or set(value) != {"sha256", "size", "mode"}:
        raise ManifestError(f"{MANIFEST_NAME} does not give sha256, size and mode of {shorten(path)}.")
    digest, size, mode = value["sha256"], value["size"], value["mode"]
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise ManifestError(f"{MANIFEST_NAME} gives {shorten(path)} a sha256 that is not a SHA-256.")
    if type(size) is not int or size < 0:
        raise ManifestError(f"{MANIFEST_NAME} gives {shorten(path)} a size that is not a number of bytes.")
    if mode not in MODES:
        raise ManifestError(f"{MANIFEST_NAME} gives {shorten(path)} the mode {shorten(mode)}, not 0644 or 0755.")
    return FileEntry(digest, size, mode)


def shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def parent_folders(path: str) -> Iterator[str]:
    parts = path.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        yield "/".join(parts[:count])


def needs_bytes(manifest: Manifest, block: int = 4096) -> int:
    """The bytes that the staged release takes on a disk with that block size, folders and manifests included."""
    folders = {folder for path in manifest.files for folder in parent_folders(path)}
    manifest_size = len(json_bytes(manifest.as_dict()))
    sizes = [entry.size for entry in manifest.files.values()] + [
        manifest_size,
        block,
        *(block for _ in folders),
        block,
        block,
    ]
    return sum(-(-size // block) * block for size in sizes)


def expectation(bundle: Bundle) -> dict[str, Any]:
    """What a host is compared with before the bundle is sent to it: the argument `expect` of modules."""
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
    """The path of the digest of a bundle: `<bundle>.sha256`, beside the file itself when `path` is a link to it."""
    return Path(f"{_resolve_link(path)}.sha256")


def signature_path(path: Path | str) -> Path:
    """The path of the signature of a bundle: `<bundle>.sig`, beside the file itself when `path` is a link to it."""
    return Path(f"{_resolve_link(path)}.sig")


def _signature(path: Path) -> str | None:
    try:
        with open(signature_path(path), "rb") as stream:
            return stream.read(_SIGNATURE_MAX_BYTES).decode("ascii", "replace")
    except FileNotFoundError:
        return None


def _resolve_link(path: Path | str) -> Path:
    file = Path(path)
    return file.resolve() if file.is_symlink() else file


def read_sidecar(path: Path | str) -> str:
    """The SHA-256 in `<bundle>.sha256`.

    Raises:
        ManifestError: it is not a line of `sha256sum`, or names another file.
        OSError: it cannot be read.
    """
    beside = sidecar(path)
    match = re.fullmatch(rb"([0-9a-f]{64}) [ *]([^\n/]+)\n?", beside.read_bytes()[:4096])
    if match is None:
        raise ManifestError(f"{beside.name} is not one line of sha256sum.")
    if match[2] != os.fsencode(_resolve_link(path).name):
        raise ManifestError(f"{beside.name} names another file than {_resolve_link(path).name}.")
    return match[1].decode()


def read_bundle(path: Path | str, *, expected_sha256: str | None = None, require_sidecar: bool = False) -> Bundle:
    """Read a whole bundle and verify its digest, its format, and every member against the manifest.

    Args:
        path: the bundle; when there is a `<path>.sha256`, the two must agree.
        expected_sha256: the digest that the file must have, in hex.
        require_sidecar: refuse a bundle without its `.sha256`.

    Raises:
        ManifestError: the bundle is damaged or invalid.
        OSError: it cannot be read.
    """
    return _read(path, expected_sha256, require_sidecar, None)


def extract_bundle(path: Path | str, folder: Path, expected_sha256: str | None = None) -> Bundle:
    """Read and verify a bundle as `read_bundle` does, and write its members durably below `folder` meanwhile.

    Raises:
        ManifestError: the bundle is damaged or invalid; `folder` may hold a part of it then.
        OSError: it cannot be read or written.
    """
    return _read(path, expected_sha256, False, folder)


def _read(path: Path | str, expected_sha256: str | None, require_sidecar: bool, out: Path | None) -> Bundle:
    with _opened(path, expected_sha256, require_sidecar) as (stream, digest):
        manifest = _read_archive(stream, out)
        size = os.fstat(stream.fileno()).st_size
    return Bundle(Path(path), digest, release_id(manifest.version, digest), manifest, size, _signature(Path(path)))


def require_digest(name: str, digest: str, expected: str | None) -> None:
    """Refuse the bundle `name` when its digest is not the expected one; None expects nothing.

    Raises:
        ManifestError: the digests differ.
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
        require_digest(name, digest, expected_sha256)
        if require_sidecar or sidecar(path).exists():
            try:
                expected = read_sidecar(path)
            except FileNotFoundError:
                raise ManifestError(f"{sidecar(path).name} is missing beside {name}.") from None
            if digest != expected:
                raise ManifestError(f"{name} has SHA-256 {digest}, but its .sha256 says {expected}.")
        yield stream, digest


def _read_archive(stream: BinaryIO, out: Path | None) -> Manifest:
    """Compare the whole archive with its manifest, and write its files below `out` if there is one."""
    if stream.read(10) not in _GZIP_HEADERS:
        raise ManifestError("The bundle is not a gzip file in the form that MOBIUS writes.")
    stream.seek(0)
    try:
        with gzip.GzipFile(fileobj=stream, mode="rb") as plain:
            return _read_members(plain, out)
    except (gzip.BadGzipFile, zlib.error, EOFError):
        raise ManifestError("The bundle is damaged: its compressed data is cut short or changed.") from None


def _read_members(plain: gzip.GzipFile, out: Path | None) -> Manifest:
    info = _next_member(plain)
    if info is None or info.name != MANIFEST_NAME or not info.isreg() or info.size > _MANIFEST_MAX_BYTES:
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
        raise ManifestError(f"The bundle has the member {shorten(info.name)}, which its manifest does not name.")
    trailer = plain.read(_TRAILER_MAX_BYTES + 1)
    if len(trailer) > _TRAILER_MAX_BYTES or trailer.strip(b"\0"):
        raise ManifestError("The bundle goes on after its last member.")
    return manifest


def _next_member(plain: gzip.GzipFile) -> tarfile.TarInfo | None:
    """The next tar header, or None at the end. Read one by one, so that no extended header is followed."""
    header = _read_exactly(plain, _TAR_BLOCK_BYTES)
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except (tarfile.TarError, ValueError):
        raise ManifestError("The bundle is damaged: a member's header cannot be read.") from None


def _check_member(info: tarfile.TarInfo, name: str, entry: FileEntry, built_at: int) -> None:
    if info.name != name:
        raise ManifestError(f"The bundle has the member {shorten(info.name)} where its manifest says {shorten(name)}.")
    if info.type != tarfile.REGTYPE:
        raise ManifestError(f"{shorten(name)} in the bundle is not a regular file.")
    if (info.size, info.mode) != (entry.size, MODES[entry.mode]):
        raise ManifestError(f"{shorten(name)} in the bundle has another size or mode than the manifest says.")
    if (info.uid, info.gid, info.uname, info.gname, info.linkname) != (0, 0, "", "", "") or info.mtime != built_at:
        raise ManifestError(f"{shorten(name)} in the bundle has an owner, a link or a time that MOBIUS does not write.")


def _read_exactly(plain: gzip.GzipFile, size: int) -> bytes:
    data = plain.read(size)
    if len(data) != size:
        raise ManifestError("The bundle is cut short.")
    return data


def _content(plain: gzip.GzipFile, size: int) -> Iterator[bytes]:
    remaining = size
    while remaining:
        chunk = _read_exactly(plain, min(remaining, _CHUNK_BYTES))
        remaining -= len(chunk)
        yield chunk
    if _read_exactly(plain, -size % _TAR_BLOCK_BYTES).strip(b"\0"):
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
