# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Tells people that a run began and how it ended: Slack, Teams, e-mail, as the variable `mobius_notify` says.

The callback plugin of every ansible-playbook run comes here, so a plain run tells as well; a check run tells nobody.
What is told is an allow-list, as in the history: names and numbers, and sentences of the one table of outcomes, never
what a task, a host or a variable may have made. Nothing here fails a run: what was not delivered is a warning.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from mobius.control.run.outcome import Ending
from mobius.errors import OUTCOMES, TEAMS, ExitCode

EVENTS = ("start", "success", "failure", "rollback")
PLAYBOOKS = ("deploy", "promote", "release", "rollback")
SECONDS = 3.0
"""How long a receiver may take; the end of a run waits no longer for all of them together."""

_GRACE = 2.0  # seconds more that the sending process has to start and to end
_SHOWN = 10  # hosts that failed and are named
_RELEASE = re.compile(r"[0-9a-z.]+-[0-9a-f]{12}")
_TELLS_RELEASE = {"bundle_info": "release", "promotion": "release", "rollback": "confirmed"}
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_COMMON = {"kind", "name", "events", "playbooks"}
_OWN = {
    "slack": {"url"},
    "teams": {"url"},
    "email": {"host", "port", "sender", "to", "tls", "user", "password"},
}


@dataclass(frozen=True)
class Receiver:
    """Whom to tell, of what, and how to reach them. What is secret of it does not show in its `repr`."""

    kind: str
    name: str
    events: tuple[str, ...] = EVENTS
    playbooks: tuple[str, ...] = PLAYBOOKS
    url: str = field(default="", repr=False)
    host: str = ""
    port: int = 587
    sender: str = ""
    to: tuple[str, ...] = ()
    tls: str = "starttls"
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


def parse(given: Any) -> tuple[list[Receiver], list[str]]:
    """The receivers of `mobius_notify`, and one sentence for each that cannot be told anything, without its values."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        return [], ["mobius_notify is no list."]
    receivers: list[Receiver] = []
    problems = []
    for number, item in enumerate(given, start=1):
        try:
            receivers.append(_receiver(item, number, {receiver.name for receiver in receivers}))
        except ValueError as error:
            problems.append(f"Entry {number} of mobius_notify is not used: {error}.")
    return receivers, problems


def _receiver(item: Any, number: int, taken: set[str]) -> Receiver:
    if not isinstance(item, Mapping) or item.get("kind") not in _OWN:
        raise ValueError(f"its kind is none of {', '.join(_OWN)}")
    kind = str(item["kind"])
    if strange := sorted(str(key) for key in set(item) - _COMMON - _OWN[kind]):
        raise ValueError(f"{kind} has no {strange[0]}")
    fields: dict[str, Any] = {"kind": kind, "name": str(item.get("name") or f"{kind} {number}")}
    if fields["name"] in taken:
        raise ValueError("its name is that of another one")
    for key, known in (("events", EVENTS), ("playbooks", None)):
        if key in item:
            fields[key] = _words(item[key], key, known)
    if kind != "email":
        return Receiver(**fields, url=_url(item.get("url")))
    fields |= {key: str(item[key]) for key in ("host", "sender", "tls", "user", "password") if item.get(key)}
    fields["to"] = _words(item.get("to"), "to", None)
    with contextlib.suppress(TypeError, ValueError):
        fields["port"] = int(item.get("port", 587))
    if not fields.get("host") or not fields.get("sender") or "port" not in fields:
        raise ValueError("email wants host, port, sender and to")
    if fields.get("tls", "starttls") not in ("starttls", "tls", "none"):
        raise ValueError("its tls is none of starttls, tls, none")
    receiver = Receiver(**fields)
    if receiver.user and receiver.tls == "none" and receiver.host not in _LOOPBACK:
        raise ValueError("a password would go through the network in the clear")
    return receiver


def _words(value: Any, key: str, known: Sequence[str] | None) -> tuple[str, ...]:
    words = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Sequence) else ()
    if not words or not all(isinstance(word, str) for word in words):
        raise ValueError(f"its {key} are no list of words")
    if known and not set(words) <= set(known):
        raise ValueError(f"its {key} are not among {', '.join(known)}")
    return words


def _url(value: Any) -> str:
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        right = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        right = False
    if not right or any(letter.isspace() or not letter.isprintable() for letter in value):
        raise ValueError("its url is none of http or https")
    return str(value)


# --- What is told -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Message:
    """What a notification may say: names, numbers, and how a run ended by its name in the table."""

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
        return f"{'Taken back' if self.event == 'rollback' else 'Failed'}: {what} ({self.outcome})"

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
            named = [f"{host} {outcome}" for host, outcome in self.failed[:_SHOWN]]
            more = [f"and {len(self.failed) - _SHOWN} more"] if len(self.failed) > _SHOWN else []
            facts.append(("failed", ", ".join([*named, *more])))
        return facts

    def is_for(self, receiver: Receiver) -> bool:
        """Whether a receiver asked for it; a release that was taken back is a failure, too."""
        events = {self.event, "failure"} if self.outcome not in ("", "success") else {self.event}
        return self.playbook in receiver.playbooks and bool(events & set(receiver.events))


def delivery(receiver: Receiver, message: Message) -> dict[str, Any]:
    """What `sender` takes: the receiver with the filled-in template of its kind."""
    wrong = message.outcome not in ("", "success")
    values = {
        "headline": message.headline,
        "facts": message.facts(),
        "do_next": OUTCOMES[message.outcome].do_next if wrong else "",
        "color": "Attention" if wrong else "Good" if message.outcome else "Default",
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


# --- A run ------------------------------------------------------------------------------------------------------------


class Notifier:
    """Tells of one run, from its opening to its end. One object an ansible-playbook process.

    Args:
        playbook: the playbook's name without its ending.
        tell: takes one line of warning.
    """

    def __init__(self, playbook: str, tell: Callable[[str], None]) -> None:
        self._playbook = playbook
        self._tell = tell
        self._receivers: list[Receiver] = []
        self._about: dict[str, Any] = {}
        self._release = ""
        self._taken_back = False
        self._sending: list[subprocess.Popen[str]] = []
        self.opened = False

    def open(self, given: Any, **about: Any) -> None:
        """The run was opened: say so. `about` are the fields of `Message` that are known from the start."""
        self.opened = True
        self._receivers, problems = parse(given)
        self._about = about
        for problem in problems:
            self._tell(problem)
        self._send(self._message("start"))

    def heard(self, module: str, result: Mapping[str, Any]) -> None:
        """One result of a module of the collection: which release it is about, and whether it is taken back."""
        named = result.get(_TELLS_RELEASE.get(module, ""))
        if isinstance(named, str) and _RELEASE.fullmatch(named):
            self._release = named
        if module == "decide" and result.get("decision") == "revert":
            self._taken_back = True

    def end(self, ending: Ending) -> None:
        """Say how the run ended, and wait a moment for the receivers."""
        if not self.opened:
            return
        well = ending.outcome == "success"
        back = self._playbook == "rollback" if well else self._taken_back and ending.outcome != "rollback_failed"
        event = "rollback" if back else "success" if well else "failure"
        failed = tuple((failure.host, failure.outcome) for failure in ending.failures)
        self._send(self._message(event, outcome=ending.outcome, failed=failed))
        self._collect()

    def _message(self, event: str, **more: Any) -> Message:
        return Message(event=event, playbook=self._playbook, release=self._release, **self._about, **more)

    def _send(self, message: Message) -> None:
        deliveries = []
        for receiver in self._receivers:
            if message.is_for(receiver):
                try:
                    deliveries.append(delivery(receiver, message))
                except ValueError:  # an address that no header can have
                    self._tell(
                        f"{receiver.name} of mobius_notify was not told of the {message.event}: a header is wrong."
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
                json.dump({"seconds": SECONDS, "deliveries": deliveries}, process.stdin)
            process.stdin = None
        except OSError as error:
            self._tell(f"Nobody was told of the {message.event}: {error.strerror}.")
            return
        self._sending.append(process)

    def _collect(self) -> None:
        told: dict[str, str] = {}
        for process in self._sending:
            try:
                told |= json.loads(process.communicate(timeout=SECONDS + _GRACE)[0])
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                told["a receiver"] = "it did not answer in time"
            except ValueError:
                told["a receiver"] = "the sending process ended early"
        self._sending = []
        for name, problem in told.items():
            self._tell(f"{name} of mobius_notify was not told: {problem}.")
