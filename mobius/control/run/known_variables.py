# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The variables that the roles and playbooks have, and the refusal of those that look like one and are none.

A role's argument specification does not refuse unknown variables, so `-e host_prot=9090` would do nothing, unseen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mobius.control.nearest import did_you_mean
from mobius.errors import MobiusError

_OURS = re.compile(r"(host|backup|deploy|promote|rollback|front|mobius)_\w+")
_SHOWN_MAX = 5


@dataclass(frozen=True)
class UnknownVariable:
    """A variable that no role has, and where it stands: a file and a line, or what is known of that."""

    name: str
    where: str


def known_variables(collection: Path) -> frozenset[str]:
    """The names of all variables that a user can set: those in the argument specifications of the roles."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    names: set[str] = set()
    for path in sorted((collection / "roles").glob("*/meta/argument_specs.yml")):
        specs = yaml.load(path.read_bytes(), Loader=loader)["argument_specs"]  # noqa: S506 - a safe loader
        for spec in specs.values():
            names.update(spec.get("options") or {})
    return frozenset(names)


def find_unknown(variables: Mapping[str, Any], known: Iterable[str], where: str = "") -> list[UnknownVariable]:
    """The variables with a prefix of ours that no role has.

    Args:
        where: where they stand, when Ansible does not know it of each.
    """
    names = frozenset(known)
    return [
        UnknownVariable(str(name), _origin(name, value) or where)
        for name, value in sorted(variables.items())
        if _OURS.fullmatch(name) and name not in names
    ]


def require_known(unknown: list[UnknownVariable], known: Iterable[str]) -> None:
    """Require that there is no unknown variable.

    Raises:
        MobiusError: invalid_input, which names each with the nearest known one.
    """
    if not unknown:
        return
    names = frozenset(known)
    parts = [
        f"{each.name}{f' ({each.where})' if each.where else ''}{did_you_mean(each.name, names)}"
        for each in unknown[:_SHOWN_MAX]
    ]
    more = f"; and {len(unknown) - _SHOWN_MAX} more" if len(unknown) > _SHOWN_MAX else ""
    raise MobiusError(
        "invalid_input",
        f"No role has the variable {'. No role has the variable '.join(parts)}{more}. Nothing was changed.",
        do_next="Correct or remove it; roles/*/README.md and `ansible-doc -t role mobius.dhash.host` have the names.",
    )


def _origin(name: Any, value: Any) -> str:
    """Where Ansible has read a variable: `file:line`, or empty when it does not know."""
    try:
        from ansible._internal._datatag._tags import Origin  # of ansible-core 2.19 and newer; not for others
    except ImportError:
        return ""
    for each in (name, value):
        tag = Origin.get_tag(each)
        if tag is not None and getattr(tag, "path", None):
            line = getattr(tag, "line_num", None)
            return f"{tag.path}:{line}" if line else str(tag.path)
    return ""
