# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius dhash`: hash pictures, index a library, list its duplicates."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any, get_args

import click

from mobius.dhash import ALGORITHMS, Library, Mode, hash_file
from mobius.errors import MobiusError

_format = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="text for people, json for programs.",
)  # fmt: skip
_mode = click.option(
    "--mode", type=click.Choice(get_args(Mode)), default="fast", show_default=True,
    help="exact is bit-identical to imagehash; fast decodes large JPEGs small.",
)  # fmt: skip
_index = click.option(
    "--index", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The SQLite file of the index."
)


@click.group()
def dhash() -> None:
    """Fingerprint pictures and find duplicates."""


@dhash.command("hash")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@_mode
@_format
def hash_command(files: tuple[Path, ...], mode: Mode, form: str) -> None:
    """Hash pictures; one line for each (json: one object a line).

    Exits with 1 when any of them cannot be hashed; the others are printed all the same. In json, such a file has its
    object too, with `path` and `error`.

    \b
    mobius dhash hash holiday.jpg
    mobius dhash hash --mode exact --format json *.jpg
    """
    failed = 0
    for path in files:
        try:
            fingerprint = hash_file(path, mode)
        except (MobiusError, OSError) as error:
            reason = error.reason if isinstance(error, MobiusError) else f"It cannot be read: {error.strerror}."
            failed += 1
            if form == "json":
                click.echo(json.dumps({"path": str(path), "error": reason}))
            else:
                click.echo(f"{path}: {reason}", err=True)
            continue
        if form == "json":
            click.echo(json.dumps({"path": str(path), **fingerprint.as_dict()}))
            continue
        click.echo(f"{fingerprint.dhash.hex}  {path}")
        for warning in fingerprint.warnings:
            click.echo(f"{path}: {warning}", err=True)
    if failed:
        raise MobiusError("invalid_input", f"{failed} of {len(files)} files cannot be hashed.")


@dhash.command()
@click.argument("folder", type=click.Path(path_type=Path))
@_index
@click.option("--release", default="none", help="The release id recorded with every row written.")
@click.option("--threads", type=click.IntRange(1, 256), help="At most so many pictures at a time.  [default: CPUs]")
@_mode
@_format
def scan(folder: Path, index: Path, release: str, threads: int | None, mode: Mode, form: str) -> None:
    """Bring an index in line with a folder of pictures, which is only read.

    Unchanged files are not read again. Unreadable ones are listed with the reason and do not fail the scan.

    \b
    mobius dhash scan /srv/photos --index photos.sqlite
    """
    with Library(index, release=release) as library:
        report = library.scan(folder, mode=mode, threads=threads, progress=_Progress())
        total = len(library)
    if form == "json":
        answer: dict[str, Any] = {**dataclasses.asdict(report), "algorithm": ALGORITHMS[mode], "in_index": total}
        click.echo(json.dumps(answer))
        return
    for entry in report.unreadable:
        click.echo(f"unreadable  {entry.path}: {entry.reason}")
    click.echo(
        f"{report.images} pictures: {report.hashed} hashed, {report.unchanged} unchanged, {report.removed} removed, "
        f"{len(report.unreadable)} unreadable"
    )


@dhash.command()
@_index
@_format
def duplicates(index: Path, form: str) -> None:
    """List the groups of duplicates (json: one object a group).

    \b
    mobius dhash duplicates --index photos.sqlite
    """
    if not index.exists():
        raise MobiusError("invalid_input", f"There is no index {index}.", do_next="Make it with `mobius dhash scan`.")
    with Library(index) as library:
        for group in library.duplicates():
            lines = [(group.kept.path, 0, "confident")]
            lines += [(other.picture.path, other.distance, other.confidence) for other in group.others]
            if form == "json":
                click.echo(json.dumps([dict(zip(("path", "distance", "confidence"), x, strict=True)) for x in lines]))
            else:
                for path, distance, _ in lines:
                    click.echo(f"{distance:3}  {path}")


class _Progress:
    """One line on standard error, rewritten a few times a second; nothing when it is not a terminal."""

    def __init__(self) -> None:
        self._shown = 0.0

    def __call__(self, done: int, total: int) -> None:
        if sys.stderr.isatty() and (done == total or time.monotonic() - self._shown > 0.2):
            self._shown = time.monotonic()
            click.echo(f"\r{done} of {total}", nl=done == total, err=True)
