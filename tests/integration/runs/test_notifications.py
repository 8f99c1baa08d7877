# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A playbook's run tells its receivers, changes nothing in its outcome when they fail, and keeps their secrets."""

from __future__ import annotations

import http.server
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.receiver import run_server

SECRET = "B000-hush-hush"
PLAY = """
- hosts: here
  vars:
    mobius_service: svc
    token: B000-hush-hush
    mobius_notify:
      - {{kind: slack, url: "http://127.0.0.1:{port}/{{{{ token }}}}", playbooks: [playbook]}}
  tasks:
    - mobius.dhash.run:
    - name: Refuse
      mobius.dhash.failure: {{outcome: disk_full, reason: "No space for B000-hush-hush."}}
      when: {fails} and inventory_hostname == 'here2'
"""


class _Web(http.server.BaseHTTPRequestHandler):
    server: Any

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers["Content-Length"])).decode()
        self.server.got.append((self.path, json.loads(text)["text"], text))
        self.send_response(self.server.answer)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Stay silent."""


class Receiver(http.server.ThreadingHTTPServer):
    answer = 200

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Web)
        self.got: list[tuple[str, str, str]] = []


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with run_server(Receiver()) as server:
        yield server


def texts(receiver: Receiver) -> list[str]:
    return sorted(text for _, text, _ in receiver.got)


def everything_under(folder: Path) -> str:
    return "".join(path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file())


def test_one_run_sends_its_start_and_its_failure_once_and_no_secret(run, receiver, tmp_path) -> None:
    summary = run(PLAY.format(port=receiver.server_port, fails="true"), verbosity=3)
    assert summary.ending.outcome == "disk_full"
    assert texts(receiver) == ["Failed: playbook svc (disk_full)", "Started: playbook svc"]
    assert {path for path, _, _ in receiver.got} == {f"/{SECRET}"}
    sent = "".join(text for _, _, text in receiver.got)
    assert "here2 disk_full" in sent
    assert SECRET not in sent
    assert SECRET not in everything_under(tmp_path / "history")
    assert not [line for line in run.lines if SECRET in line and "No space for" not in line]


def test_a_check_run_sends_nothing(run, receiver) -> None:
    assert run(PLAY.format(port=receiver.server_port, fails="false"), check=True).ending.outcome == "success"
    assert receiver.got == []


@pytest.mark.parametrize("broken", ["answers 500", "is gone"])
def test_a_receiver_that_fails_changes_nothing_but_a_warning(run, receiver, broken: str) -> None:
    receiver.answer = 500
    port = receiver.server_port if broken == "answers 500" else 9
    summary = run(PLAY.format(port=port, fails="false"))
    assert (summary.ending.outcome, summary.ending.code) == ("success", 0)
    messages = " ".join(" ".join(run.lines).split())
    assert "slack 1 of mobius_notify got no message: " in messages
    assert SECRET not in messages


def test_a_setting_that_cannot_be_read_is_a_warning(run) -> None:
    play = PLAY.format(port=9, fails="false").replace("{{ token }}", "{{ nothing_sets_this }}")
    assert run(play).ending.outcome == "success"
    assert "mobius_notify cannot be read" in " ".join(" ".join(run.lines).split())
