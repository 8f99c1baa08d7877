# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A release that is staged on a host: how it appears, disappears, and is compared with what was built.

It is the folder `<releases>/<release id>/{manifest.json,release.json,tree/}`, which appears in one step and can be
compared with its manifest at any later time.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import durable, manifest
from .tar_members import shorten
from .tree_paths import parent_folders

RELEASE_NAME = "release.json"
STAGING_PREFIX = ".staging-"


def release_record(bundle: manifest.Bundle) -> dict[str, Any]:
    """The content of `release.json`: what the release is, and the digest of its bundle."""
    return {
        "schema": bundle.manifest.schema,
        "release": bundle.release_id,
        "bundle_sha256": bundle.sha256,
        **{name: getattr(bundle.manifest, name) for name in manifest.FIELDS},
    }


def stage(
    bundle_path: Path | str,
    releases_dir: Path | str,
    expected_sha256: str | None = None,
    *,
    service: str | None = None,
    replace_damaged: bool = False,
) -> str:
    """Stage the release of a bundle; it appears whole or not at all.

    The bundle is verified while it is written to a hidden sibling, the result is hashed again from the disk, made
    durable, and renamed. A release that is staged already and intact is left alone. The leftovers of killed
    runs are removed.

    Args:
        releases_dir: the folder of releases; it must exist.
        expected_sha256: the digest that the bundle must have, in hex.
        service: refuse a bundle of another service.
        replace_damaged: replace a damaged release; only for one that nothing uses.

    Returns:
        the release id.

    Raises:
        ManifestError: the bundle is damaged, or the release is staged already and damaged.
        OSError: reading or writing failed (for instance ENOSPC); nothing is visible then.
    """
    releases = Path(releases_dir)
    remove_leftovers(releases)
    with hidden_folder(releases) as hidden:
        bundle = manifest.extract_bundle(bundle_path, hidden, expected_sha256)
        if service is not None and bundle.manifest.service != service:
            raise manifest.ManifestError(f"The bundle is of the service {bundle.manifest.service}, not of {service}.")
        target = releases / bundle.release_id
        durable.write_json(hidden / RELEASE_NAME, release_record(bundle))
        for folder, _, _ in os.walk(hidden):
            os.chmod(folder, 0o755)  # noqa: S103 - the service's user reads what root owns
            if os.geteuid() == 0:
                os.chown(folder, 0, 0)
        os.sync()  # once for all files and folders: one by one takes several times as long
        _evict_from_cache(hidden)
        problems = verify_tree(hidden, bundle.release_id)
        if problems:
            raise manifest.ManifestError(f"The files on the disk are not those of the bundle: {summary(problems)}.")
        _publish(hidden, target, releases, replace_damaged)
        return bundle.release_id


def _publish(hidden: Path, target: Path, releases: Path, replace_damaged: bool) -> None:
    if target.exists():
        problems = verify_tree(target)
        if not problems:
            return
        if not replace_damaged:
            raise manifest.ManifestError(f"The release {target.name} is staged, but damaged: {summary(problems)}.")
        with hidden_folder(releases) as aside:
            os.rename(target, aside / "damaged")
            os.rename(hidden, target)
            durable.fsync_dir(releases)
        return
    try:
        os.rename(hidden, target)
    except OSError as e:
        # another run staged the same release meanwhile, with the same checks
        if e.errno not in (errno.ENOTEMPTY, errno.EEXIST) or verify_tree(target):
            raise
    durable.fsync_dir(releases)


def unstage(release: str, releases_dir: Path | str) -> bool:
    """Remove a release; it disappears in one step. The caller checks that nothing needs it.

    Returns:
        False when it was not staged.

    Raises:
        ManifestError: `release` is not a release id.
        OSError: it could not be removed.
    """
    if not manifest.RELEASE_ID.fullmatch(release):
        raise manifest.ManifestError(f"{shorten(release)} is not a release id.")
    releases = Path(releases_dir)
    remove_leftovers(releases)
    if not (releases / release).exists():
        return False
    with hidden_folder(releases) as hidden:
        os.rename(releases / release, hidden / "removed")
        durable.fsync_dir(releases)
    return True


@contextlib.contextmanager
def hidden_folder(releases: Path) -> Iterator[Path]:
    """A hidden folder beside the releases, with a lock on it: one without a lock is a leftover of a killed run."""
    while True:
        hidden = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=releases))
        try:
            descriptor = os.open(hidden, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue  # another run removed it as a leftover before it was open
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if hidden.exists():
            break
        os.close(descriptor)  # another run removed it as a leftover before it was locked
    try:
        yield hidden
    finally:
        shutil.rmtree(
            hidden, ignore_errors=True
        )  # after a success it was renamed; what cannot be removed, the next run tries
        os.close(descriptor)


def remove_leftovers(releases_dir: Path | str) -> None:
    """Remove the hidden folders of killed runs, but none that a running one has locked."""
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


def _evict_from_cache(folder: Path) -> None:
    """Drop the files from the page cache, so that the following read comes from the disk."""
    for _, item in _walk(folder):
        if not item.is_file(follow_symlinks=False):
            continue
        descriptor = os.open(item.path, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def read_release(release_dir: Path | str) -> dict[str, Any]:
    """`release.json` of a staged release.

    Raises:
        ManifestError: it is missing or damaged.
    """
    path = Path(release_dir) / RELEASE_NAME
    try:
        value = manifest.load_json(path.read_bytes(), RELEASE_NAME)
    except OSError as e:
        raise manifest.ManifestError(f"{RELEASE_NAME} cannot be read: {e.strerror}.") from None
    known = " and ".join(map(str, manifest.SCHEMAS))
    if (
        not isinstance(value, dict)
        or value.get("schema") not in manifest.SCHEMAS
        or not isinstance(value.get("release"), str)
    ):
        raise manifest.ManifestError(f"{RELEASE_NAME} is not a release record of the schemas {known}.")
    return value


def verify_tree(release_dir: Path | str, release: str | None = None) -> list[str]:
    """Compare a staged release with what was built, file by file.

    Args:
        release_dir: the release's folder, whose name is the release id.
        release: the release id, when the folder has another name.

    Returns:
        one line per difference, sorted (`missing tree/x`, `extra tree/x`, `changed tree/x`, `mode tree/x`,
        `owner tree/x`, ...); empty when it is intact.
    """
    root = Path(release_dir)
    try:
        built = manifest.parse_manifest((root / manifest.MANIFEST_NAME).read_bytes())
        record = read_release(root)
    except OSError as e:
        return [f"unreadable {manifest.MANIFEST_NAME}: {e.strerror}"]
    except manifest.ManifestError as e:
        return [f"unreadable {str(e).rstrip('.')}"]
    problems = []
    digest = str(record.get("bundle_sha256"))
    if record["release"] != (release or root.name) or record["release"] != f"{built.version}-{digest[:12]}":
        problems.append(f"changed {RELEASE_NAME}: it names the release {shorten(record['release'])}")
    for name in ("schema", *manifest.FIELDS):
        if record.get(name) != getattr(built, name):
            problems.append(f"changed {RELEASE_NAME}: its {name} is not the manifest's")
    return sorted(problems + _compare_items(root, built))


def _compare_items(root: Path, built: manifest.Manifest) -> list[str]:
    """What lies in the folder of a release, compared with its manifest."""
    files = {f"{manifest.TREE}/{path}": entry for path, entry in built.files.items()}
    links = {f"{manifest.TREE}/{path}": target for path, target in built.links.items()}
    folders = {manifest.TREE} | {folder for path in (*files, *links) for folder in parent_folders(path)}
    problems = []
    status = root.stat()
    owner = status.st_uid
    if status.st_mode & 0o7777 != 0o755:
        problems.append(f"mode ./: {status.st_mode & 0o7777:04o}, not 0755")
    present = set()
    for path, item in _walk(root):
        present.add(path)
        status = item.stat(follow_symlinks=False)
        mode = f"{status.st_mode & 0o7777:04o}"
        if status.st_uid != owner:
            problems.append(f"owner {path}: uid {status.st_uid}, not {owner}")
        if item.is_dir(follow_symlinks=False):
            if path not in folders:
                problems.append(f"extra {path}/")
            elif mode != "0755":
                problems.append(f"mode {path}/: {mode}, not 0755")
        elif path in (manifest.MANIFEST_NAME, RELEASE_NAME):
            if mode != "0644":
                problems.append(f"mode {path}: {mode}, not 0644")
        elif path in links:
            if problem := _link_problem(item, links[path]):
                problems.append(f"changed {path}: {problem}")
        elif path not in files:
            problems.append(f"extra {path}")
        elif not item.is_file(follow_symlinks=False):
            problems.append(f"changed {path}: it is not a regular file")
        else:
            entry = files[path]
            if mode != entry.mode:
                problems.append(f"mode {path}: {mode}, not {entry.mode}")
            if status.st_size != entry.size:
                problems.append(f"changed {path}: {status.st_size} bytes, not {entry.size}")
            elif manifest.sha256_file(item.path) != entry.sha256:
                problems.append(f"changed {path}")
    return problems + [f"missing {path}" for path in (*files, *links) if path not in present]


def _link_problem(item: os.DirEntry[str], expected: str) -> str | None:
    """How the item differs from a link to `expected`; None when it does not."""
    if not item.is_symlink():
        return "it is not a symbolic link"
    target = os.readlink(item.path)
    return None if target == expected else f"it leads to {shorten(target)}, not to {expected!r}"


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
