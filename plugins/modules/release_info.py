#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Returns what a host keeps and serves."""

from __future__ import annotations

DOCUMENTATION = r"""
module: release_info
short_description: Reports the releases that a host keeps of a service, and which one serves
description:
  - Reads the activation record, the pending promotion, the staged releases and their instances. A host that is not
    prepared is reported with RV(provisioned=false).
  - With O(lease), is refused unless the run holds the lock of the host, which is renewed.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host, mobius.dhash.mobius_host.run, mobius.dhash.mobius_host.lease]
attributes:
  check_mode: {support: full, description: "Never changes anything."}
  diff_mode: {support: full, description: "Never changes anything, so there is no difference to show."}
options:
  release:
    description: A release id, or a revision; RV(revision) is then the one that this host would promote.
    type: str
  details:
    description: Whether to return RV(backup) and RV(disks) as well.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Read the host's releases
  mobius.dhash.release_info:
    service: mobius-dhash
  register: host
"""

RETURN = r"""
provisioned:
  description: Whether the host is prepared for the service.
  returned: success
  type: bool
tool_digest_ok:
  description: Whether C(mobius-host) on the host is of this collection's version.
  returned: success
  type: bool
confirmed:
  description: The release that the host serves after any reboot; null when there is none.
  returned: success
  type: str
previous:
  description: The release that a rollback goes to; null when there is none.
  returned: success
  type: str
serving:
  description: The releases whose instances accept public requests now.
  returned: success
  type: list
  elements: str
pending:
  description: The promotion that is not confirmed, with the seconds C(remaining); null when there is none.
  returned: success
  type: dict
watch:
  description: >-
    The C(release) whose monitoring window is open, with the seconds C(remaining); null when none is. Until its end the previous release stays
    warm, and C(mobius-host watch) rolls back to it on a trigger.
  returned: success
  type: dict
lease:
  description: >-
    The lock between runs, with the C(run) and the C(actor) that hold it, C(since), and the seconds C(remaining); null when no run holds the host.
  returned: success
  type: dict
maintenance:
  description: >-
    Who lets clients get the page of maintenance, with C(since), C(actor), C(reason) and C(run); null when the service is open to clients.
  returned: success
  type: dict
revision:
  description: The revision of O(release) with the host's present configuration, if it is staged; else the one that is known.
  returned: with O(release), on a host that is prepared
  type: str
token:
  description: The number of confirmations and rollbacks so far.
  returned: success
  type: int
at_work:
  description: Whether a command was at work on the host meanwhile.
  returned: success
  type: bool
problems:
  description:
    - Where the host is not as its activation record and the role C(host) have made it, each with C(problem) and C(heal).
    - None are looked for while a command is at work on the host.
  returned: success
  type: list
  elements: dict
releases:
  description:
    - Every release that is staged, running or known from the history, sorted by id.
    - Its C(state) is V(serving), V(standby), V(draining), V(starting), V(silent) (it runs and does not answer), V(failed),
      or when nothing runs V(bad), V(kept) or V(removed).
  returned: success
  type: list
  elements: dict
  sample: [{release: 1.0.0-0123456789ab, version: 1.0.0, state: serving, staged: true, bad: false, reason: null, pinned: false,
            activated: "2026-01-01T00:00:00.000000Z", confirmed: "2026-01-01T00:01:00.000000Z", commit: null}]
backup:
  description: The newest backup, as M(mobius.dhash.backup) lists it; null when there is none.
  returned: with O(details)
  type: dict
disks:
  description: The disks that hold releases, data and backups, each with its C(folder), and the bytes C(total) and C(free).
  returned: with O(details)
  type: list
  elements: dict
history:
  description: Every confirmation, rollback and refusal, oldest first.
  returned: success
  type: list
  elements: dict
"""

import shutil
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments, lease
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import list_backups
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.executor import Executor
from ansible_collections.mobius.dhash.plugins.module_utils.host.install import installed_digest, tool_digest
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Actor
from ansible_collections.mobius.dhash.plugins.module_utils.host.status import revision_to_promote, status
from ansible_collections.mobius.dhash.plugins.module_utils.module import lease_holder, report_failure

EMPTY_FACTS: dict[str, Any] = {
    "confirmed": None,
    "previous": None,
    "serving": [],
    "pending": None,
    "lease": None,
    "maintenance": None,
    "token": 0,
    "at_work": False,
    "problems": [],
    "releases": [],
    "history": [],
}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            **arguments.RUN,
            **arguments.LEASE,
            "release": {"type": "str"},
            "details": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    service = module.params["service"]
    with report_failure(module):
        try:
            host = Host.load(service, module.params["config_dir"])
        except MobiusError as error:
            if error.outcome != "not_provisioned":
                raise
            module.exit_json(changed=False, service=service, provisioned=False, tool_digest_ok=False, **EMPTY_FACTS)
        is_same_version = installed_digest(host.command) == tool_digest()
        executor = Executor(host, Actor("ansible"))
        if holder := lease_holder(module):
            lease.require(executor, holder)
        facts = status(executor)
        if release := module.params["release"]:
            facts["revision"] = revision_to_promote(executor, release)
        if module.params["details"]:
            facts |= {"backup": _newest_backup(host), "disks": _disks(host)}
    module.exit_json(changed=False, provisioned=True, tool_digest_ok=is_same_version, **facts)


def _newest_backup(host: Host) -> dict[str, Any] | None:
    """The newest backup of the host."""
    backups = list_backups(host)
    return max(backups, key=lambda item: item.begun).as_dict() if backups else None


def _disks(host: Host) -> list[dict[str, Any]]:
    """Each disk once, by the first of the folders that lie on it."""
    disks: dict[int, dict[str, Any]] = {}
    for folder in (host.root, host.state_dir, host.backup_dir):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        usage = shutil.disk_usage(existing)
        known = {"folder": str(folder), "total": usage.total, "free": usage.free}
        disks.setdefault(existing.stat().st_dev, known)
    return list(disks.values())


if __name__ == "__main__":
    main()
