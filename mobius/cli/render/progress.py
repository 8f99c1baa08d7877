# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Shows the progress of a run: a view at the foot of a terminal, drawn repeatedly, or lines where there is none."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from mobius.control.run.progress import Progress, ProgressNote, Show

_QUIET = ("ok", "skipped")  # results that a person need not read, but with -v
_LASTING = ("phase", "gate", "ignored", "failed", "unreachable")  # notes that stay on a terminal, above the view
_SAMPLE_INTERVAL = timedelta(seconds=10)  # between two lines about one host's gate
_REDRAW_SECONDS = 0.2  # between two drawings at least
_HOSTS_LIMIT = 12  # that are drawn
# which a person needs to see first
_URGENCY = {"failed": 0, "unreachable": 0, "working": 1, "ignored": 2, "changed": 2, "ok": 3, "skipped": 3}
_STYLE = {"failed": "bold red", "unreachable": "bold red", "working": "cyan", "changed": "yellow", "ok": "green"}


class Lines:
    """One line for what happens, with its time in UTC. `verbose` leaves nothing out."""

    def __init__(self, tell: Callable[[str], None], *, verbose: bool = False) -> None:
        self._tell = tell
        self._verbose = verbose
        self._sampled: dict[str, datetime] = {}

    def note(self, note: ProgressNote) -> None:
        if note.kind in _QUIET and not self._verbose:
            return
        if note.kind == "sample":
            if note.at < self._sampled.get(note.host, note.at):
                return
            self._sampled[note.host] = note.at + _SAMPLE_INTERVAL
        self._tell(line(note))

    def text(self, line: str) -> None:
        self._tell(line)

    def now(self, progress: Progress) -> None:
        """Lines tell what happened, not what lasts."""


def line(note: ProgressNote) -> str:
    """`23:04:11Z  gate         lab1  pass: ...`"""
    host = f"{note.host}  " if note.host else ""
    kind = "gate" if note.kind == "sample" else note.kind
    return _printable(f"{note.at.astimezone(UTC):%H:%M:%SZ}  {kind:<11}  {host}{note.text}".rstrip())


class Live:
    """Drawn by rich at the foot of the terminal: phases, batch, hosts, gates. What must be read stays above it."""

    def __init__(self, live: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._live = live
        self._clock = clock
        self._drawn = float("-inf")
        self._last: Progress | None = None

    def note(self, note: ProgressNote) -> None:
        if note.kind in _LASTING:
            self._print(line(note), _STYLE.get(note.kind))

    def text(self, line: str) -> None:
        self._print(line, None)

    def now(self, progress: Progress) -> None:
        self._last = progress
        if self._clock() >= self._drawn + _REDRAW_SECONDS:
            self._drawn = self._clock()
            self.draw()

    def draw(self) -> None:
        """Where the run was last."""
        if self._last is None:
            return
        self._live.update(view(self._last, datetime.now(UTC), self._live.console.height), refresh=True)

    def _print(self, text: str, style: str | None) -> None:
        from rich.text import Text

        self._live.console.print(Text(_printable(text), style or ""))


class BestEffortView:
    """Passes on until that fails: a release must not end because the terminal that showed it is gone."""

    def __init__(self, show: Show) -> None:
        self._show: Show | None = show

    def note(self, note: ProgressNote) -> None:
        self._pass_on(lambda show: show.note(note))

    def text(self, line: str) -> None:
        self._pass_on(lambda show: show.text(line))

    def now(self, progress: Progress) -> None:
        self._pass_on(lambda show: show.now(progress))

    def _pass_on(self, tell: Callable[[Show], None]) -> None:
        if self._show is not None:
            try:
                tell(self._show)
            except OSError:
                self._show = None


def view(progress: Progress, now: datetime, height: int = 24) -> Any:
    """What a terminal of `height` lines is shown: a rich renderable."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    begun = list(progress.phases)
    # of the next batch the last phases are still to come, though an earlier one has been through them
    again = begun[begun.index(progress.phase) + 1 :] if progress.batch else []
    phases = Text(" › ").join(
        Text(name, "bold cyan" if name == progress.phase else "dim" if name in again or name not in begun else "green")
        for name in [*begun, *progress.ahead]
    )
    seconds = 0.0 if progress.began is None else (now - progress.began).total_seconds()
    batch = f"  batch {progress.batch} of {len(progress.batches)}" if progress.batch else ""
    head = Text.assemble((f"{_clock(seconds)}  ", "bold"), _printable(progress.task or progress.play), (batch, "cyan"))
    table = Table.grid(padding=(0, 2))
    for _ in range(3):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    limit = max(1, min(_HOSTS_LIMIT, height - 6))
    rows = sorted(progress.hosts.items(), key=lambda item: (_URGENCY.get(item[1].state, 3), item[0]))
    for name, host in rows[:limit]:
        about = "" if host.gate is None else host.gate.describe(now)
        count = f"{host.changed} changed" if host.changed else ""
        table.add_row(
            Text(_printable(name)),
            Text(host.state, _STYLE.get(host.state, "")),
            count,
            Text(_printable(about)),
        )
    more = [Text(f"and {len(rows) - limit} hosts more", "dim")] if len(rows) > limit else []
    return Group(Text(""), phases, head, table, *more)


def _printable(text: str) -> str:
    """The text without control characters: a host must not steer a terminal."""
    return "".join(sign if sign.isprintable() else " " for sign in text)


def _clock(seconds: float) -> str:
    minutes, left = divmod(max(0, int(seconds)), 60)
    return f"{minutes:d}:{left:02d}"


@contextmanager
def showing(tell: Callable[[str], None], *, verbose: bool, lasting: bool = True) -> Iterator[Show]:
    """The view on standard error when that is a terminal that can do it, else lines by `tell`; `verbose`: always lines.

    Unless it is `lasting`, the view goes away at the end, and the command's answer replaces it.

    The view hides no cursor and changes no mode of the terminal, so there is nothing to restore when this process dies.
    """
    if verbose or not sys.stderr.isatty() or os.environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
        yield BestEffortView(Lines(tell, verbose=verbose))
        return
    from rich.console import Console
    from rich.live import Live as RichLive

    class Terminal(Console):
        def show_cursor(self, show: bool = True) -> bool:  # noqa: ARG002
            return False

    console = Terminal(file=sys.stderr, highlight=False, markup=False, emoji=False)
    live = RichLive(
        console=console, auto_refresh=False, transient=not lasting, redirect_stdout=False, redirect_stderr=False
    )
    shown = Live(live)
    with suppress(OSError):
        live.start()
    try:
        yield BestEffortView(shown)
    finally:
        with suppress(OSError):
            shown.draw()
            live.stop()
