# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The files and links below a folder that go into a bundle, and those that must not."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathspec import GitIgnoreSpec

from mobius.errors import MobiusError
from mobius.tree_paths import LinkError, check_links, path_problem

IGNORE_FILE = ".mobiusignore"
EMPTY_FOLDERS = "empty folders"
NEVER_PACKED = ("__pycache__", ".git")
"""Names that are left out wherever they are; no line of an ignore file has them in again."""

_CHUNK_BYTES = 1 << 20
_CHANGED_ERRNOS = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)  # what was a file or a folder a moment ago is none now
_LENDS_RIGHTS = stat.S_ISUID | stat.S_ISGID
_KINDS = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}

Exclusion = Callable[[str, bool], str | None]
"""Why a path is left out, and whether it is a folder: the name of the rule, or None for what goes in."""


@dataclass(frozen=True)
class SourceFile:
    """A regular file that goes into a bundle. An equal `stamp` later means that it has not changed meanwhile."""

    path: Path
    mode: str
    size: int
    stamp: tuple[int, ...]

    def read(self) -> Iterator[bytes]:
        """Its content in chunks; never through a link.

        Raises:
            MobiusError: `invalid_input`, when it is not what it was when the folder was read, or cannot be read.
        """
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb", buffering=0) as stream:
                if _stamp(os.fstat(descriptor)) != self.stamp:
                    raise make_change_refusal(self.path)
                remaining = self.size
                while chunk := stream.read(_CHUNK_BYTES):
                    remaining -= len(chunk)
                    if remaining < 0:
                        raise make_change_refusal(self.path)
                    yield chunk
        except OSError as e:
            if e.errno in _CHANGED_ERRNOS:
                raise make_change_refusal(self.path) from None
            raise make_read_refusal(self.path, e) from None
        if remaining:
            raise make_change_refusal(self.path)


@dataclass(frozen=True)
class SourceTree:
    """What goes into a bundle: files, and the target of each link, by path; and how often each rule left one out."""

    files: Mapping[str, SourceFile]
    links: Mapping[str, str]
    excluded: Mapping[str, int]


def make_change_refusal(path: Path) -> MobiusError:
    """The failure of packing a file or a folder that is being written to."""
    return MobiusError(
        "invalid_input",
        f"{path} changed while it was packed.",
        do_next=f"Stop what writes there, or name it in {IGNORE_FILE}, and pack again.",
    )


def make_read_refusal(path: Path, error: OSError) -> MobiusError:
    """The failure of packing what cannot be read."""
    return MobiusError("invalid_input", f"{error.filename or path} cannot be read: {error.strerror or error}.")


def make_exclusion(lines: Iterable[str] = ()) -> Exclusion:
    """What is left out by its name, and by the lines of an ignore file in gitignore's syntax.

    Of all lines that match, the last one decides; within a folder that is left out nothing comes in again.

    Raises:
        MobiusError: `invalid_input`, for a line that is no pattern.
    """
    try:
        rules = [_IgnoreRule(line) for line in lines if line.strip()]
    except ValueError as e:
        raise MobiusError("invalid_input", f"{IGNORE_FILE} has a line that is not a pattern: {e}.") from None

    def exclusion(path: str, is_folder: bool) -> str | None:
        name = path.rpartition("/")[2]
        if name in NEVER_PACKED:
            return name
        if path == IGNORE_FILE:
            return IGNORE_FILE
        last = next((rule for rule in reversed(rules) if rule.matches(path, is_folder)), None)
        return IGNORE_FILE if last is not None and last.excludes else None

    return exclusion


class _IgnoreRule:
    """A line of an ignore file, and whether it matches a path itself.

    A pattern of pathspec matches all that lies in a folder which it matches, too. To git it does not: what is left out
    is not entered, and below what a later line has in again, only the lines that match a path itself decide.
    """

    def __init__(self, line: str) -> None:
        (self._pattern,) = GitIgnoreSpec.from_lines([line]).patterns
        self._is_of_folders = line.rstrip().endswith("/")
        body = line.strip().removeprefix("!").rstrip("/").removeprefix("**/")
        self._is_of_any_folder = "/" not in body
        self._is_of_all_below = body.endswith("/**")

    @property
    def excludes(self) -> bool:
        """Whether what it matches is left out, and not in again."""
        return bool(self._pattern.include)

    def matches(self, path: str, is_folder: bool) -> bool:
        """Whether it matches the path and not only a folder above."""
        if self._pattern.include is None or (self._is_of_folders and not is_folder):
            return False  # a comment, or a pattern of folders only
        folder, _, name = path.rpartition("/")
        end = "/" if is_folder else ""
        if self._is_of_any_folder:
            return self._pattern.match_file(name + end) is not None
        if self._pattern.match_file(path + end) is None:
            return False
        if self._is_of_all_below:  # whatever its name, but not the folder itself
            return bool(folder) and self._pattern.match_file(f"{folder}/x{end}") is not None
        return not folder or self._pattern.match_file(f"{folder}/") is None


def read_ignore_file(folder: Path) -> list[str]:
    """The lines of the folder's ignore file; none without one.

    Raises:
        MobiusError: `invalid_input`, when it cannot be read as UTF-8.
    """
    path = folder / IGNORE_FILE
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except UnicodeDecodeError:
        raise MobiusError("invalid_input", f"{path} is not UTF-8.") from None
    except OSError as e:
        raise make_read_refusal(path, e) from None


def read_folder(root: Path, exclusion: Exclusion) -> SourceTree:
    """The files and links below a folder; a hard link is a file like any other, and an empty folder is left out.

    Raises:
        MobiusError: `invalid_input`, for what no bundle carries: a device, a FIFO, a socket, a file that lends its
            owner's rights, a name that is not plain text; or when the folder cannot be read.
    """
    files: dict[str, SourceFile] = {}
    links: dict[str, str] = {}
    excluded: Counter[str] = Counter()
    pending = [""]
    while pending:
        folder = pending.pop()
        try:
            with os.scandir(root / folder) as items:
                entries = list(items)
            if not entries:
                excluded[EMPTY_FOLDERS] += 1
            for item in entries:
                path = f"{folder}/{item.name}" if folder else item.name
                is_folder = item.is_dir(follow_symlinks=False)
                if rule := exclusion(path, is_folder):
                    excluded[rule] += path != IGNORE_FILE
                    continue
                if problem := path_problem(path):
                    raise MobiusError(
                        "invalid_input", f"The path {path!r} in {root} {problem}, so it cannot be packed."
                    )
                if is_folder:
                    pending.append(path)
                elif item.is_symlink():
                    links[path] = os.readlink(item.path)
                else:
                    files[path] = _source_file(Path(item.path), item.stat(follow_symlinks=False))
        except OSError as e:
            if e.errno in _CHANGED_ERRNOS:
                raise make_change_refusal(Path(e.filename or root)) from None
            raise make_read_refusal(root / folder, e) from None
    return SourceTree(files, links, +excluded)


def merge_trees(trees: Iterable[SourceTree]) -> SourceTree:
    """Several trees as one, whose links all lead to something in it.

    Raises:
        MobiusError: `invalid_input`, when a path is in two of them, or a link leads out of the tree or nowhere.
    """
    files: dict[str, SourceFile] = {}
    links: dict[str, str] = {}
    excluded: Counter[str] = Counter()
    for tree in trees:
        for path in (*tree.files, *tree.links):
            if path in files or path in links:
                raise MobiusError("invalid_input", f"The tree would hold {path} twice.")
        files |= tree.files
        links |= tree.links
        excluded.update(tree.excluded)
    try:
        check_links(files, links)
    except LinkError as e:
        raise MobiusError(
            "invalid_input",
            f"The link {e.path} {e.problem}.",
            do_next=f"Replace it by what it leads to or by a relative link in the folder, or name it in {IGNORE_FILE}.",
        ) from None
    return SourceTree(files, links, excluded)


def _source_file(path: Path, status: os.stat_result) -> SourceFile:
    if kind := _KINDS.get(stat.S_IFMT(status.st_mode)):
        raise MobiusError("invalid_input", f"{path} is {kind}, which a bundle does not carry.")
    if status.st_mode & _LENDS_RIGHTS:
        raise MobiusError("invalid_input", f"{path} is setuid or setgid, which a bundle does not carry.")
    return SourceFile(path, "0755" if status.st_mode & stat.S_IXUSR else "0644", status.st_size, _stamp(status))


def _stamp(status: os.stat_result) -> tuple[Any, ...]:
    return (status.st_dev, status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
