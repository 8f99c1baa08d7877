# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What `mobius dhash` prints for people: scans, groups of duplicates, matches, pairs to review, and a progress bar."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mobius.cli.render.page import count, size
from mobius.dhash import Group, Picture, ReviewPair, ScanReport, SearchMatch

if TYPE_CHECKING:
    from click._termui_impl import ProgressBar

PROGRESS_LINE_SECONDS = 10.0  # between two lines where there is no terminal


def scan_lines(report: ScanReport) -> list[str]:
    """The files that could not be read, and the counts of a scan."""
    lines = [f"unreadable  {path_text(entry.path)}: {entry.reason}" for entry in report.unreadable]
    links = f", {count(report.links, 'link')} not followed" if report.links else ""
    return [
        *lines,
        f"{count(report.images, 'picture')}: {report.hashed} hashed, {report.known} known by their bytes, "
        f"{report.unchanged} unchanged, {report.renamed} renamed, {report.removed} removed, "
        f"{len(report.unreadable)} unreadable{links}",
    ]


def group_lines(groups: Sequence[Group]) -> Iterator[str]:
    """Each group: what to keep, then its duplicates with their distance, then an empty line."""
    for group in groups:
        yield f"keep        {picture_text(group.keeper)}"
        for other in group.others:
            distance = "same bytes" if other.pair is None else count(other.distance, "bit")
            yield f"{distance:<12}{picture_text(other.picture)}"
        yield ""


def groups_summary(groups: Sequence[Group], *, to_review: int) -> str:
    """How many groups and copies there are, and how many pairs to review."""
    copies = sum(len(group.others) for group in groups)
    return (
        f"{count(len(groups), 'group')}, {count(copies, 'copy', 'copies')} beside what to keep, "
        f"{count(to_review, 'pair')} to review"
    )


def match_lines(matches: Sequence[SearchMatch]) -> Iterator[str]:
    """Each match: confidence, distance in bits, picture, and how it is turned or mirrored."""
    for match in matches:
        transform = "" if match.transform == "none" else f"  ({match.transform})"
        yield f"{match.confidence:<9}  {match.distance:3}  {picture_text(match.picture)}{transform}"


def pair_lines(pair: ReviewPair) -> list[str]:
    """A pair to review: its ID and distance, and both pictures."""
    alike = "" if pair.score is None else f", {pair.score:.0%} alike"
    pictures = [f"    {picture_text(picture)}" for picture in (pair.first, pair.second)]
    return [f"{pair.id}  {pair.distance} of 128 bits differ{alike}", *pictures]


def picture_text(picture: Picture) -> str:
    """A picture's path, or what it was posted as, its pixels and its size."""
    name = path_text(picture.path) if picture.path is not None else f"posted {picture.sha256}"
    return f"{name}  {picture.width} x {picture.height}, {size(picture.size)}"


def path_text(path: Path | str) -> str:
    """A path on one line of a terminal: what would break or control it is escaped."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in text)


@contextlib.contextmanager
def show_progress(what: str = "pictures") -> Iterator[Callable[[int, int], None]]:
    """Progress on standard error, with time left: a bar on a terminal, else a line every PROGRESS_LINE_SECONDS."""
    if not sys.stderr.isatty():
        yield ProgressLines(what, lambda line: click.echo(line, err=True)).show
        return
    with contextlib.ExitStack() as stack:
        bar: ProgressBar[int | None] | None = None
        started = time.monotonic()
        shown = first = 0

        def progress(done: int, total: int) -> None:
            nonlocal bar, shown, first
            if bar is None:
                # what did not have to be read is no measure of the time that the others take
                first = shown = done - 1
                bar = stack.enter_context(
                    click.progressbar(
                        length=total - first, show_pos=True, file=sys.stderr, item_show_func=rate, update_min_steps=1
                    )
                )
            bar.length = total - first  # fewer pairs may be left than at first
            bar.update(done - shown, done)
            shown = done

        def rate(done: int | None) -> str | None:
            seconds = time.monotonic() - started
            return None if done is None or seconds < 1 else f"{(done - first) / seconds:.0f} {what}/s"

        yield progress


class ProgressLines:
    """Progress for logs: "files: 1200 of 50000, 4 min left". Work that ends sooner than the first line writes none."""

    def __init__(self, what: str, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._write = write
        self._clock = clock
        self._written = self._started = clock()
        self._first: int | None = None  # how many were done before: they took no time

    def show(self, done: int, total: int) -> None:
        now = self._clock()
        if self._first is None:
            self._first = done - 1
        if now < self._written + PROGRESS_LINE_SECONDS or done >= total:
            return
        self._written = now
        left = (now - self._started) / (done - self._first) * (total - done)
        self._write(f"{self._what}: {done} of {total}, {_time_left(left)} left")


def _time_left(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
