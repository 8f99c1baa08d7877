# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What the events of ansible-runner mean for the progress and the outcome of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mobius.control.run.outcome import Ending, Observer
from mobius.control.run.progress import Progress, Show

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


class EventListener:
    """Takes every event of a run: shows the progress, and keeps what the outcome needs."""

    def __init__(
        self, show: Show, *, playbook: str, watched: str | None = None, verbosity: int = 0, check: bool = False
    ) -> None:
        self._show = show
        self._watched = watched
        self._verbosity = verbosity
        self.progress = Progress(playbook=playbook)
        self.observer = Observer(check=check)
        self._play = ""
        self._complaint: list[str] = []
        self._complaining = False
        self.ending: Ending | None = None
        self.changed: dict[str, int] = {}
        self.changes: dict[str, list[str]] = {}
        self.results: dict[str, dict[str, Any]] = {}
        self.failed_results: dict[str, dict[str, Any]] = {}

    @property
    def complaint(self) -> str:
        """What Ansible itself reported last, where it ended without a result of any task."""
        return " ".join(self._complaint)

    def take(self, event: Mapping[str, Any]) -> None:
        """Update the progress, and show it."""
        self.progress, notes = self.progress.after(event)
        for note in notes:
            self._show.note(note)
        self._show.now(self.progress)

    def event(self, event: Mapping[str, Any]) -> bool:
        """One event of ansible-runner; it is not kept as a file."""
        data: Mapping[str, Any] = event.get("event_data") or {}
        self.take(event)
        handler = getattr(self, f"_on_{event.get('event')}", None)
        if handler is not None:
            handler(data)
        text = _ANSI.sub("", str(event.get("stdout") or "")).strip("\r\n")
        if event.get("event") in ("verbose", "error", "warning", "deprecated"):
            self._message(text)
        elif text and (self._verbosity or event.get("event") == "runner_on_file_diff"):
            self._lines(text)
        return False

    def _on_playbook_on_play_start(self, data: Mapping[str, Any]) -> None:
        self._play = str(data.get("play", ""))

    def _on_playbook_on_no_hosts_matched(self, _data: Mapping[str, Any]) -> None:
        self.observer.no_hosts_matched(self._play)

    def _on_runner_on_ok(self, data: Mapping[str, Any]) -> None:
        result = data.get("res") or {}
        if data.get("task_action") == self._watched:
            self.results[str(data.get("host"))] = dict(result)
        self._ended(data)
        if result.get("changed"):
            self.changes.setdefault(str(data.get("host")), []).append(str(data.get("task")))
        if result.get("_ansible_verbose_always") and not self._verbosity and "msg" in result:
            self._lines(str(result["msg"]))

    def _on_runner_on_failed(self, data: Mapping[str, Any]) -> None:
        if data.get("task_action") == self._watched:
            self.failed_results[str(data.get("host"))] = dict(data.get("res") or {})
        self._ended(data)
        if not data.get("ignore_errors"):
            self.observer.failed(str(data.get("host")), str(data.get("task")), data.get("res") or {})

    def _on_runner_on_unreachable(self, data: Mapping[str, Any]) -> None:
        self.observer.unreachable(str(data.get("host")), str(data.get("task")), data.get("res") or {})

    def _on_playbook_on_stats(self, data: Mapping[str, Any]) -> None:
        processed = data.get("processed") or {}
        self.ending = self.observer.end(data.get("failures") or {}, data.get("dark") or {}, processed)
        counts = data.get("changed") or {}
        self.changed = {host: int(counts.get(host, 0)) for host in sorted(processed)}

    def _ended(self, data: Mapping[str, Any]) -> None:
        action, result = str(data.get("task_action")), data.get("res") or {}
        self.observer.ended(str(data.get("host")), action, result)

    def _lines(self, text: str) -> None:
        for line in text.splitlines():
            self._show.text(f"{'':<11}{line.rstrip()}")

    def _message(self, text: str) -> None:
        """Lines that belong to no task: warnings and errors of Ansible itself, wrapped at the width of a terminal."""
        for line in text.splitlines() or [""]:
            plain = line.strip()
            if plain.startswith(("[ERROR]:", "ERROR!")):
                self._complaint = [plain.partition(" ")[2]]
                self._complaining = True
            elif not plain or plain.startswith("Origin:"):
                self._complaining = False
            elif self._complaining:
                self._complaint.append(plain)
            if plain and (self._verbosity or plain.startswith(("[", "ERROR!")) or self._complaining):
                self._show.text(f"{'':<11}{plain}")
