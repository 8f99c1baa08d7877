# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius-host metrics`: what a host reports to Prometheus, and that it is written in one step."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import durable, metric_table
from ansible_collections.mobius.dhash.plugins.module_utils.errors import MobiusError
from ansible_collections.mobius.dhash.plugins.module_utils.host import lock
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host
from ansible_collections.mobius.dhash.plugins.module_utils.host.executor import Executor
from ansible_collections.mobius.dhash.plugins.module_utils.host.metrics import metrics_page
from ansible_collections.mobius.dhash.plugins.module_utils.host.plan import Actor
from ansible_collections.mobius.dhash.plugins.module_utils.prometheus_text import parse_page

A, B, C = (f"{version}-0123456789ab" for version in ("1.0.0", "1.1.0", "1.2.0"))
NOW = 1_800_000_000.0


def page_of(machine: Any) -> str:
    return metrics_page(Executor(machine.host, Actor("test"), may_rebuild=True), lambda: NOW)


def figures(machine: Any) -> dict[tuple[str, ...], float]:
    """The values by name and labels, without the service's, which all have."""
    values = {}
    for name, labels, value in parse_page(page_of(machine)):
        assert labels["service"] == machine.host.service
        values[(name.removeprefix("mobius_"), *(item for key, item in sorted(labels.items()) if key != "service"))] = (
            value
        )
    return values


def instance_of(machine: Any, release: str) -> Any:
    return next(item for item in machine.systemd.instances.values() if item.release == release)


@pytest.fixture
def metrics_dir(machine: Any) -> Path:
    folder = machine.root / "metrics"
    folder.mkdir()
    machine.config["metrics_dir"] = str(folder)
    durable.write_json(machine.config_path, machine.config)
    machine.host = Host.load(machine.host.service, machine.config_dir)
    return folder


def test_a_host_reports_what_serves_and_since_when(machine: Any) -> None:
    (machine.host.release_dir(B) / "manifest.json").write_text(
        json.dumps({"files": {"a": {"size": 7}, "b": {"size": 5}}})
    )
    machine.promote(A)
    machine.promote(B)
    values = figures(machine)
    assert values["release_info", B, "serving", "1.1.0"] == 1
    assert values["releases_running",] == len(machine.running)
    assert values["release_confirmed_timestamp_seconds", B, "1.1.0"] > 1_600_000_000
    assert values["release_size_bytes", B] == 12
    assert values["instance_healthy", B] == 1
    assert values["host_readable",] == values["front_up",] == 1
    assert values["promotion_pending",] == values["watch_open",] == values["maintenance_active",] == 0
    assert values["switches_total", "run", "confirmed"] == 2
    assert values["switches_total", "watch", "rollback"] == 0, (
        "a series that begins with its first switch shows no increase"
    )
    assert values["switch_timestamp_seconds", "rollback"] == 0
    assert values["host_metrics_timestamp_seconds",] == NOW
    assert values["disk_free_bytes", "releases"] > 0
    assert "host_problems" in {name for name, *_ in values}


def test_a_promotion_shows_with_its_deadline(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B, until="canary")
    values = figures(machine)
    assert values["promotion_pending",] == 1
    assert values["promotion_deadline_timestamp_seconds", B, "canary"] == pytest.approx(NOW + 60, abs=1)
    assert values["releases_running",] == 2
    machine.advance(61)
    overdue = figures(machine)
    assert overdue["promotion_deadline_timestamp_seconds", B, "canary"] == pytest.approx(NOW - 1, abs=1)


def test_an_open_window_shows_with_its_end(machine: Any) -> None:
    machine.watch(600)
    machine.promote(A)
    machine.promote(B)
    values = figures(machine)
    assert values["watch_open",] == 1
    assert values["watch_end_timestamp_seconds", B] == pytest.approx(NOW + 600, abs=1)
    machine.advance(601)
    assert figures(machine)["watch_open",] == 0


def test_a_rollback_is_counted_for_the_one_who_did_it(machine: Any) -> None:
    machine.promote(A)
    machine.promote(B)
    assert machine.command("rollback") == 0
    values = figures(machine)
    assert values["switches_total", "console", "rollback"] == 1
    assert values["switch_timestamp_seconds", "rollback"] > 1_600_000_000
    assert values["releases_bad",] == 1


def test_an_instance_that_is_ill_or_was_restarted_shows(machine: Any) -> None:
    machine.promote(A)
    assert figures(machine)["instance_restarts_total", A] == 0
    instance_of(machine, A).behaviour = "unwell"
    machine.systemd.restarts[A] = 3
    values = figures(machine)
    assert values["instance_healthy", A] == 0
    assert values["instance_restarts_total", A] == 3


def test_problems_are_left_out_while_a_command_is_at_work(machine: Any) -> None:
    machine.promote(A)
    with lock.hold_lock(machine.host, Actor("ansible", "r1")):
        assert ("host_problems",) not in figures(machine)
    assert ("host_problems",) in figures(machine)


@pytest.mark.parametrize("line", ['{"event": []}', '{"event": {"confirmed": 1}, "at": []}', "[]", "{", "\x00"])
def test_a_strange_line_of_the_journal_takes_no_series_with_it(machine: Any, line: str) -> None:
    machine.promote(A)
    with machine.host.journal_path.open("a") as journal:
        journal.write(line + "\n")
    assert figures(machine)["switches_total", "run", "confirmed"] == 1


def test_a_front_that_is_down_shows_and_hides_nothing_else(machine: Any) -> None:
    machine.promote(A)
    machine.systemd.kill_front()
    values = figures(machine)
    assert values["front_up",] == 0
    assert not [name for name in values if name[0] == "front_connections"]
    assert values["switches_total", "run", "confirmed"] == 1


def test_a_lost_record_shows_and_takes_no_series_with_it(machine: Any) -> None:
    machine.promote(A)
    machine.host.activation_path.write_text("{")
    machine.host.activation_copy_path.unlink()
    values = figures(machine)
    assert values["host_readable",] == 0
    assert values["host_metrics_timestamp_seconds",] == NOW


def test_a_host_that_cannot_be_observed_says_so(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.promote(A)

    def refuse(*_: Any) -> Any:
        raise OSError("systemd does not answer")

    monkeypatch.setattr(type(machine.systemd), "units", refuse)
    values = figures(machine)
    assert values["host_readable",] == 0
    assert not [name for name in values if name[0] == "releases_running"]


def test_the_page_is_replaced_in_one_step_and_the_receivers_page_is_linked(machine: Any, metrics_dir: Path) -> None:
    machine.promote(A)
    assert machine.command("metrics") == 0
    [page] = metrics_dir.iterdir()
    assert page.name == f"{machine.host.service}-host.prom" and page.stat().st_mode & 0o777 == 0o644
    machine.host.traffic_page.parent.mkdir(parents=True, exist_ok=True)
    machine.host.traffic_page.write_text("mobius_front_start_time_seconds 1\n")
    assert machine.command("metrics") == 0
    link = metrics_dir / f"{machine.host.service}-front.prom"
    assert os.readlink(link) == str(machine.host.traffic_page)
    machine.host.traffic_page.unlink()
    assert machine.command("metrics") == 0
    assert [path.name for path in metrics_dir.iterdir()] == [page.name], (
        "a link to nothing is an error of the collector"
    )


def test_a_folder_that_is_gone_is_one_sentence(
    machine: Any, metrics_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine.promote(A)
    metrics_dir.rmdir()
    assert machine.command("metrics") == 3
    error = capsys.readouterr().err
    assert str(metrics_dir) in error and "Traceback" not in error


def test_a_folder_that_is_no_absolute_path_is_damage(machine: Any) -> None:
    machine.config["metrics_dir"] = "metrics"
    durable.write_json(machine.config_path, machine.config)
    with pytest.raises(MobiusError, match="metrics_dir is not an absolute path"):
        Host.load(machine.host.service, machine.config_dir)


def test_without_a_folder_it_says_what_to_set(machine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert machine.command("metrics") == 1
    assert "host_metrics_dir" in capsys.readouterr().err
    assert machine.command("metrics", "--show") == 0
    assert "# TYPE mobius_host_readable gauge\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "sample",
    [
        ("mobius_unknown", {}, 1.0),
        ("mobius_front_up", {}, 1.0),
        ("mobius_front_up", {"service": "a", "release": "b"}, 1.0),
        ("mobius_front_whole_seconds", {"service": "a", "release": "b", "source": "c"}, 1.0),
    ],
)
def test_a_page_holds_only_what_the_table_has(sample: metric_table.Sample) -> None:
    with pytest.raises(ValueError, match="not in the table"):
        metric_table.make_page([sample])


def test_a_series_that_is_there_twice_is_refused_since_prometheus_refuses_the_page() -> None:
    with pytest.raises(ValueError, match="twice"):
        metric_table.make_page([("mobius_front_up", {"service": "a"}, 1.0)] * 2)


def test_values_and_labels_are_written_whole() -> None:
    page = metric_table.make_page(
        [
            ("mobius_front_up", {"service": 'a"\\\n'}, 1_764_756_000.123),
            ("mobius_disk_free_bytes", {"service": "a", "folder": "logs"}, 9_876_543_210_987),
        ]
    )
    assert sorted(parse_page(page)) == [
        ("mobius_disk_free_bytes", {"service": "a", "folder": "logs"}, 9_876_543_210_987),
        ("mobius_front_up", {"service": 'a"\\\n'}, 1_764_756_000.123),
    ]
