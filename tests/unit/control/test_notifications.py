# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Notifications: what they say, to whom, and that a receiver cannot hurt a run. The receivers are real, on 127.0.0.1."""

from __future__ import annotations

import http.server
import json
import socket
import socketserver
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from mobius.control.notify.message import Message, make_delivery
from mobius.control.notify.notifier import Notifier
from mobius.control.notify.receivers import Receiver, parse_receivers
from mobius.control.run.outcome import SUCCESS, HostFailure, ending
from tests.receiver import run_server

ABOUT = {"run": "20260131T230501Z-9f3a61c2", "actor": "ada@control", "service": "mobius-dhash", "hosts": 3}
RELEASE = "1.4.0-0123456789ab"
SECRET = "T000-B000-hush"
BAD = ending(
    "golden_mismatch",
    f"lab2 said {SECRET}",
    failures=[HostFailure("lab2", "Ask", "golden_mismatch", f"it said {SECRET}", "", carried=True)],
)


class _Web(http.server.BaseHTTPRequestHandler):
    server: Any

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, self.headers["Content-Type"], json.loads(body)))
        self.send_response(self.server.answer)
        if self.server.answer == 302:
            self.send_header("Location", f"http://127.0.0.1:{self.server.server_port}/elsewhere")
        self.end_headers()

    def do_GET(self) -> None:
        self.server.got.append((self.path, "", None))

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


class WebReceiver(http.server.ThreadingHTTPServer):
    """A webhook; `got` has the path, the content type and the JSON of each request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Web)
        self.got: list[tuple[str, str, Any]] = []
        self.answer = 200

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/services/{SECRET}"


class _Mail(socketserver.StreamRequestHandler):
    server: Any
    answers: ClassVar = {
        b"EHLO": b"250-here\r\n250 AUTH PLAIN",
        b"AUTH": b"235 ok",
        b"DATA": b"354 go on",
        b"QUIT": b"221 bye",
    }

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while line := self.rfile.readline():
            self.server.said.append(line.decode().strip())
            word = line.split()[0].upper()
            self.wfile.write(self.answers.get(word, b"250 ok") + b"\r\n")
            if word == b"DATA":
                letter = b""
                while (part := self.rfile.readline()) != b".\r\n":
                    letter += part
                self.server.letters.append(letter.decode())
                self.wfile.write(b"250 taken\r\n" if not self.server.refuse else b"554 no\r\n")


class MailReceiver(socketserver.ThreadingTCPServer):
    """A mail server; `letters` has what it was sent, `said` the commands."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Mail)
        self.letters: list[str] = []
        self.said: list[str] = []
        self.refuse = False

    def entry(self, **more: Any) -> dict[str, Any]:
        location = {"host": "127.0.0.1", "port": self.server_address[1], "tls": "none"}
        return {"kind": "email", "sender": "mobius@example.org", "to": ["ops@example.org"], **location, **more}


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def web() -> Iterator[WebReceiver]:
    with run_server(WebReceiver()) as server:
        yield server


@pytest.fixture
def mail() -> Iterator[MailReceiver]:
    with run_server(MailReceiver()) as server:
        yield server


def whole_run(arguments: Any, end: Any = SUCCESS, *, playbook: str = "release", back: bool = False) -> list[str]:
    """Open a run, let it hear of a release, and end it; the warnings."""
    warnings: list[str] = []
    notifier = Notifier(playbook, warnings.append)
    notifier.open(arguments, **ABOUT)
    notifier.take("mobius.dhash.bundle_info", {"release": RELEASE})
    notifier.take("mobius.dhash.decide", {"decision": "revert" if back else "confirm"})
    notifier.end(end)
    return warnings


# --- What is said -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_slack_gets_the_start_and_the_success_in_its_form(web: WebReceiver) -> None:
    assert whole_run([{"kind": "slack", "url": web.url}]) == []
    (path, kind, start), (_, _, end) = sorted(web.got, key=lambda got: got[2]["text"], reverse=True)
    assert (path, kind) == (f"/services/{SECRET}", "application/json")
    assert start["text"] == "Started: release mobius-dhash"
    assert end["text"] == f"Done: release mobius-dhash {RELEASE}"
    heading, fields = end["blocks"]
    assert heading == {"type": "section", "text": {"type": "mrkdwn", "text": f"*{end['text']}*"}}
    assert {"type": "mrkdwn", "text": "*outcome*\nsuccess (exit code 0)"} in fields["fields"]
    assert {"type": "mrkdwn", "text": "*actor*\nada@control"} in fields["fields"]


def test_teams_gets_an_adaptive_card_that_says_what_failed_and_what_to_do(web: WebReceiver) -> None:
    assert whole_run([{"kind": "teams", "url": web.url, "events": ["failure"]}], BAD) == []
    ((_, _, output),) = web.got
    (attachment,) = output["attachments"]
    assert (output["type"], attachment["contentType"]) == ("message", "application/vnd.microsoft.card.adaptive")
    card = attachment["content"]
    assert (card["type"], card["version"]) == ("AdaptiveCard", "1.4")
    headline, facts, advice = card["body"]
    assert headline["text"] == f"Failed: release mobius-dhash {RELEASE} (golden_mismatch)"
    assert headline["color"] == "Attention"
    values = {fact["title"]: fact["value"] for fact in facts["facts"]}
    assert values["outcome"] == "golden_mismatch (exit code 2, team QA)"
    assert values["failed"] == "lab2 golden_mismatch"
    assert advice["text"].startswith("Do not promote it")


@pytest.mark.slow
def test_mail_goes_through_a_real_conversation_with_a_password(mail: MailReceiver) -> None:
    entry = mail.entry(events=["success"], user="mobius", password=SECRET)
    assert whole_run([entry]) == []
    assert any(line.startswith("AUTH PLAIN ") for line in mail.said)
    (letter,) = mail.letters
    assert f"Subject: [mobius] Done: release mobius-dhash {RELEASE}\r\n" in letter
    assert "To: ops@example.org\r\n" in letter
    assert "\r\nrelease     1.4.0-0123456789ab\r\n" in letter
    assert SECRET not in letter


@pytest.mark.parametrize(
    ("playbook", "end", "back", "headline"),
    [
        ("rollback", SUCCESS, False, f"Rolled back: rollback mobius-dhash {RELEASE}"),
        ("release", ending("rolled_back", "x"), True, f"Reverted: release mobius-dhash {RELEASE} (rolled_back)"),
        ("release", ending("rollback_failed", "x"), True, None),
        ("release", BAD, False, None),
        ("release", SUCCESS, False, None),
    ],
)
def test_a_receiver_of_rollbacks_gets_them_and_nothing_else(
    web: WebReceiver, playbook: str, end: Any, back: bool, headline: str | None
) -> None:
    assert whole_run([{"kind": "slack", "url": web.url, "events": "rollback"}], end, playbook=playbook, back=back) == []
    assert [output["text"] for _, _, output in web.got] == ([headline] if headline else [])


def test_no_text_of_a_task_is_sent_and_names_become_no_mentions() -> None:
    message = Message("failure", playbook="release", outcome="golden_mismatch", **{**ABOUT, "actor": "<!channel> & co"})
    output = json.loads(make_delivery(Receiver("slack", "it"), message)["body"])
    assert {"type": "mrkdwn", "text": "*actor*\n&lt;!channel&gt; &amp; co"} in output["blocks"][1]["fields"]
    card = json.loads(make_delivery(Receiver("teams", "it"), message)["body"])
    assert {"title": "actor", "value": "<!channel> & co"} in card["attachments"][0]["content"]["body"][1]["facts"]


@pytest.mark.slow
def test_a_reason_that_a_task_gave_goes_to_nobody(web: WebReceiver, mail: MailReceiver) -> None:
    assert whole_run([{"kind": kind, "url": web.url} for kind in ("slack", "teams")] + [mail.entry()], BAD) == []
    assert len(web.got) == 4
    assert len(mail.letters) == 2
    assert SECRET not in json.dumps([output for _, _, output in web.got]) + "".join(mail.letters)


@pytest.mark.slow
def test_a_playbook_that_is_not_subscribed_sends_nothing(web: WebReceiver) -> None:
    assert whole_run([{"kind": "slack", "url": web.url}], playbook="backup") == []
    assert web.got == []
    assert whole_run([{"kind": "slack", "url": web.url, "playbooks": ["backup"]}], playbook="backup") == []
    assert len(web.got) == 2


# --- Receivers that fail ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_receiver_that_answers_badly_or_refuses_is_one_warning_without_its_address(
    web: WebReceiver, mail: MailReceiver
) -> None:
    web.answer, mail.refuse = 500, True
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        warnings = whole_run(
            [
                {"kind": "slack", "name": "team", "url": web.url},
                {"kind": "teams", "url": f"http://127.0.0.1:{port}/{SECRET}"},
                mail.entry(user="mobius", password=SECRET),
            ]
        )
    assert sorted(warnings) == [
        "email 3 of mobius_notify got no message: it answered 554.",
        "team of mobius_notify got no message: it answered 500.",
        "teams 2 of mobius_notify got no message: connection refused.",
    ]


@pytest.mark.slow
def test_a_redirect_is_not_followed(web: WebReceiver) -> None:
    web.answer = 302
    assert whole_run([{"kind": "slack", "url": web.url, "events": ["success"]}]) == [
        "slack 1 of mobius_notify got no message: it answered 302."
    ]
    assert len(web.got) == 1


@pytest.mark.slow
def test_receivers_that_hang_hold_up_neither_the_start_nor_the_others(web: WebReceiver) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)  # connects, and never hears an answer
        warnings: list[str] = []
        notifier = Notifier("release", warnings.append)
        hanging = f"http://127.0.0.1:{silent.getsockname()[1]}/{SECRET}"
        mail = {"kind": "email", "host": "127.0.0.1", "port": silent.getsockname()[1], "tls": "none"}
        notifier.open(
            [
                {"kind": "slack", "url": hanging},
                {**mail, "sender": "a@example.org", "to": "b@example.org"},
                {"kind": "teams", "url": web.url},
            ],
            **ABOUT,
        )
        assert warnings == []
        notifier.end(SUCCESS)
    assert sorted(warnings) == [
        "email 2 of mobius_notify got no message: it did not answer in time.",
        "slack 1 of mobius_notify got no message: it did not answer in time.",
    ]
    assert len(web.got) == 2


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("slack", "its kind is none of slack, teams, email"),
        ({"kind": "pigeon"}, "its kind is none of slack, teams, email"),
        ({"kind": "slack", "url": f"file:///{SECRET}"}, "its url is none of http or https"),
        ({"kind": "slack"}, "its url is none of http or https"),
        ({"kind": "slack", "url": "https://example.org", "webhook": SECRET}, "slack has no webhook"),
        ({"kind": "slack", "url": "https://example.org", "events": ["win"]}, "its events are not among start, "),
        ({"kind": "email", "to": "a@example.org"}, "email needs host, port, sender and to"),
        (
            {"kind": "email", "host": "mail.example.org", "sender": "a@b", "to": "c@d", "tls": "none", "user": "u"},
            "a password would go through the network in the clear",
        ),
    ],
)
def test_an_entry_that_cannot_be_used_is_named_without_its_values(entry: Any, problem: str) -> None:
    receivers, problems = parse_receivers([entry, {"kind": "slack", "url": "https://example.org/x"}])
    assert [receiver.kind for receiver in receivers] == ["slack"]
    assert problems[0].startswith(f"Entry 1 of mobius_notify is not used: {problem}")
    assert SECRET not in problems[0]


def test_a_receiver_does_not_show_what_is_secret() -> None:
    (receiver,), _ = parse_receivers([{"kind": "slack", "url": f"https://example.org/{SECRET}"}])
    assert SECRET not in repr(receiver)
