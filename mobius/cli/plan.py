# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius plan`, `mobius approve`, `mobius apply`: what was approved is what runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from mobius.cli.options import format_option, key_option
from mobius.cli.output import print_json
from mobius.cli.playbook import (
    PlaybookOptions,
    bundle_option,
    bundle_variables,
    finish,
    new_chain_option,
    playbook_options,
    print_ending,
    project_option,
    release_id_of,
    run,
    summary_dict,
    timeout_option,
    verbose_option,
)
from mobius.cli.render.plan import fidelity_lines, plan_lines, tally_lines
from mobius.control.history.writer import now
from mobius.control.plan import approvals
from mobius.control.plan import plan as plans
from mobius.control.plan.changes import Fidelity
from mobius.control.plan.planned_run import not_compared
from mobius.control.run.inventory import inventory_values
from mobius.control.run.project import Project, find_project
from mobius.control.run.runner import RunSummary
from mobius.errors import ExitCode, MobiusError


def _playbook(name: str) -> str:
    """The file's name of a playbook of the collection: `release`, `release.yml` or `playbooks/release.yml`.

    Raises:
        MobiusError: invalid_input, when the collection has no such playbook.
    """
    path = Path(name if name.endswith((".yml", ".yaml")) else f"{name}.yml")
    folder = find_project().playbooks
    file = folder / path.name
    if path.parent.name in ("", "playbooks") and file.is_file():
        return path.name
    names = ", ".join(path.stem for path in sorted(folder.glob("*.yml")))
    raise MobiusError("invalid_input", f"There is no playbook {name}.", do_next=f"Name one of these: {names}.")


@click.command()
@click.argument("playbook", metavar="PLAYBOOK")
@bundle_option
@click.option("--release", "release_id", metavar="ID", help="The staged release, for promote.yml.")
@click.option("--tags", multiple=True, metavar="TAG", help="Only the tasks with this tag.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Where the plan goes.")
@playbook_options
def plan(
    options: PlaybookOptions,
    playbook: str,
    bundle: str | None,
    release_id: str | None,
    tags: tuple[str, ...],
    out: Path | None,
) -> int:
    """Run PLAYBOOK in check mode and keep what it shows: per host what will change, before and after.

    The file holds the digests of everything that it was made from, and each host's fingerprint; `mobius apply` runs it
    only while they hold. What cannot be known beforehand is marked. Values of -e are not kept (a file of them is, by
    its name): pass them again when it is applied.

    \b
    Examples:
      mobius plan release.yml --bundle dist/mobius-dhash-1.4.0.tar.gz -i inventories/production
      mobius plan provision.yml --limit lab1 --out provision.plan.json
    """
    name = _playbook(playbook)
    variables: dict[str, Any] = bundle_variables(bundle)
    if release_id:
        variables["mobius_release"] = release_id_of(release_id)
    moment = now()
    checked = dataclasses.replace(options, check=True, diff=True)
    summary = run(checked, name, variables, tags=tags, planning=True)
    if summary.ending.code != ExitCode.SUCCESS:
        return _failed(options, summary)
    new_plan = plans.make(summary.collected, variables, _absolute(options.extra), summary.run, moment)
    path = (out or Path(f"{Path(name).stem}-{summary.run}{plans.SUFFIX}")).expanduser().absolute()
    new_plan.write(path)
    if options.form == "json":
        click.echo(
            json.dumps({**new_plan.as_dict(), "digest": new_plan.digest, "file": str(path)}, indent=2, sort_keys=True)
        )
    else:
        click.echo("\n".join([*plan_lines(new_plan), f"file     {path}"]))
    return int(ExitCode.SUCCESS)


@click.command()
@click.argument("file", metavar="PLAN", type=click.Path(path_type=Path))
@click.option("--role", required=True, metavar="ROLE", help=f"{', '.join(approvals.ROLES)}, or author.")
@key_option
@click.option("--signers", type=click.Path(path_type=Path), metavar="FILE", help="allowed_signers to check it against.")
@format_option
def approve(file: Path, role: str, key: Path, signers: Path | None, form: str) -> int:
    """Sign PLAN in a role. The signature is kept beside the plan.

    Without --signers the list that the plan's inventory names is used, where it exists here: a key that it does not
    allow in this role is refused at once. The author signs too (--role author), and that counts as no approval.

    \b
    Examples:
      mobius approve release.plan.json --role author --key ~/.ssh/id_ed25519
      mobius approve release.plan.json --role ops_sre --key ~/.ssh/id_ed25519
    """
    path, name = file.expanduser().absolute(), approvals.role_of(role)
    planned = plans.ChangePlan.read(path)
    digest = planned.digest
    rule = _rule_of(planned, signers)
    signature = approvals.approve(path, name, key.expanduser().absolute())
    tally = None
    if rule is not None:
        tally = approvals.tally(path, digest, rule)
        if any(item.signer is None and signature.name.endswith(f".{item.role}.{item.key}.sig") for item in tally.void):
            signature.unlink()
            raise MobiusError(
                "invalid_input",
                f"The key {key} may not sign as {name}: {rule.signers} does not say so.",
                do_next=f'Add namespaces="{approvals.NAMESPACE}{name}" to its entry there, or use another key.',
            )
    if form == "json":
        answer: dict[str, Any] = {
            "plan": str(path),
            "digest": planned.digest,
            "signature": str(signature),
            "role": name,
        }
        if tally is not None:
            answer |= {"approvals": [item.as_dict() for item in tally.approvals], "missing": list(tally.missing)}
        click.echo(json.dumps(answer, indent=2, sort_keys=True))
    else:
        head = [f"signed   {digest} as {name}", f"file     {signature}"]
        click.echo("\n".join([*head, *(tally_lines(tally) if tally else ["not checked: no list of signers is here"])]))
    return int(ExitCode.SUCCESS)


@click.command()
@click.argument("file", metavar="PLAN", type=click.Path(path_type=Path))
@click.option("--break-glass", metavar="REASON", help="Go on without approvals, proof or window; this is recorded.")
@click.option(
    "-e",
    "--extra-vars",
    "extra",
    multiple=True,
    metavar="KEY=VALUE|@FILE",
    help="The variables that the plan was made with.",
)
@new_chain_option
@bundle_option
@timeout_option
@verbose_option
@project_option
@format_option
def apply(
    file: Path,
    break_glass: str | None,
    extra: tuple[str, ...],
    bundle: str | None,
    timeout: float,
    verbosity: int,
    project: Path | None,
    form: str,
) -> int:
    """Run PLAN, and compare what happened with what was predicted: missing and extra must both be 0 (else exit code 2).

    Refused before anything changes: a plan that was changed, is too old or lacks approvals; a file, variable or host
    that has changed since; a closed change window; a bundle that the inventory's proving ground has not confirmed.

    \b
    Examples:
      mobius apply release.plan.json
      mobius apply release.plan.json -e token=VALUE
      mobius apply release.plan.json --break-glass "OPS-7: clients get wrong hashes"
    """
    path = file.expanduser().absolute()
    planned = plans.ChangePlan.read(path)
    variables = {**planned.variables, **bundle_variables(bundle), "mobius_plan": str(path)}
    if break_glass:
        variables["mobius_break_glass"] = break_glass
    limit = planned.made_from["limit"]
    extra_again = (*(name for name in planned.files if name not in _absolute(extra)), *extra)
    options = PlaybookOptions(
        _inventory_of(planned, find_project(named=project)),
        limit,
        extra_again,
        check=False,
        diff=True,
        timeout=timeout,
        verbosity=verbosity,
        form=form,
        project=project,
    )
    summary = run(options, Path(planned.made_from["playbook"]).name, variables, tags=tuple(planned.made_from["tags"]))
    fidelity = summary.collected.get("fidelity")
    if fidelity is None:
        summary = dataclasses.replace(
            summary, ending=not_compared(summary.ending, "it left no account of its changes.")
        )
    elif form == "text":
        click.echo("\n".join(fidelity_lines(Fidelity.read(fidelity))))
    return finish(options, summary)


def _inventory_of(made: plans.ChangePlan, project: Project) -> str:
    """The inventory of a plan: below the project or the collection when it lies there."""
    inventory = str(made.made_from["inventory"])
    return str(_find(inventory, project) or inventory)


def _find(inventory: str, project: Project) -> Path | None:
    """The path of an inventory that a plan names relative to the project or to the collection."""
    paths = (folder / inventory for folder in (project.folder, project.collection))
    return next((path for path in paths if path.exists()), None)


def _rule_of(made: plans.ChangePlan, signers: Path | None) -> approvals.Rule | None:
    """The rule of the plan's inventory as far as it is at hand; None when there is no list of signers here."""
    project = find_project()
    source = _find(str(made.made_from["inventory"]), project)
    rule = approvals.Rule.read(inventory_values(str(source), project, approvals.VARIABLES) if source else {})
    if signers:
        return dataclasses.replace(rule, signers=signers.expanduser().absolute())
    return rule if rule.signers and rule.signers.exists() else None


def _absolute(extra: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"@{Path(text[1:]).expanduser().absolute()}" for text in extra if text.startswith("@"))


def _failed(options: PlaybookOptions, summary: RunSummary) -> int:
    """Print why there is no plan: the check run itself did not end well."""
    if options.form == "json":
        print_json(summary_dict(summary))
    print_ending(summary.account, "There is no plan, since the check run failed.")
    return int(summary.ending.code)
