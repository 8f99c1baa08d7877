# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the control node knows of each module of the collection: the one place to change when a module comes or goes.

`CONTRIBUTING.md` has the steps to add one; `tests/contract/test_module_registry.py` compares this table with the tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

COLLECTION = "mobius.dhash."


@dataclass(frozen=True)
class ModuleEntry:
    """One module.

    Attributes:
        changes_host: how far the run must have been opened for a host before it may change it
            (`opened_run.OpeningLevel`): `approved`, `recorded`, or `unrecorded`, which a rollback may be; empty for a
            module that changes no host, and for a rollback's own, which nothing may block.
        reverts: an argument and its value, with which the module only reverts or releases what its run began.
        recorded: the fields of its result that the history records; None when it records no result of it. `reason` only
            where the module itself has made every word of it.
        shares_state: whether it works on a host's releases, which all such modules show as one state: what they change
            is compared as a whole.
        brings_release: whether it brings a release to a host, or switches to one.
        release_field: the field that names the release which a run is about.
        before_field: the field that names what a host served before the run.
        after_field: the field that names what a host serves after it.
        unpredictable: why check mode cannot know what it will change; empty when it can.
        is_installed: whether it is installed on hosts, and run there without being sent (`run/installed_modules.py`).
    """

    changes_host: str = ""
    reverts: tuple[str, str] | None = None
    recorded: tuple[str, ...] | None = None
    shares_state: bool = False
    brings_release: bool = False
    release_field: str = ""
    before_field: str = ""
    after_field: str = ""
    unpredictable: str = ""
    is_installed: bool = False


MODULES: Mapping[str, ModuleEntry] = MappingProxyType(
    {
        "backup": ModuleEntry(
            changes_host="recorded",
            recorded=("id", "sha256", "bytes", "verified", "read", "removed"),
            unpredictable="what there is to save is known only then",
            is_installed=True,
        ),
        "batches": ModuleEntry(),
        "bundle_info": ModuleEntry(
            recorded=("release", "service", "sha256", "commit", "version"), release_field="release"
        ),
        "decide": ModuleEntry(recorded=("decision", "verdict", "mark_bad")),
        "failure": ModuleEntry(),
        "front_check": ModuleEntry(),
        "gate": ModuleEntry(recorded=("verdict", "reason", "evidence"), is_installed=True),
        "hold_back": ModuleEntry(),
        "hook_failed": ModuleEntry(),
        "hooks_info": ModuleEntry(),
        "host_tool": ModuleEntry(changes_host="approved"),
        "instance": ModuleEntry(
            changes_host="approved",
            recorded=("release", "state"),
            shares_state=True,
            brings_release=True,
            is_installed=True,
        ),
        "lab_host": ModuleEntry(),
        "lab_image": ModuleEntry(),
        "lease": ModuleEntry(changes_host="approved", reverts=("state", "free"), is_installed=True),
        "maintenance": ModuleEntry(
            changes_host="recorded", recorded=("service", "enabled", "confirmed"), shares_state=True, is_installed=True
        ),
        "mark": ModuleEntry(changes_host="approved", recorded=("release", "bad"), shares_state=True, is_installed=True),
        "preflight": ModuleEntry(is_installed=True),
        "probe": ModuleEntry(is_installed=True),
        "promotion": ModuleEntry(
            changes_host="approved",
            reverts=("state", "reverted"),
            recorded=("service", "release", "state", "confirmed", "token"),
            shares_state=True,
            brings_release=True,
            release_field="release",
            after_field="confirmed",
            is_installed=True,
        ),
        "release": ModuleEntry(
            changes_host="approved", recorded=("release", "signer"), brings_release=True, is_installed=True
        ),
        "release_info": ModuleEntry(is_installed=True),
        "restore": ModuleEntry(changes_host="unrecorded", recorded=("id", "saved", "kept_aside"), is_installed=True),
        "restore_drill": ModuleEntry(
            changes_host="recorded", recorded=("backup", "release", "files"), is_installed=True
        ),
        "retention": ModuleEntry(changes_host="approved", recorded=("removed",), is_installed=True),
        "rollback": ModuleEntry(
            recorded=("service", "left", "confirmed", "token", "seconds", "witnessed", "other_chains"),
            shares_state=True,
            release_field="confirmed",
            # a rollback's hosts are not asked when the run is opened
            before_field="left",
            after_field="confirmed",
            is_installed=True,
        ),
        "run": ModuleEntry(recorded=("release", "witnessed", "other_chains"), before_field="release"),
        "secrets": ModuleEntry(changes_host="approved", is_installed=True),
        "smoke": ModuleEntry(is_installed=True),
        "verdict": ModuleEntry(),
        "window": ModuleEntry(recorded=("window",)),
        "witness": ModuleEntry(is_installed=True),
        "witness_info": ModuleEntry(is_installed=True),
    }
)
"""Every module of `plugins/modules`, by its name without the collection's."""

_OTHER = ModuleEntry()


def module_name(action: str) -> str:
    """`mobius.dhash.gate` -> `gate`; empty for a module of another collection."""
    return action.removeprefix(COLLECTION) if action.startswith(COLLECTION) else ""


def module_entry(action: str) -> ModuleEntry:
    """The entry of a module by its full name; an empty one for a module of another collection."""
    return MODULES.get(module_name(action), _OTHER)
