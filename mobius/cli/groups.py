# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A group of commands that names the one which a mistyped name probably meant."""

from __future__ import annotations

import difflib

import click


class CommandGroup(click.Group):
    """A group whose unknown commands are refused with the nearest known one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first argument names.

        Raises:
            click.UsageError: there is none of that name.
        """
        known = self.list_commands(ctx)
        if ctx.resilient_parsing or args[0] in known or args[0].startswith("-"):
            return super().resolve_command(ctx, args)
        nearest = difflib.get_close_matches(args[0], known, n=1)
        meant = f" Did you mean {nearest[0]}?" if nearest else ""
        raise click.UsageError(f"{ctx.command_path} has no command {args[0]}.{meant}", ctx)
