# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a message about a run says: an allow-list, as in the history.

Names and numbers, and sentences of the one table of outcomes; never a text that a task, a host or a variable has made.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mobius.control.notify.receivers import Receiver
from mobius.errors import OUTCOMES, TEAMS, ExitCode

_NAMED_HOSTS = 10  # of those that failed; of the others the number


@dataclass(frozen=True)
class Message:
    """What is known of a run: names, numbers, and how it ended by its name in the table."""

    event: str
    run: str
    actor: str
    playbook: str
    service: str
    hosts: int
    bundle: str = ""
    release: str = ""
    outcome: str = ""
    failed: tuple[tuple[str, str], ...] = ()

    @property
    def headline(self) -> str:
        """One line that says it all."""
        what = " ".join(part for part in (self.playbook, self.service, self.release) if part)
        if self.event == "start":
            return f"Started: {what}"
        if self.outcome == "success":
            return f"{'Rolled back' if self.event == 'rollback' else 'Done'}: {what}"
        return f"{'Reverted' if self.event == 'rollback' else 'Failed'}: {what} ({self.outcome})"

    def facts(self) -> list[tuple[str, str]]:
        """Names and values, in the order in which they are shown."""
        facts = [("run", self.run), ("actor", self.actor), ("hosts", str(self.hosts))]
        if self.bundle:
            facts.insert(0, ("bundle", self.bundle))
        if self.release:
            facts.insert(0, ("release", self.release))
        if self.outcome:
            code = OUTCOMES[self.outcome].code
            team = "" if code == ExitCode.SUCCESS else f", team {TEAMS[code]}"
            facts.append(("outcome", f"{self.outcome} (exit code {int(code)}{team})"))
        if self.failed:
            named = [f"{host} {outcome}" for host, outcome in self.failed[:_NAMED_HOSTS]]
            more = [f"and {len(self.failed) - _NAMED_HOSTS} more"] if len(self.failed) > _NAMED_HOSTS else []
            facts.append(("failed", ", ".join([*named, *more])))
        return facts

    def is_for(self, receiver: Receiver) -> bool:
        """Whether a receiver wants it; a release that was reverted is a failure, too."""
        events = {self.event, "failure"} if self.outcome not in ("", "success") else {self.event}
        return self.playbook in receiver.playbooks and bool(events & set(receiver.events))


def make_delivery(receiver: Receiver, message: Message) -> dict[str, Any]:
    """What `sender` takes: the receiver with the filled-in template of its kind."""
    has_failed = message.outcome not in ("", "success")
    values = {
        "headline": message.headline,
        "facts": message.facts(),
        "do_next": OUTCOMES[message.outcome].do_next if has_failed else "",
        "color": "Attention" if has_failed else "Good" if message.outcome else "Default",
    }
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).with_name("templates")),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - JSON and plain text; what goes into JSON goes through `tojson`
        keep_trailing_newline=True,
    )
    templates.filters["slack"] = _for_slack
    suffix = "txt" if receiver.kind == "email" else "json"
    body = templates.get_template(f"{receiver.kind}.{suffix}.j2").render(values)
    if receiver.kind == "email":
        letter = EmailMessage()
        letter["Subject"] = " ".join(f"[mobius] {message.headline}".split())
        letter["From"], letter["To"] = receiver.sender, ", ".join(receiver.to)
        letter["X-Mobius-Run"] = message.run
        letter.set_content(body)
        body = letter.as_string()
    return {**asdict(receiver), "body": body}


def _for_slack(text: str) -> str:
    """https://api.slack.com/reference/surfaces/formatting: so that no name becomes a mention or a link."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
