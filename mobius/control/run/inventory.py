# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What an inventory says of one variable, without a run."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

from mobius.control.modules import COLLECTION
from mobius.control.run.project import Project, find_inventory
from mobius.errors import MobiusError


def inventory_value(inventory: str, project: Project, name: str, otherwise: str = "") -> str | None:
    """A variable's text as the inventory's first host has it, its templates filled in; None when it has none.

    Args:
        otherwise: what else a person can do when the inventory cannot be read.

    Raises:
        MobiusError: unknown_inventory, when it cannot be read, as with a vault whose password is not at hand.
    """
    value = inventory_values(inventory, project, (name,), otherwise).get(name)
    return str(value) if value else None


def inventory_values(inventory: str, project: Project, names: Sequence[str], otherwise: str = "") -> dict[str, Any]:
    """Those of the variables that the inventory's first host has, their templates filled in.

    Raises:
        MobiusError: as `inventory_value`.
    """
    from ansible.errors import AnsibleError
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.template import Templar
    from ansible.vars.manager import VariableManager

    path = find_inventory(inventory, project)
    loader = DataLoader()
    loader.set_basedir(str(project.folder))
    try:
        loader.set_vault_secrets(_vault_secrets())
        with _without_service_files():
            sources = InventoryManager(loader=loader, sources=[path])
        manager = VariableManager(loader=loader, inventory=sources)
        for host in sources.get_hosts("mobius") or sources.get_hosts():  # the playbooks' hosts, and not localhost
            known = manager.get_vars(host=host)
            if values := {name: known[name] for name in names if known.get(name)}:
                templar = Templar(loader=loader, variables=known)
                return {name: templar.template(value) for name, value in values.items()}
        return {}
    except AnsibleError as error:
        why = " ".join(str(error).split())
        raise MobiusError(
            "unknown_inventory",
            f"The inventory {path} does not say {names[0]}: {why}",
            do_next=f"Give the vault's password as for a run. {otherwise}".strip(),
        ) from error


@contextlib.contextmanager
def _without_service_files() -> Iterator[None]:
    """Without the plugin that reads `mobius.yml`: Ansible does not load the collection in this process."""
    from ansible import constants

    enabled = constants.INVENTORY_ENABLED
    constants.INVENTORY_ENABLED = [name for name in enabled if not name.startswith(COLLECTION)]
    try:
        yield
    finally:
        constants.INVENTORY_ENABLED = enabled


@functools.cache  # Ansible takes them once a process
def _vault_secrets() -> Any:
    from ansible import constants
    from ansible.cli import CLI
    from ansible.parsing.dataloader import DataLoader

    password = os.environ.get("ANSIBLE_VAULT_PASSWORD_FILE") or constants.DEFAULT_VAULT_PASSWORD_FILE
    return CLI.setup_vault_secrets(
        DataLoader(),
        vault_ids=list(constants.DEFAULT_VAULT_IDENTITY_LIST),
        vault_password_files=[password] if password else [],
        auto_prompt=False,
    )
