#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module: restores a backup of a service on its host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: restore
short_description: Restores a backup of a service on its host
description:
  - Verifies the backup by its digest, its manifest and its members before a byte of it is extracted, saves the present
    state as another backup, extracts the chosen one without privileges beside the present state, verifies that again, and
    then exchanges the folders while no instance runs. What was written in between is saved, too; clients get 503.
  - Restores the configuration and the state folder. The activation record and the journal of switches stay as they are.
  - A backup that is damaged, another host's or another service's is refused with the reason, and nothing is changed.
  - When the release that served does not start on the restored state, the state from before is live again.
  - Nothing is done when the host already equals the backup.
version_added: "0.2.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host]
attributes:
  check_mode: {support: full, description: "Verifies the backup and reports what on the host differs from it."}
  diff_mode: {support: full, description: "Names what differs from the backup."}
options:
  id:
    description: The backup, as M(mobius.dhash.backup) lists it; V(latest) for the newest full one that is not damaged.
    type: str
    required: true
  name:
    description: The name of this host, which the backup must be of; the kernel's when left out.
    type: str
  of_host:
    description: The name of another host whose backup may be restored here.
    type: str
  writes:
    description:
      - How the writes are counted that are later than the backup, and would be lost; without it they are not.
    type: dict
    suboptions:
      database:
        description: Path of an SQLite database below the state folder.
        type: str
        required: true
      query:
        description: Gives one row with one number; C(:since) is when the backup was begun, RFC 3339 in UTC.
        type: str
        required: true
  run:
    description: The run's id, for the manifest of the backup that saves the present state.
    type: str
  command_config_dir:
    description:
      - Where the settings of C(mobius-backup) lie. They name the folder whose metrics for Prometheus are written, because
        a restore saves the state from before; without them, there are none.
    type: path
    default: /etc/mobius-backup
"""

EXAMPLES = r"""
- name: Restore the library as it was
  mobius.dhash.restore:
    service: mobius-dhash
    id: 20260131T230501Z-full
"""

RETURN = r"""
id: {description: "The backup.", returned: success, type: str}
differences:
  description: What on the host differed from the backup, at most 20 names.
  returned: success
  type: list
  elements: str
lost:
  description: How many writes were later than the backup; null when O(writes) was left out.
  returned: success
  type: int
saved: {description: "The backup that holds the state from before; empty in check mode, or when nothing was done.", returned: success, type: str}
saved_state:
  description: The backup, of scope V(state), with what was written while that one was made; empty when nothing ran.
  returned: success
  type: str
renamed_owners:
  description: How many files and folders belonged to neither root nor the service's user, and are root's now.
  returned: success
  type: int
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments
from ansible_collections.mobius.dhash.plugins.module_utils.backup.metrics import update_metrics
from ansible_collections.mobius.dhash.plugins.module_utils.backup.restore import WriteCounter, restore_backup
from ansible_collections.mobius.dhash.plugins.module_utils.backup.settings import CONFIG_DIR
from ansible_collections.mobius.dhash.plugins.module_utils.module import open_executor, report_failure


def main() -> None:
    """Read the arguments, restore, report."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            "id": {"type": "str", "required": True},
            "name": {"type": "str"},
            "of_host": {"type": "str"},
            "writes": {
                "type": "dict",
                "options": {
                    "database": {"type": "str", "required": True},
                    "query": {"type": "str", "required": True},
                },
            },
            "run": {"type": "str"},
            "command_config_dir": {"type": "path", "default": CONFIG_DIR},
        },
        supports_check_mode=True,
    )
    params = module.params
    with report_failure(module):
        executor = open_executor(module)
        host = executor.host
        with update_metrics(host, params["command_config_dir"], module.warn, read_only=module.check_mode):
            restored = restore_backup(
                executor,
                params["id"],
                host_name=params["name"],
                of_host=params["of_host"],
                scratch=Path(module.tmpdir),
                writes=WriteCounter(**params["writes"]) if params["writes"] else None,
                run=params["run"],
                check_mode=module.check_mode,
            )
    if restored.renamed_owners:
        module.warn(f"{restored.renamed_owners} files or folders had owners unknown on this host, and are root's now.")
    module.exit_json(
        changed=restored.changed,
        id=restored.backup.id,
        differences=list(restored.differences),
        lost=restored.lost,
        saved=restored.saved or "",
        saved_state=restored.saved_state or "",
        renamed_owners=restored.renamed_owners,
        diff={
            "before_header": f"{host.service} as it is",
            "after_header": f"{host.service} as in {restored.backup.id}",
            "before": "".join(f"{name}\n" for name in restored.differences),
            "after": "".join(f"{name}: as in the backup\n" for name in restored.differences),
        },
    )


if __name__ == "__main__":
    main()
