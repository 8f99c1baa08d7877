# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Who has approved a plan, in which role, and whether that is enough by the inventory's rule.

An approval is an SSH signature of the plan's digest, in a file beside the plan. The role is in the signature's
namespace, so that `allowed_signers` says who may speak in which role (`namespaces="mobius-approval-ops_sre"`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobius import durable
from mobius.control import signatures
from mobius.control.plan.plan import ChangePlan
from mobius.errors import MobiusError

AUTHOR = "author"
ROLES = ("release_owner", "deploy_operator", "media_engineer", "triage_lead", "ops_sre")
"""The team roles of a change, and Ops/SRE."""
NAMESPACE = "mobius-approval-"
_FILE = re.compile(r"\.([a-z_]+)\.([0-9a-f]{16})\.sig")


def role_of(text: str) -> str:
    """A role by its name, however its words are joined: `Ops/SRE` and `ops-sre` are `ops_sre`.

    Raises:
        MobiusError: invalid_input, when there is none of that name.
    """
    name = "_".join(re.findall(r"[a-z]+", text.lower()))
    if name not in (*ROLES, AUTHOR):
        raise MobiusError(
            "invalid_input", f"{text!r} is not a role.", do_next=f"Give one of {', '.join((*ROLES, AUTHOR))}."
        )
    return name


@dataclass(frozen=True)
class Rule:
    """What an inventory demands of a plan (`mobius_approvals_*`, `mobius_plan_*`, `mobius_checklist_required`).

    `required` people must have approved it, among them one in each of `roles`; `author_counts` says whether its author
    may be one of them. `proven_on` names the inventory on which a release must have succeeded before, or is empty.
    `checklist` says whether a release needs its checklist ticked.
    """

    required: int = 0
    roles: tuple[str, ...] = ()
    signers: Path | None = None
    author_counts: bool = False
    max_hours: float = 24.0
    proven_on: str = ""
    checklist: bool = False

    @classmethod
    def read(cls, known: Mapping[str, Any]) -> Rule:
        """The rule that variables of an inventory make.

        Raises:
            MobiusError: invalid_input, when one of them is wrong.
        """
        roles = known.get("mobius_approvals_roles") or []
        signers = str(known.get("mobius_approvals_signers") or "")
        try:
            rule = cls(
                required=int(known.get("mobius_approvals_required") or 0),
                roles=tuple(role_of(str(role)) for role in ([roles] if isinstance(roles, str) else roles)),
                signers=Path(signers).expanduser() if signers else None,
                author_counts=_read_boolean(known, "mobius_approvals_author_counts"),
                max_hours=float(known.get("mobius_plan_max_hours") or 24),
                proven_on=str(known.get("mobius_plan_proven_on") or ""),
                checklist=_read_boolean(known, "mobius_checklist_required"),
            )
        except (TypeError, ValueError) as error:
            raise MobiusError("invalid_input", f"The inventory's rule for approvals is wrong: {error}.") from error
        if rule.required < 0 or rule.max_hours <= 0 or (rule.signers and not rule.signers.is_absolute()):
            raise MobiusError(
                "invalid_input",
                "The inventory's rule for approvals is wrong: mobius_approvals_required must not be below 0, "
                "mobius_plan_max_hours must be above it, and mobius_approvals_signers is an absolute path.",
            )
        return rule

    @property
    def wants_approvals(self) -> bool:
        """Whether a plan must have been approved at all."""
        return self.required > 0 or bool(self.roles)

    @property
    def wants_plan(self) -> bool:
        """Whether nothing may be changed without a plan."""
        return self.wants_approvals or bool(self.proven_on)


def _read_boolean(known: Mapping[str, Any], name: str) -> bool:
    """A variable as Ansible reads a boolean, which is text in an INI inventory; False when it is not set.

    Raises:
        ValueError: it is neither; a rule that is misspelt must not be no rule.
    """
    text = str(known.get(name) if known.get(name) is not None else False).strip().lower()
    if text in ("true", "yes", "on", "1", "y", "t"):
        return True
    if text in ("false", "no", "off", "0", "n", "f", ""):
        return False
    raise ValueError(f"{name} is neither true nor false: {text!r}")


VARIABLES = (
    *("mobius_approvals_required", "mobius_approvals_roles", "mobius_approvals_signers"),
    *("mobius_approvals_author_counts", "mobius_plan_max_hours", "mobius_plan_proven_on"),
    "mobius_checklist_required",
)
"""The variables of the rule: data of the inventory, never extra variables of a run."""


def require_inventory_data(extra: Iterable[str], names: Iterable[str]) -> None:
    """Require that none of these variables is an extra one, which would replace what the inventory has.

    Raises:
        MobiusError: invalid_input.
    """
    forced = sorted(set(extra) & set(names))
    if forced:
        reason = f"{', '.join(forced)} is data of the inventory, and must not be set with -e."
        raise MobiusError("invalid_input", reason)


@dataclass(frozen=True)
class Approval:
    """One signature beside a plan. `signer` is None when no allowed signer made it for this plan and role."""

    role: str
    key: str
    signer: str | None

    def as_dict(self) -> dict[str, Any]:
        """`{role, who, key}`."""
        return {"role": self.role, "who": self.signer, "key": self.key}


@dataclass(frozen=True)
class Tally:
    """What the signatures of a plan come to: who wrote it, who approved it, and what is missing, in words."""

    author: str | None
    approvals: tuple[Approval, ...]
    void: tuple[Approval, ...]
    missing: tuple[str, ...]


def message(digest: str) -> bytes:
    """What is signed."""
    return f"{digest}\n".encode()


def approve(plan: Path, role: str, key: Path) -> Path:
    """Sign the plan in a file, and keep the signature beside it. Gives the signature's file.

    Raises:
        MobiusError: plan_invalid, when it is no plan; invalid_input, when the key cannot sign.
    """
    signature = signatures.sign(key, f"{NAMESPACE}{role}", message(ChangePlan.read(plan).digest), ask=True)
    file = plan.with_name(f"{plan.name}.{role}.{signatures.key_of(signature)}.sig")
    durable.write_bytes(file, signature.encode())
    return file


def tally(plan: Path, digest: str, rule: Rule) -> Tally:
    """Count the signatures beside a plan by a rule. A person and a key count once, whatever their roles.

    Raises:
        MobiusError: invalid_input, when the list of signers is missing or cannot be trusted.
    """
    if rule.signers is None:
        return Tally(None, (), (), ("the inventory names no mobius_approvals_signers",) if rule.wants_approvals else ())
    signatures.check_signers(rule.signers)
    candidates = [
        _read_approval(path, plan, digest, rule.signers) for path in sorted(plan.parent.glob(f"{plan.name}.*.sig"))
    ]
    approvals = [item for item in candidates if item is not None]
    author = next((item for item in approvals if item.role == AUTHOR and item.signer), None)
    counted: list[Approval] = []
    void: list[Approval] = [item for item in approvals if item.signer is None]
    for item in approvals:
        if item.signer is None or item.role == AUTHOR:
            continue
        is_author = author is not None and (item.signer == author.signer or item.key == author.key)
        is_repeated = any((item.signer, item.role) == (other.signer, other.role) for other in counted)
        (void if (is_author and not rule.author_counts) or is_repeated else counted).append(item)
    return Tally(author.signer if author else None, tuple(counted), tuple(void), tuple(_missing(author, counted, rule)))


def _missing(author: Approval | None, counted: list[Approval], rule: Rule) -> list[str]:
    if not rule.wants_approvals:
        return []
    missing = []
    if author is None and not rule.author_counts:
        missing.append("the author's signature, without which nobody knows whose approval does not count")
    people = min(len({item.signer for item in counted}), len({item.key for item in counted}))
    if people < rule.required:
        missing.append(f"{rule.required - people} of {rule.required} approvals")
    missing += [f"an approval as {role}" for role in rule.roles if role not in {item.role for item in counted}]
    return missing


def _read_approval(path: Path, plan: Path, digest: str, signers: Path) -> Approval | None:
    """One file beside a plan as an approval; None when its name is not one."""
    match = _FILE.fullmatch(path.name.removeprefix(plan.name))
    if match is None or match[1] not in (*ROLES, AUTHOR):
        return None
    role = match[1]
    try:
        signature = path.read_text(encoding="ascii")
        key = signatures.key_of(signature)
    except (OSError, ValueError, MobiusError):
        return Approval(role, match[2], None)
    return Approval(role, key, signatures.signer(signature, f"{NAMESPACE}{role}", message(digest), signers))
