# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius deploy`, `promote`, `release` and `rollback`: which release the hosts serve."""

from __future__ import annotations

from typing import Any

import click

from mobius.cli.consent import restore_with_consent
from mobius.cli.output import print_json
from mobius.cli.playbook import (
    PlaybookOptions,
    bundle_option,
    bundle_variables,
    finish,
    new_chain_option,
    playbook_options,
    print_ending,
    release_id_of,
    run,
    summary_dict,
)
from mobius.cli.render.status import kept_lines, kept_releases, rollback_lines
from mobius.errors import ExitCode


@click.command()
@bundle_option
@new_chain_option
@playbook_options
def deploy(options: PlaybookOptions, bundle: str | None) -> int:
    """Stage a bundle on the hosts and prove it in standby. Nothing public changes.

    \b
    Example:
      mobius deploy --bundle dist/mobius-dhash-1.0.0.tar.gz
    """
    return finish(options, run(options, "deploy.yml", bundle_variables(bundle)))


@click.command()
@click.option(
    "--release", "release_id", required=True, metavar="ID", help="A staged release; `mobius status` lists them."
)
@new_chain_option
@playbook_options
def promote(options: PlaybookOptions, release_id: str) -> int:
    """Let a staged release serve. It is reverted everywhere unless every host passes the gate.

    \b
    Example:
      mobius promote --release 1.0.0-0123456789ab
    """
    return finish(options, run(options, "promote.yml", {"mobius_release": release_id_of(release_id)}))


@click.command()
@bundle_option
@new_chain_option
@playbook_options
def release(options: PlaybookOptions, bundle: str | None) -> int:
    """Backup, deploy and promote in one run.

    \b
    Examples:
      mobius release --bundle dist/mobius-dhash-1.0.0.tar.gz --check --diff
      mobius release --bundle dist/mobius-dhash-1.0.0.tar.gz -i inventories/staging
    """
    return finish(options, run(options, "release.yml", bundle_variables(bundle)))


@click.command()
@click.option("--to", "release_id", metavar="ID", help="The release to roll back to; without it, the last healthy one.")
@click.option(
    "--from",
    "leaves",
    metavar="ID",
    help="The release to roll back from; when it no longer serves, nothing is changed.",
)
@click.option("--reason", metavar="TEXT", help="Why; kept with the release that is rolled back.")
@click.option("--list", "listing", is_flag=True, help="Only show the releases that a host can roll back to.")
@click.option("--backup", "backup_id", metavar="ID", help="Restore the data of this backup, too; or latest.")
@click.option("--yes", is_flag=True, help="With --backup, lose later writes without a question.")
@new_chain_option
@playbook_options
def rollback(
    options: PlaybookOptions,
    release_id: str | None,
    leaves: str | None,
    reason: str | None,
    listing: bool,
    backup_id: str | None,
    yes: bool,
) -> int:
    """Roll back to an earlier release, at once. The one that served until then is marked bad.

    Each host leaves what served when the run began, or --from. So of two rollbacks at once only one is carried out, and
    the other one ends with "already rolled back".

    With --backup the data is restored as well, to what it was when the backup was made: the command shows how many
    later writes are lost, and waits for a yes. The present data is saved as a backup first; clients get 503 meanwhile.

    \b
    Examples:
      mobius rollback --list
      mobius rollback --reason "wrong hashes"
      mobius rollback --to 1.0.0-0123456789ab --limit lab2
      mobius rollback --backup latest --limit lab2
    """
    if listing:
        return _list_releases(options)
    variables: dict[str, Any] = {}
    if release_id:
        variables["mobius_to"] = release_id_of(release_id)
    if leaves:
        variables["mobius_from"] = release_id_of(leaves)
    if reason:
        variables["mobius_reason"] = reason
    if not backup_id:
        summary = run(options, "rollback.yml", variables, watched="mobius.dhash.rollback")
        return finish(options, summary, key="rolled_back", lines=rollback_lines)
    variables["mobius_backup"] = backup_id
    question = "Roll back, and lose what was written later?"
    return restore_with_consent(options, "rollback.yml", variables, yes=yes, question=question)


def _list_releases(options: PlaybookOptions) -> int:
    """The releases that hosts can roll back to: text for people, for programs one object for each host and release."""
    summary = run(options, "status.yml", {}, watched="mobius.dhash.release_info")
    if options.form == "json":
        rows = [row for host, result in sorted(summary.results.items()) for row in kept_releases(host, result)]
        print_json({**summary_dict(summary), "releases": rows})
        if summary.ending.code != ExitCode.SUCCESS:
            print_ending(summary.account)
        return int(summary.ending.code)
    return finish(options, summary, key="releases", lines=kept_lines)
