"""Debian 13 hosts: their own Python 3.13 runs the host tool, the backups and a bundle that was built for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pytest

from mobius.manifest import release_of
from tests.end_to_end.by_hand import ROOT, Bundle, Host, lab, mobius
from tools.steady_client import serving_release

# another base image, two bundles and two releases take some minutes
pytestmark = [pytest.mark.lab, pytest.mark.soak]


@pytest.fixture(scope="module")
def debian_13_hosts() -> Iterator[list[Host]]:
    """Two fresh hosts with Debian 13."""
    lab("down")
    lab("up", "--debian", "trixie", "--hosts", "2")
    state = json.loads((ROOT / ".lab/lab.json").read_text(encoding="utf-8"))
    yield [Host(item["name"], item["ssh_port"], item["http_port"], item["container"]) for item in state["hosts"]]
    lab("down")


@pytest.fixture(scope="module")
def python_313_bundles(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Bundle]:
    """Two releases of the present commit, for Python 3.13."""
    folder = str(tmp_path_factory.mktemp("bundles"))
    bundles = []
    for version in ("1.0.0", "2.0.0"):
        answer = mobius("bundle", "build", "--version", version, "--out", folder, "--python", "3.13")
        assert answer.code == 0, answer.stderr
        bundles.append(Bundle(answer.summary["bundle"], answer.summary["release"]))
    return bundles


def test_a_release_an_upgrade_and_a_rollback_on_debian_13(
    debian_13_hosts: list[Host], python_313_bundles: Sequence[Bundle]
) -> None:
    first, second = python_313_bundles
    assert all("3.13" in host.run("/usr/bin/python3 --version").stdout for host in debian_13_hosts)
    provisioned = mobius("provision")
    assert provisioned.code == 0, provisioned.stderr
    for bundle in (first, second):
        check = mobius("release", "--bundle", bundle.path, "--check")
        assert check.code == 0, check.stderr
        released = mobius("release", "--bundle", bundle.path)
        assert released.code == 0, released.stderr
        assert check.changes == released.changes
        assert {serving_release(host.address) for host in debian_13_hosts} == {bundle.release}
    rolled_back = mobius("rollback", "--reason", "a rehearsal")
    assert rolled_back.code == 0, rolled_back.stderr
    assert {serving_release(host.address) for host in debian_13_hosts} == {first.release}
    assert all(release_of(host.status()["confirmed"]) == first.release for host in debian_13_hosts)


def test_a_backup_is_taken_verified_and_restored_on_debian_13(
    debian_13_hosts: list[Host], python_313_bundles: Sequence[Bundle]
) -> None:
    """Debian 13's tar, SQLite and Python read what they wrote."""
    for arguments in (("backup", "create"), ("backup", "verify"), ("backup", "restore", "latest")):
        answer = mobius(*arguments)
        assert answer.code == 0, answer.stderr
    assert {serving_release(host.address) for host in debian_13_hosts} == {python_313_bundles[0].release}


def test_a_bundle_for_another_python_is_refused_before_anything_changes(
    debian_13_hosts: list[Host], python_313_bundles: Sequence[Bundle], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = str(tmp_path_factory.mktemp("other"))
    built = mobius("bundle", "build", "--version", "3.0.0", "--out", folder, "--python", "3.11")
    assert built.code == 0, built.stderr
    refused = mobius("release", "--bundle", built.summary["bundle"])
    assert refused.code != 0
    assert set(refused.outcomes()) == {host.name for host in debian_13_hosts}
    assert {serving_release(host.address) for host in debian_13_hosts} == {python_313_bundles[0].release}
