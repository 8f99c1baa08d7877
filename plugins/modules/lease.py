#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Acquires the lock of a host for a run, or releases it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: lease
short_description: Acquires the lock of a host for a run, or releases it
description:
  - A lease on the host, measured by the clock of the host. Every module of the run that requires it renews it, and is refused
    (C(fenced)) once another run holds it, or a rollback has switched the host.
  - A run that died blocks others for no longer than its lease lasts; a reboot ends the lease as well.
  - M(mobius.dhash.rollback) neither acquires nor requires it.
version_added: "0.2.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host, mobius.dhash.mobius_host.opened]
attributes:
  check_mode:
    support: full
    description: Acquires nothing. The lease of another run is reported as RV(finding), not refused.
  diff_mode: {support: none, description: "A lease is never a change of the host."}
options:
  state:
    description: V(held) acquires or renews it, V(free) releases it when this run holds it.
    type: str
    choices: [held, free]
    default: held
  run:
    description: Id of the run.
    type: str
    required: true
  actor:
    description: Who started the run; shown to runs that are refused.
    type: str
    default: somebody
  seconds:
    description: How long it lasts after each renewal. Above 0, and a day at most.
    type: float
    default: 300
  wait:
    description:
      - Seconds to wait for the lease of another run to expire. When it is renewed meanwhile, its run is alive, and the
        refusal comes at once.
    type: float
    default: 0
"""

EXAMPLES = r"""
- name: Acquire the lock
  mobius.dhash.lease:
    service: mobius-dhash
    run: "{{ mobius_run_id }}"
    actor: "{{ mobius_run_actor }}"
"""

RETURN = r"""
held:
  description: Whether the run holds the lock now.
  returned: success
  type: bool
finding:
  description: In check mode, why the run would be refused; empty when it would not.
  returned: success
  type: str
"""

import datetime
import time

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments, lease
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.executor import Executor
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import LEASE_MAX_SECONDS, read_lease
from ansible_collections.mobius.dhash.plugins.module_utils.module import open_executor, report_failure


def _acquire_in_time(executor: Executor, run: str, actor: str, seconds: float, wait: float) -> None:
    until = executor.clock() + wait
    observed = read_lease(executor.host)
    while True:
        since = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        try:
            lease.acquire(executor, run, actor, since, seconds)
            return
        except MobiusError as error:
            # a lease that changes has a living holder
            if (
                error.outcome != "locked"
                or executor.clock() >= until
                or read_lease(executor.host) not in (observed, None)
            ):
                raise
        time.sleep(0.2)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            **arguments.OPENED,
            "state": {"type": "str", "choices": ["held", "free"], "default": "held"},
            "run": {"type": "str", "required": True},
            "actor": {"type": "str", "default": "somebody"},
            "seconds": {"type": "float", "default": 300.0},
            "wait": {"type": "float", "default": 0.0},
        },
        supports_check_mode=True,
    )
    params = module.params
    finding = ""
    with report_failure(module):
        if not 0 < params["seconds"] <= LEASE_MAX_SECONDS:
            raise MobiusError(
                "invalid_input", f"seconds is {params['seconds']:g}, which is not above 0 and up to a day."
            )
        executor = open_executor(module)
        if params["state"] == "free":
            lease.release(executor, params["run"], check=module.check_mode)
        elif module.check_mode:
            if refusal := lease.find_refusal(executor, params["run"]):
                finding = refusal.reason
                module.warn(f"The run itself would be refused now: {finding}")
        else:
            _acquire_in_time(executor, params["run"], params["actor"], params["seconds"], params["wait"])
    module.exit_json(changed=False, held=params["state"] == "held" and not module.check_mode, finding=finding)


if __name__ == "__main__":
    main()
