# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Alerts, their runbooks, the teams and the table of metrics belong together."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mobius.errors import TEAMS, ExitCode
from mobius.metric_table import HISTOGRAM, METRICS
from tests.contract.test_commands_named import PARSERS, missing_in

CHECKOUT = Path(__file__).resolve().parents[2]
FILE = CHECKOUT / "mobius/observability/rules.yml"
RUNBOOKS = CHECKOUT / "docs/runbooks"
ITEMS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load(FILE.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in ITEMS if "alert" in rule}
RECORDED = {rule["record"] for rule in ITEMS if "record" in rule}
URL = "https://github.com/mobius/mobius/blob/main/docs/runbooks/{}.md"
HEADINGS = ["What it means", "How bad is it?", "How do I check?", "What do I do?", "Who?"]
OTHER_PROGRAMS = {"journalctl", "systemctl", "df"}

SERIES = {
    f"{name}{suffix}"
    for name, metric in METRICS.items()
    for suffix in (("_bucket", "_count", "_sum") if metric.kind == HISTOGRAM else ("",))
}


def unknown_labels(expr: str) -> list[str]:
    """`metric{label}` for each label in a selector that the table does not have for its metric."""
    found = []
    for name, selector in re.findall(r"\b(mobius_\w+)\{([^}]*)\}", expr):
        metric = METRICS.get(name) or METRICS[re.sub(r"_(bucket|count|sum)$", "", name)]
        found += [f"{name}{{{label}}}" for label in re.findall(r"(\w+)=", selector) if label not in metric.labels]
    return found


def commands(alert: str) -> list[str]:
    """The command lines of a runbook."""
    text = (RUNBOOKS / f"{alert}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


def test_promtool_accepts_the_rules() -> None:
    done = subprocess.run(["promtool", "check", "rules", str(FILE)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("rule", ITEMS, ids=lambda rule: rule.get("alert") or rule["record"])
def test_every_metric_of_a_rule_is_in_the_table_with_its_labels(rule: dict[str, Any]) -> None:
    names = set(re.findall(r"(?<![\w:])[a-z_]*:[\w:]+|\bmobius_\w+", rule["expr"]))
    assert {name for name in names if ":" in name} <= RECORDED
    assert {name for name in names if ":" not in name} <= SERIES
    assert unknown_labels(rule["expr"]) == []


def test_a_label_that_a_metric_does_not_have_is_reported() -> None:
    assert unknown_labels('mobius_front_up{release="1"} == 0') == ["mobius_front_up{release}"]
    assert unknown_labels('mobius_front_response_seconds_bucket{source="public"}') == []


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_team_a_severity_one_sentence_and_its_page(alert: str) -> None:
    labels, notes = ALERTS[alert]["labels"], ALERTS[alert]["annotations"]
    assert set(labels) == {"severity", "team"}
    assert labels["severity"] in ("critical", "warning")
    assert labels["team"] in {team for code, team in TEAMS.items() if code is not ExitCode.SUCCESS}
    assert set(notes) == {"summary", "runbook_url"}
    assert re.fullmatch(r"[^\n]+\.", notes["summary"])
    assert not re.search(r"[.!?] [A-Z]", notes["summary"])
    assert notes["runbook_url"] == URL.format(alert)


def test_every_team_gets_an_alert() -> None:
    assert {rule["labels"]["team"] for rule in ALERTS.values()} == set(TEAMS.values()) - {TEAMS[ExitCode.SUCCESS]}


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    assert {path.stem for path in RUNBOOKS.iterdir()} == set(ALERTS)


@pytest.mark.parametrize("alert", ALERTS)
def test_a_runbook_has_every_part_and_names_the_team(alert: str) -> None:
    text = (RUNBOOKS / f"{alert}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {alert}\n")
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    parts = re.split(r"^## .+$", text, flags=re.MULTILINE)[1:]
    assert all(part.strip() for part in parts)
    assert parts[1].strip().lower().startswith(ALERTS[alert]["labels"]["severity"])
    assert all("```sh" in part for part in parts[2:4])
    assert parts[4].strip().startswith(f"{ALERTS[alert]['labels']['team']}. ")


@pytest.mark.parametrize("alert", ALERTS)
def test_every_command_of_a_runbook_exists(alert: str) -> None:
    lines = commands(alert)
    programs = {line.split()[0] for line in lines}
    assert programs <= {"mobius", *PARSERS} | OTHER_PROGRAMS
    ours = [line for line in lines if line.split()[0] not in OTHER_PROGRAMS]
    text = (RUNBOOKS / f"{alert}.md").read_text(encoding="utf-8")
    named = [*ours, *re.findall(r"`(mobius(?:-host|-backup)?(?: [^`\n]*)?)`", text)]
    assert {line: name for line in named if (name := missing_in(line))} == {}


@pytest.mark.parametrize("alert", ALERTS)
def test_every_variable_of_a_runbook_is_one_of_a_role(alert: str) -> None:
    defaults = "".join(path.read_text(encoding="utf-8") for path in CHECKOUT.glob("roles/*/defaults/main.yml"))
    text = (RUNBOOKS / f"{alert}.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:host|backup|deploy|promote)_\w+)`", text):
        assert re.search(rf"^{name}:", defaults, re.MULTILINE), name
