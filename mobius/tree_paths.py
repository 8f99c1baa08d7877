# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which paths and which symbolic links the tree of a bundle may hold.

The packer and every reader of a bundle use the same rules, so that nothing is packed that a host refuses. Hosts use
this same file (`plugins/module_utils/tree_paths.py` is a link to it), so it imports the standard library only.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

NAME_MAX_BYTES = 255
PATH_MAX_BYTES = 1024
DEPTH_MAX_PARTS = 128
LINK_TARGET_MAX_BYTES = 1024
LINKS_MAX_FOLLOWED = 40
"""Linux follows no more on the way to one file: path_resolution(7)."""

_CONTROL_OR_BACKSLASH = re.compile(r"[\x00-\x1f\x7f\\]")


class LinkError(ValueError):
    """A link that no tree may hold: its path, and what is wrong, as a sentence without its subject."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path} {problem}")
        self.path, self.problem = path, problem


def parent_folders(path: str) -> Iterator[str]:
    """The folders that a path lies in, from the top down, without the tree itself."""
    parts = path.split("/")[:-1]
    for count in range(1, len(parts) + 1):
        yield "/".join(parts[:count])


def path_problem(path: str) -> str | None:
    """What is wrong with a path below the tree, as a sentence without its subject; None for a valid one."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts):
        return "is not inside the tree"
    if not is_plain_text(path):
        return "has forbidden characters"
    if any(len(part.encode()) > NAME_MAX_BYTES for part in parts) or len(path.encode()) > PATH_MAX_BYTES:
        return f"is longer than {NAME_MAX_BYTES} bytes a name or {PATH_MAX_BYTES} bytes in all"
    if len(parts) > DEPTH_MAX_PARTS:
        return f"is deeper than {DEPTH_MAX_PARTS} folders"
    return None


def is_plain_text(text: str) -> bool:
    """Whether it is UTF-8 that every program can print: no control character, backslash or broken name."""
    return text.isprintable() and not _CONTROL_OR_BACKSLASH.search(text)


def check_links(files: Collection[str], links: Mapping[str, str]) -> None:
    """Refuse links that do not lead to a file or a folder of the tree, each step on the way included.

    Args:
        files: the paths of the tree's files; its folders are those that these and the links lie in.
        links: the target by path, as `readlink` returns it.

    Raises:
        LinkError: with the first link that is absolute, leaves the tree, leads nowhere or in a circle.
    """
    if not links:
        return
    resolver = _Resolver(files, links)
    for path in sorted(links):
        resolver.resolve(path)


class _Resolver:
    """Follows links within a tree as the kernel would; each is resolved once, however many lead over it."""

    def __init__(self, files: Collection[str], links: Mapping[str, str]) -> None:
        self._files, self._links = files, links
        self._folders = {folder for path in (*files, *links) for folder in parent_folders(path)}
        self._resolved: dict[str, tuple[str, int]] = {}

    def resolve(self, path: str, depth: int = 1) -> tuple[str, int]:
        """The path that a link leads to ("" for the tree itself), and how many links are followed on the way."""
        if path in self._resolved:
            return self._resolved[path]
        target = self._links[path]
        _check_target(path, target)
        here, followed = path.rpartition("/")[0], 1
        for part in target.split("/"):
            if here in self._files:
                raise LinkError(path, f"leads through {here}, which is a file")
            if part in ("", "."):
                continue
            if part == "..":
                if not here:
                    raise LinkError(path, f"leads to {target!r}, which is outside of the tree")
                here = here.rpartition("/")[0]
                continue
            here = f"{here}/{part}" if here else part
            if here in self._links:
                if depth >= LINKS_MAX_FOLLOWED:
                    raise LinkError(path, f"leads in a circle, or over more than {LINKS_MAX_FOLLOWED} links")
                here, more = self.resolve(here, depth + 1)
                followed += more
            elif here not in self._files and here not in self._folders:
                raise LinkError(path, f"leads to {here!r}, which the tree does not hold")
        if followed > LINKS_MAX_FOLLOWED:
            raise LinkError(path, f"leads in a circle, or over more than {LINKS_MAX_FOLLOWED} links")
        self._resolved[path] = here, followed
        return here, followed


def _check_target(path: str, target: str) -> None:
    if target.startswith("/"):
        raise LinkError(path, f"leads to {target!r}, which is an absolute path")
    if not target or not is_plain_text(target):
        raise LinkError(path, "leads to a path that is empty or has forbidden characters")
    if len(target.encode()) > LINK_TARGET_MAX_BYTES:
        raise LinkError(path, f"leads to a path of more than {LINK_TARGET_MAX_BYTES} bytes")
