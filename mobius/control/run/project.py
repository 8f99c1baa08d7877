# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a run finds its playbooks, its inventory and the user's files.

A folder with a `mobius.yml` is a project: the current one, or one that is named. Else a checkout is both the
collection and the project. The wheel carries the collection (setup.py puts it there); then the project is the current
folder, and a newer collection that is installed in its folder `collections` comes first.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path

import mobius
from mobius.control.service_file.parse import find_service_file
from mobius.errors import MobiusError

DEFAULT_INVENTORY = "inventories/local"
PROJECT_VARIABLE = "MOBIUS_PROJECT"
"""Tells the lab's inventory and playbook, and the history, which folder is the project."""

_COLLECTION = Path("ansible_collections/mobius/dhash")
_COLLECTIONS_OF_ANSIBLE = ("~/.ansible/collections", "/usr/share/ansible/collections")


@dataclass(frozen=True)
class Project:
    """The files of a run.

    `folder` holds the user's files: inventories, hooks, bundles and `.lab`. `collection` holds the playbooks, roles and
    plugins. `settings` is the ansible.cfg. `collections_path` is empty where the settings name it.
    """

    folder: Path
    collection: Path
    settings: Path
    collections_path: tuple[Path, ...] = ()

    @property
    def playbooks(self) -> Path:
        """The folder of the playbooks."""
        return self.collection / "playbooks"

    @property
    def service_file(self) -> Path | None:
        """The `mobius.yml` of the project; None without one."""
        return find_service_file(self.folder)

    @property
    def import_folder(self) -> Path:
        """The folder from which Python imports `ansible_collections.mobius.dhash`."""
        if self.collection.parts[-3:] == _COLLECTION.parts:
            return self.collection.parents[2]
        return self.collection / ".ansible/collections"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables that tell Ansible of it."""
        variables = {"ANSIBLE_CONFIG": str(self.settings), PROJECT_VARIABLE: str(self.folder)}
        if self.collections_path:
            variables["ANSIBLE_COLLECTIONS_PATH"] = os.pathsep.join(map(str, self.collections_path))
        return variables


def find_project(package: Path | None = None, current: Path | None = None, named: Path | None = None) -> Project:
    """The user's folder, with the checkout that this package lies in, or the collection of the wheel or a newer one.

    Args:
        package: the folder of the package `mobius`; this one when left out.
        current: the current folder.
        named: the project's folder; when left out, the current one if it has a `mobius.yml`, else the checkout if there
            is one, else the current one.

    Raises:
        MobiusError: invalid_input, when the named folder has no `mobius.yml`; environment_failed, when there is no
            collection.
    """
    if named is not None and find_service_file(named) is None:
        raise MobiusError("invalid_input", f"{named} has no mobius.yml.", do_next="`mobius init NAME` writes one.")
    package = package or Path(mobius.__file__).resolve().parent
    checkout = package.parent
    folder = (named or current or Path.cwd()).absolute()
    if _is_collection(checkout):
        is_project = find_service_file(folder) is not None
        return Project(folder if is_project else checkout, checkout, checkout / "ansible.cfg")
    carried = package / "_collection"
    if not _is_collection(carried / _COLLECTION):
        raise MobiusError(
            "environment_failed",
            f"The playbooks of MOBIUS are missing from {package}.",
            do_next="Install the wheel again: `python -m pip install --force-reinstall 'mobius-dhash[control]'`.",
        )
    installed = folder / "collections"
    paths = [carried]
    if not _is_writable_by_anybody(folder, installed):
        paths = [installed, carried] if _is_newer(installed / _COLLECTION) else [carried, installed]
    others = (Path(path).expanduser() for path in _COLLECTIONS_OF_ANSIBLE)
    return Project(
        folder,
        paths[0] / _COLLECTION,
        carried / _COLLECTION / "ansible.cfg",
        (*paths, *others),
    )


def _is_collection(folder: Path) -> bool:
    return (folder / "galaxy.yml").is_file() and (folder / "playbooks").is_dir()


def _is_writable_by_anybody(*folders: Path) -> bool:
    """Whether another user could have put code there. Ansible ignores an ansible.cfg in such a folder, too."""
    return any(folder.is_dir() and folder.stat().st_mode & stat.S_IWOTH for folder in folders)


def _is_newer(collection: Path) -> bool:
    """Whether a collection that ansible-galaxy installed is newer than this package."""
    from packaging.version import InvalidVersion, Version

    try:
        manifest = json.loads((collection / "MANIFEST.json").read_bytes())
        return Version(manifest["collection_info"]["version"]) > Version(mobius.__version__)
    except (OSError, ValueError, KeyError, TypeError, InvalidVersion):
        return False


def find_inventory(name: str, project: Project) -> str:
    """The absolute path of an inventory, relative to the current folder, the project or the collection.

    A list with commas is returned as it is.

    Raises:
        MobiusError: unknown_inventory.
    """
    if "," in name:
        return name
    for folder in (Path.cwd(), project.folder):
        path = folder / Path(name).expanduser()
        if path.exists():
            return str(path.resolve())
    carried = project.collection / name
    if carried.exists():
        # the script, not its folder: pip puts a folder __pycache__ beside it, which Ansible would read as an inventory
        script = carried / "hosts.py"
        return str((script if script.is_file() else carried).resolve())
    raise MobiusError("unknown_inventory", f"There is no inventory {name}.")
