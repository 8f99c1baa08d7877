# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether the run was opened for a host, for the conditions of tasks whose modules are not MOBIUS's."""

from __future__ import annotations

from collections.abc import Callable

from ansible.errors import AnsibleError
from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.history.opened_run import OpeningLevel, require_opened
from mobius.control.run.action import current_workspace
from mobius.errors import MobiusError


def opened(host: str) -> bool:
    """True; for a host for which no run was opened and approved, the condition fails, and so does its task.

    False would skip the task, and the run would end as if all were well. A condition is all that `--skip-tags` and
    `--start-at-task` cannot leave out.
    """
    workspace = current_workspace()
    try:
        require_opened(workspace, host, OpeningLevel.APPROVED)
    except MobiusError as error:
        workspace.write_refusal(host, error.as_dict())
        raise AnsibleError(f"{error.reason} Do next: {error.do_next}") from None
    return True


class TestModule:
    """The tests of this file."""

    def tests(self) -> dict[str, Callable[[str], bool]]:
        """By name."""
        return {"opened": opened}
