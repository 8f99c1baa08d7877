# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Drills: which unit is started on what, what counts as an answer, what is records, and that nothing is left behind.

The instance is a real HTTP server on the drill's own port; only systemd is a stand-in.
"""

from __future__ import annotations

import dataclasses
import http.server
import json
import re
import socketserver
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable
from ansible_collections.mobius.dhash.plugins.module_utils.backup import drill, drill_instance
from ansible_collections.mobius.dhash.plugins.module_utils.backup.drill import (
    DrillResult,
    read_records,
    require_recent,
    run_drill,
)
from ansible_collections.mobius.dhash.plugins.module_utils.backup.drill_instance import DrillChecks
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import find_backup
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.state import Activation, ActivationEntry
from ansible_collections.mobius.dhash.plugins.module_utils.host.systemd import Systemd, Unit

from tests.backups import back_up, everything, flip, touch_state

RELEASE = "1.0.0-0123456789ab"
UNIT = """
# /etc/systemd/system/svc@.service
[Unit]
Description=svc %i
[Service]
Type=exec
RuntimeDirectory=svc/%i
CacheDirectory=svc/%i
ExecStartPre=+/usr/local/bin/mobius-host --service svc role %i --env-file {run}/%i/role.env
EnvironmentFile=-{run}/%i/role.env
Environment="MOBIUS_INDEX=/somewhere"
ExecStart=/usr/bin/python3 \\
  -m mobius.service
ExecStartPost=+/usr/local/bin/mobius-host --service svc ready %i
ExecStop=+/usr/local/bin/mobius-host --service svc drain %i
Restart=always
RestartSec=1
# /etc/systemd/system/svc@.service.d/local.conf
[Service]
NoNewPrivileges=yes
"""
COUNT = {
    "database": "index/library.sqlite",
    "query": "SELECT count(*) FROM images",
    "path": "/figures",
    "key": "images",
}


class Stage(Systemd):
    """systemd's part: it knows the release's unit, and starts `answers` at the drill's address."""

    def __init__(self, host: Host, answers: dict[str, Any] | None) -> None:
        self.host = host
        self.answers = answers
        self.started: list[str] = []
        self.bound_files: dict[str, Any] = {}
        self.state = ""  # in the file that the instance reads it from
        self.server: socketserver.BaseServer | None = None

    def run_checked(self, *arguments: str, timeout: float = 30.0) -> str:
        if arguments[:2] == ("systemctl", "cat"):
            assert arguments[2] == f"svc@{RELEASE}.service"
            return UNIT.format(run=self.host.run_dir)
        if arguments[:2] == ("systemctl", "stop") and self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.server = None
        return ""

    def units(self, *patterns: str) -> dict[str, Unit]:
        return {name: Unit(name, "active", "", "", "") for name in patterns if self.server is not None}

    def log(self, unit: str, lines: int = 20) -> list[str]:
        return ["the last words"]

    def start(self, unit: str, timeout: float) -> bool:
        self.started.append(unit)
        template = instance_of(self.host).template.read_text()
        bound = dict(
            reversed(line.removeprefix("BindPaths=").split(":"))
            for line in template.splitlines()
            if line.startswith("BindPaths=")
        )
        self.bound_files = {name: everything(Path(source)) for name, source in bound.items() if Path(source).exists()}
        if self.answers is None:
            return False
        run_dir = instance_of(self.host).run_dir
        (run_dir / RELEASE).mkdir(parents=True)
        environment = dict(re.findall(r'^Environment="(\w+)=(.*)"$', template, re.MULTILINE))
        assert environment["MOBIUS_STATE_FILE"] == str(self.host.state_file(RELEASE)), "bound over the drill's"
        self.state = (run_dir / "states" / RELEASE).read_text()
        self.server = serve((environment["HOST"], int(environment["PORT"])), self.answers)
        return True


def serve(address: tuple[str, int], answers: dict[str, Any]) -> socketserver.BaseServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path, (404, {}))
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(address, Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(autouse=True)
def one_release(host: Host, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A host that serves RELEASE; whoever runs the tests owns everything."""
    entry = ActivationEntry(RELEASE, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", False, None, None)
    activation = Activation("svc", 1, RELEASE, (entry,))
    durable.write_json(host.activation_path, activation.as_dict())
    host.release_dir(RELEASE).mkdir(parents=True)
    (host.release_dir(RELEASE) / "release.json").write_text("{}")
    monkeypatch.setattr(drill, "staged_releases", lambda host: [RELEASE])
    monkeypatch.setattr(drill_instance, "UNITS_DIR", host.root.parent / "units")
    monkeypatch.setattr(drill_instance, "unit_text", lambda *arguments: unit_text(*arguments))
    yield


def instance_of(host: Host) -> drill_instance.DrillInstance:
    return drill_instance.DrillInstance(host, Systemd())


REAL_UNIT_TEXT = drill_instance.unit_text


def unit_text(text: str, host: Host, folder: Path, run_dir: Path, environment: dict[str, str]) -> str:
    """The drill's unit of a host whose run folder is, unlike a real one's, not below /run."""
    below_run = dataclasses.replace(host, run_dir=Path("/run") / host.run_dir.name)
    text = text.replace(str(host.run_dir), str(below_run.run_dir))
    return REAL_UNIT_TEXT(text, below_run, folder, Path("/run") / run_dir.name, environment)


def healthy_answers(images: int = 1) -> dict[str, Any]:
    return {
        "/health": (200, {"status": "pass", "releaseId": RELEASE}),
        "/v1/duplicates": (200, {"groups": []}),
        "/figures": (200, {"images": images}),
    }


def drill_with(host: Host, answers: dict[str, Any] | None, **options: Any) -> tuple[DrillResult, Stage]:
    stage = Stage(host, answers)
    questions = DrillChecks.parse({"SHOP_DRILL": "yes"}, [{"name": "the index", "path": "/v1/duplicates"}], COUNT)
    return run_drill(host, questions, systemd=stage, **options), stage


def live(host: Host) -> dict[str, Any]:
    """Everything there is but for what a drill records, and the lock that every backup uses."""
    known = (".svc-drills.json", ".svc.lock", "units", str(host.backup_dir))
    return {name: value for name, value in everything(host.root.parent).items() if not name.endswith(known)}


@pytest.mark.slow
def test_a_drill_runs_the_release_on_the_restored_folders_records_it_and_leaves_nothing(host):
    result = back_up(host)
    touch_state(host)
    before = live(host)
    done, stage = drill_with(host, healthy_answers())
    assert (done.backup.id, done.release, done.counted) == (result.backup.id, RELEASE, 1)
    assert stage.state == "standby\n"
    assert stage.started == [f"svc-drill@{RELEASE}.service"]
    assert any(name.endswith("library/a.jpg") for name in stage.bound_files[str(host.state_dir)])
    assert live(host) == before
    assert not list((host.root.parent / "units").iterdir())
    records = read_records(host)
    assert records["success"] == records["last"]
    assert (records["success"]["backup"], records["success"]["outcome"]) == (result.backup.id, "success")


def test_the_drills_unit_is_the_releases_own_without_what_ties_it_to_the_live_host(host):
    text = unit_text(
        UNIT.format(run=host.run_dir),
        host,
        Path("/folder"),
        instance_of(host).run_dir,
        {"MOBIUS_STATE_FILE": "/state", "A": '5%"\\'},
    )
    assert not any(word in text for word in ("Sockets", "svc/%i", "role.env", "mobius-host", "always", "Cache"))
    lines = text.splitlines()
    assert {"NoNewPrivileges=yes", 'Environment="MOBIUS_INDEX=/somewhere"', "Restart=no"} <= set(lines)
    assert "ExecStart=/usr/bin/python3    -m mobius.service" in lines
    assert f"BindPaths=/folder/data/state:{host.state_dir}" in lines
    assert f"RuntimeDirectory={host.run_dir.name}-drill/%i" in lines
    assert lines.index('Environment="MOBIUS_STATE_FILE=/state"') > lines.index('Environment="MOBIUS_INDEX=/somewhere"')
    assert 'Environment="A=5%%\\"\\\\"' in lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "outcome", "word"),
    [
        ({"/health": (503, {"status": "fail"})}, "instance_not_ready", "was not ready after 0.3 s"),
        (
            {"/health": (200, {"status": "pass", "releaseId": "2.0.0-0123456789ab"})},
            "drill_failed",
            "its health is that of '2.0.0-0123456789ab'",
        ),
        ({"/v1/duplicates": (500, {})}, "drill_failed", "'the index' failed: status is 500, expected 200"),
        ({"/figures": (200, {"images": 0})}, "drill_failed", "holds 1, and the instance reports 0"),
        ({"/figures": (500, {})}, "drill_failed", "holds 1, and the instance reports none"),
    ],
)
def test_an_instance_that_does_not_answer_from_the_backup_fails_the_drill(host, change, outcome, word):
    back_up(host)
    before = live(host)
    object.__setattr__(host, "start_timeout", 0.3)
    with pytest.raises(MobiusError) as caught:
        drill_with(host, {**healthy_answers(), **change})
    assert caught.value.outcome == outcome
    assert word in caught.value.reason.lower()
    assert live(host) == before
    records = read_records(host)
    assert "success" not in records
    assert records["last"]["outcome"] == outcome


@pytest.mark.slow
def test_a_release_that_does_not_start_fails_the_drill_with_its_last_line_and_keeps_the_last_success(host):
    back_up(host)
    drill_with(host, healthy_answers())
    good = read_records(host)["success"]
    with pytest.raises(MobiusError, match="the last words"):
        drill_with(host, None)
    assert read_records(host)["success"] == good
    assert read_records(host)["last"]["outcome"] == "drill_failed"


def test_a_damaged_backup_fails_the_drill_before_anything_is_started(host):
    flip(back_up(host).backup.path, 3000)
    stage = Stage(host, healthy_answers())
    with pytest.raises(MobiusError) as caught:
        run_drill(host, DrillChecks.parse({}, [], None), systemd=stage)
    assert caught.value.outcome == "backup_damaged"
    assert stage.started == []


@pytest.mark.slow
def test_a_backup_of_a_damaged_database_is_marked_by_the_drill_and_the_one_before_is_the_latest(host):
    good = back_up(host).backup
    index = host.state_dir / "index/library.sqlite"
    index.write_bytes(bytes(100) + index.read_bytes()[100:])
    bad = back_up(host).backup  # no database was declared, so nothing could be known
    assert find_backup(host, "latest").id == bad.id
    with pytest.raises(MobiusError, match="made of damaged data") as caught:
        drill_with(host, healthy_answers())
    assert caught.value.outcome == "source_damaged"
    assert read_records(host)["last"]["outcome"] == "source_damaged"
    assert find_backup(host, "latest").id == good.id
    assert drill_with(host, healthy_answers())[0].backup.id == good.id


def test_check_mode_names_backup_and_release_and_changes_nothing(host):
    result = back_up(host)
    before = everything(host.root.parent)
    done, stage = drill_with(host, healthy_answers(), check_mode=True)
    assert (done.backup.id, done.release, stage.started) == (result.backup.id, RELEASE, [])
    assert everything(host.root.parent) == before


def test_a_host_without_any_release_verifies_the_data_alone(host, monkeypatch):
    monkeypatch.setattr(drill, "staged_releases", lambda host: [])
    back_up(host)
    done, stage = drill_with(host, healthy_answers())
    assert (done.release, done.counted, stage.started) == (None, 1, [])
    assert done.files > 3


def test_what_a_killed_drill_left_is_removed_by_the_next_one(host):
    back_up(host)
    before = live(host)
    left = host.state_dir.parent / f"{drill.folder_prefix(host)}abcdefgh"
    (left / "data").mkdir(parents=True)
    drill_instance.UNITS_DIR.mkdir()
    instance_of(host).template.write_text("[Service]\n")
    instance_of(host).run_dir.mkdir(parents=True)
    drill_with(host, healthy_answers())
    assert live(host) == before


@pytest.mark.slow
def test_a_host_that_serves_is_refused_when_its_last_good_drill_is_too_old_or_there_was_none(host):
    with pytest.raises(MobiusError, match="ever succeeded") as caught:
        require_recent(host, 7)
    assert caught.value.outcome == "drill_outdated"
    back_up(host)
    drill_with(host, healthy_answers())
    now = datetime.now(UTC)
    assert require_recent(host, 7, lambda: now + timedelta(days=6.9))
    with pytest.raises(MobiusError, match=r"7\.1 days ago, and 7 are allowed"):
        require_recent(host, 7, lambda: now + timedelta(days=7.1))


def test_a_first_install_needs_no_drill(host):
    durable.write_json(host.activation_path, Activation("svc").as_dict())
    assert require_recent(host, 7) is None


@pytest.mark.parametrize("name", ["A B", "a", "A=B", "A\n"])
def test_an_environment_that_no_unit_can_carry_is_refused(name):
    with pytest.raises(MobiusError, match="no unit can carry"):
        DrillChecks.parse({name: "x"}, [], None)
