# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A plan, its approvals, and how well a run kept to it, as text."""

from __future__ import annotations

from mobius.control.plan.approvals import Approval, Tally
from mobius.control.plan.changes import Delta, Fidelity, HostChanges
from mobius.control.plan.plan import Plan, value_text

_SHOWN_DIFFERENCES = 20  # all are counted


def plan_lines(plan: Plan) -> list[str]:
    """The plan as people read it."""
    made = plan.made_from
    commit = made["commit"]
    clean = {True: "clean", False: "with changes that are not committed"}.get(made["clean"], "in no repository")
    limit = f" within {made['limit']}" if made["limit"] else ""
    text = [
        f"plan     {made['playbook']} on {made['inventory']}{limit}",
        f"made     {plan.created[:16].replace('T', ' ')} UTC by {plan.author}, run {plan.run}",
        f"commit   {str(commit)[:12] + ', ' if commit else ''}{clean}",
    ]
    if made["bundle_sha256"]:
        text.append(f"bundle   {made['bundle']}, SHA-256 {made['bundle_sha256']}")
    if made["variables"]:
        text.append(f"given    {', '.join(made['variables'])}")
    for host, found in sorted(plan.hosts.items()):
        text += ["", *_host_lines(host, found)]
    return [*text, "", f"digest   {plan.digest}"]


def _host_lines(host: str, found: HostChanges) -> list[str]:
    state = found.state or {}
    serves = (
        f"  (confirmed {state['confirmed'] or 'nothing'}, token {state['token']})" if state.get("provisioned") else ""
    )
    sure = [change for change in found.changes if not change.unknown]
    text = [f"{host}  {len(sure)} {'change' if len(sure) == 1 else 'changes'}{serves}"]
    for change in found.changes:
        if change.unknown and not change.diff:
            continue
        text.append(f"  {change.task}{f'  (a guess: {change.unknown})' if change.unknown else ''}")
        text += [f"    {line}" for delta in change.diff for line in _delta_lines(delta)]
    unknown = [change for change in found.changes if change.unknown and not change.diff]
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
    lines += [f"approved {item.who} as {item.role}" for item in tally.approvals]
    lines += [f"void     a signature as {item.role} {_why_void(item, tally.author)}" for item in tally.void]
    return lines + [f"missing  {what}" for what in tally.missing]


def _why_void(item: Approval, author: str | None) -> str:
    if item.who is None:
        return "is not one of this plan by an allowed signer of that role"
    return "is the author's" if item.who == author else f"is one more of {item.who}'s"
