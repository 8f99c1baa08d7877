"""A service that is not dhash, with its own name, paths, port, probes and metrics, released beside it and taken away."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mobius.control.bundle import builder as bundle
from tests.end_to_end.by_hand import CHECKOUT, Bundle, Host, mobius
from tools.steady_client import serving_release

# five releases and two decommissions take some minutes
pytestmark = [pytest.mark.lab, pytest.mark.soak]
STAND_IN = CHECKOUT / "tests/integration/switch/stand_in.py"
PORT = 9191
VARIABLES: dict[str, Any] = {
    "mobius_service": "stand-in",
    "host_user": "keeper",
    "host_root": "/srv/stand-in-releases",
    "host_state_dir": "/srv/stand-in-state",
    "host_config_dir": "/etc/stand-in-config",
    "host_log_dir": "/var/log/stand-in-log",
    "host_exec": "/usr/bin/python3 stand_in.py",
    "host_health_path": "/well",
    "host_port": PORT,
    "host_start_timeout": 10,
    "host_drain_deadline": 3,
    "host_metrics_path": "/counts",
    "host_watch_signals": [],
    "host_watch_memory": {"metric": "memory_bytes", "bytes_per_hour": 100_000_000, "seconds": 1200, "warm_up": 300},
    "deploy_golden": [{"name": "its health", "path": "/well", "json": {"status": "pass"}}],
    "promote_probes": [{"name": "its health", "path": "/well", "json": {"status": "pass"}}],
    "promote_metrics_path": "/counts",
    # the one client of each host has to give both releases their samples, and its own metrics are what is tested
    "promote_canary_share": 50,
    "promote_front_signals": [],
    "promote_signals": [
        {
            "name": "failed answers",
            "part": [{"metric": "failures_total"}],
            "whole": [{"metric": "answers_total"}],
            "limit": 0.05,
            "floor": 0.01,
            "samples": 100,
        },
        {"name": "p95", "histogram": [{"metric": "answer_seconds_bucket"}], "times": 1.5, "floor": 0.2, "samples": 100},
    ],
    "backup_drill_probes": [],
    "backup_drill_count": {},
    "backup_writes": {},
    "backup_create_calendar": "*-*-* 02:30",
}
CLIENT = """
import http.client, time
while True:
    try:
        c = http.client.HTTPConnection('127.0.0.1', %d, timeout=5)
        c.request('GET', '/')
        c.getresponse().read()
    except OSError:
        pass
    time.sleep(0.02)
"""
# what a run leaves wherever it was, and what a decommissioned service leaves on purpose
ASIDE = r"^/(tmp|var/tmp|proc|sys|dev|run|root|var/log/journal|var/lib/systemd|var/backups/stand-in|var/lib/mobius-witness)([ /]|$)"


@contextlib.contextmanager
def asked(hosts: Sequence[Host]) -> Iterator[None]:
    """A client on every host that asks the stand-in all the time."""
    for host in hosts:
        host.run(f'systemd-run --unit=asks python3 -c "{CLIENT % PORT}"')
    try:
        yield
    finally:
        for host in hosts:
            host.run("systemctl stop asks")


def serving(host: Host) -> str:
    """The release of the stand-in that answers on its own port there."""
    ask = f"import urllib.request as u; print(u.urlopen('http://127.0.0.1:{PORT}/', timeout=5).headers['X-Release-Id'])"
    return host.run(f'python3 -c "{ask}"').stdout.strip()


def listing(host: Host) -> set[str]:
    """Every file on the host with mode, owner and group, but for what stays aside."""
    return set(host.run(f"find / -xdev -printf '%p %m %U %G\\n' | grep -Ev '{ASIDE}'").stdout.splitlines())


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    """A good release, a better one, and one that fails every tenth client."""
    built = {}
    for version, behaviour in (("1.0.0", {}), ("1.1.0", {}), ("1.2.0", {"fail_every": 10})):
        folder = tmp_path_factory.mktemp(version)
        tree = folder / "tree"
        tree.mkdir()
        shutil.copy(STAND_IN, tree)
        (tree / "behaviour.json").write_text(json.dumps(behaviour))
        about = {"commit": "0" * 40, "built_at": "2026-01-01T00:00:00Z", "python": "3.11", "platform": "linux_x86_64"}
        made = bundle.pack([tree], folder, service="stand-in", version=version, **about)
        built[version] = Bundle(str(made.path), made.release_id)
    return built


@pytest.fixture(scope="module")
def dhash_hosts(hosts: list[Host], bundles: Sequence[Bundle]) -> list[Host]:
    """The hosts, with dhash on them: released now when no test before has done that."""
    if hosts[0].run("test -e /opt/mobius-dhash/activation.json", check=False).returncode:
        assert mobius("provision").code == 0
        assert mobius("release", "--bundle", bundles[0].path).code == 0
    return hosts


def test_another_service_lives_beside_dhash_and_leaves_the_hosts_as_they_were(
    dhash_hosts: list[Host], stand_ins: dict[str, Bundle], tmp_path: Path
) -> None:
    hosts = dhash_hosts
    ours = {host.name: serving_release(host.address) for host in hosts}
    before = {host.name: listing(host) for host in hosts}
    given = tmp_path / "stand-in.json"
    given.write_text(json.dumps(VARIABLES))
    other = ("-e", f"@{given}")

    assert mobius("provision", *other).code == 0
    with asked(hosts):
        first = mobius("release", "--bundle", stand_ins["1.0.0"].path, *other)
        assert first.code == 0, first.stderr
        second = mobius("release", "--bundle", stand_ins["1.1.0"].path, *other)
        assert second.code == 0, second.stderr
        assert {serving(host) for host in hosts} == {stand_ins["1.1.0"].release}
        failing = mobius("release", "--bundle", stand_ins["1.2.0"].path, *other)
        assert failing.outcome == "rolled_back"
        assert "failed answers" in failing.summary["reason"]
    assert mobius("rollback", *other).code == 0
    assert {serving(host) for host in hosts} == {stand_ins["1.0.0"].release}
    assert {host.name: serving_release(host.address) for host in hosts} == ours

    refused = mobius("decommission", "mobius-dhash", *other)
    assert (refused.code, refused.outcome) == (1, "invalid_input")
    check = mobius("decommission", "stand-in", *other, "--check")
    assert {serving(host) for host in hosts} == {stand_ins["1.0.0"].release}
    real = mobius("decommission", "stand-in", *other)
    assert (check.code, real.code) == (0, 0), real.stderr
    assert check.changes == real.changes
    assert mobius("decommission", "stand-in", *other).changes == {}
    assert {host.name: listing(host) ^ before[host.name] for host in hosts} == {host.name: set() for host in hosts}
    assert {host.name: serving_release(host.address) for host in hosts} == ours
    assert all(host.run("ls /var/backups/stand-in/*-full.tar") for host in hosts)
