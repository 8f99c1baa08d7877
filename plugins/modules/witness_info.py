#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Reads what a host keeps of the history of runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: witness_info
short_description: Reads what a host keeps of the history of runs
description:
  - Reads the heads that M(mobius.dhash.witness) kept, and the host's journal of switches.
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
    description: Name of the service whose journal is read.
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
"""

import contextlib
import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments, witness
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
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
        heads = []
        for line in _lines(witness.heads_path(module.params["dir"])):
            with contextlib.suppress(ValueError):
                heads.append(json.loads(line))
        journal: list[str] = []
        if module.params["service"]:
            with contextlib.suppress(MobiusError):
                host = Host.load(module.params["service"], module.params["config_dir"])
                journal = _lines(host.journal_path)
    module.exit_json(changed=False, heads=heads, journal=journal)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return []


if __name__ == "__main__":
    main()
