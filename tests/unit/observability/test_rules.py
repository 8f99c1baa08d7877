# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Every alert fires, is silent, and waits when it has to; and its cases notice a rule that is broken."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.observability.cases import CASES
from tests.unit.observability.promtool import alerts, failure_of

KINDS = {"fires", "quiet", "missing", "limit"}
NEVER = "vector(1) < 0"


def at_its_limit(rule: dict[str, Any]) -> list[dict[str, Any]]:
    """The rule with another comparison, with a limit a little lower, with twice its range, and without its wait."""
    expr = rule["expr"]
    changed = [
        re.sub(r"(>|<) (?!=)", r"\1= ", expr),
        expr.replace("<= ", "< "),
        re.sub(r"[\d.]+(?= \* (scalar|max)\b)", lambda number: f"{float(number[0]) * 0.98:g}", expr),
        re.sub(r"(?<=> )[\d.]+$", lambda number: f"{float(number[0]) * 0.8:g}", expr),
        re.sub(r"(?<=\[)\d+(?=m\])|(?<=offset )\d+", lambda number: str(2 * int(number[0])), expr),
    ]
    return [{"expr": item} for item in changed if item != expr] + [{"for": "0s"}] * ("for" in rule)


def without_exceptions(expr: str) -> str:
    """The expression without its `unless`."""
    simple = re.sub(r"\sunless on \([^)]*\) mobius_\w+(\{[^}]*\})?", "", expr)
    return simple if simple != expr else re.split(r"\sunless ", expr)[0]


def test_every_alert_has_cases_of_every_kind() -> None:
    assert set(CASES) == set(alerts())
    assert {name for name, cases in CASES.items() if {case.kind for case in cases} != KINDS} == set()


@pytest.mark.slow
@pytest.mark.parametrize("alert", CASES)
def test_an_alert_fires_when_it_has_to_and_only_then(alert: str, tmp_path: Path) -> None:
    assert failure_of(tmp_path, alert, CASES[alert]) == ""


@pytest.mark.slow
@pytest.mark.parametrize("alert", CASES)
def test_the_cases_notice_an_alert_that_never_fires(alert: str, tmp_path: Path) -> None:
    cases = [case for case in CASES[alert] if case.kind == "fires"]
    assert "exp:" in failure_of(tmp_path, alert, cases[:1], {"expr": NEVER})


@pytest.mark.slow
@pytest.mark.parametrize("alert", CASES)
def test_the_cases_at_the_limit_notice_another_limit(alert: str, tmp_path: Path) -> None:
    cases = [case for case in CASES[alert] if case.kind == "limit"]
    assert any("exp:" in failure_of(tmp_path, alert, cases, change) for change in at_its_limit(alerts()[alert]))


EXCEPTED = [name for name, rule in alerts().items() if re.search(r"\sunless ", rule["expr"])]


@pytest.mark.slow
@pytest.mark.parametrize("alert", EXCEPTED)
def test_the_cases_notice_a_missing_exception(alert: str, tmp_path: Path) -> None:
    rule = {"expr": without_exceptions(alerts()[alert]["expr"])}
    assert "exp:" in failure_of(tmp_path, alert, CASES[alert], rule)
