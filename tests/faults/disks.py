# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Disks that are full, have no inodes left or are only read, below a folder that is in use."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# What is a tmpfs already is given another size. Another folder moves to one with all that is in it, and back.
IS_TMPFS = "findmnt --noheadings --types tmpfs --mountpoint {folder} > /dev/null && echo yes || echo no"
MOVE = """
mount -t tmpfs -o size=2g,nr_inodes=400k,mode=$(stat --format %a {folder}) tmpfs {folder}-disk
chown --reference={folder} {folder}-disk
cp -a {folder}/. {folder}-disk/
mount --bind {folder}-disk {folder}
umount {folder}-disk
"""
MOVE_BACK = """
mount --bind {parent} {folder}-disk
find {folder}-disk/{name} -mindepth 1 -delete
cp -a {folder}/. {folder}-disk/{name}/
umount {folder}-disk
umount --lazy {folder}
rmdir {folder}-disk
"""
BREAK = {
    "disk full": "mount -o remount,size=$(( $(df --output=used --block-size=1k {folder} | tail -1) + {slack} ))k {folder}",
    "no inodes": "mount -o remount,nr_inodes=$(( $(df --output=iused {folder} | tail -1) + {slack} )) {folder}",
    # instances have copies of the mounts of when they were started: the mount that they get has to be read-only at once
    "read-only": """
mkdir -p /mnt/read-only && mount --bind {folder} /mnt/read-only && mount -o remount,bind,ro /mnt/read-only
mount --bind /mnt/read-only {folder} && umount /mnt/read-only
""",
}
REPAIR = {
    "disk full": "mount -o remount,size=2g {folder}",
    "no inodes": "mount -o remount,nr_inodes=400k {folder}",
    "read-only": "umount --lazy {folder}",
}


@dataclass
class Disk:
    """The disk below one folder, on a host or on this machine.

    Args:
        run: runs a script of bash where the folder is, and raises when it fails.
    """

    folder: str
    run: Callable[[str], str]

    def _script(self, script: str, **values: object) -> None:
        parent, _, name = self.folder.rpartition("/")
        self.run(script.format(folder=self.folder, parent=parent, name=name, **values))

    @contextlib.contextmanager
    def own(self, fault: str) -> Iterator[None]:
        """Give the folder a disk of its own that `fault` can strike."""
        moved = fault != "read-only" and self.run(IS_TMPFS.format(folder=self.folder)).strip() == "no"
        if moved:
            self._script("mkdir {folder}-disk\n" + MOVE)
        try:
            yield
        finally:
            if moved:
                self._script(MOVE_BACK)

    def strike(self, fault: str, slack: int) -> None:
        self._script(BREAK[fault], slack=slack)

    def repair(self, fault: str) -> None:
        self._script(REPAIR[fault])
