# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius backup`: create, list, verify, prune, restore and try the backups of the hosts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from mobius.cli.consent import restore_with_consent
from mobius.cli.groups import CommandGroup
from mobius.cli.playbook import PlaybookOptions, finish, new_chain_option, playbook_options, run
from mobius.cli.render.backup import backup_lines, drill_lines


@click.group(cls=CommandGroup)
def backup() -> None:
    """Back up the hosts; list, verify, restore, try or remove their backups.

    \b
    Examples:
      mobius backup create
      mobius backup list --limit lab1
      mobius backup verify --subset 1/7 --format json
    """


@backup.command("create")
@click.option("--scope", type=click.Choice(["full", "state"]), help="state leaves the pictures out, but their digests.")
@new_chain_option
@playbook_options
def backup_create(options: PlaybookOptions, scope: str | None) -> int:
    """Write a verified backup on each host, unless nothing changed since the newest one."""
    return _show_backups(options, "create", {"backup_scope": scope} if scope else {})


@backup.command("list")
@new_chain_option
@playbook_options
def backup_list(options: PlaybookOptions) -> int:
    """Show the backups of each host."""
    return _show_backups(options, "list", {})


@backup.command("verify")
@click.option("--subset", metavar="K/N", help="Read the K-th part of N only; today/N: another part each day.")
@new_chain_option
@playbook_options
def backup_verify(options: PlaybookOptions, subset: str | None) -> int:
    """Read every backup of each host again and compare every digest."""
    return _show_backups(options, "verify", {"backup_subset": subset} if subset else {})


@backup.command("prune")
@new_chain_option
@playbook_options
def backup_prune(options: PlaybookOptions) -> int:
    """Remove the backups that the inventory's rules no longer keep."""
    return _show_backups(options, "prune", {})


@backup.command("restore")
@click.argument("backup_id", metavar="ID")
@click.option("--of-host", metavar="NAME", help="Accept the backup of this other host.")
@click.option("--keep-configuration", is_flag=True, help="Restore the data only: this host stays configured as it is.")
@click.option("--yes", is_flag=True, help="Restore without a question, also when the lost writes cannot be counted.")
@new_chain_option
@playbook_options
def backup_restore(
    options: PlaybookOptions, backup_id: str, of_host: str | None, keep_configuration: bool, yes: bool
) -> int:
    """Restore a backup, after saving the present state. ID as `mobius backup list` shows it, or latest.

    At a terminal the command shows how many later writes are lost, and waits for a yes. Where they cannot be counted,
    as the present data is damaged, it needs that or --yes everywhere. Damaged data is kept aside whole.

    \b
    Examples:
      mobius backup restore latest --limit lab1 --check --diff
      mobius backup restore 20260131T230501Z-full --limit lab1
    """
    variables = {
        "backup_restore_id": backup_id,
        **({"backup_of_host": of_host} if of_host else {}),
        **({"backup_keep_configuration": True} if keep_configuration else {}),
    }
    question = "Restore, and lose what was written later?"
    return restore_with_consent(options, "backup.yml", variables, yes=yes, question=question, tags=("restore",))


@backup.command("drill")
@new_chain_option
@playbook_options
def backup_drill(options: PlaybookOptions) -> int:
    """Restore each host's newest backup aside, start its release on it until it answers, and remove all of it again.

    \b
    Examples:
      mobius backup drill --check
      mobius backup drill -i inventories/production --limit host1
    """
    summary = run(options, "restore_drill.yml", {}, watched="mobius.dhash.restore_drill")
    return finish(options, summary, key="drills", lines=drill_lines)


def _show_backups(options: PlaybookOptions, tag: str, variables: Mapping[str, Any]) -> int:
    summary = run(options, "backup.yml", variables, tags=(tag,), watched="mobius.dhash.backup")
    return finish(options, summary, key="backups", lines=backup_lines)
