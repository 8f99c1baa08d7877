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
  - A present state that is damaged, so that no backup could hold it as it is, is kept aside whole instead - its folders stay
    beside the restored ones, with C(.damaged-) and the time in their names.
  - When the release that served does not start on the restored state, the state from before is live again.
  - Nothing is done when the host already equals the backup.
version_added: "0.2.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host, mobius.dhash.mobius_host.opened]
attributes:
  check_mode:
    support: full
    description: "Verifies the backup and reports what on the host differs from it; what the run would be refused for is RV(finding)."
  diff_mode: {support: full, description: "Names what differs from the backup."}
options:
  id:
    description: The backup, as M(mobius.dhash.backup) lists it; V(latest) for the newest good full one.
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
  databases:
    description: Paths below the state folder of what must be sound SQLite databases; that of O(writes) is one of them.
    type: list
    elements: str
    default: []
  accept_damage:
    description:
      - Restore although the writes that would be lost cannot be counted, because the present data is damaged or the query
        fails. Without it that is refused, and nothing is changed.
    type: bool
    default: false
  keep_configuration:
    description:
      - Restore the state folder only, and leave the configuration of this host as it is. For the data of another host,
        whose configuration is that of another environment.
    type: bool
    default: false
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
  description: How many writes were later than the backup; null when O(writes) was left out, and when they cannot be counted.
  returned: success
  type: int
lost_unknown: {description: "Why the writes cannot be counted; empty when they can, or are not to be.", returned: success, type: str}
finding:
  description: What the run itself would be refused for, as the lost writes cannot be counted; empty outside check mode.
  returned: success
  type: str
damage:
  description: What of the present state was damaged, or would be exchanged for something of another kind, a line for each path.
  returned: success
  type: list
  elements: str
kept_aside:
  description: The folders with the state from before, when no backup could hold it as it was; empty in check mode.
  returned: success
  type: list
  elements: str
saved:
  description: The backup that holds the state from before; empty in check mode, when nothing was done, or with RV(kept_aside).
  returned: success
  type: str
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
from ansible_collections.mobius.dhash.plugins.module_utils.backup.live_state import WriteCounter
from ansible_collections.mobius.dhash.plugins.module_utils.backup.metrics import update_metrics
from ansible_collections.mobius.dhash.plugins.module_utils.backup.restore import restore_backup
from ansible_collections.mobius.dhash.plugins.module_utils.backup.settings import CONFIG_DIR
from ansible_collections.mobius.dhash.plugins.module_utils.module import open_executor, report_failure


def main() -> None:
    """Read the arguments, restore, report."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            **arguments.OPENED,
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
            "databases": {"type": "list", "elements": "str", "default": []},
            "accept_damage": {"type": "bool", "default": False},
            "keep_configuration": {"type": "bool", "default": False},
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
                databases=params["databases"],
                accept_damage=params["accept_damage"],
                keep_configuration=params["keep_configuration"],
                run=params["run"],
                check_mode=module.check_mode,
            )
    if restored.finding:
        module.warn(f"The run itself would be refused now: {restored.finding}")
    if restored.renamed_owners:
        module.warn(f"{restored.renamed_owners} files or folders had owners unknown on this host, and are root's now.")
    if restored.kept_aside:
        module.warn(f"The state from before is kept aside in {' and '.join(restored.kept_aside)}.")
    if restored.backup.source_damage:
        module.warn(f"{restored.backup.id} was made of damaged data: {restored.backup.source_damage}.")
    module.exit_json(
        changed=restored.changed,
        id=restored.backup.id,
        differences=list(restored.differences),
        lost=restored.lost,
        lost_unknown=restored.lost_unknown or "",
        finding=restored.finding,
        damage=list(restored.damage),
        kept_aside=list(restored.kept_aside),
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
