#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Module: checks whether a host can run the front of a service."""

from __future__ import annotations

DOCUMENTATION = r"""
module: front_check
short_description: Checks whether a host can run the front of a service
description:
  - Refuses a host without a HAProxy that is new enough, installed or in its apt; a port that is taken; a certificate that is
    missing, has no key or another one's, is not valid now, or that HAProxy may not read; and settings that HAProxy does not
    accept, as far as HAProxy is installed already.
  - Never changes anything.
version_added: "0.3.0"
author: MOBIUS contributors (@mobius)
attributes:
  check_mode: {support: full, description: "Checks the same in both modes."}
  diff_mode: {support: full, description: "Never changes anything, so there is no difference to show."}
options:
  service:
    description: Name of the service.
    type: str
    required: true
  run_dir:
    description: The run folder of the service.
    type: path
    required: true
  health_path:
    description: The health path of the service.
    type: str
    required: true
  kind:
    description: What the service speaks.
    type: str
    choices: [http, tcp, worker]
    default: http
  front:
    description: The settings of the front, as the description of the service has them.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Check whether the host can run the front
  mobius.dhash.front_check:
    service: shop
    run_dir: /run/shop
    health_path: /healthz
    front: {port: 8000, first_port: 18000, internal_port: 18004}
"""

RETURN = r"""
version:
  description: The version of HAProxy; empty when it is not installed yet.
  returned: success
  type: str
  sample: 2.6.12-1+deb12u3
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils.front_preflight import FrontPreflight
from ansible_collections.mobius.dhash.plugins.module_utils.host.front.settings import HTTP, KINDS, FrontSettings
from ansible_collections.mobius.dhash.plugins.module_utils.module import report_failure


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "service": {"type": "str", "required": True},
            "run_dir": {"type": "path", "required": True},
            "health_path": {"type": "str", "required": True},
            "kind": {"type": "str", "choices": list(KINDS), "default": HTTP},
            "front": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    with report_failure(module):
        shared = {name: module.params[name] for name in ("service", "run_dir", "health_path", "kind")}
        version, warnings = FrontPreflight(FrontSettings.parse({**module.params["front"], **shared})).require()
    for warning in warnings:
        module.warn(warning)
    module.exit_json(changed=False, version=version or "")


if __name__ == "__main__":
    main()
