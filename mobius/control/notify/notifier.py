# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Sends messages that a run began and how it ended: Slack, Teams, e-mail, as the variable `mobius_notify` says.

The callback plugin of every ansible-playbook run comes here, so a plain run sends them as well; a check run sends none.
Nothing here fails a run: what was not delivered is a warning.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mobius.control.modules import module_entry, module_name
from mobius.control.notify.message import Message, make_delivery
from mobius.control.notify.receivers import Receiver, parse_receivers
from mobius.control.run.outcome import Ending
from mobius.manifest import REVISION

TIMEOUT_SECONDS = 3.0
"""How long a receiver may take; the end of a run waits no longer for all of them together."""

_GRACE_SECONDS = 2.0  # that the sending process has to start and to end


class Notifier:
    """Sends messages about one run, from its opening to its end. One object an ansible-playbook process.

    Args:
        playbook: the playbook's name without its ending.
        warn: takes one line of warning.
    """

    def __init__(self, playbook: str, warn: Callable[[str], None]) -> None:
        self._playbook = playbook
        self._warn = warn
        self._receivers: list[Receiver] = []
        self._about: dict[str, Any] = {}
        self._release = ""
        self._reverted = False
        self._sending: list[subprocess.Popen[str]] = []
        self.opened = False

    def open(self, receivers: Any, **about: Any) -> None:
        """Send that the run began; `receivers` is `mobius_notify`, `about` the fields of `Message` known by then."""
        self.opened = True
        self._receivers, problems = parse_receivers(receivers)
        self._about = about
        for problem in problems:
            self._warn(problem)
        self._send(self._message("start"))

    def take(self, action: str, result: Mapping[str, Any]) -> None:
        """One result of a module, by its full name: which release the run is about, and whether that is reverted."""
        release = result.get(module_entry(action).release_field)
        if isinstance(release, str) and REVISION.fullmatch(release):
            self._release = release
        if module_name(action) == "decide" and result.get("decision") == "revert":
            self._reverted = True

    def end(self, ending: Ending) -> None:
        """Send how the run ended, and wait a moment for the receivers."""
        if not self.opened:
            return
        succeeded = ending.outcome == "success"
        if succeeded:
            rolled_back = self._playbook == "rollback"
        else:
            rolled_back = self._reverted and ending.outcome != "rollback_failed"
        event = "rollback" if rolled_back else "success" if succeeded else "failure"
        failed = tuple((failure.host, failure.outcome) for failure in ending.failures)
        self._send(self._message(event, outcome=ending.outcome, failed=failed))
        self._wait()

    def _message(self, event: str, **others: Any) -> Message:
        return Message(event=event, playbook=self._playbook, release=self._release, **self._about, **others)

    def _send(self, message: Message) -> None:
        deliveries = []
        for receiver in self._receivers:
            if message.is_for(receiver):
                try:
                    deliveries.append(make_delivery(receiver, message))
                except ValueError:  # an address that no header can have
                    self._warn(
                        f"{receiver.name} of mobius_notify got no message of the {message.event}: a header is wrong."
                    )
        if not deliveries:
            return
        sender = [sys.executable, "-I", str(Path(__file__).with_name("sender.py"))]
        try:
            process = subprocess.Popen(
                sender, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            assert process.stdin is not None
            with process.stdin:
                json.dump({"seconds": TIMEOUT_SECONDS, "deliveries": deliveries}, process.stdin)
            process.stdin = None
        except OSError as error:
            self._warn(f"Nobody got a message of the {message.event}: {error.strerror}.")
            return
        self._sending.append(process)

    def _wait(self) -> None:
        problems: dict[str, str] = {}
        for process in self._sending:
            try:
                problems |= json.loads(process.communicate(timeout=TIMEOUT_SECONDS + _GRACE_SECONDS)[0])
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                problems["a receiver"] = "it did not answer in time"
            except ValueError:
                problems["a receiver"] = "the sending process ended early"
        self._sending = []
        for name, problem in problems.items():
            self._warn(f"{name} of mobius_notify got no message: {problem}.")
