#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module: backs up a service's state on its host, verifies its backups, or lists them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: backup
short_description: Backs up a service's state on its host
description:
  - Writes one archive with the index, the configuration, the activation, the journal and the library, and reads it back
    before it gets its name. The index is copied through SQLite's backup API while the service writes.
  - When nothing changed since the newest backup of the same scope, which is verified first, nothing is written.
  - What is damaged on the host is saved as it is. That backup is marked; nothing takes it for the newest good one, and the
    module fails after it was written, unless O(accept_damage).
  - Works on a prepared host on which no release was ever installed.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host, mobius.dhash.mobius_host.opened]
attributes:
  check_mode: {support: full, description: "Reads and compares everything, and reports what would be written and removed."}
  diff_mode: {support: full, description: "Shows the backups before and after."}
options:
  state:
    description:
      - V(present) writes a backup when anything changed, and then rotates.
      - V(verified) reads every backup and fails when one is not what was written.
      - V(pruned) only rotates, when the newest backup of a scope is complete.
      - V(listed) lists the backups.
    type: str
    choices: [present, verified, pruned, listed]
    default: present
  scope:
    description: V(full) holds the library's pictures, V(state) only their digests.
    type: str
    choices: [full, state]
    default: full
  keep:
    description:
      - How many backups of this scope are kept. The newest, which has just been verified, is always one of them.
      - What a kept release or an unfinished run needs is kept whatever the numbers.
    type: int
    default: 5
  keep_age_days:
    description: Backups that are not older than this are kept, too.
    type: int
    default: 0
  keep_days:
    description: The last backup of each of the newest so many days that have one is kept, too (UTC).
    type: int
    default: 0
  keep_weeks:
    description: As O(keep_days), by weeks.
    type: int
    default: 0
  keep_months:
    description: As O(keep_days), by months.
    type: int
    default: 0
  subset:
    description:
      - With O(state=verified), C(k/n) reads all headers and every n-th file, beginning with the k-th, and no other file.
      - C(today/n) reads another part each day.
    type: str
  databases:
    description:
      - Paths below the state folder of what must be sound SQLite databases, which is verified when they are copied.
      - Whether declared or not, a database that cannot be copied is saved as it is, with the journals beside it.
    type: list
    elements: str
    default: []
  accept_damage:
    description:
      - With O(state=present), only warn when what was backed up is damaged. The backup is marked all the same. Without it,
        the module fails with C(source_damaged) after the backup was written.
    type: bool
    default: false
  name:
    description: The name of this host, which a restore compares; the kernel's when left out.
    type: str
  run:
    description: The run's id, for the backup's manifest.
    type: str
  command_config_dir:
    description:
      - Where the settings of C(mobius-backup) lie. They name the folder whose metrics for Prometheus are written with
        every backup, verification and drill; without them, there are none. O(state=listed) writes none.
    type: path
    default: /etc/mobius-backup
"""

EXAMPLES = r"""
- name: Back up before the host is changed
  mobius.dhash.backup:
    service: mobius-dhash
    run: "{{ mobius_run_id }}"

- name: Verify every backup
  mobius.dhash.backup:
    service: mobius-dhash
    state: verified

- name: Verify a seventh of every backup, another one each night
  mobius.dhash.backup:
    service: mobius-dhash
    state: verified
    subset: today/7
"""

RETURN = r"""
folder: {description: "The folder of the backups.", returned: success, type: str}
backups:
  description: >-
    All backups afterwards, oldest first, each with C(id), C(scope), C(host), C(created), C(release), C(bytes), C(sha256),
    C(verified) (when it was last verified), C(damaged) (what is wrong), C(source_damage) (what was damaged on the host when
    it was made) and C(path).
  returned: success
  type: list
  elements: dict
id:
  description: The newest backup of this scope, just written or verified; in check mode, empty when it would be written.
  returned: with O(state=present)
  type: str
path: {description: "Its file.", returned: "with O(state=present)", type: str}
sha256: {description: "Its SHA-256.", returned: "with O(state=present)", type: str}
bytes: {description: "Its size.", returned: "with O(state=present)", type: int}
verified:
  description:
    - With O(state=present), whether that backup was read back and verified in this run.
    - With O(state=verified), the ids of the backups that are complete and undamaged.
  returned: with O(state=present) and O(state=verified)
  type: raw
removed: {description: "Ids of the backups that rotation removed.", returned: "with O(state=present) and O(state=pruned)", type: list, elements: str}
leftovers: {description: "Names of what killed runs left and this one removed.", returned: "with O(state=present)", type: list, elements: str}
differences: {description: "What changed since the backup before, at most 20 names.", returned: "with O(state=present)", type: list, elements: str}
skipped: {description: "What was not saved, since it is neither a file nor a folder.", returned: "with O(state=present)", type: list, elements: str}
source_damage:
  description: What of the host's data is damaged, so that the backup is marked; empty when nothing is.
  returned: with O(state=present)
  type: str
damaged:
  description:
    - By id, what is wrong with the backups that are not what was written. With O(subset), also what an earlier read showed;
      only one without O(subset) clears it.
  returned: with O(state=verified)
  type: dict
read:
  description: What was read of each backup, V(all) or the part, C(k/n).
  returned: with O(state=verified)
  type: str
"""

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments
from ansible_collections.mobius.dhash.plugins.module_utils.backup.metrics import update_metrics
from ansible_collections.mobius.dhash.plugins.module_utils.backup.retention import KeepRules
from ansible_collections.mobius.dhash.plugins.module_utils.backup.service import (
    create_backup,
    prune_backups,
    require_sound_source,
)
from ansible_collections.mobius.dhash.plugins.module_utils.backup.settings import CONFIG_DIR
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import SCOPES, list_backups
from ansible_collections.mobius.dhash.plugins.module_utils.backup.verification import (
    parse_part,
    require_whole,
    verify_backups,
)
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.failures import failure_result
from ansible_collections.mobius.dhash.plugins.module_utils.host.install import require_tool
from ansible_collections.mobius.dhash.plugins.module_utils.module import report_failure


def main() -> None:
    """Read the arguments, do it, report."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            **arguments.OPENED,
            "state": {"type": "str", "choices": list(STATES), "default": "present"},
            "scope": {"type": "str", "choices": list(SCOPES), "default": "full"},
            "keep": {"type": "int", "default": 5},
            **{f"keep_{name}": {"type": "int", "default": 0} for name in ("age_days", "days", "weeks", "months")},
            "subset": {"type": "str"},
            "databases": {"type": "list", "elements": "str", "default": []},
            "accept_damage": {"type": "bool", "default": False},
            "name": {"type": "str"},
            "run": {"type": "str"},
            "command_config_dir": {"type": "path", "default": CONFIG_DIR},
        },
        supports_check_mode=True,
    )
    state = module.params["state"]
    read_only = module.check_mode or state == "listed"
    with report_failure(module):
        host = require_tool(module.params["service"], module.params["config_dir"])
        with update_metrics(host, module.params["command_config_dir"], module.warn, read_only=read_only):
            result = STATES[state](module, host)
    if "mobius_failure" in result:
        module.fail_json(**result)
    backups = [backup.as_dict() for backup in list_backups(host)]
    module.exit_json(folder=str(host.backup_dir), backups=backups, **result)


def _keep_rules(module: AnsibleModule) -> KeepRules:
    names = ("keep", "keep_age_days", "keep_days", "keep_weeks", "keep_months")
    return KeepRules(*(module.params[name] for name in names))


def _create(module: AnsibleModule, host: Host) -> dict[str, Any]:
    created = create_backup(
        host,
        scope=module.params["scope"],
        keep=_keep_rules(module),
        host_name=module.params["name"],
        scratch=Path(module.tmpdir),
        run=module.params["run"],
        databases=module.params["databases"],
        check_mode=module.check_mode,
    )
    if created.damaged:
        module.warn(f"The backup {created.damaged} is not what was written; it is kept for inspection.")
    if created.skipped:
        module.warn(f"Not saved, since neither a file nor a folder: {', '.join(created.skipped[:5])}.")
    failure: dict[str, Any] = {}
    try:
        require_sound_source(host, created)
    except MobiusError as error:
        if module.params["accept_damage"]:
            module.warn(error.reason)
        else:
            failure = failure_result(error)
    newest = created.backup
    return {
        **failure,
        "changed": created.changed,
        "id": newest.id if newest else "",
        "path": str(newest.path) if newest else "",
        "sha256": newest.sha256 if newest else "",
        "bytes": newest.bytes if newest else 0,
        "verified": newest is not None,
        "removed": list(created.removed),
        "leftovers": list(created.leftovers),
        "differences": list(created.differences),
        "skipped": list(created.skipped),
        "source_damage": created.source_damage or "",
        "diff": _diff(host, (*created.before, *created.leftovers), created.after),
    }


def _verify(module: AnsibleModule, host: Host) -> dict[str, Any]:
    part = parse_part(module.params["subset"])
    results = verify_backups(host, part, record=not module.check_mode)
    damaged = {backup_id: reason for backup_id, reason in results.items() if reason is not None}
    whole = [backup_id for backup_id in results if backup_id not in damaged]
    read = f"{part[0]}/{part[1]}" if part else "all"
    result = {"changed": False, "verified": whole, "damaged": damaged, "read": read}
    try:
        require_whole(results, part)
    except MobiusError as error:
        result |= failure_result(error)
    return result


def _prune(module: AnsibleModule, host: Host) -> dict[str, Any]:
    pruned = prune_backups(host, keep=_keep_rules(module), check_mode=module.check_mode)
    for backup_id in pruned.damaged:
        module.warn(f"The backup {backup_id} is not what was written, so nothing of its scope was removed.")
    return {
        "changed": bool(pruned.removed or pruned.leftovers),
        "removed": list(pruned.removed),
        "leftovers": list(pruned.leftovers),
        "diff": _diff(
            host,
            (*pruned.before, *pruned.leftovers),
            tuple(backup_id for backup_id in pruned.before if backup_id not in pruned.removed),
        ),
    }


def _list(_module: AnsibleModule, _host: Host) -> dict[str, Any]:
    return {"changed": False}


def _diff(host: Host, before: tuple[str, ...], after: tuple[str, ...]) -> dict[str, str]:
    header = str(host.backup_dir)
    return {
        "before_header": header,
        "after_header": header,
        "before": "".join(f"{line}\n" for line in before),
        "after": "".join(f"{line}\n" for line in after),
    }


STATES = {"present": _create, "verified": _verify, "pruned": _prune, "listed": _list}

if __name__ == "__main__":
    main()
