# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Logs, in processes of their own: what is configured is the process's, and some of it happens at its end."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

HEAD = """
import sys, threading, logging, warnings
from pathlib import Path
from loguru import logger
from mobius import logs
file = Path(sys.argv[1]) if len(sys.argv) > 1 else None
logs.configure(resource={"service.name": "test", "service.version": "1.0.0"}, file=file)
"""


def run(body: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    call = [sys.executable, "-c", HEAD + body, *map(str, arguments)]
    return subprocess.run(call, capture_output=True, text=True, timeout=60, cwd=Path(__file__).parents[3])


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_has_the_names_of_opentelemetry() -> None:
    done = run("""logger.bind(**{"http.route": "/v1/hash"}).warning("It is {} {{braces}} <red>tags</red>", "so")""")
    (line,) = lines(done.stdout)
    assert done.stderr == ""
    assert (line["severity_text"], line["severity_number"]) == ("WARNING", 13)
    assert line["body"] == "It is so {braces} <red>tags</red>"
    assert line["resource"] == {"service.name": "test", "service.version": "1.0.0"}
    assert line["attributes"]["http.route"] == "/v1/hash"
    assert line["timestamp"].count("T") == 1
    assert set(line) == {"timestamp", "severity_text", "severity_number", "body", "resource", "attributes"}


def test_odd_text_stays_one_line_and_one_object() -> None:
    body = 'for text in ("{extra}", "two\\nlines", "<b>", "{0}", "\\udcff broken", "{_line}"): logger.info("{}", text)'
    assert [line["body"] for line in lines(run(body).stdout)] == [
        "{extra}", "two\nlines", "<b>", "{0}", "\udcff broken", "{_line}",
    ]  # fmt: skip


def test_the_standard_library_and_warnings_speak_through_it_too() -> None:
    done = run('logging.getLogger("uvicorn.error").error("bad %s", "thing"); warnings.warn("old")')
    first, second = lines(done.stdout)
    assert (first["body"], first["severity_text"]) == ("bad thing", "ERROR")
    assert first["attributes"]["code.function.name"].startswith("uvicorn.error.")
    assert "UserWarning: old" in second["body"]
    assert done.stderr == ""


def test_uncaught_exceptions_are_logged_without_the_values_of_variables() -> None:
    body = """
def fail():
    secret = "hunter" + "2"
    raise ValueError("thread" if threading.current_thread() is not threading.main_thread() else "main")
thread = threading.Thread(target=fail); thread.start(); thread.join()
fail()
"""
    done = run(body)
    assert done.returncode == 1
    first, second = lines(done.stdout)
    assert [line["severity_text"] for line in (first, second)] == ["CRITICAL", "CRITICAL"]
    assert first["attributes"]["exception.message"] == "thread"
    assert second["attributes"]["exception.type"] == "builtins.ValueError"
    assert "in fail" in second["attributes"]["exception.stacktrace"]
    assert "hunter2" not in done.stdout + done.stderr


def test_a_file_is_rotated_into_ten_that_only_the_group_may_read(tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    other = tmp_path / "service-of-another.log"
    other.write_text("not ours")
    body = """
logs.ROTATION_BYTES = 5000
logs.configure(resource={}, file=file)
import time
for number in range(400):
    logger.info("{} {}", number, "x" * 100)
"""
    done = run(body, log)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    files = sorted(path for path in tmp_path.iterdir() if path != other)
    assert len(files) == 10
    assert other.exists()
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o640}
    assert lines(log.read_text())[-1]["body"].startswith("399 ")


def test_the_limits_are_those_of_the_design() -> None:
    done = run("print(logs.ROTATION_BYTES, logs.RETENTION)")
    assert done.stdout == "50000000 9\n"


def test_a_log_that_cannot_be_written_is_one_clear_sentence(tmp_path: Path) -> None:
    body = """
from mobius.errors import MobiusError
try:
    logs.configure(resource={}, file=Path("/proc/nowhere/service.log"))
except MobiusError as error:
    print(int(error.code), error.reason)
"""
    assert run(body).stdout == "3 The log /proc/nowhere/service.log cannot be written: No such file or directory.\n"
