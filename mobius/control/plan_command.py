# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius plan`, `mobius approve`, `mobius apply`: what was approved is what runs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from mobius.control import plan as plans
from mobius.control.history import now
from mobius.control.run_commands import Common, bundle_option, bundle_variables, common_options, release_id_of, run
from mobius.control.runs import RunSummary, find_checkout
from mobius.errors import ExitCode, MobiusError


def _playbook(name: str) -> str:
    """The file's name of a playbook of the checkout: `release`, `release.yml` or `playbooks/release.yml`.

    Raises:
        MobiusError: invalid_input, when the checkout has no such playbook.
    """
    place = Path(name if name.endswith((".yml", ".yaml")) else f"{name}.yml")
    folder = find_checkout() / "playbooks"
    found = folder / place.name
    if place.parent.name in ("", "playbooks") and found.is_file():
        return place.name
    there = ", ".join(path.stem for path in sorted(folder.glob("*.yml")))
    raise MobiusError("invalid_input", f"There is no playbook {name}.", do_next=f"Name one of these: {there}.")


@click.command()
@click.argument("playbook", metavar="PLAYBOOK")
@bundle_option
@click.option("--release", "release_id", metavar="ID", help="The staged release, for promote.yml.")
@click.option("--tags", multiple=True, metavar="TAG", help="Only the tasks with this tag.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="Where the plan goes.")
@common_options
def plan(
    common: Common,
    playbook: str,
    bundle: str | None,
    release_id: str | None,
    tags: tuple[str, ...],
    out: Path | None,
) -> int:
    """Run PLAYBOOK in check mode and keep what it says: per host what will change, before and after.

    The file holds the digests of everything that it was made from, and each host's fingerprint; `mobius apply` runs it
    only while they hold. What cannot be known beforehand is marked. Values of -e are not kept (a file of them is, by
    its name): give them again when it is applied.

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
    checked = dataclasses.replace(common, check=True, diff=True)
    summary = run(checked, name, variables, tags=tags, planning=True)
    if summary.ending.code != ExitCode.SUCCESS:
        return _failed(common, summary)
    made = plans.make(summary.collected, variables, _absolute(common.extra), summary.run, moment)
    place = (out or Path(f"{Path(name).stem}-{summary.run}{plans.SUFFIX}")).expanduser().absolute()
    made.write(place)
    if common.form == "json":
        click.echo(json.dumps({**made.as_dict(), "digest": made.digest, "file": str(place)}, indent=2, sort_keys=True))
    else:
        click.echo("\n".join([*plans.lines(made), f"file     {place}"]))
    return int(ExitCode.SUCCESS)


def _absolute(extra: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"@{Path(text[1:]).expanduser().absolute()}" for text in extra if text.startswith("@"))


def _failed(common: Common, summary: RunSummary) -> int:
    """Tell why there is no plan: the check run itself did not end well."""
    if common.form == "json":
        click.echo(json.dumps(summary.as_dict(), indent=2, sort_keys=True))
    click.echo(
        "\n".join(["There is no plan, since the check run failed.", *summary.ending.lines(summary.run)]), err=True
    )
    return int(summary.ending.code)
