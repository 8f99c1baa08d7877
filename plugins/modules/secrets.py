#!/usr/bin/python
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Writes the secrets of a service to a file that only root may read."""

from __future__ import annotations

DOCUMENTATION = r"""
module: secrets
short_description: Writes the secrets of a service to a file that only root may read
description:
  - Writes environment variables in the form of systemd's C(EnvironmentFile=), with the mode 0600. The unit of the service's
    instances names the file.
  - Results, differences and plans have the names of the variables and never a value.
version_added: "0.3.0"
author: MOBIUS contributors (@mobius)
extends_documentation_fragment: [mobius.dhash.mobius_host.opened]
attributes:
  check_mode: {support: full, description: "Predicts from the same comparison that the real run acts on."}
  diff_mode: {support: full, description: "Shows which variables are set, removed or set to another value; no value."}
options:
  path:
    description: The file on the host. Its folder has to exist.
    type: path
    required: true
  file:
    description:
      - A file on the control node with lines C(NAME=value), which C(ansible-vault) may have encrypted. Its path is absolute.
      - Python-dotenv reads it; nothing is interpolated.
    type: path
  values:
    description: More variables by name; they win over those of O(file). The action plugin joins both to O(content).
    type: dict
    default: {}
  taken:
    description: Names that the environment of the service has already, and that are refused.
    type: list
    elements: str
    default: []
  content:
    description: For internal use. The variables as an object of JSON in Base64.
    type: str
"""

EXAMPLES = r"""
- name: Write the secrets
  mobius.dhash.secrets:
    path: /etc/mobius-host/secrets/shop.env
    file: /home/ada/shop/vault/shop.env
    values:
      SHOP_TOKEN: "{{ vault_shop_token }}"
"""

RETURN = r"""
names:
  description: The variables that are set now.
  returned: success
  type: list
  elements: str
  sample: [SHOP_TOKEN]
"""

import base64
import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.mobius.dhash.plugins.module_utils import arguments, durable, secrets
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.module import report_failure


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            **arguments.OPENED,
            "path": {"type": "path", "required": True},
            "file": {"type": "path"},
            "values": {"type": "dict", "default": {}, "no_log": True},
            "taken": {"type": "list", "elements": "str", "default": []},
            "content": {"type": "str", "no_log": True},
        },
        supports_check_mode=True,
    )
    path = Path(module.params["path"])
    with report_failure(module):
        if module.params["content"] is None:
            raise MobiusError("invalid_input", "The module secrets works through its action plugin only.")
        values = json.loads(base64.b64decode(module.params["content"]))
        text = secrets.environment_file(values)
        try:
            present = secrets.read_file(path)
            is_right = present == text and secrets.is_private(path)
            if not is_right and not module.check_mode:
                durable.write_bytes(path, text.encode(), mode=secrets.MODE, owner=(0, 0))
        except OSError as error:
            outcome = "disk_full" if error.errno in durable.DISK_FULL_ERRNOS else "environment_failed"
            raise MobiusError(outcome, f"{path} cannot be written: {error.strerror}. Nothing was changed.") from None
    module.exit_json(
        changed=not is_right,
        names=sorted(values),
        diff=secrets.describe_change(secrets.read_values(present or ""), values),
    )


if __name__ == "__main__":
    main()
