# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The format of a bundle, and reading one.

A bundle is one gzipped tar file whose members are `manifest.json` and then `tree/...`, sorted: regular files, and
symbolic links that stay inside the tree. The manifest names every file with its SHA-256, size and mode, and every link
with its target. Nothing but what the manifest says is ever read out of it: each member is compared with the entry that
must come next, so a hard link, a device, a path that leads outside, an added, a dropped and a renamed member are all
refused in the same way. No link is made before all files are written, so none is ever written through.

Schema 1 is a tree of files only, of a commit, for one Python and platform. Schema 2 has `links` besides, and may leave
out (null) where it was built from and when, and what it needs on a host. What schema 1 can express has schema 1.

Hosts use this same file (`plugins/module_utils/manifest.py` is a link to it), so it imports the standard library only.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from .durable import json_bytes
from .tar_members import (
    BLOCK_BYTES,
    Member,
    MemberError,
    compare_header,
    read_content,
    read_end,
    read_exactly,
    read_first_size,
    read_header,
    shorten,
)
from .tree_paths import LinkError, check_links, parent_folders, path_problem

SCHEMAS = (1, 2)
MANIFEST_NAME = "manifest.json"
TREE = "tree"
MODES = {"0644": 0o644, "0755": 0o755}

VERSION = re.compile(r"[0-9a-z]+(\.[0-9a-z]+)*")
RELEASE_ID = re.compile(r"[0-9a-z.]+-[0-9a-f]{12}")
REVISION = re.compile(RELEASE_ID.pattern + r"(\+[0-9a-f]{8})?")
"""A release id and, after a `+`, the digest of the configuration that it runs with; without, that of its host."""
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
OPTIONAL_FIELDS = ("commit", "built_at", "python", "platform")
"""Those that are null in schema 2 where there is nothing to say."""

MANIFEST_MAX_BYTES = 32 << 20  # a manifest has about 150 bytes per file
FILE_MAX_BYTES = 1 << 53
_SIGNATURE_MAX_BYTES = 16 << 10  # one by an RSA key of 4096 bits has 1.6 KB
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
    """What the tree holds: `files` and the target of each link by path relative to `tree/`.

    And from which commit it was built, and for which Python and platform; None for a bundle of anything else, which is
    for any host.
    """

    service: str
    version: str
    tree_sha256: str
    files: Mapping[str, FileEntry]
    links: Mapping[str, str] = field(default_factory=dict)
    commit: str | None = None
    built_at: str | None = None
    python: str | None = None
    platform: str | None = None

    @property
    def schema(self) -> int:
        """The lowest schema that can express it."""
        return 2 if self.links or any(getattr(self, name) is None for name in OPTIONAL_FIELDS) else 1

    @property
    def timestamp(self) -> int:
        """`built_at` in seconds since 1970; 0 without one, so that the same tree is always the same file.

        Raises:
            ManifestError: there is no such time.
        """
        if self.built_at is None:
            return 0
        try:
            return int(datetime.strptime(self.built_at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
        except ValueError:
            raise ManifestError(f"{MANIFEST_NAME} has {self.built_at!r} for built_at, which is not a time.") from None

    def as_dict(self) -> dict[str, Any]:
        """The content of `manifest.json`."""
        return {
            "schema": self.schema,
            **{name: getattr(self, name) for name in FIELDS},
            **({"links": dict(self.links)} if self.schema > 1 else {}),
            "files": {
                path: {"sha256": entry.sha256, "size": entry.size, "mode": entry.mode}
                for path, entry in self.files.items()
            },
        }

    def member(self, path: str) -> Member:
        """How the file or the link at a path of the tree stands in the bundle."""
        if path in self.links:
            return Member(f"{TREE}/{path}", self.timestamp, target=self.links[path])
        entry = self.files[path]
        return Member(f"{TREE}/{path}", self.timestamp, entry.size, MODES[entry.mode])


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


def tree_sha256(files: Mapping[str, FileEntry], links: Mapping[str, str] | None = None) -> str:
    """The digest of a whole tree: SHA-256 over the lines `<sha256> <mode> <size> <path>`, sorted by path.

    A link's line has the digest and the size of its target, and `link` for its mode.
    """
    lines = {path: f"{entry.sha256} {entry.mode} {entry.size} {path}\n" for path, entry in files.items()}
    for path, text in (links or {}).items():
        target = text.encode()
        lines[path] = f"{hashlib.sha256(target).hexdigest()} link {len(target)} {path}\n"
    digest = hashlib.sha256()
    for path in sorted(lines):
        digest.update(lines[path].encode())
    return digest.hexdigest()


def release_id(version: str, bundle_sha256: str) -> str:
    """`<version>-<first 12 hex digits of the bundle's SHA-256>`.

    Raises:
        ManifestError: the version has characters that a release id may not have.
    """
    _check_field("version", version)
    return f"{version}-{bundle_sha256[:12]}"


def make_manifest(
    files: Mapping[str, FileEntry], links: Mapping[str, str] | None = None, **fields: str | None
) -> Manifest:
    """The manifest of a tree, checked as strictly as one that is read.

    Args:
        files: by path relative to `tree/`.
        links: the target of each link, by path relative to `tree/`.
        fields: service, version, and what is known of commit, built_at, python and platform.

    Raises:
        ManifestError: a field, a path or a link does not match the format.
    """
    values: dict[str, Any] = dict(fields)
    manifest = Manifest(**values, tree_sha256=tree_sha256(files, links), files=files, links=links or {})
    return parse_manifest(json_bytes(manifest.as_dict()))


def parse_manifest(data: bytes) -> Manifest:
    """Read `manifest.json`.

    Raises:
        ManifestError: it is not JSON, a field is missing, unknown or malformed, a path or a link leads outside of the
            tree, or the tree digest does not follow from the files and links.
    """
    value = load_json(data, MANIFEST_NAME)
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema is not None and (type(schema) is not int or schema not in SCHEMAS):
        known = " and ".join(map(str, SCHEMAS))
        raise ManifestError(f"{MANIFEST_NAME} has schema {shorten(schema)}; this MOBIUS reads the schemas {known}.")
    names = ["schema", *(["links"] if schema == SCHEMAS[-1] else []), "files", *FIELDS]
    if not isinstance(value, dict) or set(value) != set(names):
        raise ManifestError(f"{MANIFEST_NAME} does not have exactly the fields {', '.join(names)}.")
    for name in FIELDS:
        if value[name] is not None or name not in OPTIONAL_FIELDS:
            _check_field(name, value[name])
    files, links = _parse_files(value["files"]), _parse_links(value.get("links", {}))
    _check_tree(files, links)
    if tree_sha256(files, links) != value["tree_sha256"]:
        raise ManifestError(f"{MANIFEST_NAME} has a tree_sha256 that is not the digest of its files.")
    parsed = Manifest(**{name: value[name] for name in FIELDS}, files=files, links=links)
    if (parsed.python is None) != (parsed.platform is None):
        raise ManifestError(f"{MANIFEST_NAME} names a Python or a platform, but not both.")
    if parsed.schema != schema:
        raise ManifestError(f"{MANIFEST_NAME} has schema {schema}, but its content is that of schema {parsed.schema}.")
    _ = parsed.timestamp  # a time that does not exist is refused here, not at its first use
    return parsed


def _parse_files(value: object) -> dict[str, FileEntry]:
    if not isinstance(value, dict) or not value:
        raise ManifestError(f"{MANIFEST_NAME} names no files.")
    return {path: _parse_entry(path, entry) for path, entry in value.items()}


def _parse_links(value: object) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(target, str) for target in value.values()):
        raise ManifestError(f"{MANIFEST_NAME} has links that are not paths with a target each.")
    for path in value:
        _check_path(path)
    return value


def _check_tree(files: Mapping[str, FileEntry], links: Mapping[str, str]) -> None:
    for path in (*files, *links):
        for folder in parent_folders(path):
            if folder in files:
                raise ManifestError(f"{MANIFEST_NAME} has {folder!r} both as a file and as a folder.")
            if folder in links:
                raise ManifestError(f"{MANIFEST_NAME} has {folder!r} both as a link and as a folder.")
    if twice := sorted(files.keys() & links.keys()):
        raise ManifestError(f"{MANIFEST_NAME} has {twice[0]!r} both as a file and as a link.")
    try:
        check_links(files, links)
    except LinkError as e:
        raise ManifestError(f"{MANIFEST_NAME} has the link {shorten(e.path)}, which {e.problem}.") from None


def load_json(data: bytes, name: str) -> Any:
    """The JSON value in the file `name`.

    Raises:
        ManifestError: it is none, or has a key twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) != len(pairs):
            raise ManifestError(f"{name} names a key twice.")
        return dict(pairs)

    try:
        return json.loads(data, object_pairs_hook=unique)
    except ManifestError:
        raise
    except (ValueError, RecursionError):  # a number of 5000 digits is JSON, and not read by Python either
        raise ManifestError(f"{name} is not JSON.") from None


def _check_field(name: str, value: object) -> None:
    if not isinstance(value, str) or not FIELDS[name].fullmatch(value):
        raise ManifestError(f"{MANIFEST_NAME} has {shorten(value)} for {name}; it must match {FIELDS[name].pattern}.")


def _check_path(path: str) -> None:
    if problem := path_problem(path):
        raise ManifestError(f"{MANIFEST_NAME} names the path {shorten(path)}, which {problem}.")


def _parse_entry(path: str, value: object) -> FileEntry:
    _check_path(path)
    if not isinstance(value, dict) or set(value) != {"sha256", "size", "mode"}:
        raise ManifestError(f"{MANIFEST_NAME} does not give sha256, size and mode of {shorten(path)}.")
    digest, size, mode = value["sha256"], value["size"], value["mode"]
    if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
        raise ManifestError(f"{MANIFEST_NAME} gives {shorten(path)} a sha256 that is not a SHA-256.")
    if type(size) is not int or not 0 <= size <= FILE_MAX_BYTES:
        raise ManifestError(f"{MANIFEST_NAME} gives {shorten(path)} a size that is not a number of bytes.")
    if not isinstance(mode, str) or mode not in MODES:
        raise ManifestError(f"{MANIFEST_NAME} gives {shorten(path)} the mode {shorten(mode)}, not 0644 or 0755.")
    return FileEntry(digest, size, mode)


def needs_bytes(manifest: Manifest, block: int = 4096) -> int:
    """The bytes that the staged release takes on a disk with that block size, folders and manifests included."""
    folders = {folder for path in (*manifest.files, *manifest.links) for folder in parent_folders(path)}
    manifest_size = len(json_bytes(manifest.as_dict()))
    sizes = [entry.size for entry in manifest.files.values()] + [
        manifest_size,
        block,
        *(block for _ in (*folders, *manifest.links)),
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
        "files": len(bundle.manifest.files) + len(bundle.manifest.links),
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


def read_signature(path: Path) -> str | None:
    """The text of the SSH signature beside a bundle, not verified; None without one."""
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
    """Read and verify a bundle as `read_bundle` does, and write its members below `folder` meanwhile.

    The caller makes them durable, all at once.

    Raises:
        ManifestError: the bundle is damaged or invalid; `folder` may hold a part of it then.
        OSError: it cannot be read or written.
    """
    return _read(path, expected_sha256, False, folder)


def _read(path: Path | str, expected_sha256: str | None, require_sidecar: bool, out: Path | None) -> Bundle:
    with _opened(path, expected_sha256, require_sidecar) as (stream, digest):
        manifest = _read_archive(stream, out)
        size = os.fstat(stream.fileno()).st_size
    return Bundle(Path(path), digest, release_id(manifest.version, digest), manifest, size, read_signature(Path(path)))


def release_of(revision: str) -> str:
    """The release id in a revision."""
    return revision.partition("+")[0]


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
    except MemberError as e:
        raise ManifestError(str(e)) from None
    except (gzip.BadGzipFile, zlib.error, EOFError):
        raise ManifestError("The bundle is damaged: its compressed data is cut short or changed.") from None


def _read_members(plain: gzip.GzipFile, out: Path | None) -> Manifest:
    block = read_exactly(plain, BLOCK_BYTES)
    raw = b"".join(read_content(plain, read_first_size(block, MANIFEST_NAME, MANIFEST_MAX_BYTES)))
    manifest = parse_manifest(raw)
    first = manifest_member(manifest, raw)
    compare_header(block, first.header(), first)
    if out is not None:
        _write_file(out / MANIFEST_NAME, 0o644, iter([raw]))
    for path in sorted((*manifest.files, *manifest.links)):
        read_header(plain, manifest.member(path))
        if path in manifest.files:
            _read_file(plain, path, manifest.files[path], out)
    read_end(plain)
    if out is not None:
        # after all files, so that nothing can be written through one
        for path in sorted(manifest.links):
            (out / TREE / path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            (out / TREE / path).symlink_to(manifest.links[path])
    return manifest


def manifest_member(manifest: Manifest, raw: bytes) -> Member:
    """How the manifest itself, with the content `raw`, stands in the bundle."""
    return Member(MANIFEST_NAME, manifest.timestamp, len(raw), MODES["0644"])


def _read_file(plain: gzip.GzipFile, path: str, entry: FileEntry, out: Path | None) -> None:
    hasher = hashlib.sha256()
    chunks = _hashed(read_content(plain, entry.size), hasher)
    if out is None:
        for _ in chunks:
            pass
    else:
        target = out / TREE / path
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        _write_file(target, MODES[entry.mode], chunks)
    if hasher.hexdigest() != entry.sha256:
        raise ManifestError(f"{TREE}/{path} in the bundle has another SHA-256 than the manifest says.")


def _hashed(chunks: Iterator[bytes], hasher: Any) -> Iterator[bytes]:
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk


def _write_file(path: Path, mode: int, chunks: Iterator[bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as target:
        for chunk in chunks:
            target.write(chunk)
        os.fchmod(target.fileno(), mode)
