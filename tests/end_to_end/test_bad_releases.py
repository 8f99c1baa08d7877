"""Releases that must not be confirmed, on three hosts that serve the second of two; in this order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from mobius.manifest import release_of
from tests.end_to_end.by_hand import Bundle, Host, build, mobius
from tools.steady_client import serving_release

# a dozen runs on three hosts
pytestmark = [pytest.mark.lab, pytest.mark.soak]


@pytest.fixture(scope="module")
def next_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One more release, for hosts that have seen the others."""
    return build(tmp_path_factory.mktemp("next"), "4.0.0")


@pytest.fixture(scope="module", autouse=True)
def _second_release(hosts: list[Host], bundles: Sequence[Bundle]) -> None:
    """Every host serves the second release and keeps the first."""
    for arguments in (("provision",), *(("release", "--bundle", bundle.path) for bundle in bundles)):
        done = mobius(*arguments)
        assert done.code == 0, done.stderr
    assert {serving_release(host.address) for host in hosts} == {bundles[1].release}


def names(hosts: Sequence[Host]) -> set[str]:
    return {host.name for host in hosts}


def test_the_same_release_again_would_change_nothing(hosts: list[Host], bundles: Sequence[Bundle]) -> None:
    """That it does not when it is run is what Molecule's scenario promote finds (idempotence)."""
    again = mobius("release", "--bundle", bundles[1].path, "--check")
    assert again.code == 0
    assert again.changes == {}


def test_a_release_that_falls_ill_while_it_serves_is_taken_back_everywhere(
    hosts: list[Host], bundles: Sequence[Bundle]
) -> None:
    """The instance of one host is killed again and again during the gate, so that host cannot pass."""
    staged = mobius("deploy", "--bundle", bundles[0].path, "-e", "mobius_downgrade=true")
    assert staged.code == 0
    victim = hosts[1]
    unit = f"mobius-dhash@{bundles[0].release}*.service"
    victim.run(f"systemd-run --unit=test-killer sh -c 'while sleep 0.7; do systemctl kill --signal=KILL {unit}; done'")
    try:
        answer = mobius("promote", "--release", bundles[0].release, "-e", "promote_gate_deadline=10")
    finally:
        victim.run("systemctl stop test-killer.service")
    assert answer.code == 2, answer.stderr
    for host in hosts:
        status = host.status()
        assert release_of(status["confirmed"]) == bundles[1].release
        assert status["pending"] is None
        assert serving_release(host.address) == bundles[1].release


def test_a_deadline_shorter_than_the_gate_is_refused_before_anything_is_backed_up_or_staged(
    hosts: list[Host], next_bundle: Bundle, tmp_path: Path
) -> None:
    hook = tmp_path / "hook.yml"
    hook.write_text("- ansible.builtin.fail: {msg: no hook comes before the refusals}\n")
    given = {"promote_confirm_deadline": 1, "mobius_hooks": {"before_deploy": str(hook)}}
    answer = mobius("release", "--bundle", next_bundle.path, "-e", json.dumps(given))
    assert (answer.code, answer.outcome) == (1, "invalid_input"), answer.stderr
    assert answer.changes == {}
    assert "promote_confirm_deadline" in answer.summary["do_next"]
    assert {host.status()["pending"] for host in hosts} == {None}


def test_a_full_disk_on_one_host_switches_none(
    hosts: list[Host], bundles: Sequence[Bundle], next_bundle: Bundle
) -> None:
    host = hosts[2]
    # a file system of its own for the releases, nearly full
    host.run(
        "mkdir /tmp/kept && cp -a /opt/mobius-dhash/releases/. /tmp/kept/ && "
        "mount -t tmpfs -o size=160m tmpfs /opt/mobius-dhash/releases && cp -a /tmp/kept/. /opt/mobius-dhash/releases/ ; true"
    )
    host.run("head -c 1G /dev/zero > /opt/mobius-dhash/releases/.fill", check=False)
    try:
        answer = mobius("release", "--bundle", next_bundle.path)
    finally:
        host.run("umount /opt/mobius-dhash/releases && rm -rf /tmp/kept")
    assert answer.code == 5, answer.stderr
    assert answer.outcomes()[host.name] == "disk_full"
    assert {serving_release(item.address) for item in hosts} == {bundles[1].release}


def test_a_silent_host_switches_none_and_is_named(
    hosts: list[Host], bundles: Sequence[Bundle], next_bundle: Bundle
) -> None:
    silent = hosts[0]
    with silent.paused():
        answer = mobius("release", "--bundle", next_bundle.path)
    assert answer.code == 3
    assert answer.outcomes()[silent.name] == "unreachable"
    assert {serving_release(host.address) for host in hosts} == {bundles[1].release}


def test_the_same_release_again_brings_all_hosts_along_and_keeps_to_its_plan_with_one_deployed_to_before(
    hosts: list[Host], next_bundle: Bundle, tmp_path: Path
) -> None:
    assert mobius("deploy", "--bundle", next_bundle.path, "--limit", hosts[1].name).code == 0
    plan = str(tmp_path / "next.plan.json")
    assert mobius("plan", "release.yml", "--bundle", next_bundle.path, "--out", plan).code == 0
    answer = mobius("apply", plan, "--bundle", next_bundle.path)
    assert answer.code == 0, answer.stderr
    assert (answer.summary["fidelity"]["missing"], answer.summary["fidelity"]["extra"]) == (0, 0)
    assert {serving_release(host.address) for host in hosts} == {next_bundle.release}
    again = mobius("apply", plan, "--bundle", next_bundle.path)
    assert again.outcomes() == dict.fromkeys(names(hosts), "plan_stale"), "the hosts are others by now"
