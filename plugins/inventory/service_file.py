# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Inventory plugin: gives every host the variables that a `mobius.yml` becomes."""

from __future__ import annotations

DOCUMENTATION = r"""
name: service_file
short_description: Give every host the variables of a service that is described by C(mobius.yml)
description:
  - Reads a file named C(mobius.yml), and sets the variables of the roles that it becomes for the group C(all).
  - Give it before the other inventory, whose variables win over it, as C(-i mobius.yml -i inventories/staging).
  - C(mobius) does that by itself in the folder of the file.
author: MOBIUS contributors (@mobius)
"""

EXAMPLES = r"""
# ansible.cfg
# [inventory]
# enable_plugins = mobius.dhash.service_file, host_list, script, auto, yaml, ini, toml

# mobius.yml
service: shop
listen: 8000
exec: bin/serve --listen {address}
health: /healthz
"""

import sys
from pathlib import Path
from typing import Any

from ansible.plugins.inventory import BaseInventoryPlugin
from ansible_collections.mobius.dhash.plugins.plugin_utils import require_mobius  # noqa: F401 - before mobius

from mobius.control.service_file.keys import FILE_NAME
from mobius.control.service_file.parse import read_service_file
from mobius.control.service_file.translate import to_variables
from mobius.errors import MobiusError


class InventoryModule(BaseInventoryPlugin):
    """Sets variables of the group `all`, which all others of an inventory win over."""

    NAME = "mobius.dhash.service_file"

    def verify_file(self, path: str) -> bool:
        """Whether it is a file of this plugin."""
        return Path(path).name == FILE_NAME and bool(super().verify_file(path))

    def parse(self, inventory: Any, loader: Any, path: str, cache: bool = True) -> None:
        """Read the file into the inventory."""
        super().parse(inventory, loader, path, cache)
        try:
            variables = to_variables(read_service_file(Path(path)))
        except MobiusError as error:
            # Ansible would try other plugins with the file, warn, and go on with the roles' defaults, those of dhash
            self.display.error(f"{error.outcome}: {error.reason} Do next: {error.do_next}", wrap_text=False)
            sys.exit(int(error.code))
        for name, value in variables.items():
            inventory.set_variable("all", name, value)
