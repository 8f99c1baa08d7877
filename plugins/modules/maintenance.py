#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Begins or ends a maintenance of the service on a host."""

from __future__ import annotations

DOCUMENTATION = r"""
module: maintenance
short_description: Gives clients a page of maintenance, or lets them reach the service again
description:
  - During a maintenance, clients get 503 with C(Retry-After) and the page C(host_front_maintenance_page). The health path is
    answered by the instance all the same, and so are probes and the internal listener; releases, backups and rollbacks go on.
  - The state is a file of the host, which a front that is started again and a reboot obey.
  - No run has to hold the lock of the host.
version_added: "0.3.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host, mobius.dhash.mobius_host.run, mobius.dhash.mobius_host.opened]
attributes:
  check_mode: {support: full, description: "Predicts from the same comparison that the real run acts on."}
  diff_mode: {support: full, description: "Shows whether clients get the page, before and after."}
options:
  enabled:
    description: Whether clients get the page.
    type: bool
    required: true
  reason:
    description: Why, for the host's journal and for C(mobius status).
    type: str
"""

EXAMPLES = r"""
- name: Give clients the page of maintenance
  mobius.dhash.maintenance:
    service: mobius-dhash
    enabled: true
    reason: The library is moved to another disk.
"""

RETURN = r"""
service:
  description: The service.
  returned: success
  type: str
enabled:
  description: Whether clients get the page now.
  returned: success
  type: bool
reason:
  description: Why, as given.
  returned: success
  type: str
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
from ansible_collections.mobius.dhash.plugins.module_utils import arguments
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.maintenance_mode import plan_maintenance
from ansible_collections.mobius.dhash.plugins.module_utils.module import open_executor, report_failure


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            **arguments.OPENED,
            **arguments.RUN,
            "enabled": {"type": "bool", "required": True},
            "reason": {"type": "str"},
        },
        supports_check_mode=True,
    )
    service, enabled, reason = (module.params[name] for name in ("service", "enabled", "reason"))
    with report_failure(module):
        executor = open_executor(module)
        plan = executor.run(
            lambda observed: plan_maintenance(observed, enabled, executor.actor), check=module.check_mode
        )
    module.exit_json(service=service, enabled=enabled, reason=reason, **plan.result())


if __name__ == "__main__":
    main()
