# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius dhash`: hash pictures, index a library, find its duplicates and decide about the doubtful ones."""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import hashlib
import io
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, get_args

import click

from mobius.cli.groups import CommandGroup
from mobius.cli.options import index_option
from mobius.cli.output import ReportedError
from mobius.cli.render.dhash import (
    group_lines,
    groups_summary,
    match_lines,
    pair_lines,
    path_text,
    scan_lines,
    show_progress,
)
from mobius.cli.render.page import count, page
from mobius.dhash import (
    ALGORITHMS,
    VERIFIED_FILE_MAX_BYTES,
    DecisionKind,
    Dhash,
    ExportFormat,
    Fingerprint,
    Library,
    Mode,
    ReviewPair,
    VerificationImage,
    hash_file,
    load_for_verification,
)
from mobius.dhash.errors import PictureError
from mobius.durable import write_bytes
from mobius.errors import MobiusError

_format = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True,
    help="text for people, json for programs.",
)  # fmt: skip
_mode = click.option(
    "--mode", type=click.Choice(get_args(Mode)), default="fast", show_default=True,
    help="exact is bit-identical to imagehash; fast decodes large JPEGs small.",
)  # fmt: skip
_as = click.option(
    "--as",
    "kind",
    type=click.Choice(get_args(ExportFormat)),
    help="What the file is.  [default: by its name, else json]",
)


@click.group(cls=CommandGroup)
def dhash() -> None:
    """Fingerprint pictures and find duplicates.

    \b
    Examples:
      mobius dhash scan ~/Pictures
      mobius dhash duplicates --html duplicates.html
      mobius dhash review

    Exit codes: 0 success, 1 wrong input, 2 some of the files could not be read (all else was done), 3 environment, 4
    the index was busy for too long, 5 the disk is full.
    """


@dhash.command("hash")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@_mode
@_format
def hash_command(files: tuple[Path, ...], mode: Mode, form: str) -> None:
    """Hash pictures; one line for each (json: one object a line).

    Exits with 2 when some of them cannot be hashed, with 1 when none can; the others are printed all the same. In json,
    such a file has its object too, with `path` and `error`.

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
                click.echo(f"{path_text(path)}: {reason}", err=True)
            continue
        if form == "json":
            click.echo(json.dumps({"path": str(path), **fingerprint.as_dict()}))
            continue
        click.echo(f"{fingerprint.dhash.hex}  {path_text(path)}")
        for warning in fingerprint.warnings:
            click.echo(f"{path_text(path)}: {warning}", err=True)
    if failed:
        outcome = "invalid_input" if failed == len(files) else "files_failed"
        raise ReportedError(outcome, f"{failed} of {count(len(files), 'file')} cannot be hashed.")


@dhash.command()
@click.argument("folder", type=click.Path(path_type=Path))
@index_option
@click.option("--release", default="none", help="The release id recorded with every row written.")
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    help="At most so many pictures at a time; where a thousand or more are new, each in a process of 50 to 100 MB, the"
    " picture itself not counted.  [default: CPUs]",
)
@_mode
@_format
def scan(folder: Path, index: Path, release: str, threads: int | None, mode: Mode, form: str) -> None:
    """Bring an index in line with a folder of pictures, which is only read.

    Unchanged and renamed files are not read again. A scan that was stopped continues. What cannot be read is
    listed with the reason; the exit code is then 2, and everything else was done. Pairs that may be duplicates are
    verified on their pixels at the end.

    \b
    mobius dhash scan ~/Pictures
    mobius dhash scan /srv/photos --index photos.sqlite --format json
    """
    started = time.monotonic()
    with Library(index, release=release) as library, show_progress() as progress:
        report = library.scan(folder, mode=mode, threads=threads, progress=progress)
        total = len(library)
        _verify_pairs(library, threads)
    if form == "json":
        answer: dict[str, Any] = {**dataclasses.asdict(report), "algorithm": ALGORITHMS[mode], "in_index": total}
        click.echo(json.dumps({**answer, "seconds": round(time.monotonic() - started, 3)}))
    else:
        _print_lines(scan_lines(report))
    if report.unreadable:
        raise ReportedError("files_failed", f"{count(len(report.unreadable), 'file')} could not be read.")


@dhash.command()
@index_option
@click.option(
    "--html", "html_file", type=click.Path(dir_okay=False, path_type=Path),
    help="Write one page with all of them side by side, and the doubtful pairs.",
)  # fmt: skip
@_format
def duplicates(index: Path, html_file: Path | None, form: str) -> None:
    """List the groups of duplicates, the copy worth keeping first.

    That is the largest in pixels, then the oldest. Every other one in a group matches it with confidence; doubtful
    pairs are for `mobius dhash review`.

    \b
    mobius dhash duplicates
    mobius dhash duplicates --html duplicates.html
    mobius dhash duplicates --index photos.sqlite --format json
    """
    with _existing(index) as library:
        _verify_pairs(library)
        groups, (to_review, doubtful) = (
            library.duplicates(),
            _pairs_to_review(library, with_pairs=html_file is not None),
        )
        if html_file is not None:
            write_bytes(html_file, page(groups, doubtful, library.thumbnail))
    if form == "json":
        listed = []
        for group in groups:
            first = {"path": group.keeper.path, "distance": 0, "confidence": "confident", "keep": True, "pair": None}
            others = [
                {
                    "path": other.picture.path, "distance": other.distance, "confidence": other.confidence,
                    "keep": False, "pair": other.pair,
                }
                for other in group.others
            ]  # fmt: skip
            listed.append([first, *others])
        click.echo(json.dumps(listed))
        return
    _print_lines(group_lines(groups))
    click.echo(groups_summary(groups, to_review=to_review), err=True)


@dhash.command()
@click.argument("picture")
@index_option
@click.option("--max-distance", type=click.IntRange(0, 128), help="All within so many bits of 128.  [default: matches]")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="At most so many.")
@click.option("--transforms", is_flag=True, help="Mirrored and rotated copies as well.")
@_mode
@_format
def search(
    picture: str, index: Path, max_distance: int | None, limit: int, transforms: bool, mode: Mode, form: str
) -> None:
    """Find pictures like this one, confident matches first, then the nearest.

    PICTURE is a file, or the 32 hexadecimal digits that `mobius dhash hash` prints.

    \b
    mobius dhash search holiday.jpg
    mobius dhash search holiday.jpg --transforms
    mobius dhash search 0f1e2d3c4b5a69780f1e2d3c4b5a6978 --max-distance 4
    """
    with _existing(index) as library:
        query = _query(picture, mode)
        matches = library.search(
            query, max_distance=max_distance, limit=limit, transforms=transforms,
            load_query=lambda side: _load_query(Path(picture), query, side),
        )  # fmt: skip
    if form == "json":
        click.echo(
            json.dumps(
                [
                    {
                        **match.picture.as_dict(),
                        "distance": match.distance,
                        "transform": match.transform,
                        "confidence": match.confidence,
                    }
                    for match in matches
                ]
            )
        )
        return
    _print_lines(match_lines(matches))
    click.echo(f"{len(matches)} found", err=True)


@dhash.command()
@index_option
@click.option(
    "--decide", "decided", type=(str, click.Choice(get_args(DecisionKind))), multiple=True, metavar="ID same|different",
    help="Decide about a pair; may be repeated.",
)  # fmt: skip
@click.option("--ask", is_flag=True, help="Go through the pairs one by one, here at the terminal.")
@click.option("--by", default=None, help="Who decides.  [default: your user name]")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="List at most so many.")
@click.option("--after", help="List those behind the pair of this ID.")
@_format
def review(
    index: Path,
    decided: tuple[tuple[str, DecisionKind], ...],
    ask: bool,
    by: str | None,
    limit: int,
    after: str | None,
    form: str,
) -> None:
    """List the pairs that a person should review, or decide about them.

    Decisions are kept with name and time: `same` puts a pair into one group, `different` is never shown again. They
    hold for duplicates that were certain, too (`pair` in the json of `duplicates` is their ID).

    \b
    mobius dhash review
    mobius dhash review --ask
    mobius dhash review --decide 596aa1e7cb875eb7-e3192ea269acd01d same --by "Ada Lovelace"
    """
    name = by if by is not None else getpass.getuser()
    with _existing(index) as library:
        if decided:
            made = [dataclasses.asdict(library.decide(identity, decision, name)) for identity, decision in decided]
            click.echo(json.dumps(made) if form == "json" else f"{len(made)} decided by {name}")
            return
        _verify_pairs(library)
        if ask:
            _ask(library, name)
            return
        pairs = library.review(after=after, limit=limit)
        total = library.figures()["review"]
    if form == "json":
        keys = ("path", "sha256", "width", "height", "size")
        click.echo(
            json.dumps(
                [
                    {
                        "id": pair.id, "distance": pair.distance, "score": pair.score,
                        **{
                            position: {key: value for key, value in picture.as_dict().items() if key in keys}
                            for position, picture in (("first", pair.first), ("second", pair.second))
                        },
                    }
                    for pair in pairs
                ]
            )
        )  # fmt: skip
        return
    for pair in pairs:
        _print_lines(pair_lines(pair))
    click.echo(f"{len(pairs)} of {count(total, 'pair')} to review", err=True)


@dhash.command("export")
@click.argument("file", default="-", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True))
@index_option
@_as
@_format
def export_command(file: Path, index: Path, kind: ExportFormat | None, form: str) -> None:
    """Write the index as JSON or CSV: one object (or line) an image, with the decisions about it.

    Without FILE, or with -, it goes to standard output.

    \b
    mobius dhash export library.json
    mobius dhash export library.csv
    mobius dhash export --as csv | head
    """
    text = io.StringIO(newline="")
    with _existing(index) as library:
        images = library.export(text, _kind(file, kind))
    data = text.getvalue().encode("utf-8")
    if str(file) == "-":
        click.echo(data, nl=False)
    else:
        write_bytes(file, data)
    text_line = (
        json.dumps({"file": str(file), "images": images}) if form == "json" else f"{count(images, 'image')} exported"
    )
    click.echo(text_line, err=str(file) == "-")


@dhash.command("import")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path, allow_dash=True))
@index_option
@_as
@_format
def import_command(file: Path, index: Path, kind: ExportFormat | None, form: str) -> None:
    """Take in what `mobius dhash export` wrote, here or elsewhere; - is standard input.

    The whole file is checked first: with anything wrong in it, nothing is written. What the index knows stays as it
    is; of two decisions about one pair, the later one holds.

    \b
    mobius dhash import library.json
    mobius dhash import library.csv --index other.sqlite
    """
    with _reading(file) as stream, Library(index) as library:
        report = library.import_(stream, _kind(file, kind))
    if form == "json":
        click.echo(json.dumps(dataclasses.asdict(report)))
    else:
        new = (count(report.pictures, "picture"), count(report.files, "file"), count(report.decisions, "decision"))
        click.echo(f"{count(report.images, 'image')} read; new: {', '.join(new)}")


def _print_lines(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _existing(index: Path) -> Library:
    """The index, which these commands do not make."""
    if not index.exists():
        raise MobiusError("invalid_input", f"There is no index {index}.", do_next="Make it with `mobius dhash scan`.")
    return Library(index)


def _verify_pairs(library: Library, threads: int | None = None) -> None:
    """Verify candidate pairs. When the results cannot be stored, what is known so far still holds."""
    try:
        with show_progress("pairs") as progress:
            library.verify_pairs(threads=threads, progress=progress)
    except MobiusError as error:
        click.echo(
            f"Not all pairs could be verified, so some that are certain show as doubtful: {error.reason}", err=True
        )


def _query(picture: str, mode: Mode) -> Fingerprint | Dhash:
    if re.fullmatch(r"[0-9a-fA-F]{32}", picture) and not os.path.exists(picture):
        return Dhash.from_hex(picture.lower(), ALGORITHMS[mode])
    try:
        return hash_file(picture, mode, descriptor=True)
    except OSError as error:
        raise MobiusError("invalid_input", f"{path_text(picture)} cannot be read: {error.strerror}.") from error


def _load_query(path: Path, query: Fingerprint | Dhash, side: int) -> VerificationImage | None:
    """The query's picture for `Library.search`; None of a mere hash, of a damaged picture that was hashed in spite of
    it, and of a file that is too large to be read at once."""
    if isinstance(query, Fingerprint) and not query.warnings and query.size <= VERIFIED_FILE_MAX_BYTES:
        with contextlib.suppress(PictureError, OSError):
            data = path.read_bytes()
            # the file may hold another picture by now
            return load_for_verification(data, side) if hashlib.sha256(data).hexdigest() == query.sha256 else None
    return None


def _pairs_to_review(library: Library, *, with_pairs: bool) -> tuple[int, list[ReviewPair]]:
    """How many pairs there are to review, and on request all of them."""
    total = library.figures()["review"]
    return total, library.review(limit=total) if with_pairs and total else []


def _ask(library: Library, by: str) -> None:
    """Go through the pairs at the terminal; each answer is kept at once."""
    after: str | None = None
    while pairs := library.review(after=after, limit=1):
        pair = pairs[0]
        _print_lines(pair_lines(pair))
        answer = click.prompt("same, different, next or quit", type=click.Choice(["s", "d", "n", "q"]), err=True)
        if answer == "q":
            return
        after = pair.id
        words: dict[str, DecisionKind] = {"s": "same", "d": "different"}
        if answer in words:
            library.decide(pair.id, words[answer], by)
    click.echo("That was the last one.", err=True)


def _kind(file: Path, kind: ExportFormat | None) -> ExportFormat:
    return kind or ("csv" if file.suffix.lower() == ".csv" else "json")


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[TextIO]:
    """Text, with or without the mark that spreadsheets put before UTF-8."""
    try:
        binary = io.BytesIO(sys.stdin.buffer.read()) if str(file) == "-" else file.open("rb")
    except OSError as error:
        raise MobiusError("invalid_input", f"{file} cannot be read: {error.strerror}.") from error
    with binary, io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as stream:
        yield stream
