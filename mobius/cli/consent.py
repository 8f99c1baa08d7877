# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Consent to what a restore loses: a question at a terminal, `--yes` everywhere else."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Mapping
from typing import Any

import click

from mobius.cli.playbook import PlaybookOptions, finish, run
from mobius.cli.render.backup import restored_lines
from mobius.errors import ExitCode, MobiusError


def restore_with_consent(
    options: PlaybookOptions,
    playbook: str,
    variables: Mapping[str, Any],
    *,
    yes: bool,
    question: str,
    tags: tuple[str, ...] = (),
) -> int:
    """Run a playbook that restores data, once a person has agreed to lose what was written later.

    At a terminal a check run counts that first; where it cannot be counted, it is as if something were lost. Elsewhere
    the run itself refuses what was not agreed to.

    Raises:
        MobiusError: interrupted, when the answer is no.
    """
    restore = functools.partial(run, playbook=playbook, tags=tags, watched="mobius.dhash.restore")
    finish_restore = functools.partial(finish, options, key="restored", lines=restored_lines)
    if not (yes or options.check) and sys.stdin.isatty():
        # it predicts the run that follows a yes
        agreed = {**variables, "mobius_accept_loss": True}
        checked = restore(dataclasses.replace(options, check=True), variables=agreed)
        if checked.ending.code != ExitCode.SUCCESS:
            return finish_restore(checked)
        for host, result in sorted(checked.results.items()):
            click.echo(os.linesep.join(restored_lines(host, result)), err=True)
        loses = any(result.get("lost") != 0 for result in checked.results.values() if result.get("differences"))
        if loses and not click.confirm(question, err=True):
            raise MobiusError("interrupted", "Nothing was changed.")
        yes = loses
    return finish_restore(restore(options, variables={**variables, "mobius_accept_loss": yes}))
