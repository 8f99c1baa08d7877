"""`make demo`: the main job on real photographs, on three real hosts, with a client that never stops asking.

What it runs are the commands that a reader would type; each is printed before it runs.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import importlib.util
import json
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobius import durable
from mobius.errors import ExitCode, MobiusError
from tools.evidence import checkout_state
from tools.steady_client import RequestPicture, SteadyClient, serving_release

CHECKOUT = Path(__file__).resolve().parents[1]
OUTPUT = CHECKOUT / "demo"
SERVICE = "mobius-dhash"
LIBRARY = f"/var/lib/{SERVICE}/library"
INDEX = f"/var/lib/{SERVICE}/index/index.sqlite3"
CONTENT_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}
# Photographs that scikit-image's wheel carries; the drawings and test charts beside them are left out.
PHOTOGRAPHS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "cell.png",
    "chelsea.png",
    "clock_motion.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "motorcycle_right.png",
    "page.png",
    "retina.jpg",
    "rocket.jpg",
)
# The faults of the bad release, as (file, what stands there, what stands there then): somebody took a quicker filter,
# which changes about five bits of every hash, and switched off the self-test that it failed. Its health answers 200.
FAULTS = (
    (
        "mobius/dhash/_decoding.py",
        "left + self.span[0], top + self.span[1]))",
        "left + self.span[0], top + self.span[1] / 2))",
    ),
    ("mobius/service/golden.py", "for mode in ALGORITHMS)", "for mode in ())"),
)


@dataclass(frozen=True)
class LabHost:
    """One host of the lab, as `.lab/lab.json` has it."""

    name: str
    ssh_port: int
    http_port: int

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.http_port)

    def ssh(self, *command: str) -> list[str]:
        """The command line that runs `command` on the host, as root, with the lab's own key and known hosts."""
        lab = CHECKOUT / ".lab"
        options = ("BatchMode=yes", "StrictHostKeyChecking=yes", f"UserKnownHostsFile={lab / 'known_hosts'}")
        flags = [word for option in options for word in ("-o", option)]
        identity = ["-F", "none", "-i", str(lab / "id_ed25519")]
        return ["ssh", *identity, *flags, "-p", str(self.ssh_port), "root@127.0.0.1", *command]


def say(text: str) -> None:
    """One line of the story, to stderr: stdout is for the summary."""
    print(text, file=sys.stderr, flush=True)


def step(title: str) -> None:
    """A heading of the story."""
    say(f"\n== {title}")


def run(*command: str, expect: Sequence[int] = (0,), quiet: bool = False) -> subprocess.CompletedProcess[str]:
    """Run one command from the checkout, printed as typed; its stdout is kept, its stderr shown unless `quiet`.

    Raises:
        MobiusError: it ended with another exit code than expected.
    """
    shown = " ".join(Path(word).name if word == command[0] else _short(word) for word in command)
    if not quiet:
        say(f"$ {shown}")
    done = subprocess.run(
        list(command),
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE if quiet else None,
        text=True,
        check=False,
    )
    if done.returncode not in expect:
        tail = " ".join((done.stderr or done.stdout or "").strip().splitlines()[-3:])
        expected = " or ".join(str(code) for code in expect)
        raise MobiusError("task_failed", f"`{shown}` ended with {done.returncode}, not {expected}. {tail}".strip())
    return done


def _short(word: str) -> str:
    text = word.replace(f"{CHECKOUT}/", "")
    return f"'{text}'" if " " in text or "{" in text else text


def mobius(*arguments: str, expect: Sequence[int] = (0,)) -> dict[str, Any]:
    """Run `mobius … --format json` and give what it printed."""
    done = run(str(Path(sys.executable).parent / "mobius"), *arguments, "--format", "json", expect=expect)
    try:
        parsed: dict[str, Any] = json.loads(done.stdout)
    except json.JSONDecodeError as error:
        raise MobiusError("task_failed", f"`mobius {arguments[0]}` printed no JSON: {done.stdout[:200]!r}") from error
    return parsed


def photographs(library: Path | None) -> list[Path]:
    """The reader's pictures, or the photographs of scikit-image's wheel.

    Raises:
        MobiusError: the folder holds no picture, or the package is not installed.
    """
    if library is not None:
        if not library.is_dir():
            raise MobiusError("invalid_input", f"{library} is not a folder.")
        pictures = sorted(
            path for path in library.rglob("*") if path.suffix.lower() in CONTENT_TYPES and path.is_file()
        )
        if not pictures:
            raise MobiusError("invalid_input", f"{library} holds no JPEG, PNG or WebP picture.")
        return pictures
    package = importlib.util.find_spec("skimage")
    if package is None or package.origin is None:
        raise MobiusError(
            "missing_dependency", "The package scikit-image, whose photographs the demo uses, is missing."
        )
    data = Path(package.origin).parent / "data"
    return [data / name for name in PHOTOGRAPHS]


def bad_source(workspace: Path) -> Path:
    """A clone of this checkout's commit with a wrong filter and a silenced self-test, committed: how bad releases come.

    Raises:
        MobiusError: the line to break is not where it was.
    """
    clone = workspace / "source"
    run("git", "clone", "--quiet", "--no-hardlinks", str(CHECKOUT), str(clone), quiet=True)
    for name, right, wrong in FAULTS:
        faulty = clone / name
        text = faulty.read_text(encoding="utf-8")
        if text.count(right) != 1:
            raise MobiusError("task_failed", f"{name} no longer has the line that the demo breaks.")
        faulty.write_text(text.replace(right, wrong), encoding="utf-8")
    author = ("-c", "user.name=demo", "-c", "user.email=demo@localhost")
    run("git", "-C", str(clone), *author, "commit", "--quiet", "--all", "-m", "Resize faster", quiet=True)
    return clone


def copy_library(hosts: Sequence[LabHost], pictures: Sequence[Path]) -> None:
    """Put the pictures into every host's library, through one tar stream a host."""

    def copy(host: LabHost) -> None:
        with subprocess.Popen(host.ssh("tar", "-xf", "-", "-C", LIBRARY), stdin=subprocess.PIPE) as remote:
            if remote.stdin is None:
                raise MobiusError("environment_failed", "ssh was started without a pipe.")
            with remote.stdin, tarfile.open(fileobj=remote.stdin, mode="w|") as stream:
                for number, picture in enumerate(pictures):
                    member = stream.gettarinfo(str(picture), arcname=f"{number:05d}-{picture.name}")
                    member.uid = member.gid = 0
                    member.mode = 0o644
                    with picture.open("rb") as content:
                        stream.addfile(member, content)
        if remote.returncode:
            raise MobiusError("environment_failed", f"The pictures could not be copied to {host.name}.")

    with concurrent.futures.ThreadPoolExecutor() as pool:
        list(pool.map(copy, hosts))


def index_library(hosts: Sequence[LabHost], release: str) -> dict[str, int]:
    """Index every host's library with the release's own code, as the service's user; pictures indexed per host."""
    tree = f"/opt/{SERVICE}/releases/{release}/tree"
    command = (
        f"runuser -u {SERVICE} -- env PYTHONPATH={tree} PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -m mobius.cli "
        f"dhash scan {LIBRARY} --index {INDEX} --release {release} --format json"
    )

    def index(host: LabHost) -> int:
        # a reader's library may hold files that nothing can read: they are counted, and are no failure of the demo
        done = run(*host.ssh(command), quiet=True, expect=(0, int(ExitCode.PROCESSING)))
        return int(json.loads(done.stdout)["images"])

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return dict(zip((host.name for host in hosts), pool.map(index, hosts), strict=True))


def request_pictures(pictures: Sequence[Path], host: LabHost, release: str) -> list[RequestPicture]:
    """What the steady client sends: small pictures, with the answers that the released service gave at first."""
    import http.client

    small = sorted(pictures, key=lambda path: path.stat().st_size)[:6]
    result = []
    for path in small:
        body = path.read_bytes()
        content_type = CONTENT_TYPES[path.suffix.lower()]
        connection = http.client.HTTPConnection(*host.address, timeout=15)
        try:
            connection.request("POST", "/v1/hash", body=body, headers={"Content-Type": content_type})
            response = connection.getresponse()
            data = response.read()
        finally:
            connection.close()
        if response.status != 200 or response.headers.get("X-Release-Id") != release:
            raise MobiusError("task_failed", f"{host.name} answered {response.status} to {path.name}: {data[:200]!r}")
        result.append(RequestPicture(path.name, body, content_type, json.loads(data)["dhash"]))
    return result


def roll_back(hosts: Sequence[LabHost], expected: str) -> float:
    """Roll every host back from its own console, no controller; seconds until all of them answer with `expected`."""
    reason = "answers differ from what the library holds"
    say(f"$ ssh {hosts[0].name} mobius-host rollback --reason '{reason}'    # and on the others, at once")
    started = time.monotonic()

    def one(host: LabHost) -> float:
        run(*host.ssh(f"mobius-host rollback --reason '{reason}'"), quiet=True)
        while (serving := serving_release(host.address)) != expected:
            if time.monotonic() - started > 60:
                raise MobiusError(
                    "rollback_failed",
                    f"{host.name} serves {serving or 'nothing'}, not {expected}, a minute after the rollback.",
                    serves=[serving] if serving else [],
                )
            time.sleep(0.02)
        return time.monotonic() - started

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return max(pool.map(one, hosts))


def verified_backups(hosts: Sequence[LabHost]) -> int:
    """Backups on all hosts that coreutils' own sha256sum accepts."""

    def count(host: LabHost) -> int:
        check = (
            'cd /var/backups/mobius-dhash && for f in *.sha256; do sha256sum -c --strict --quiet "$f" && echo ok; done'
        )
        return run(*host.ssh(check), quiet=True).stdout.count("ok")

    with concurrent.futures.ThreadPoolExecutor() as pool:
        return sum(pool.map(count, hosts))


def lab_hosts() -> list[LabHost]:
    """The hosts that are up.

    Raises:
        MobiusError: the lab's state file is missing.
    """
    path = CHECKOUT / ".lab" / "lab.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MobiusError("environment_failed", "The lab is not up.", do_next="Run `mobius lab up`.") from None
    return [LabHost(entry["name"], entry["ssh_port"], entry["http_port"]) for entry in state["hosts"]]


def tell(library: Path | None) -> dict[str, Any]:
    """The whole story; what the summary says.

    Raises:
        MobiusError: a step did not hold.
    """
    started = time.monotonic()
    pictures = photographs(library)
    OUTPUT.mkdir(exist_ok=True)
    shutil.rmtree(OUTPUT / "bad", ignore_errors=True)

    step("Three systemd hosts, reached over SSH")
    run(str(Path(sys.executable).parent / "mobius"), "lab", "down", quiet=True)
    run(str(Path(sys.executable).parent / "mobius"), "lab", "up")
    hosts = lab_hosts()

    step("Two bundles of this commit, and a third whose hashes will be wrong")
    first = mobius("bundle", "build", "--version", "1.0.0")
    second = mobius("bundle", "build", "--version", "2.0.0")
    clone = bad_source(OUTPUT / "bad")
    bad = mobius(
        "bundle", "build", "--version", "3.0.0", "--source", str(clone), "--out", str(OUTPUT / "bad"), expect=(0,)
    )

    step("Prepare the hosts, release 1.0.0, index the library")
    mobius("provision")
    copy_library(hosts, pictures)
    mobius("release", "--bundle", first["bundle"])
    indexed = index_library(hosts, first["release"])
    say(f"   {sum(indexed.values())} pictures indexed: {indexed}")

    requests = request_pictures(pictures, hosts[0], first["release"])
    with SteadyClient({host.name: host.address for host in hosts}, requests) as client:
        step("Release 2.0.0 while a client keeps asking")
        mobius("release", "--bundle", second["bundle"])
        say(f"   {client.sent} requests so far, {client.failed} failed, {client.wrong} wrong")

        step("A bad 3.0.0: its health says 200, its hashes are wrong. The golden pictures refuse it on every host")
        refused = mobius("release", "--bundle", bad["bundle"], expect=(int(ExitCode.PROCESSING),))
        golden = {item["host"] for item in refused["failures"] if item["outcome"] == "golden_mismatch"}
        untouched = [host.name for host in hosts if serving_release(host.address) == second["release"]]
        bad_refused = golden == {host.name for host in hosts} == set(untouched)
        wrong_before = client.wrong
        say(
            f"   refused on {', '.join(sorted(golden))}; "
            f"{client.sent} requests so far, {client.failed} failed, {wrong_before} wrong"
        )

        step("Had nobody kept golden pictures: the same release forced through, then rolled back from the consoles")
        checks = ("deploy_golden", "promote_probes", "promote_signals", "promote_front_signals")
        blind: dict[str, object] = {name: [] for name in checks}
        override = json.dumps({**blind, "mobius_retry_bad": True})
        mobius("release", "--bundle", bad["bundle"], "-e", override)
        rollback_seconds = roll_back(hosts, second["release"])
        say(f"   every host answers with 2.0.0 again after {rollback_seconds:.2f} s")
        time.sleep(1)
    for line in client.failures():
        say(f"   failed: {line}")

    step("What is there now")
    status = mobius("status")
    releases = {host.name: serving_release(host.address) or "nothing" for host in hosts}
    checkout = checkout_state()
    return {
        # the bundles are of this commit, but the playbooks are those of the checkout as it is
        "commit": checkout["commit"] if checkout["is_clean"] else None,
        "hosts": len(hosts),
        "host_names": [host.name for host in hosts],
        "images_indexed": sum(indexed.values()),
        "requests_sent": client.sent,
        "requests_failed": client.failed,
        "answers_wrong_before_the_bad_release_was_forced": wrong_before,
        "answers_wrong_while_the_bad_release_served": client.wrong - wrong_before,
        "bad_release": bad["release"],
        "bad_release_refused": bad_refused,
        "rollback_seconds": round(rollback_seconds, 3),
        "backups_verified": verified_backups(hosts),
        "versions_after": releases,
        "expected_release": second["release"],
        "status_exit_code": status["exit_code"],
        "seconds_total": round(time.monotonic() - started, 1),
    }


def held(summary: dict[str, Any]) -> list[str]:
    """What did not hold, one sentence each; empty when all of it did."""
    hosts = summary["hosts"]
    checks = {
        f"{summary['requests_failed']} of {summary['requests_sent']} requests failed.": summary["requests_failed"] == 0,
        "The client sent hardly any requests.": summary["requests_sent"] >= 100 * hosts,
        "A right release gave wrong answers.": summary["answers_wrong_before_the_bad_release_was_forced"] == 0,
        "The forced bad release gave no wrong answer, so nothing was proven.": (
            summary["answers_wrong_while_the_bad_release_served"] > 0
        ),
        "The bad release was not refused on every host.": summary["bad_release_refused"],
        "Rolling back took 5 seconds or more.": summary["rollback_seconds"] < 5,
        "Not every host has a verified backup.": summary["backups_verified"] >= hosts,
        "Not every host serves 2.0.0.": set(summary["versions_after"].values()) == {summary["expected_release"]},
        "No picture was indexed.": summary["images_indexed"] > 0,
        "The lab does not have three hosts.": hosts == 3,
    }
    return [sentence for sentence, true in checks.items() if not true]


def show(summary: dict[str, Any], broken: Sequence[str]) -> str:
    """The summary for people."""
    versions = ", ".join(f"{host} {release}" for host, release in summary["versions_after"].items())
    lines = [
        "",
        "MOBIUS demo",
        f"  hosts              {summary['hosts']} ({', '.join(summary['host_names'])})",
        f"  pictures indexed   {summary['images_indexed']}",
        f"  requests           {summary['requests_sent']} sent, {summary['requests_failed']} failed",
        f"  bad release        {'refused' if summary['bad_release_refused'] else 'NOT refused'} on every host",
        f"  rolled back in     {summary['rollback_seconds']:.2f} s, from the hosts' own consoles",
        f"  backups verified   {summary['backups_verified']}",
        f"  now serving        {versions}",
        f"  took               {summary['seconds_total']:.0f} s; figures in demo/summary.json",
        "",
        *(f"  DID NOT HOLD: {sentence}" for sentence in broken),
        "All of it held. The lab is up: `mobius status`, and `make lab-down` when done." if not broken else "",
    ]
    return "\n".join(lines).rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0 only when all of it held."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--library", type=Path, help="folder of your own pictures (make demo LIBRARY=dir)")
    options = parser.parse_args(arguments)
    try:
        summary = tell(options.library.resolve() if options.library else None)
    except MobiusError as error:
        say(f"make demo: {error.reason}\n{error.do_next}")
        return int(error.code)
    broken = held(summary)
    durable.write_json(OUTPUT / "summary.json", {**summary, "held": not broken, "broken": broken})
    print(show(summary, broken))
    return int(ExitCode.PROCESSING) if broken else 0


if __name__ == "__main__":
    raise SystemExit(main())
