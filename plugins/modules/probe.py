#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module: sends probes to one instance, at its address, and compares the responses."""

from __future__ import annotations

DOCUMENTATION = r"""
module: probe
short_description: Sends probes to the instance of a release, and compares the responses
description:
  - Sends requests to the address of one instance, where no other instance can answer, and compares the responses.
  - Never changes anything. In check mode, where the instance may not be running yet, it predicts nothing.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host, mobius.dhash.mobius_host.probes]
attributes:
  check_mode: {support: full, description: "Probes an instance that is running; returns C(predicted=unknown) when it is not."}
  diff_mode: {support: full, description: "Never changes anything, so there is no difference to show."}
options:
  release:
    description: The release whose instance is probed.
    type: str
    required: true
  probes:
    description: The requests, sent in this order until a response is wrong.
    type: list
    elements: dict
    required: true
  timeout:
    description: Seconds that one response may take.
    type: float
    default: 10
"""

EXAMPLES = r"""
- name: Probe the staged instance
  mobius.dhash.probe:
    service: mobius-dhash
    release: 1.2.0-0123456789ab
    probes:
      - name: a photograph
        method: POST
        path: /v1/hash?mode=exact
        content_type: image/png
        body_file: golden/photograph.png
        json: {dhash: 0123456789abcdef0123456789abcdef}
"""

RETURN = r"""
probes:
  description: How many responses were as expected.
  returned: always
  type: int
mismatch:
  description: The first probe whose response differs, with C(name), C(wanted) and C(got).
  returned: when there is one
  type: dict
predicted:
  description: V(unknown) when the instance is not running.
  returned: in check mode, when nothing could be probed
  type: str
note:
  description: That nothing was probed, since the release is started by its promotion, where two instances cannot run at once.
  returned: when there is no instance for that reason
  type: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments
from ansible_collections.mobius.dhash.plugins.module_utils.gate.probes import Probe
from ansible_collections.mobius.dhash.plugins.module_utils.gate.probing import PROBES, probe_instance
from ansible_collections.mobius.dhash.plugins.module_utils.host.install import require_tool
from ansible_collections.mobius.dhash.plugins.module_utils.module import report_failure


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.SERVICE,
            "release": {"type": "str", "required": True},
            "probes": {**PROBES, "required": True},
            "body_dir": {"type": "path"},
            "timeout": {"type": "float", "default": 10.0},
        },
        supports_check_mode=True,
    )
    params = module.params
    with report_failure(module, probes=0, changed=False):
        probes = [Probe.parse(value) for value in params["probes"]]
        host = require_tool(params["service"], params["config_dir"])
    result = probe_instance(host, params["release"], probes, params["timeout"], check=module.check_mode)
    end = module.fail_json if "mobius_failure" in result else module.exit_json
    end(changed=False, **result)


if __name__ == "__main__":
    main()
