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
    """The rule with a limit that is reached one step earlier, without its wait, and with twice its range."""
    expr = rule["expr"]
    doubled = re.sub(r"\[(\d+)m\]|offset (\d+)h", lambda found: _double(found), expr)
    changed = [re.sub(r"(>|<)(?!=) ", r"\1= ", expr), doubled, re.sub(r"14\.4|\b1 \*", "0.9 *", expr)]
    return [{"expr": item} for item in changed if item != expr] + [{"for": "0s"}] * ("for" in rule)


def _double(found: re.Match[str]) -> str:
    return f"[{2 * int(found[1])}m]" if found[1] else f"offset {2 * int(found[2])}h"


def without_exceptions(expr: str) -> str:
    """The expression without its last `unless` and what follows."""
    return re.split(r"\s+unless ", expr)[0]


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
