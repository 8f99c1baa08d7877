#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Moves a release from standby to serving, or back."""

from __future__ import annotations

DOCUMENTATION = r"""
module: promotion
short_description: Promotes a release, provisionally and then for good, or reverts it
description:
  - Goes through V(canary), V(provisional) and V(confirmed).
  - The host reverts a promotion by itself when it is not confirmed before its deadline, even without the control node.
  - A release that is confirmed and serves is left alone by the first three states.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host, mobius.dhash.mobius_host.lease, mobius.dhash.mobius_host.opened]
attributes:
  check_mode:
    support: full
    description:
      - Predicts from the same comparison that the real run acts on.
      - The earlier stages of the same promotion count as done, since the tasks before have predicted them.
  diff_mode: {support: full, description: "Shows the activation record, the pending promotion and the instances, before and after."}
options:
  release:
    description: Release id.
    type: str
    required: true
  state:
    description:
      - V(canary), the release serves beside the confirmed one, and the guard waits for the deadline.
      - V(provisional), it serves alone; the confirmed one stands by, warm.
      - V(renewed), the promotion stays pending, with its deadline counted from now. It fails unless the promotion is pending and
        of this run, and never reports a change.
      - V(confirmed), it is what the host serves from now on. Only it and the previous one keep running.
      - V(reverted), the confirmed release serves, and this one does not run. On a first install nothing serves then.
        A release that is confirmed is left alone, since there is no promotion to revert.
    type: str
    choices: [canary, provisional, renewed, confirmed, reverted]
    required: true
  deadline:
    description:
      - Seconds from V(canary), and again from V(provisional), within which the next step must follow.
      - Above 0, and a day at most.
    type: float
    default: 300
  share:
    description: With O(state=canary), percent of the requests that the release gets.
    type: int
    default: 10
  run:
    description: Id of the run. A later step of another run is refused; V(canary) by another run takes over the promotion.
    type: str
  reason:
    description: Why, for the host's journal and history.
    type: str
  mark_bad:
    description: With O(state=reverted), mark the release bad on this host.
    type: bool
    default: false
  retry_bad:
    description: With O(state=canary), promote a release although it is marked bad on this host. Later stages do not check the mark.
    type: bool
    default: false
  assume_staged:
    description: In check mode, assume that the release is staged, because an earlier task of the same run has predicted so.
    type: bool
    default: false
"""

EXAMPLES = r"""
- name: Serve as a canary beside the present release
  mobius.dhash.promotion:
    service: mobius-dhash
    release: 1.0.0-0123456789ab
    state: canary
    deadline: 300
    run: "{{ mobius_run_id }}"

- name: Confirm the promotion
  mobius.dhash.promotion:
    service: mobius-dhash
    release: 1.0.0-0123456789ab
    state: confirmed
    run: "{{ mobius_run_id }}"
"""

RETURN = r"""
service:
  description: The service.
  returned: success
  type: str
release:
  description: The release.
  returned: success
  type: str
state:
  description: The state from the arguments.
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
journal:
  description: The last lines that the instance wrote.
  returned: when an instance failed or was not ready in time
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments, lease
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.confirmation import Promotion
from ansible_collections.mobius.dhash.plugins.module_utils.module import (
    actor_of,
    lease_holder,
    open_executor,
    report_failure,
)

DEADLINE_MAX_SECONDS = 86_400


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            **arguments.OPENED,
            **arguments.LEASE,
            "release": {"type": "str", "required": True},
            "state": {
                "type": "str",
                "choices": ["canary", "provisional", "renewed", "confirmed", "reverted"],
                "required": True,
            },
            "deadline": {"type": "float", "default": 300.0},
            "share": {"type": "int", "default": 10},
            "run": {"type": "str"},
            "reason": {"type": "str"},
            "mark_bad": {"type": "bool", "default": False},
            "retry_bad": {"type": "bool", "default": False},
            "assume_staged": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    promotion = Promotion(
        release=module.params["release"],
        state=module.params["state"],
        actor=actor_of(module),
        deadline=module.params["deadline"],
        mark_bad=module.params["mark_bad"],
        retry_bad=module.params["retry_bad"],
        predicted=module.check_mode,
        assume_staged=module.check_mode and module.params["assume_staged"],
        share=module.params["share"],
    )
    with report_failure(module):
        # an infinite deadline would never revert, and with one in the past the release would serve all the same
        if not 0 < promotion.deadline <= DEADLINE_MAX_SECONDS:
            reason = (
                f"deadline is {promotion.deadline:g}, which is not above 0 and up to {DEADLINE_MAX_SECONDS} seconds."
            )
            raise MobiusError("invalid_input", reason)
        if not 1 <= module.params["share"] <= 99:
            raise MobiusError("invalid_input", f"share is {promotion.share}, which is not from 1 to 99 percent.")
        executor = open_executor(module)
        executor.journal_may_wait = promotion.state == "reverted"
        make_plan = lease.fenced(executor, lease_holder(module), promotion.plan)
        plan = executor.run(make_plan, check=module.check_mode)
        if promotion.state == "reverted" and not module.check_mode:
            executor.wait_until_stopped(promotion.release)
    result = plan.result()
    if promotion.state == "renewed":
        result["changed"] = False
    module.exit_json(service=module.params["service"], release=promotion.release, state=promotion.state, **result)


if __name__ == "__main__":
    main()
