#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Goes back to an earlier release, at once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rollback
short_description: Rolls back to an earlier release, at once
description:
  - Does what C(mobius-host rollback) does, the previous release (or O(to)) serves and is confirmed, and the present one is
    marked bad. Run twice, one after the other, it rolls back two steps.
  - A pending promotion is reverted first.
  - A rollback that was killed is completed, and not counted as another step.
  - Of several at once, by runs or at the console, one rolls back; the others find that what they leave no longer serves,
    and change nothing.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host, mobius.dhash.mobius_host.run]
attributes:
  action: {support: full, description: "Tells the host since when the run goes on."}
  check_mode: {support: full, description: "Predicts from the same comparison that the real run acts on."}
  diff_mode: {support: full, description: "Shows the activation record, the pending promotion and the instances, before and after."}
options:
  to:
    description: The release to roll back to, any kept one, also one that is marked bad; by default the previous one.
    type: str
  from:
    description:
      - The release to roll back from. When it no longer serves, because it was rolled back or reverted, nothing is changed.
      - By default what served when the rollback was requested (O(requested_at)), unless O(to) names the target.
    type: str
  requested_at:
    description:
      - When it was requested, in seconds since 1970 by the clock of the host.
      - Set by the action plugin, to the start of the run; by default now.
    type: float
  reason:
    description: Why, for the host's journal and history.
    type: str
  head:
    description:
      - Head of the history of runs (the fact C(mobius_run_head)), which the host keeps once it has rolled back, or has failed to.
      - A host that cannot keep it warns.
    type: dict
  witness_dir:
    description: Folder of the heads on the host.
    type: path
    default: /var/lib/mobius-witness
"""

EXAMPLES = r"""
- name: Roll back to the previous release
  mobius.dhash.rollback:
    service: mobius-dhash
    reason: The pictures are hashed wrongly.
"""

RETURN = r"""
service:
  description: The service.
  returned: always
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
left:
  description: The release that the host had confirmed before; null when there was none.
  returned: always
  type: str
witnessed:
  description: Whether the host keeps the head; in check mode always false.
  returned: when O(head) is set
  type: bool
other_chains:
  description: The last known head of each other history that the host has witnessed.
  returned: when O(head) is set, and there is one
  type: list
  elements: dict
seconds:
  description: How long it took on the host.
  returned: success
  type: float
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments, witness
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.clock import utc_at, utc_now
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.executor import Executor
from ansible_collections.mobius.dhash.plugins.module_utils.host.failures import failure_result
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Actor
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.rollback import plan_rollback


def _since(requested_at: float | None) -> str:
    """The time of the request in RFC 3339; now when there is none, or it is no time."""
    try:
        return utc_now() if requested_at is None else utc_at(requested_at)
    except (OverflowError, ValueError):
        return utc_now()


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            **arguments.RUN,
            "to": {"type": "str"},
            "from": {"type": "str"},
            "requested_at": {"type": "float"},
            "reason": {"type": "str"},
            "head": {"type": "dict"},
            "witness_dir": {"type": "path", "default": witness.DIR},
        },
        supports_check_mode=True,
    )
    actor = Actor("ansible", module.params["run"] or None, module.params["reason"] or None)
    started, since = time.monotonic(), _since(module.params["requested_at"])
    service = module.params["service"]
    result: dict[str, Any] = {"service": service, "left": witness.confirmed(module.params)}
    failure: dict[str, Any] | None = None
    try:
        # no version check of the installed command may block a rollback: the state files carry their schema
        host = Host.load(service, module.params["config_dir"])
        to, leaves = module.params["to"] or None, module.params["from"] or None
        executor = Executor(
            host, actor, finds_silent=True, pending_may_be_lost=bool(to or leaves), journal_may_wait=True
        )
        plan = executor.run(
            lambda observed: plan_rollback(observed, to, actor, leaves=leaves, since=since), check=module.check_mode
        )
        result |= {"left": plan.before.activation.confirmed, "seconds": round(time.monotonic() - started, 3)}
        result |= plan.result()
    except (MobiusError, OSError) as error:
        failure = failure_result(error)
    if module.params["head"]:
        # only now: nothing may delay the rollback
        kept = witness.keep(module.params["witness_dir"], module.params["head"], check=module.check_mode)
        if kept.problem is not None and not module.check_mode:
            module.warn(kept.problem)
        result |= {"witnessed": kept.problem is None}
        result |= {"other_chains": kept.other_chains} if kept.other_chains else {}
    if failure is not None:
        module.fail_json(**result, **failure)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
