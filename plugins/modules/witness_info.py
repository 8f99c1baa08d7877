#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads what a host keeps of the history of runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: witness_info
short_description: Reads what a host keeps of the history of runs
description:
  - Reads the heads that M(mobius.dhash.witness) kept, and the host's journal of switches with its activation record.
version_added: "0.1.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host]
attributes:
  check_mode: {support: full, description: "Never changes anything."}
  diff_mode: {support: full, description: "Never changes anything, so there is no difference to show."}
options:
  dir:
    description: Folder of the list of heads on the host.
    type: path
    default: /var/lib/mobius-witness
  service:
    description: Name of the service whose journal and activation record are read.
    required: false
"""

EXAMPLES = r"""
- name: Read the heads on the host
  mobius.dhash.witness_info:
    service: mobius-dhash
  register: witness
"""

RETURN = r"""
heads:
  description: Every head that the host has kept, oldest first.
  returned: success
  type: list
  elements: dict
journal:
  description: The lines of the host's journal of switches, as they are.
  returned: success
  type: list
  elements: str
activation:
  description: The host's activation record, as it is; null when there is none that can be read.
  returned: success
  type: dict
service:
  description: The service that they are of; null when none was named.
  returned: success
  type: str
"""

import contextlib
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments, witness
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host, read_state_file
from ansible_collections.mobius.dhash.plugins.module_utils.host.journal import read_last_lines
from ansible_collections.mobius.dhash.plugins.module_utils.module import report_failure


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "dir": {"type": "path", "default": witness.DIR},
            **arguments.SERVICE,
            "service": {"type": "str"},
        },
        supports_check_mode=True,
    )
    with report_failure(module):
        journal: list[str] = []
        activation: dict[str, Any] | None = None
        if module.params["service"]:
            with contextlib.suppress(MobiusError):
                host = Host.load(module.params["service"], module.params["config_dir"])
                # the record first: a switch in between leaves a journal that is ahead of it, and never one behind
                with contextlib.suppress(MobiusError):
                    activation = read_state_file(host.activation_path)
                journal = _lines(host.journal_path)
        # the heads last, for the same reason
        heads = witness.read_heads(module.params["dir"])
    module.exit_json(
        changed=False, heads=heads, journal=journal, activation=activation, service=module.params["service"]
    )


def _lines(path: Path) -> list[str]:
    return [line.decode("utf-8", "surrogateescape") for line in read_last_lines(path, None)]


if __name__ == "__main__":
    main()
