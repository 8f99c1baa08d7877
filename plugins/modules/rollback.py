#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Goes back to an earlier release, at once."""

from __future__ import annotations

DOCUMENTATION = r"""
module: rollback
short_description: Goes back to an earlier release, at once
description:
  - Does what C(mobius-host rollback) does, the release before (or O(to)) serves as the truth, and the one that was left is
    marked bad. Done twice, it goes back two steps.
  - A promotion that is not confirmed is what is taken back first.
  - A rollback that was killed is completed, and not counted as another step.
version_added: "0.1.0"
author: MOBIUS contributors
extends_documentation_fragment: [mobius.dhash.mobius_host, mobius.dhash.mobius_host.run]
attributes:
  check_mode: {support: full, description: "Predicts from the same comparison that the real run acts on."}
  diff_mode: {support: full, description: "Shows the truth, what is pending and the instances, before and after."}
options:
  to:
    description: The release to go back to, any kept one, also one that was marked bad; when left out, the one before.
    type: str
  reason:
    description: Why, for the host's journal and history.
    type: str
  head:
    description:
      - Head of the history of runs (the fact C(mobius_run_head)), which the host keeps once it has gone back, or has failed to.
      - A host that cannot keep it warns.
    type: dict
  witness_dir:
    description: Folder of the heads on the host.
    type: path
    default: /var/lib/mobius-witness
"""

EXAMPLES = r"""
- name: Go back to the release before
  mobius.dhash.rollback:
    service: mobius-dhash
    reason: The pictures are hashed wrongly.
"""

RETURN = r"""
actions:
  description: What is done, or in check mode would be done, one sentence each and in this order.
  returned: success
  type: list
  elements: str
note:
  description: One sentence for people on where the host is then.
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
  returned: when O(head) is given
  type: bool
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
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.executor import Executor
from ansible_collections.mobius.dhash.plugins.module_utils.host.failures import failure_result
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Actor
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions import plan_rollback


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            **arguments.RUN,
            "to": {"type": "str"},
            "reason": {"type": "str"},
            "head": {"type": "dict"},
            "witness_dir": {"type": "path", "default": witness.DIR},
        },
        supports_check_mode=True,
    )
    actor = Actor("ansible", module.params["run"] or None, module.params["reason"] or None)
    started = time.monotonic()
    told: dict[str, Any] = {"left": witness.confirmed(module.params)}
    failure: dict[str, Any] | None = None
    try:
        # no version of the installed command stands in the way of going back: the state files say what they are
        executor = Executor(Host.load(module.params["service"], module.params["config_dir"]), actor)
        plan = executor.run(
            lambda observed: plan_rollback(observed, module.params["to"] or None, actor), check=module.check_mode
        )
        told = {"left": plan.before.activation.confirmed, "seconds": round(time.monotonic() - started, 3)}
        told.update(plan.result())
    except (MobiusError, OSError) as error:
        failure = failure_result(error)
    if module.params["head"]:
        # only now: nothing is done on a host before it goes back
        problem = None if module.check_mode else witness.keep(module.params["witness_dir"], module.params["head"])
        if problem is not None:
            module.warn(problem)
        told["witnessed"] = not module.check_mode and problem is None
    if failure is not None:
        module.fail_json(**told, **failure)
    module.exit_json(**told)


if __name__ == "__main__":
    main()
