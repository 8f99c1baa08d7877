# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run that was opened for the host in a folder, for tests that run a module without Ansible."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.mobius.dhash.plugins.module_utils import opened_runs

from mobius.control.modules import MODULES

RUN = "20260131T230501Z-00000000"


def opened_for(module: str, root: Path) -> dict[str, str]:
    """The arguments that the action plugin adds; none for a module that changes no host."""
    if not MODULES[module].changes_host and module != "witness":
        return {}
    assert opened_runs.leave(root / "opened", RUN) is None
    return {"opened_run": RUN, "runs_dir": str(root / "opened")}
