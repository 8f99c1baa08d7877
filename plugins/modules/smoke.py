#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Checks that the release which a host serves works, for its clients too."""

from __future__ import annotations

DOCUMENTATION = r"""
module: smoke
short_description: Checks that the release which a host serves works
description:
  - Checks the units, the instance's health, the public address as clients reach it (with TLS, redirects and the PROXY protocol
    as they are configured), the probes through the front, and what a test of the release's own reports.
  - Fails with the outcome V(smoke_failed) when a check does not pass, and with V(nothing_serves) without a release.
version_added: "0.3.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host, mobius.dhash.mobius_host.probes]
attributes:
  check_mode: {support: full, description: "Never changes anything."}
  diff_mode: {support: full, description: "Never changes anything, so there is no difference to show."}
options:
  probes:
    description: Requests whose responses are known, as M(mobius.dhash.probe) has them.
    type: list
    elements: dict
    default: []
  command:
    description:
      - A test of the release's own, run as root in its tree. C({pid}) is the process of the instance, C({front}) the Unix socket
        of the front's entrance for probes, and C({slot}) the number that a request to it has in the header X-Mobius-Slot.
      - A JSON object with C(checks) on its standard output is taken over; of other commands the exit code decides.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds that one response may take.
    type: float
    default: 10
"""

EXAMPLES = r"""
- name: Check what the host serves
  mobius.dhash.smoke:
    service: shop
    probes:
      - {name: the front page, path: /}
    command: [bin/self-test, --quick]
"""

RETURN = r"""
release:
  description: The release that serves.
  returned: when one serves
  type: str
failed_checks:
  description: How many checks did not pass.
  returned: when one serves
  type: int
checks:
  description: Every check with its C(topic), C(name), whether it is C(ok), and what was C(seen).
  returned: when one serves
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.gate.probes import Probe
from ansible_collections.mobius.dhash.plugins.module_utils.gate.probing import PROBES
from ansible_collections.mobius.dhash.plugins.module_utils.gate.smoke import check_host, run_own_test
from ansible_collections.mobius.dhash.plugins.module_utils.host.failures import failure_result
from ansible_collections.mobius.dhash.plugins.module_utils.host.status import status
from ansible_collections.mobius.dhash.plugins.module_utils.module import open_executor, report_failure


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            "probes": {**PROBES, "default": []},
            "body_dir": {"type": "path"},
            "command": {"type": "list", "elements": "str", "default": []},
            "timeout": {"type": "float", "default": 10.0},
        },
        supports_check_mode=True,
    )
    params = module.params
    with report_failure(module, changed=False):
        probes = [Probe.parse(value) for value in params["probes"]]
        executor = open_executor(module)
        host = executor.host
        serving = status(executor)["serving"]
        if not serving:
            raise MobiusError("nothing_serves", f"This host serves no release of {host.service}.")
        release = serving[-1]
        checks = check_host(host, release, probes, params["timeout"])
        if params["command"]:
            checks += run_own_test(host, release, params["command"])
    failed = [check for check in checks if not check.ok]
    result = {"release": release, "failed_checks": len(failed), "checks": [check.as_dict() for check in checks]}
    if failed:
        first = failed[0]
        reason = f"{release} fails {len(failed)} of {len(checks)} checks, the first one: {first.name} ({first.seen.rstrip('.')})."
        module.fail_json(**failure_result(MobiusError("smoke_failed", reason)), **result, changed=False)
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
