"""dhash as an ordinary service behind HAProxy, from nothing to nothing; the tests build on each other in this order."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.end_to_end.by_hand import GOLDEN, INVENTORY, ROOT, Bundle, Host, lab, mobius
from tools.steady_client import RequestPicture, SteadyClient, serving_release

SERVICE = "mobius-dhash"
LIBRARY = f"/var/lib/{SERVICE}/library"
INDEX = f"/var/lib/{SERVICE}/index/index.sqlite3"
# two bundles, three releases, a drill and a decommission take some minutes
pytestmark = [pytest.mark.lab, pytest.mark.soak]


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A fresh host whose inventory puts dhash behind a front."""
    variables = INVENTORY / "group_vars/all.yml"
    lab("down")
    lab("up", "--hosts", "1")
    variables.write_text("host_kind: http\n")
    try:
        (item,) = json.loads((ROOT / ".lab/lab.json").read_text(encoding="utf-8"))["hosts"]
        yield Host(item["name"], item["ssh_port"], item["http_port"], item["container"])
    finally:
        variables.unlink()
        lab("down")


def state_files(host: Host) -> dict[str, str]:
    """The state in the file of each instance."""
    lines = host.run(f"cd /run/{SERVICE}/states && grep . * /dev/null || true").stdout.splitlines()
    return dict(line.split(":", 1) for line in lines)


def run_as_checked(*arguments: str, yes: bool = False) -> None:
    """A check and the run itself, which changes what the check has said."""
    check = mobius(*arguments, "--check")
    real = mobius(*arguments, *(("--yes",) if yes else ()))
    assert (check.code, real.code) == (0, 0), check.stderr + real.stderr
    assert check.changes == real.changes
    assert real.changes


def test_a_first_release_serves_through_the_front(host: Host, bundles: Sequence[Bundle]) -> None:
    run_as_checked("provision")
    run_as_checked("release", "--bundle", bundles[0].path)
    assert serving_release(host.address) == bundles[0].release
    assert state_files(host) == {bundles[0].release: "serving"}
    listeners = host.run("ss -ltnpH").stdout
    assert '"haproxy"' in next(line for line in listeners.splitlines() if ":8080 " in line)
    assert host.run(f"find /run/{SERVICE} -name admin.sock").stdout == ""
    smoke = mobius("smoke")
    assert smoke.code == 0, smoke.stderr
    assert smoke.summary["smoke"][host.name]["failed"] == 0


def sql(host: Host, statement: str) -> str:
    """What a statement gives on the host's index."""
    script = f"import sqlite3; d = sqlite3.connect('{INDEX}'); print(*d.execute(\"{statement}\"), end=''); d.commit()"
    return host.run(f"python3 - <<'END'\n{script}\nEND").stdout


def test_the_library_is_verified_by_the_instance_that_serves(
    host: Host, bundles: Sequence[Bundle], tmp_path: Path
) -> None:
    picture = (GOLDEN / "astronaut-baseline.jpg").read_bytes()
    for name, data in (("a.jpg", picture), ("b.jpg", picture + bytes(1))):
        (tmp_path / name).write_bytes(data)
        copy = ["podman", "cp", str(tmp_path / name), f"{host.container}:{LIBRARY}/{name}"]
        subprocess.run(copy, check=True, capture_output=True)
    release = bundles[0].release
    scan = f"from mobius.dhash import Library; Library('{INDEX}', release='a test').scan('{LIBRARY}')"
    host.run(
        f"chmod 644 {LIBRARY}/*; runuser -u {SERVICE} -- env PYTHONPATH=/opt/{SERVICE}/releases/{release}/tree "
        f'PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 -c "{scan}"'
    )
    end = time.monotonic() + 60
    while sql(host, "SELECT release FROM proofs") != f"('{release}',)":
        assert time.monotonic() < end, "nobody verifies the pair"
        time.sleep(0.5)


def test_an_upgrade_and_a_rollback_lose_no_request(
    host: Host, bundles: Sequence[Bundle], pictures: list[RequestPicture]
) -> None:
    first, second = (bundle.release for bundle in bundles)
    with SteadyClient({host.name: host.address}, pictures) as client:
        run_as_checked("release", "--bundle", bundles[1].path)
        assert serving_release(host.address) == second
        assert state_files(host) == {first: "standby", second: "serving"}
        run_as_checked("rollback", "--reason", "a test")
        assert serving_release(host.address) == first
        assert state_files(host) == {first: "serving", second: "standby"}
    assert client.failures() == []
    assert client.failed == client.wrong == 0
    assert set(client.counts[host.name].by_release) == {first, second}
    again = mobius("release", "--bundle", bundles[1].path, "-e", "mobius_retry_bad=true")
    assert again.code == 0, again.stderr


def test_a_rollback_with_data_lets_requests_wait(
    host: Host, bundles: Sequence[Bundle], pictures: list[RequestPicture]
) -> None:
    run_as_checked("backup", "create")
    sql(host, "INSERT INTO decisions VALUES ('a', 'b', 'same', 'a test', '2999-01-01T00:00:00+00:00')")
    check = mobius("rollback", "--backup", "latest", "--check")
    with SteadyClient({host.name: host.address}, pictures) as client:
        real = mobius("rollback", "--backup", "latest", "--yes")
    assert (check.code, real.code) == (0, 0), real.stderr
    assert check.changes == real.changes
    assert client.failures() == []
    assert client.failed == client.wrong == 0
    assert real.summary["restored"][host.name]["lost"] == 1
    assert sql(host, "SELECT count(*) FROM decisions") == "(0,)"
    assert sql(host, "PRAGMA integrity_check") == "('ok',)"
    assert serving_release(host.address) == bundles[0].release
    assert state_files(host)[bundles[0].release] == "serving"


def test_a_drill_runs_beside_the_live_instance(host: Host, bundles: Sequence[Bundle]) -> None:
    done = mobius("backup", "drill")
    assert done.code == 0, done.stderr
    assert serving_release(host.address) == bundles[0].release
    assert host.run(f"ls -d /run/{SERVICE}-drill", check=False).returncode != 0


def test_a_decommission_leaves_nothing_but_backups(host: Host) -> None:
    run_as_checked("decommission", SERVICE)
    assert serving_release(host.address) is None
    left = host.run(f"ls -d /opt/{SERVICE} /run/{SERVICE} /var/lib/{SERVICE} /usr/sbin/haproxy", check=False)
    assert left.stdout == ""
    assert host.run(f"ls /var/backups/{SERVICE}/*-full.tar").stdout
