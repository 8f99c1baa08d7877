# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Logs, in separate processes: `configure` acts on the whole process, and some of its effects come at the end."""

from __future__ import annotations

import json
import secrets
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mobius import logs

pytestmark = pytest.mark.slow

HEAD = """
import sys, threading, logging, warnings
from pathlib import Path
from loguru import logger
from mobius import logs
file = Path(sys.argv[1]) if len(sys.argv) > 1 else None
logs.configure(resource={"service.name": "test", "service.version": "1.0.0"}, file=file)
"""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 128 kB. Only root can mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no small disk can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


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


def test_logs_of_the_standard_library_and_warnings_are_included() -> None:
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
import os
os.umask(0o077)
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


def test_lines_that_do_not_fit_on_a_full_disk_are_counted_and_the_others_stay_whole(small_disk: Path) -> None:
    log = small_disk / "service.log"
    body = """
import os
filler = file.with_name("filler")
def fill():
    with filler.open("ab", buffering=0) as stream:
        for size in (4096, 1):
            try:
                while True: stream.write(bytes(size))
            except OSError: pass
for number in range(5): logger.info("before {}", number)
fill()
for number in range(400): logger.info("full {} {}", number, "x" * 50)
lost = logs.losses.count
filler.unlink()
for number in range(5): logger.info("after {}", number)
assert logs.losses.count == lost and logs.losses.last is not None
print(lost)
"""
    done = run(body, log)
    assert done.stderr == ""
    lost = int(done.stdout)
    written = lines(log.read_text())
    words = [line["body"].split()[0] for line in written]
    # the file's last page had space for some more; no line is lost without being counted, or written in part
    assert words == ["before"] * 5 + ["full"] * (400 - lost) + ["after"] * 5
    assert 300 < lost <= 400
    assert {line["attributes"].get("mobius.log.lines_lost") for line in written[-5:]} == {lost}
    assert "mobius.log.lines_lost" not in written[0]["attributes"]


def test_a_line_for_a_closed_console_is_counted_and_the_process_continues() -> None:
    body = 'sys.stdout.close()\nlogger.info("x")\nprint(logs.losses.count, file=sys.stderr)'
    done = run(body)
    assert (done.returncode, done.stderr) == (0, "1\n")


def test_a_file_that_was_moved_or_removed_is_created_again(tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    body = """
logger.info("one")
file.rename(file.with_name("moved"))
logger.info("two")
file.unlink()
logger.info("three")
"""
    assert run(body, log).stderr == ""
    assert [line["body"] for line in lines(log.read_text())] == ["three"]
    assert [line["body"] for line in lines((tmp_path / "moved").read_text())] == ["one"]
    assert stat.S_IMODE(log.stat().st_mode) == 0o640


def test_a_file_that_cannot_be_rotated_is_still_written(tmp_path: Path) -> None:
    log = tmp_path / "service.log"
    body = """
logs.ROTATION_BYTES = 2000
def refuse(self, target): raise PermissionError(13, "no")
Path.rename = refuse
for number in range(50): logger.info("{}", number)
assert logs.losses.count == 0
"""
    assert run(body, log).returncode == 0
    assert len(lines(log.read_text())) == 50


def test_production_never_writes_to_the_console(tmp_path: Path) -> None:
    body = """
import asyncio
class Odd:
    def __str__(self): raise RuntimeError("no text")
class Dying:
    def __del__(self): raise ValueError("at its end")
async def main():
    async def fails(): raise LookupError("nobody waits for me")
    task = asyncio.ensure_future(fails())
    await asyncio.sleep(0)
    del task
ring = {}
ring["ring"] = ring
logger.bind(odd=Odd(), ring=ring, nan=float("nan"), **{"pairs": {(1, 2): b"x"}}).info("odd")
asyncio.run(main())
dying = Dying()
del dying
logging.getLogger("other").warning("theirs")
raise KeyError("last")
"""
    log = tmp_path / "service.log"
    done = run(body, log)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")
    written = lines(log.read_text())
    odd = written[0]["attributes"]
    assert odd["odd"] == "<Odd that cannot be shown>"
    assert odd["nan"] == "nan"
    assert odd["pairs"] == {"(1, 2)": "b'x'"}
    kinds = [line["attributes"].get("exception.type") for line in written]
    assert kinds == [None, "builtins.LookupError", "builtins.ValueError", None, "builtins.KeyError"]


SECRET = "Zx9-hunter2_Qq"
HIDDEN = [
    f"Authorization: Bearer {SECRET}",
    f"authorization=Basic {SECRET}",
    f"{{'Authorization': 'Digest username=ada, response={SECRET}'}}",
    f"[(b'authorization', b'Bearer {SECRET}'), (b'host', b'h')]",
    f'{{"cookie": "session={SECRET}; other={SECRET}"}}',
    f"Set-Cookie: id={SECRET}",
    f"sent bearer {SECRET} to it",
    f"password={SECRET}",
    f"passwd : {SECRET}",
    f'"client_secret": "{SECRET} and {SECRET}"',
    f"https://example.org/?api_key={SECRET}&x=1",
    f"access-key={SECRET}",
    f"MOBIUS_TOKEN={SECRET}",
    f"postgresql://ada:{SECRET}@example.org/db",
    f"-----BEGIN OPENSSH PRIVATE KEY-----\n{SECRET}\n-----END OPENSSH PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
]


@pytest.mark.parametrize("text", HIDDEN)
def test_a_secret_in_a_text_is_redacted(text: str) -> None:
    text_without = logs.redacted(f"before\n{text}\nafter")
    assert SECRET not in text_without
    assert logs.REDACTED in text_without
    assert text_without.startswith("before\n")
    assert text_without.endswith("after") or "PRIVATE KEY" in text


def test_our_own_tokens_are_redacted_everywhere() -> None:
    token = "mobius_" + secrets.token_urlsafe(32)
    assert logs.redacted(f"GET /v1/images/{token} 404") == f"GET /v1/images/{logs.REDACTED} 404"


@pytest.mark.parametrize(
    "text",
    [
        "POST /v1/hash 200",
        "Line 3 of /etc/mobius/tokens is not NAME sha256:<64 hexadecimal digits>.",
        "The tokens were read again: 3",
        "mobius_http_request_duration_seconds_bucket",
        "https://example.org:8443/a@b",
        "the monkey: 5 keys",
    ],
)
def test_other_text_is_unchanged(text: str) -> None:
    assert logs.redacted(text) == text


def test_secrets_are_redacted_in_messages_fields_and_exceptions(tmp_path: Path) -> None:
    body = f"""
secret = "Zx9" + "-hunter2_Qq"
logger.info("password={{}}", secret)
logger.bind(token=secret, headers=[("Authorization", "Bearer " + secret), ("Host", "h")], deep={{"a": {{"pin_secret": 12}}}},
            note="api_key=" + secret).info("fields")
logging.getLogger("lib").warning("Authorization: Bearer %s", secret)
try:
    try: raise ValueError("token: " + secret)
    except ValueError as error: raise RuntimeError("passphrase=" + secret) from error
except RuntimeError: logger.exception("failed")
def fail(): raise OSError("cookie: " + secret)
thread = threading.Thread(target=fail); thread.start(); thread.join()
assert secret == "{SECRET}"
"""
    log = tmp_path / "service.log"
    done = run(body, log)
    assert (done.returncode, done.stderr) == (0, "")
    text = log.read_text()
    assert SECRET not in text
    written = lines(text)
    assert len(written) == 5
    fields = written[1]["attributes"]
    assert fields["token"] == logs.REDACTED
    assert fields["headers"] == [["Authorization", logs.REDACTED], ["Host", "h"]]
    assert fields["deep"] == {"a": {"pin_secret": logs.REDACTED}}
    assert written[3]["attributes"]["exception.message"] == f"passphrase={logs.REDACTED}"
    assert f"ValueError: token: {logs.REDACTED}" in written[3]["attributes"]["exception.stacktrace"]
