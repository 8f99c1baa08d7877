# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Runs cases of an alert through `promtool test rules`."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

CHECKOUT = Path(__file__).resolve().parents[3]
RULES = CHECKOUT / "mobius/observability/rules.yml"
HOST_LABELS = 'instance="web1", service="shop"'


@dataclass(frozen=True)
class Case:
    """What Prometheus has, and whether the alert fires from it.

    Attributes:
        kind: "fires", "quiet", "missing" (series that the rule needs are not there) or "limit".
        series: values in promtool's notation, by metric with its labels beside `instance` and `service`.
        at: the time of the check; the first sample is from 0.
        summaries: those of the firing alerts, by their labels beside `severity` and `team`; none when it is silent.
        interval: of the samples and the evaluation.
    """

    kind: str
    series: Mapping[str, str]
    at: str
    summaries: Mapping[str, str] = field(default_factory=dict)
    interval: str = "1m"


def groups() -> list[dict[str, Any]]:
    """The groups of the file of rules."""
    content: dict[str, list[dict[str, Any]]] = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return content["groups"]


def alerts() -> dict[str, dict[str, Any]]:
    """Every alert by its name."""
    return {rule["alert"]: rule for group in groups() for rule in group["rules"] if "alert" in rule}


def full_name(series: str) -> str:
    """A series with the labels of a host; those that it names itself stay."""
    name, _, labels = series.rstrip("}").partition("{")
    return f"{name}{{{', '.join(part for part in (HOST_LABELS, labels) if part)}}}"


def labels_of(text: str) -> dict[str, str]:
    return dict(re.findall(r'(\w+)="([^"]*)"', text))


def failure_of(folder: Path, alert: str, cases: Sequence[Case], rule: Mapping[str, Any] | None = None) -> str:
    """What promtool reports of an alert's cases; empty when all of them are as expected.

    Args:
        rule: replaces what the alert evaluates and how long it waits.
    """
    group = next(group for group in groups() if alert in [rule.get("alert") for rule in group["rules"]])
    original = alerts()[alert]
    kept = [item for item in group["rules"] if "record" in item]
    (folder / "rules.yml").write_text(
        yaml.safe_dump({"groups": [{"name": group["name"], "rules": [*kept, {**original, **(rule or {})}]}]})
    )
    fixed = original["labels"]
    tests = [
        {
            "name": case.kind,
            "interval": case.interval,
            "input_series": [{"series": full_name(name), "values": values} for name, values in case.series.items()],
            "alert_rule_test": [
                {
                    "alertname": alert,
                    "eval_time": case.at,
                    "exp_alerts": [
                        {
                            "exp_labels": {**fixed, **labels_of(labels)},
                            "exp_annotations": {**original["annotations"], "summary": summary},
                        }
                        for labels, summary in case.summaries.items()
                    ],
                }
            ],
        }
        for case in cases
    ]
    content = {"rule_files": ["rules.yml"], "evaluation_interval": cases[0].interval, "tests": tests}
    (folder / "test.yml").write_text(yaml.safe_dump(content))
    promtool = shutil.which("promtool")
    assert promtool is not None, "promtool is missing; run `make setup`"
    done = subprocess.run(
        [promtool, "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr
