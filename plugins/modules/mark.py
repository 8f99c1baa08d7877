#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Marks a release bad on a host, or no longer."""

from __future__ import annotations

DOCUMENTATION = r"""
module: mark
short_description: Marks a release bad on a host, or removes the mark
description:
  - A release that is marked bad is not promoted on this host, and is a rollback target only when it is named.
  - A release that was refused before it ever served is recorded in the history as well.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host, mobius.dhash.mobius_host.run, mobius.dhash.mobius_host.lease, mobius.dhash.mobius_host.opened]
attributes:
  check_mode: {support: full, description: "Predicts from the same comparison that the real run acts on."}
  diff_mode: {support: full, description: "Shows the releases that are marked bad, before and after."}
options:
  release:
    description: Release id; it need not be staged.
    type: str
    required: true
  bad:
    description: Whether it is bad. The release that the host serves is not marked bad, but rolled back.
    type: bool
    default: true
  reason:
    description: Why, for the host's journal and history.
    type: str
"""

EXAMPLES = r"""
- name: Refuse a release
  mobius.dhash.mark:
    service: mobius-dhash
    release: 1.0.0-0123456789ab
    bad: true
    reason: It hashes pictures wrongly.
"""

RETURN = r"""
release:
  description: The release.
  returned: success
  type: str
bad:
  description: Whether the release is marked bad now.
  returned: success
  type: bool
actions:
  description: What is done, or in check mode would be done, one sentence each and in this order.
  returned: success
  type: list
  elements: str
note:
  description: One sentence on the state of the host afterwards.
  returned: success
  type: str
confirmed:
  description: The release that the host serves after any reboot; null when there is none.
  returned: success
  type: str
token:
  description: The number of confirmations and rollbacks so far.
  returned: success
  type: int
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments, lease
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.marks import plan_mark
from ansible_collections.mobius.dhash.plugins.module_utils.module import (
    lease_holder,
    open_executor,
    report_failure,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            **arguments.OPENED,
            **arguments.RUN,
            **arguments.LEASE,
            "release": {"type": "str", "required": True},
            "bad": {"type": "bool", "default": True},
            "reason": {"type": "str"},
        },
        supports_check_mode=True,
    )
    release, bad = module.params["release"], module.params["bad"]
    with report_failure(module):
        executor = open_executor(module)
        make_plan = lease.fenced(
            executor, lease_holder(module), lambda observed: plan_mark(observed, release, bad, executor.actor)
        )
        plan = executor.run(make_plan, check=module.check_mode)
    module.exit_json(release=release, bad=module.params["bad"], **plan.result())


if __name__ == "__main__":
    main()
