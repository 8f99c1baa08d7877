# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The marker `root`, and beside each JUnit report on which commit it was made, for `mobius pr`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tools.evidence import checkout_state, record

_BEFORE = pytest.StashKey[dict[str, Any]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip for an ordinary user what only root may do. `make test` as root and the job `debian` of CI run all of it."""
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        return
    for item in items:
        if marker := item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason=str(marker.args[0])))


def pytest_configure(config: pytest.Config) -> None:
    if config.option.xmlpath and not hasattr(config, "workerinput"):
        config.stash[_BEFORE] = checkout_state()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    config = session.config
    if _BEFORE not in config.stash:
        return
    stats = config.pluginmanager.get_plugin("terminalreporter").stats  # type: ignore[union-attr]
    counts = {
        "passed": len(stats.get("passed", [])),
        "failed": len(stats.get("failed", [])) + len(stats.get("error", [])),
        "skipped": len(stats.get("skipped", [])),
    }
    path = Path(config.option.xmlpath)
    evidence = path.with_name(f"{path.stem}.evidence.json")
    record(evidence, config.stash[_BEFORE], exit_code=int(exitstatus), **counts)
