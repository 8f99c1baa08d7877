# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Settings of Ansible that would change what a run means: `mobius` passes none on, a plain ansible-playbook has them.

`tests/contract/test_ansible_settings.py` says of every other one why it is harmless.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mobius.errors import MobiusError


@dataclass(frozen=True)
class RequiredSetting:
    """A setting by Ansible's name and its environment variable, the value that a run needs, and why.

    With `is_member`, the value is a list that has to contain all of `value`.
    """

    name: str
    variable: str
    value: Any
    why: str
    is_member: bool = False

    def is_kept(self, actual: Any) -> bool:
        """Whether a run may begin with this value."""
        if self.is_member:
            return set(self.value) <= set(actual or ())
        return bool(actual == self.value)

    @property
    def advice(self) -> str:
        """What to do in ansible.cfg."""
        return f"have {' '.join(self.value)} among its values" if self.is_member else "leave it at its default"


_PRECEDENCE = [
    *("all_inventory", "groups_inventory", "all_plugins_inventory"),
    *("all_plugins_play", "groups_plugins_inventory", "groups_plugins_play"),
]

REQUIRED = (
    RequiredSetting(
        "CALLBACKS_ENABLED",
        "ANSIBLE_CALLBACKS_ENABLED",
        ("mobius.dhash.outcome",),
        "results and the end of the run would not be recorded",
        is_member=True,
    ),
    RequiredSetting("DEFAULT_NO_LOG", "ANSIBLE_NO_LOG", False, "what the run does would not be recorded"),
    RequiredSetting(
        "ANY_ERRORS_FATAL",
        "ANSIBLE_ANY_ERRORS_FATAL",
        False,
        "one host's failure would end the run before all hosts are confirmed or reverted",
    ),
    RequiredSetting(
        "ENABLE_TASK_DEBUGGER",
        "ANSIBLE_ENABLE_TASK_DEBUGGER",
        False,
        "a failed task could be changed by hand and run again",
    ),
    RequiredSetting(
        "DEFAULT_HASH_BEHAVIOUR",
        "ANSIBLE_HASH_BEHAVIOUR",
        "replace",
        "a setting would be mixed with those that it replaces, and a verdict with an earlier one",
    ),
    RequiredSetting(
        "DEFAULT_UNDEFINED_VAR_BEHAVIOR",
        "ANSIBLE_ERROR_ON_UNDEFINED_VARS",
        True,
        "a misspelt variable would be no error",
    ),
    RequiredSetting(
        "INJECT_FACTS_AS_VARS", "ANSIBLE_INJECT_FACT_VARS", True, "the playbooks would not know the id of their run"
    ),
    RequiredSetting(
        "VARIABLE_PRECEDENCE", "ANSIBLE_PRECEDENCE", _PRECEDENCE, "settings of the inventory would not be obeyed"
    ),
    RequiredSetting(
        "VARIABLE_PLUGINS_ENABLED",
        "ANSIBLE_VARS_ENABLED",
        ("host_group_vars",),
        "the inventory's group_vars and host_vars would not be read",
        is_member=True,
    ),
    RequiredSetting(
        "YAML_FILENAME_EXTENSIONS",
        "ANSIBLE_YAML_FILENAME_EXT",
        (".yml", ".yaml", ".json"),
        "the inventory's group_vars and host_vars would not be read",
        is_member=True,
    ),
    RequiredSetting(
        "INVENTORY_IGNORE_PATTERNS",
        "ANSIBLE_INVENTORY_IGNORE_REGEX",
        [],
        "files of the inventory would not be read",
    ),
)
"""What `mobius.dhash.run` requires before anything changes."""


def require_settings(value_of: Callable[[str], Any], required: Sequence[RequiredSetting] = REQUIRED) -> None:
    """Require that Ansible runs as the playbooks were written for.

    Args:
        value_of: gives a setting's value by its name.

    Raises:
        MobiusError: invalid_input, for the first setting with another value.
    """
    for setting in required:
        if not setting.is_kept(value_of(setting.name)):
            raise MobiusError(
                "invalid_input",
                f"With Ansible's setting {setting.name} as it is, {setting.why}; nothing was changed.",
                do_next=f"Unset {setting.variable}, and {setting.advice} in ansible.cfg; or use `mobius`.",
            )


RUN_FACTS = ("mobius_run_id", "mobius_run_actor", "mobius_run_head", "mobius_run_witnessed")
"""Facts that `mobius.dhash.run` gives to every host."""


def require_no_own_results(extra: Iterable[str]) -> None:
    """Require that no extra variable is named as what the playbooks find out themselves.

    Extra variables win over registered results, so a gate that failed would have passed with `-e __promote_result=...`.

    Raises:
        MobiusError: invalid_input.
    """
    forced = sorted(name for name in extra if name.startswith("__") or name in RUN_FACTS)
    if forced:
        raise MobiusError(
            "invalid_input",
            f"{', '.join(forced)} is what a run finds out by itself, and must not be set with -e.",
            do_next="Leave it out; the variables that may be set are in roles/*/README.md.",
        )
