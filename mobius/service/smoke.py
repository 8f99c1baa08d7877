# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`python -m mobius.service.smoke`: check that a running instance works as documented, and report each check.

It runs on the host, from the tree of the same release, and changes nothing there. Checks that need damage (rotation, a
full disk, an uncaught exception) run in a separate process with the same code, in a temporary folder.
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
_TAIL_BYTES: Final = 2_000_000
"""How many bytes at the end of the log are read."""
_REHEARSAL_FILE_BYTES: Final = 20_000
"""Size limit of a log file in the rehearsal of rotation."""
_TIMEOUT_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Check:
    """One check: its name, whether it passed, and what was observed (`seen` in the report)."""

    topic: str
    name: str
    ok: bool
    seen: str


@dataclass(frozen=True)
class HttpReply:
    """An HTTP response; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Installation:
    """A running instance: itself, where its clients' requests come in, and the environment of its process.

    Args:
        pid: its process.
        public: the address that clients use, or a front's Unix socket for probes; None to use only the instance.
        slot: the slot that a request to such a socket names.

    Raises:
        MobiusError: no instance answers there, or the environment of its process cannot be read.
    """

    def __init__(self, pid: int, public: tuple[str, int] | Path | None, slot: int = 0) -> None:
        self.pid, self.address, self._slot = pid, public, slot
        try:
            self.environment = _read_environment(pid)
            self._instance_address = _address(self.environment["MOBIUS_ADDRESS"])
            self.release = str(self.request("GET", "/health", direct=True).json()["releaseId"])
        except (OSError, ValueError, LookupError, http.client.HTTPException) as error:
            raise MobiusError("environment_failed", f"No instance answers at process {pid}: {error}.") from error

    def request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        direct: bool = False,
    ) -> HttpReply:
        """Send one request on a new connection; a `direct` one to the instance itself."""
        target = self._instance_address if direct or self.address is None else self.address
        sent = dict(headers or {})
        if isinstance(target, Path):
            connection: http.client.HTTPConnection = _FrontConnection(target)
            sent["X-Mobius-Slot"] = str(self._slot)
        else:
            connection = http.client.HTTPConnection(*target, timeout=_TIMEOUT_SECONDS)
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            headers_in = {name.lower(): value for name, value in response.getheaders()}
            return HttpReply(response.status, headers_in, response.read())
        finally:
            connection.close()


class _FrontConnection(http.client.HTTPConnection):
    """HTTP through a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _read_environment(pid: int) -> dict[str, str]:
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(entry.decode(errors="replace").partition("=")[::2] for entry in variables if b"=" in entry)


Results = Iterator[tuple[str, bool, object]]
"""Name of the check, whether it passed, and the observed value."""


def run_checks(topics: Sequence[str], instance: Installation) -> list[Check]:
    """Run all checks of these topics. A check that cannot run has failed."""
    parts: dict[str, tuple[Callable[[Installation], Results], ...]] = {
        "service": (_operations, _answers, _refusals),
        "logging": (_log, _rehearsal),
    }
    checks = []
    for topic in topics:
        for part in parts[topic]:
            try:
                checks += [Check(topic, name, bool(ok), str(observed)) for name, ok, observed in part(instance)]
            except (OSError, ValueError, LookupError, http.client.HTTPException, subprocess.SubprocessError) as error:
                name = part.__name__.strip("_").replace("_", " ")
                checks.append(Check(topic, f"the checks of {name} can run", False, repr(error)))
    return checks


# -- the service -------------------------------------------------------------------------------------------------------


def _operations(instance: Installation) -> Results:
    mode = instance.environment.get("MOBIUS_ENVIRONMENT", "development")
    yield "it runs in production mode", mode == "production", mode
    health = instance.request("GET", "/health", direct=True)
    report = health.json()
    summary = "; ".join([report["status"], *report["warnings"]])
    yield "health is pass or warn", health.status == 200 and report["status"] in ("pass", "warn"), summary
    yield "health names the release", report["releaseId"] == instance.release, report["releaseId"]
    checks = {name: check[0] for name, check in report["checks"].items()}
    for name in sorted({"hash:golden", "index:schema", "index:writable", "disk:free", "review:queue"} & set(checks)):
        check = checks[name]
        observed = f"{check['status']}, {check['observedValue']} {check['observedUnit']}"
        yield f"health check {name}", check["status"] != "fail", observed
    for path in ("/livez", "/readyz"):
        status = instance.request("GET", path).status
        yield f"{path} of the public address", status == 200, status
    if instance.address is not None:
        release = instance.request("GET", "/livez").headers.get("x-release-id", "")
        yield "the public address answers with a release", release != "", release
    page = instance.request("GET", "/metrics", direct=True).body.decode()
    releases = {
        sample.labels.get("release") for family in text_string_to_metric_families(page) for sample in family.samples
    }
    yield "/metrics can be read and names the release", releases == {instance.release}, releases
    figures = instance.request("GET", "/metrics/dhash", direct=True).json()
    yield "/metrics/dhash has the release", figures["release"] == instance.release, figures["release"]


def _answers(instance: Installation) -> Results:
    for mode in ("fast", "exact"):
        answer = instance.request(
            "POST", f"/v1/hash?mode={mode}", golden.PICTURE, {"Content-Type": "image/jpeg"}, direct=True
        )
        document = answer.json()
        bits = f"{document.get('dhash')}{document.get('dhash_vertical')}"
        yield f"the built-in picture hashes to its bits ({mode})", bits == golden.HASH.hex, bits
    name = f"smoke-{secrets.token_hex(8)}"
    answer = instance.request("GET", "/livez", headers={"X-Request-Id": name})
    yield "a request id comes back", answer.headers.get("x-request-id") == name, answer.headers.get("x-request-id")
    served = instance.request("GET", "/openapi.json", direct=True).json()
    yield "the OpenAPI document is this release's", served == openapi.document(), f"version {served['info']['version']}"
    page = instance.request("GET", "/", direct=True)
    yield "the web page is there", page.status == 200 and b"<title>" in page.body, f"{len(page.body)} bytes"
    if instance.environment.get("MOBIUS_INDEX"):
        answer = instance.request(
            "POST", "/v1/search?limit=1", golden.PICTURE, {"Content-Type": "image/jpeg"}, direct=True
        )
        yield "the index is searched", answer.status == 200, answer.status


def _refusals(instance: Installation) -> Results:
    cases = [("a text is no picture", "POST", "/v1/hash", b"hello", 415), ("an unknown path", "GET", "/none", b"", 404)]
    for name, method, path, body, expected in cases:
        answer = instance.request(method, path, body, direct=True)
        ok = answer.status == expected and answer.headers.get("content-type") == "application/problem+json"
        yield name, ok, answer.status
    if instance.address is not None:
        answer = instance.request("DELETE", f"/v1/images/{'0' * 64}")
        yield "writing without a token is refused", answer.status == 401, answer.status


# -- logging -----------------------------------------------------------------------------------------------------------


def _log(instance: Installation) -> Results:
    mode = instance.environment.get("MOBIUS_ENVIRONMENT", "development")
    yield "it runs in production mode", mode == "production", mode
    file = Path(instance.environment["MOBIUS_LOG_FILE"])
    permissions = oct(stat.S_IMODE(file.stat().st_mode))
    yield f"{file} has mode 0640", permissions == "0o640", permissions
    family = [file, *file.parent.glob(f"{file.stem}.2*{file.suffix}")]
    sizes = [path.stat().st_size for path in family]
    ok = len(family) <= logs.RETENTION + 1 and max(sizes) <= logs.ROTATION_BYTES
    yield "at most 10 files of at most 50 MB", ok, f"{len(family)} files, the largest {max(sizes)} bytes"

    name, secret = f"smoke-{secrets.token_hex(8)}", new_token()
    headers = {"X-Request-Id": name, "Authorization": f"Bearer {secret}"}
    instance.request("GET", f"/v1/images/{secret}", headers=headers, direct=True)
    lines = _lines_with(file, name)
    yield "a request is in the log with its request id", len(lines) >= 1, f"{len(lines)} lines"
    text = file.read_bytes()[-_TAIL_BYTES:]
    yield "a token in a header and in a path is not in the log", secret.encode() not in text, logs.REDACTED
    bad = [line[:80] for line in text.splitlines()[1:] if not _is_line(line)]
    yield "every line is an object with OpenTelemetry's names", not bad, bad[:1] or f"{len(text.splitlines())} lines"
    release = lines[0]["resource"].get("service.instance.id") if lines else None
    yield "the lines name the release", release == instance.release, release
    health = instance.request("GET", "/health", direct=True).json()["checks"]["logs:lost"][0]
    yield "no line was lost lately", health["status"] == "pass", f"{health['observedValue']} lost since the start"
    journal = _journal(instance.pid)
    if journal is not None:
        yield "the console is silent", journal == "", journal[:120] or "nothing in the journal from the process itself"


def _lines_with(file: Path, request_id: str) -> list[dict[str, Any]]:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while True:
        lines = [
            json.loads(line) for line in file.read_bytes()[-_TAIL_BYTES:].splitlines() if request_id.encode() in line
        ]
        if lines or time.monotonic() > deadline:
            return lines
        time.sleep(0.05)


def _is_line(line: bytes) -> bool:
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and set(record) == KEYS


def _journal(pid: int) -> str | None:
    """What the process itself wrote to the journal; None where there is no journal."""
    try:
        done = subprocess.run(
            ["journalctl", "--quiet", "--output=cat", f"_PID={pid}", "--boot"],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _rehearsal(instance: Installation) -> Results:  # noqa: ARG001
    """What must not be provoked in the running service: checked in a separate process with the same code."""
    yield (
        "a file is rotated at 50 MB, and 10 are kept",
        (logs.ROTATION_BYTES, logs.RETENTION) == (50_000_000, 9),
        (f"{logs.ROTATION_BYTES} bytes, {logs.RETENTION} beside the current file"),
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
            (len(family) == logs.RETENTION + 1 and largest <= _REHEARSAL_FILE_BYTES),
            f"{len(family)} files, the largest {largest} of {_REHEARSAL_FILE_BYTES} bytes",
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
        yield "secrets are redacted", "hunter2" not in text and logs.REDACTED in text, logs.REDACTED
        lost = [line["attributes"].get("mobius.log.lines_lost", 0) for line in lines]
        yield "lines that do not fit on the disk are counted", max(lost) == 3, f"{max(lost)} of 3 lost lines counted"


def _rehearse(file: Path) -> None:
    """The separate process: rotate, fill the disk, log secrets, and end with an uncaught exception."""
    vars(logs)["ROTATION_BYTES"] = _REHEARSAL_FILE_BYTES
    logs.configure(resource={"service.name": "smoke"}, file=file)
    for number in range(15 * (_REHEARSAL_FILE_BYTES // 1000)):
        logger.info("{} {}", number, "x" * 1000)
    # a limit on the file's length makes the write fail, as on a full disk
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
    """Print the report as one JSON object. Returns 0, or 2 when a check failed."""
    parser = argparse.ArgumentParser(prog="python -m mobius.service.smoke", description=__doc__)
    parser.add_argument("topics", nargs="*", choices=[*TOPICS, []], help="what to check; both by default")
    parser.add_argument("--pid", type=int, help="the process of the instance")
    parser.add_argument("--public", metavar="HOST:PORT", help="the address that clients use")
    parser.add_argument("--front", type=Path, metavar="SOCKET", help="in its place: the front's entrance for probes")
    parser.add_argument("--slot", type=int, default=0, help="with --front: the number of the instance's slot")
    parser.add_argument("--rehearse", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.rehearse is not None:
        _rehearse(options.rehearse)
    if options.pid is None:
        parser.error("--pid is needed")
    topics = options.topics or TOPICS
    try:
        public = options.front or (_address(options.public) if options.public else None)
        instance = Installation(options.pid, public, options.slot)
    except MobiusError as error:
        _print(None, [Check(topics[0], "it answers", False, error.reason)])
        return int(error.code)
    checks = run_checks(topics, instance)
    _print(instance.release, checks)
    return int(ExitCode.SUCCESS if all(check.ok for check in checks) else ExitCode.PROCESSING)


def _print(release: str | None, checks: Sequence[Check]) -> None:
    failed = sum(not check.ok for check in checks)
    print(json.dumps({"release": release, "failed": failed, "checks": [asdict(check) for check in checks]}))


def _address(text: str) -> tuple[str, int]:
    """HOST:PORT as a client on this host reaches it."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (a socket that listens on all addresses is reached by this one)
    return wildcards.get(host, host), int(port)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    sys.exit(main())
