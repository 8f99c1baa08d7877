# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The smoke test against running instances, found by their process: correct ones pass, and each kind of damage is found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.integration.service.conftest import ServiceHost

OLD = "1.0.0-aaaaaaaaaaaa"
ROOT = Path(__file__).parents[3]


def production(folder: Path) -> dict[str, str]:
    return {
        "environment": "production", "log_file": str(folder / "logs" / f"{OLD}.log"),
        "log_level": "INFO", "index": str(folder / "index.sqlite"),
    }  # fmt: skip


def smoke(host: ServiceHost, *topics: str) -> tuple[int, dict[str, Any], dict[str, dict[str, Any]]]:
    """Exit code, report, and its checks by name."""
    command = [sys.executable, "-m", "mobius.service.smoke", *topics, "--public", f"127.0.0.1:{host.port}"]
    command += ["--pid", str(host.instances[-1].process.pid)]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    report = json.loads(done.stdout)
    return done.returncode, report, {check["name"]: check for check in report["checks"]}


def test_a_correct_installation_passes_and_the_report_has_the_observed_values(
    host: ServiceHost, tmp_path: Path
) -> None:
    host.start(OLD, **production(tmp_path))
    code, report, checks = smoke(host)
    assert [check for check in report["checks"] if not check["ok"]] == []
    assert (code, report["release"], report["failed"]) == (0, OLD, 0)
    assert {check["topic"] for check in report["checks"]} == {"service", "logging"}
    assert all(check["seen"] for check in report["checks"])
    for name in (
        "health check hash:golden", "the built-in picture hashes to its bits (exact)", "writing without a token is refused",
        "a request is in the log with its request id", "lines that do not fit on the disk are counted",
        "an uncaught exception is logged, with its trace", "rotation (rehearsed with small files): ten, none too long",
    ):  # fmt: skip
        assert name in checks
    assert {check["topic"] for check in smoke(host, "logging")[1]["checks"]} == {"logging"}


@pytest.mark.parametrize(
    ("damage", "name"),
    [
        ({"environment": "development"}, "it runs in production mode"),
        ({"log_level": "WARNING"}, "a request is in the log with its request id"),
        ({"writes": "open"}, "writing without a token is refused"),
    ],
)
def test_a_wrong_setting_is_found(host: ServiceHost, tmp_path: Path, damage: dict[str, str], name: str) -> None:
    host.start(OLD, **{**production(tmp_path), **damage})
    code, _, checks = smoke(host)
    assert (code, checks[name]["ok"]) == (2, False)


def test_a_damaged_log_and_index_are_found(host: ServiceHost, tmp_path: Path) -> None:
    settings = production(tmp_path)
    (tmp_path / "index.sqlite").write_bytes(b"this is not an index, but long enough to be read as one" * 50)
    host.start(OLD, **settings)
    log = Path(settings["log_file"])
    log.chmod(0o644)
    with log.open("a") as stream:
        stream.write("Traceback (most recent call last):\n")
    code, report, _ = smoke(host)
    assert code == 2
    failed = {check["name"] for check in report["checks"] if not check["ok"]}
    assert failed >= {
        f"{log} has mode 0640", "every line is an object with OpenTelemetry's names", "health is pass or warn",
        "health check index:schema", "the index is searched", "/readyz of the public address",
    }  # fmt: skip


def test_a_process_that_does_not_answer_is_a_failed_check_and_exit_code_three(
    host: ServiceHost, tmp_path: Path
) -> None:
    host.start(OLD, **production(tmp_path)).stop()
    code, report, checks = smoke(host)
    assert (code, report["failed"], checks["it answers"]["ok"]) == (3, 1, False)
