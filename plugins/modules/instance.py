#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Starts a release's instance beside what serves, or stops it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: instance
short_description: Starts the instance of a release in standby, or stops it
description:
  - An instance in standby is warm and gets no request from clients; the release that serves is not affected.
  - With O(probes), also sends requests to it and compares the responses, as M(mobius.dhash.probe) does. A wrong response fails
    the module; the instance stays.
  - An instance reads its role from the activation record when it starts, so the instance of the confirmed release serves.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host, mobius.dhash.mobius_host.run, mobius.dhash.mobius_host.lease, mobius.dhash.mobius_host.opened, mobius.dhash.mobius_host.probes]
attributes:
  check_mode: {support: full, description: "Predicts from the same comparison that the real run acts on."}
  diff_mode: {support: full, description: "Shows the host's instances before and after."}
options:
  release:
    description: Release id.
    type: str
    required: true
  state:
    description:
      - V(standby) means running and answering; that includes an instance that serves.
      - V(stopped) means not running. The instance that serves is never stopped.
    type: str
    choices: [standby, stopped]
    default: standby
  timeout:
    description: Seconds the instance has to become ready; by default the setting of the host.
    type: float
  assume_staged:
    description: In check mode, assume that the release is staged, because an earlier task of the same run has predicted so.
    type: bool
    default: false
  probes:
    description: With O(state=standby), requests to the instance once it answers, as M(mobius.dhash.probe) has them.
    type: list
    elements: dict
    default: []
  probe_timeout:
    description: Seconds that one response to a probe may take.
    type: float
    default: 10
"""

EXAMPLES = r"""
- name: Start the release in standby
  mobius.dhash.instance:
    service: mobius-dhash
    release: 1.0.0-0123456789ab
    state: standby
"""

RETURN = r"""
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
  returned: when the instance failed or was not ready in time
  type: list
  elements: str
probes:
  description: How many responses were as expected.
  returned: when there are probes
  type: int
mismatch:
  description: The first probe whose response differs, with C(name), C(wanted) and C(got).
  returned: when there is one
  type: dict
predicted:
  description: V(unknown) when nothing could be probed, since the instance is not running.
  returned: in check mode, with probes
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments, lease
from ansible_collections.mobius.dhash.plugins.module_utils.gate.probes import Probe
from ansible_collections.mobius.dhash.plugins.module_utils.gate.probing import PROBES, probe_instance
from ansible_collections.mobius.dhash.plugins.module_utils.host.transitions.canary import plan_instance
from ansible_collections.mobius.dhash.plugins.module_utils.module import lease_holder, open_executor, report_failure


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            **arguments.OPENED,
            **arguments.RUN,
            **arguments.LEASE,
            "release": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["standby", "stopped"], "default": "standby"},
            "timeout": {"type": "float"},
            "assume_staged": {"type": "bool", "default": False},
            "probes": {**PROBES, "default": []},
            "body_dir": {"type": "path"},
            "probe_timeout": {"type": "float", "default": 10.0},
        },
        supports_check_mode=True,
    )
    release, state = module.params["release"], module.params["state"]
    assume_staged = module.check_mode and module.params["assume_staged"]
    with report_failure(module):
        probes = [Probe.parse(value) for value in module.params["probes"]] if state == "standby" else []
        executor = open_executor(module, start_timeout=module.params["timeout"])
        make_plan = lease.fenced(
            executor,
            lease_holder(module),
            lambda observed: plan_instance(observed, release, state, assume_staged=assume_staged),
        )
        plan = executor.run(make_plan, check=module.check_mode)
        if state == "stopped" and not module.check_mode:
            executor.wait_until_stopped(release)
    result = plan.result()
    if probes:
        timeout = module.params["probe_timeout"]
        # the plan's own note comes last: it says as well that there is no instance to be probed yet
        result = probe_instance(executor.host, release, probes, timeout, check=module.check_mode) | result
    end = module.fail_json if "mobius_failure" in result else module.exit_json
    end(release=release, state=state, **result)


if __name__ == "__main__":
    main()
