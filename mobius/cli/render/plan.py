# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A plan, its approvals, and how well a run kept to it, as text."""

from __future__ import annotations

from mobius.control.plan.approvals import Approval, Tally
from mobius.control.plan.changes import Delta, Fidelity, HostChanges
from mobius.control.plan.plan import ChangePlan, value_text

_SHOWN_DIFFERENCES = 20  # all are counted


def plan_lines(plan: ChangePlan) -> list[str]:
    """The plan as people read it."""
    origin = plan.made_from
    commit = origin["commit"]
    clean = {True: "clean", False: "with changes that are not committed"}.get(origin["clean"], "in no repository")
    limit = f" within {origin['limit']}" if origin["limit"] else ""
    text = [
        f"plan     {origin['playbook']} on {origin['inventory']}{limit}",
        f"made     {plan.created[:16].replace('T', ' ')} UTC by {plan.author}, run {plan.run}",
        f"commit   {str(commit)[:12] + ', ' if commit else ''}{clean}",
    ]
    if origin["bundle_sha256"]:
        text.append(f"bundle   {origin['bundle']}, SHA-256 {origin['bundle_sha256']}")
    if origin["variables"]:
        text.append(f"given    {', '.join(origin['variables'])}")
    for host, changes in sorted(plan.hosts.items()):
        text += ["", *_host_lines(host, changes)]
    return [*text, "", f"digest   {plan.digest}"]


def _host_lines(host: str, host_changes: HostChanges) -> list[str]:
    state = host_changes.state or {}
    serves = (
        f"  (confirmed {state['confirmed'] or 'nothing'}, token {state['token']})" if state.get("provisioned") else ""
    )
    predicted = [change for change in host_changes.changes if not change.unknown]
    text = [f"{host}  {len(predicted)} {'change' if len(predicted) == 1 else 'changes'}{serves}"]
    for change in host_changes.changes:
        if change.unknown and not change.diff:
            continue
        text.append(f"  {change.task}{f'  (a guess: {change.unknown})' if change.unknown else ''}")
        text += [f"    {line}" for delta in change.diff for line in _delta_lines(delta)]
    unknown = [change for change in host_changes.changes if change.unknown and not change.diff]
    if unknown:
        text.append("  cannot be known beforehand:")
        text += [f"    {change.task}: {change.unknown}" for change in unknown]
    return text


def _delta_lines(delta: Delta) -> list[str]:
    if any(isinstance(value, str) and "\n" in value for value in (delta.before, delta.after)):
        old, new = (str(value or "").splitlines() for value in (delta.before, delta.after))
        gone, come = [line for line in old if line not in new], [line for line in new if line not in old]
        head = [delta.path] if delta.path else []
        return [*head, *(f"- {line}" for line in gone), *(f"+ {line}" for line in come)]
    path = f"{delta.path}: " if delta.path else ""
    return [f"{path}{value_text(delta.before)} -> {value_text(delta.after)}"]


def fidelity_lines(fidelity: Fidelity) -> list[str]:
    """How a run kept to its plan."""
    lines = [f"plan     missing {len(fidelity.missing)}, extra {len(fidelity.extra)}"]
    for word, differences in (("missing", fidelity.missing), ("extra", fidelity.extra)):
        lines += [f"{word:<7}  {difference}" for difference in differences[:_SHOWN_DIFFERENCES]]
        if len(differences) > _SHOWN_DIFFERENCES:
            lines.append(f"{word:<7}  and {len(differences) - _SHOWN_DIFFERENCES} more")
    return lines


def tally_lines(tally: Tally) -> list[str]:
    """Who wrote a plan, who approved it, and what is missing."""
    lines = [f"author   {tally.author}"] if tally.author else []
    lines += [f"approved {item.signer} as {item.role}" for item in tally.approvals]
    lines += [f"void     a signature as {item.role} {_why_void(item, tally.author)}" for item in tally.void]
    return lines + [f"missing  {what}" for what in tally.missing]


def _why_void(item: Approval, author: str | None) -> str:
    if item.signer is None:
        return "is not one of this plan by an allowed signer of that role"
    return "is the author's" if item.signer == author else f"is one more of {item.signer}'s"
