# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`python -m mobius.service.smoke`: asks a running instance whether it does what it promises, and reports each answer.

It runs on the host, from the same release's tree, and changes nothing there. What can only be seen by breaking things
(rotation, a full disk, an uncaught exception) is done by a process of its own with the same code in a temporary folder.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import resource
import secrets
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from loguru import logger
from prometheus_client.parser import text_string_to_metric_families

from mobius import logs
from mobius.errors import ExitCode, MobiusError
from mobius.service import golden, openapi
from mobius.service.tokens import new_token

TOPICS: Final = ("service", "logging")
KEYS: Final = {"timestamp", "severity_text", "severity_number", "body", "resource", "attributes"}
"""What every line of the log has."""
_TAIL: Final = 2_000_000
"""Bytes at the end of the log that are read."""
_SMALL: Final = 20_000
"""Bytes of a log file in the rehearsal of rotation."""
_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Check:
    """One answer: what was looked at, what was seen, and whether that is right."""

    topic: str
    name: str
    ok: bool
    seen: str


@dataclass(frozen=True)
class Reply:
    """An HTTP answer; header names in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class _OverUnixSocket(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("admin", timeout=_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Installation:
    """A running instance: its admin socket, its public address (None when only the admin socket is to be asked), and
    what its process was told.

    Raises:
        MobiusError: nobody answers at the admin socket, or its process cannot be looked at.
    """

    def __init__(self, admin_socket: Path, public: tuple[str, int] | None) -> None:
        self.admin_socket = admin_socket
        self.address = public
        try:
            said = self.ask("GET", "/admin/state", admin=True).json()
            self.release, self.state, self.pid = str(said["release"]), str(said["state"]), int(said["pid"])
            told = Path(f"/proc/{self.pid}/environ").read_bytes().split(b"\0")
        except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
            raise MobiusError("environment_failed", f"No instance answers at {admin_socket}: {error}.") from error
        self.environment = dict(entry.decode(errors="replace").partition("=")[::2] for entry in told if b"=" in entry)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        admin: bool = False,
    ) -> Reply:
        """One request on a connection of its own."""
        connection = (
            _OverUnixSocket(str(self.admin_socket)) if admin or self.address is None
            else http.client.HTTPConnection(*self.address, timeout=_SECONDS)
        )  # fmt: skip
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
        finally:
            connection.close()


Found = Iterator[tuple[str, bool, object]]


def look(topics: Sequence[str], there: Installation) -> list[Check]:
    """Make all checks of these topics. A check that cannot be made is one that failed."""
    parts: dict[str, tuple[Callable[[Installation], Found], ...]] = {
        "service": (_operations, _answers, _refusals),
        "logging": (_log_of, _rehearsal),
    }
    checks = []
    for topic in topics:
        for part in parts[topic]:
            try:
                checks += [Check(topic, name, bool(ok), str(seen)) for name, ok, seen in part(there)]
            except (OSError, ValueError, LookupError, http.client.HTTPException, subprocess.SubprocessError) as error:
                name = part.__name__.strip("_").replace("_", " ")
                checks.append(Check(topic, f"the checks of {name} can be made", False, repr(error)))
    return checks


# -- the service -------------------------------------------------------------------------------------------------------


def _operations(there: Installation) -> Found:
    mode = there.environment.get("MOBIUS_ENVIRONMENT", "development")
    yield "it runs in production mode", mode == "production", mode
    health = there.ask("GET", "/health", admin=True)
    said = health.json()
    words = "; ".join([said["status"], *said["warnings"]])
    yield "health is pass or warn", health.status == 200 and said["status"] in ("pass", "warn"), words
    yield "health speaks of the release", said["releaseId"] == there.release, said["releaseId"]
    checks = {name: check[0] for name, check in said["checks"].items()}
    for name in sorted({"hash:golden", "index:schema", "index:writable", "disk:free", "review:queue"} & set(checks)):
        check = checks[name]
        seen = f"{check['status']}, {check['observedValue']} {check['observedUnit']}"
        yield f"health check {name}", check["status"] != "fail", seen
    for path in ("/livez", "/readyz"):
        status = there.ask("GET", path).status
        yield f"{path} of the public address", status == 200, status
    if there.address is not None:
        release = there.ask("GET", "/livez").headers.get("x-release-id", "")
        yield "the public address answers with a release", release != "", release
    page = there.ask("GET", "/metrics").body.decode()
    up = {
        sample.labels["release"]: sample.value
        for family in text_string_to_metric_families(page) for sample in family.samples if sample.name == "mobius_up"
    }  # fmt: skip
    yield "/metrics can be read and counts the release as up", up.get(there.release) == 1.0, up
    releases = [entry["release"] for entry in there.ask("GET", "/metrics/dhash").json().get("instances", [])]
    if there.address is not None:
        yield "/metrics/dhash has the release", there.release in releases, releases


def _answers(there: Installation) -> Found:
    for mode in ("fast", "exact"):
        answer = there.ask("POST", f"/v1/hash?mode={mode}", golden.PICTURE, {"Content-Type": "image/jpeg"}, admin=True)
        said = answer.json()
        got = f"{said.get('dhash')}{said.get('dhash_vertical')}"
        yield f"the built-in picture hashes to its bits ({mode})", got == golden.HASH.hex, got
    name = f"smoke-{secrets.token_hex(8)}"
    answer = there.ask("GET", "/livez", headers={"X-Request-Id": name})
    yield "a request id comes back", answer.headers.get("x-request-id") == name, answer.headers.get("x-request-id")
    served = there.ask("GET", "/openapi.json", admin=True).json()
    yield "the OpenAPI document is this release's", served == openapi.document(), f"version {served['info']['version']}"
    page = there.ask("GET", "/", admin=True)
    yield "the web page is there", page.status == 200 and b"<title>" in page.body, f"{len(page.body)} bytes"
    if there.environment.get("MOBIUS_INDEX"):
        answer = there.ask("POST", "/v1/search?limit=1", golden.PICTURE, {"Content-Type": "image/jpeg"}, admin=True)
        yield "the index is searched", answer.status == 200, answer.status


def _refusals(there: Installation) -> Found:
    cases = [("a text is no picture", "POST", "/v1/hash", b"hello", 415), ("an unknown path", "GET", "/none", b"", 404)]
    for name, method, path, body, wanted in cases:
        answer = there.ask(method, path, body, admin=True)
        ok = answer.status == wanted and answer.headers.get("content-type") == "application/problem+json"
        yield name, ok, answer.status
    if there.address is not None:
        answer = there.ask("DELETE", f"/v1/images/{'0' * 64}")
        yield "writing without a token is refused", answer.status == 401, answer.status
        answer = there.ask("POST", "/admin/standby")
        yield "nobody can switch it from outside", answer.status == 404, answer.status


# -- logging -----------------------------------------------------------------------------------------------------------


def _log_of(there: Installation) -> Found:
    mode = there.environment.get("MOBIUS_ENVIRONMENT", "development")
    yield "it runs in production mode", mode == "production", mode
    file = Path(there.environment["MOBIUS_LOG_FILE"])
    seen = oct(stat.S_IMODE(file.stat().st_mode))
    yield f"{file} has mode 0640", seen == "0o640", seen
    family = [file, *file.parent.glob(f"{file.stem}.2*{file.suffix}")]
    sizes = [path.stat().st_size for path in family]
    ok = len(family) <= logs.RETENTION + 1 and max(sizes) <= logs.ROTATION_BYTES
    yield "at most 10 files of at most 50 MB", ok, f"{len(family)} files, the largest {max(sizes)} bytes"

    name, secret = f"smoke-{secrets.token_hex(8)}", new_token()
    headers = {"X-Request-Id": name, "Authorization": f"Bearer {secret}"}
    there.ask("GET", f"/v1/images/{secret}", headers=headers, admin=True)
    lines = _lines_with(file, name)
    yield "a request is in the log with its request id", len(lines) >= 1, f"{len(lines)} lines"
    text = file.read_bytes()[-_TAIL:]
    yield "a token in a header and in a path is not in the log", secret.encode() not in text, logs.REDACTED
    bad = [line[:80] for line in text.splitlines()[1:] if not _is_line(line)]
    yield "every line is an object with OpenTelemetry's names", not bad, bad[:1] or f"{len(text.splitlines())} lines"
    release = lines[0]["resource"].get("service.instance.id") if lines else None
    yield "the lines name the release", release == there.release, release
    health = there.ask("GET", "/health", admin=True).json()["checks"]["logs:lost"][0]
    yield "no line was lost lately", health["status"] == "pass", f"{health['observedValue']} lost since the start"
    journal = _journal(there.pid)
    if journal is not None:
        yield "the console is silent", journal == "", journal[:120] or "nothing in the journal from the process itself"


def _lines_with(file: Path, request_id: str) -> list[dict[str, Any]]:
    deadline = time.monotonic() + _SECONDS
    while True:
        found = [json.loads(line) for line in file.read_bytes()[-_TAIL:].splitlines() if request_id.encode() in line]
        if found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def _is_line(line: bytes) -> bool:
    try:
        said = json.loads(line)
    except ValueError:
        return False
    return isinstance(said, dict) and set(said) == KEYS


def _journal(pid: int) -> str | None:
    """What the process itself wrote to the journal; None where there is no journal to ask."""
    try:
        done = subprocess.run(
            ["journalctl", "--quiet", "--output=cat", f"_PID={pid}", "--boot"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _rehearsal(there: Installation) -> Found:  # noqa: ARG001
    """What is not to be provoked in the running service, by a process of its own with the same code."""
    yield (
        "a file is rotated at 50 MB, and 10 are kept",
        (logs.ROTATION_BYTES, logs.RETENTION) == (50_000_000, 9),
        (f"{logs.ROTATION_BYTES} bytes, {logs.RETENTION} beside the one written to"),
    )
    with tempfile.TemporaryDirectory(prefix="mobius-smoke-") as folder:
        file = Path(folder) / "logs" / "smoke.log"
        done = subprocess.run(
            [sys.executable, "-m", "mobius.service.smoke", "--rehearse", str(file)],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        family = sorted(file.parent.iterdir())
        text = "".join(path.read_text(encoding="utf-8") for path in family)
        lines = [json.loads(line) for line in text.splitlines()]
        yield (
            "console: production writes nothing there",
            (done.stdout, done.stderr) == ("", ""),
            done.stderr[:120] or ("nothing on standard output and error"),
        )
        largest = max(path.stat().st_size for path in family)
        yield (
            "rotation (rehearsed with small files): ten, none too long",
            (len(family) == logs.RETENTION + 1 and largest <= _SMALL),
            f"{len(family)} files, the largest {largest} of {_SMALL} bytes",
        )
        modes = {oct(stat.S_IMODE(path.stat().st_mode)) for path in family}
        yield "every file has mode 0640", modes == {"0o640"}, sorted(modes)
        traces = [line for line in lines if "exception.stacktrace" in line["attributes"]]
        bodies = [line["body"] for line in traces]
        yield (
            "an uncaught exception is logged, with its trace",
            any("the process ends" in one for one in bodies),
            bodies,
        )
        yield "one in a thread, too", any("in a thread" in one for one in bodies), f"{len(traces)} traces"
        yield "a trace shows no values of variables", "do not show me" not in text, "diagnose is off"
        yield "secrets are taken out", "hunter2" not in text and logs.REDACTED in text, logs.REDACTED
        lost = [line["attributes"].get("mobius.log.lines_lost", 0) for line in lines]
        yield "lines that do not fit on the disk are counted", max(lost) == 3, f"{max(lost)} of 3 lost ones counted"


def _rehearse(file: Path) -> None:
    """The process of its own: rotate, fill the disk, leak, and end by an exception that nobody catches."""
    vars(logs)["ROTATION_BYTES"] = _SMALL
    logs.configure(resource={"service.name": "smoke"}, file=file)
    for number in range(15 * (_SMALL // 1000)):
        logger.info("{} {}", number, "x" * 1000)
    # as a full disk does, a limit on the file's length fails the write
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file.stat().st_size, before[1]))
    for _ in range(3):
        logger.info("This line is lost")
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    logger.bind(**{"db.password": "hunter2"}).info("Authorization: Bearer hunter2hunter2")

    def fail() -> None:
        local = "do not " + "show me"
        raise RuntimeError(f"on purpose, {len(local)}")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    fail()


# -- the command -------------------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report as one JSON object. Returns 0, or 2 when something is not as it must be."""
    parser = argparse.ArgumentParser(prog="python -m mobius.service.smoke", description=__doc__)
    parser.add_argument("topics", nargs="*", choices=[*TOPICS, []], help="what to look at; both without")
    parser.add_argument("--admin-socket", type=Path, help="of the instance")
    parser.add_argument("--public", metavar="HOST:PORT", help="the address that clients use")
    parser.add_argument("--rehearse", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rehearse is not None:
        _rehearse(options.rehearse)
    if options.admin_socket is None:
        parser.error("--admin-socket is needed")
    topics = options.topics or TOPICS
    try:
        there = Installation(options.admin_socket, _address(options.public))
    except MobiusError as error:
        _print(None, [Check(topics[0], "it answers", False, error.reason)])
        return int(error.code)
    checks = look(topics, there)
    _print(there.release, checks)
    return int(ExitCode.SUCCESS if all(check.ok for check in checks) else ExitCode.PROCESSING)


def _print(release: str | None, checks: Sequence[Check]) -> None:
    failed = sum(not check.ok for check in checks)
    print(json.dumps({"release": release, "failed": failed, "checks": [asdict(check) for check in checks]}))


def _address(text: str | None) -> tuple[str, int] | None:
    """HOST:PORT as a client here reaches it."""
    if not text:
        return None
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    every = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (what a socket that listens everywhere is reached by)
    return every.get(host, host), int(port)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    sys.exit(main())
