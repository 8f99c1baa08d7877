# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Options that several commands have, written once."""

from __future__ import annotations

from pathlib import Path

import click

format_option = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", help="What stdout gets."
)
key_option = click.option(
    "--key",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Your SSH key; a public one when an SSH agent holds it.",
)
index_option = click.option(
    "--index", type=click.Path(dir_okay=False, path_type=Path), default="dhash.sqlite", show_default=True,
    envvar="MOBIUS_INDEX", show_envvar=True, help="The index, an SQLite file.",
)  # fmt: skip
