# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Write a bundle from folders, in memory that does not grow with it: the same content is the same file, byte for byte.

Each file is read twice, for the manifest at the start of the bundle and for its content, and the two must agree. The
bundle appears in one step, verified; a writer that is killed leaves a hidden folder, which the next one removes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import gzip
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from mobius import durable, manifest
from mobius.control.bundle.folder import (
    SourceFile,
    SourceTree,
    make_change_refusal,
    make_exclusion,
    merge_trees,
    read_folder,
)
from mobius.errors import MobiusError
from mobius.tar_members import END_MARK, Member

_COMPRESSION = 4  # level 6 takes twice as long and saves 4 % of 26 MB
_RECORD_BYTES = 10240  # tar fills its last record
_TEMPORARY_PREFIX = f"{durable.TEMPORARY_PREFIX}bundle-"

ReadTree = Callable[[], SourceTree]


def pack(roots: Iterable[Path], out: Path, **fields: str | None) -> manifest.Bundle:
    """Write the bundle of the files and links under `roots`, as `write_bundle` does.

    Args:
        roots: folders whose contents together are the tree; no path may be in two of them.
        fields: service, version, and what is known of commit, built_at, python and platform.
    """
    folders, exclusion = list(roots), make_exclusion()
    return write_bundle(lambda: merge_trees(read_folder(root, exclusion) for root in folders), out, **fields)


def write_bundle(read_tree: ReadTree, out: Path, **fields: str | None) -> manifest.Bundle:
    """Write `<out>/<service>-<version>.tar.gz` and its `.sha256`.

    `<out>/<service>.tar.gz` is then a link to it: the last one built, which the lab releases when none is named.

    Args:
        read_tree: reads what goes in; called again at the end, when it must be the same.
        fields: service, version, and what is known of commit, built_at, python and platform.

    Returns:
        the bundle, read back and verified.

    Raises:
        MobiusError: `invalid_input` for what the format does not carry, and for a file that changes meanwhile.
        OSError: nothing but whole files is left then.
    """
    tree = read_tree()
    try:
        described = manifest.make_manifest(
            {path: _entry(tree.files[path]) for path in sorted(tree.files)}, dict(sorted(tree.links.items())), **fields
        )
    except ValueError as e:
        raise MobiusError("invalid_input", str(e)) from None
    out.mkdir(parents=True, exist_ok=True)
    bundle = out / f"{described.service}-{described.version}.tar.gz"
    _remove_leftovers(out)
    with _temporary_folder(out) as folder:
        temporary, digest_file, link = (folder / name for name in ("bundle", "digest", "link"))
        with temporary.open("wb") as stream:
            digest = _write_archive(stream, described, tree)
        if (changed := _changed_path(tree, read_tree())) is not None:
            raise make_change_refusal(Path(changed))
        made = manifest.read_bundle(temporary, expected_sha256=digest)
        durable.write_bytes(digest_file, f"{digest}  {bundle.name}\n".encode())
        link.symlink_to(bundle.name)
        # the digest first, so that no bundle is there without one
        for source, target in (
            (digest_file, Path(f"{bundle}.sha256")),
            (temporary, bundle),
            (link, out / f"{described.service}.tar.gz"),
        ):
            os.replace(source, target)
            durable.fsync_dir(out)
    return dataclasses.replace(made, path=bundle, signature=manifest.read_signature(bundle))


def _entry(file: SourceFile) -> manifest.FileEntry:
    hasher = hashlib.sha256()
    for chunk in file.read():
        hasher.update(chunk)
    return manifest.FileEntry(hasher.hexdigest(), file.size, file.mode)


def _changed_path(before: SourceTree, after: SourceTree) -> str | None:
    """A path that was added, removed or changed between two readings of a tree; None when they are equal."""
    for path in sorted({*before.files, *before.links, *after.files, *after.links}):
        if before.files.get(path) != after.files.get(path) or before.links.get(path) != after.links.get(path):
            return path
    return None


class _DigestingStream:
    """Passes what is written on to a file, and computes its SHA-256 meanwhile."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._stream.write(data)

    def flush(self) -> None:
        self._stream.flush()


def _write_archive(stream: BinaryIO, described: manifest.Manifest, tree: SourceTree) -> str:
    """Write the bundle durably; its SHA-256."""
    raw = durable.json_bytes(described.as_dict())
    if len(raw) > manifest.MANIFEST_MAX_BYTES:
        limit = manifest.MANIFEST_MAX_BYTES >> 20
        raise MobiusError(
            "invalid_input",
            f"{len(described.files)} files need a manifest of over {limit} MiB; pack fewer files.",
        )
    target, written = _DigestingStream(stream), 0
    # no name and no time in the gzip header
    with gzip.GzipFile(filename="", fileobj=target, mode="wb", compresslevel=_COMPRESSION, mtime=0) as zipped:
        written += _write_member(zipped, manifest.manifest_member(described, raw), [raw])
        for path in sorted((*described.files, *described.links)):
            file = tree.files.get(path)
            content = _compared(file, described.files[path]) if file else ()
            written += _write_member(zipped, described.member(path), content)
        zipped.write(END_MARK + bytes(-(written + len(END_MARK)) % _RECORD_BYTES))
    stream.flush()
    os.fchmod(stream.fileno(), 0o644)
    os.fsync(stream.fileno())
    return target.digest.hexdigest()


def _write_member(zipped: gzip.GzipFile, member: Member, content: Iterable[bytes]) -> int:
    header, padding = member.header(), member.padding()
    zipped.write(header)
    for chunk in content:
        zipped.write(chunk)
    zipped.write(padding)
    return len(header) + member.size + len(padding)


def _compared(file: SourceFile, entry: manifest.FileEntry) -> Iterator[bytes]:
    """The content of a file, which must be what the manifest says."""
    hasher = hashlib.sha256()
    for chunk in file.read():
        hasher.update(chunk)
        yield chunk
    if hasher.hexdigest() != entry.sha256:
        raise make_change_refusal(file.path)


@contextlib.contextmanager
def _temporary_folder(out: Path) -> Iterator[Path]:
    """A hidden folder with a lock on it, which is removed in the end; without a lock it is a leftover."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY_PREFIX, dir=out))
        with contextlib.suppress(FileNotFoundError):  # another writer removed it as a leftover before it was locked
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if folder.exists():
                break
            os.close(descriptor)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def _remove_leftovers(out: Path) -> None:
    """Remove the hidden folders of killed writers, but none that a running one has locked."""
    for leftover in out.glob(f"{_TEMPORARY_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            descriptor = os.open(leftover, os.O_RDONLY | os.O_DIRECTORY)
            try:
                with contextlib.suppress(BlockingIOError):
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(leftover, ignore_errors=True)
            finally:
                os.close(descriptor)
