"""A release on three real hosts, from nothing to rollback; the tests build on each other in this order."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from mobius.control.history import verifier as history_verify
from mobius.manifest import release_of
from tests.end_to_end.by_hand import Bundle, Host, answered, build, mobius
from tools import demo
from tools.steady_client import RequestPicture, SteadyClient, serving_release

pytestmark = pytest.mark.lab


def names(hosts: Sequence[Host]) -> set[str]:
    return {host.name for host in hosts}


def test_an_unprepared_host_is_refused_by_name_and_nothing_changes(
    hosts: list[Host], bundles: Sequence[Bundle]
) -> None:
    answer = mobius("release", "--bundle", bundles[0].path)
    assert answer.code == 3
    assert answer.outcomes() == dict.fromkeys(names(hosts), "not_provisioned")
    assert "provision" in answer.summary["do_next"]
    assert all(host.run("test -e /opt/mobius-dhash", check=False).returncode for host in hosts)


def test_provisioning_makes_them_hosts_that_can_be_released_to(hosts: list[Host]) -> None:
    """What check mode says of it, and a second run, are compared in tests/integration/switch/test_host_role.py."""
    done = mobius("provision")
    assert done.code == 0, done.stderr
    assert set(done.changes) == names(hosts)


def test_the_first_release_does_what_its_check_said(hosts: list[Host], bundles: Sequence[Bundle]) -> None:
    check = mobius("release", "--bundle", bundles[0].path, "--check")
    assert check.code == 0
    assert all(host.run("ls /opt/mobius-dhash/releases").stdout == "" for host in hosts)
    real = mobius("release", "--bundle", bundles[0].path)
    assert real.code == 0, real.stderr
    assert check.changes == real.changes
    assert {serving_release(host.address) for host in hosts} == {bundles[0].release}


def test_the_smoke_test_passes_on_sound_hosts_and_names_the_one_that_is_not(hosts: list[Host]) -> None:
    sound = mobius("smoke")
    assert sound.code == 0, sound.stderr
    assert {name: report["failed"] for name, report in sound.summary["smoke"].items()} == dict.fromkeys(names(hosts), 0)
    assert sound.changes == {}
    release = sound.summary["smoke"][hosts[0].name]["release"]
    log = f"/var/log/mobius-dhash/{release.replace('+', '_')}.log"
    hosts[0].run(f"chmod o+r {log}")
    damaged = mobius("smoke", "logging")
    hosts[0].run(f"chmod o-r {log}")
    assert (damaged.code, damaged.outcomes()) == (2, {hosts[0].name: "smoke_failed"})
    assert {name: report["failed"] for name, report in damaged.summary["smoke"].items()} == {
        host.name: int(host is hosts[0]) for host in hosts
    }


def test_a_backup_does_what_its_check_said(hosts: list[Host]) -> None:
    check, real, again = mobius("backup", "create", "--check"), mobius("backup", "create"), mobius("backup", "create")
    assert (check.code, real.code, again.code) == (0, 0, 0)
    assert check.changes == real.changes
    assert set(real.changes) == names(hosts), "the release has changed what there is to back up"
    assert again.changes == {}


def test_an_upgrade_and_a_way_back_lose_no_request(
    hosts: list[Host], bundles: Sequence[Bundle], pictures: list[RequestPicture]
) -> None:
    first, second = bundles
    with SteadyClient({host.name: host.address for host in hosts}, pictures) as client:
        check = mobius("release", "--bundle", second.path, "--check")
        assert {serving_release(host.address) for host in hosts} == {first.release}
        real = mobius("release", "--bundle", second.path)
        assert real.code == 0, real.stderr
        assert check.changes == real.changes
        assert {serving_release(host.address) for host in hosts} == {second.release}
        upgrade = real

        check = mobius("rollback", "--reason", "a test", "--check")
        assert {serving_release(host.address) for host in hosts} == {second.release}
        real = mobius("rollback", "--reason", "a test")
        assert (check.code, real.code) == (0, 0)
        assert check.changes == real.changes
        assert {serving_release(host.address) for host in hosts} == {first.release}
        recorded = mobius("history", "show", real.summary["run"]).summary
        moved = (recorded["from_release"], recorded["to_release"])
        assert (release_of(moved[0]), release_of(moved[1])) == (second.release, first.release)
        heads = [json.loads(host.run("tail -n 1 /var/lib/mobius-witness/heads.jsonl").stdout) for host in hosts]
        assert {head["run"] for head in heads} == {real.summary["run"]}
        assert mobius("release", "--bundle", second.path).code == 1, "a release that was taken back is refused"
        again = ("release", "--bundle", second.path, "-e", "mobius_retry_bad=true")
        check, real = mobius(*again, "--check"), mobius(*again)
        assert (check.code, real.code) == (0, 0)
        assert check.changes == real.changes
    assert client.failures() == []
    assert client.failed == client.wrong == 0
    for count in client.counts.values():
        assert set(count.by_release) == {first.release, second.release}
    told = mobius("history", "show", upgrade.summary["run"]).summary
    (decision,) = told["decisions"]
    assert (decision["decision"], decision["release"], decision["verdict"]) == ("confirm", second.release, "pass")
    assert decision["batches"] == [[host.name] for host in hosts], (
        "1, 25 % and the rest are three batches of three hosts"
    )
    gates = {
        result["host"]: result["fields"]["evidence"] for result in told["results"] if "evidence" in result["fields"]
    }
    assert {host: said["evidence_sha256"] for host, said in decision["hosts"].items()} == {
        host.name: history_verify.digest(gates[host.name]) for host in hosts
    }


def test_wrong_hashes_are_refused_before_any_client_meets_them(
    hosts: list[Host], bundles: Sequence[Bundle], pictures: list[RequestPicture], tmp_path: Path
) -> None:
    bad = build(tmp_path, "3.0.0", demo.bad_source(tmp_path))
    with SteadyClient({host.name: host.address for host in hosts}, pictures) as client:
        answer = mobius("release", "--bundle", bad.path)
    assert answer.code == 2
    assert answer.outcomes() == dict.fromkeys(names(hosts), "golden_mismatch")
    assert (client.failed, client.wrong) == (0, 0)
    for host in hosts:
        status = host.status()
        assert release_of(status["confirmed"]) == bundles[1].release
        refused = next(item for item in status["releases"] if release_of(item["release"]) == bad.release)
        assert refused["bad"]
        assert refused["state"] == "bad"
    assert mobius("release", "--bundle", bad.path).code == 1, "it is known to be bad now"


def test_a_wrong_digest_is_one_sentence_and_changes_nothing(
    hosts: list[Host], bundles: Sequence[Bundle], tmp_path: Path
) -> None:
    damaged = tmp_path / Path(bundles[0].path).name
    content = bytearray(Path(bundles[0].path).read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(bytes(content))
    (tmp_path / f"{damaged.name}.sha256").write_text(Path(f"{bundles[0].path}.sha256").read_text())
    answer = mobius("release", "--bundle", str(damaged))
    assert answer.code == 1
    assert answer.summary["outcome"] == "bundle_invalid"
    assert answer.changes == {}
    assert {serving_release(host.address) for host in hosts} == {bundles[1].release}


def test_an_unknown_inventory_is_one_sentence() -> None:
    answer = mobius("release", "-i", "inventories/nowhere")
    assert answer.code == 1
    assert "inventories/nowhere" in answer.stderr


def test_a_reboot_serves_the_confirmed_release(hosts: list[Host], bundles: Sequence[Bundle]) -> None:
    hosts[0].reboot()
    deadline = time.monotonic() + 60
    while serving_release(hosts[0].address) != bundles[1].release:
        assert time.monotonic() < deadline, "the host serves nothing a minute after its reboot"
        time.sleep(0.2)


def test_going_back_on_the_host_itself_needs_no_controller(hosts: list[Host], bundles: Sequence[Bundle]) -> None:
    first, second = bundles
    done = hosts[0].run("mobius-host rollback --reason 'a test without controller'")
    assert first.release in done.stdout
    assert serving_release(hosts[0].address) == first.release
    status = hosts[0].status()
    assert release_of(status["confirmed"]) == first.release
    assert next(item for item in status["releases"] if release_of(item["release"]) == second.release)["bad"]


def test_going_back_with_the_data_of_a_backup_says_what_is_lost_and_wants_a_yes(
    hosts: list[Host], bundles: Sequence[Bundle]
) -> None:
    host = hosts[1]
    index = "/var/lib/mobius-dhash/index/index.sqlite3"
    later = "INSERT INTO decisions VALUES ('a', 'b', 'same', 'a test', '2999-01-01T00:00:00+00:00')"
    count = "SELECT count(*) FROM decisions"

    def sql(statement: str) -> str:
        script = (
            f"import sqlite3; d = sqlite3.connect('{index}'); print(*d.execute(\"{statement}\"), end=''); d.commit()"
        )
        return host.run(f"python3 - <<'END'\n{script}\nEND").stdout

    assert mobius("backup", "create", "--limit", host.name).code == 0
    sql(later)
    before = host.status()
    refused = mobius("rollback", "--backup", "latest", "--limit", host.name)
    assert (refused.code, refused.outcome) == (1, "invalid_input")
    assert "1 writes" in refused.summary["reason"]
    assert json.loads(host.run("tail -n 1 /var/lib/mobius-witness/heads.jsonl").stdout)["run"] == refused.summary["run"]
    code, said = answered("n", "rollback", "--backup", "latest", "--limit", host.name)
    assert (code, "1 later writes would be lost" in said) == (2, True), said
    assert {**host.status(), "watch": None} == {**before, "watch": None}
    check = mobius("rollback", "--backup", "latest", "--limit", host.name, "--check")
    real = mobius("rollback", "--backup", "latest", "--limit", host.name, "--yes")
    assert (check.code, real.code) == (0, 0), real.stderr
    assert check.changes == real.changes
    assert real.summary["restored"][host.name]["lost"] == 1
    assert serving_release(host.address) == bundles[0].release, "the release goes back as well as the data"
    assert sql(count) == "(0,)"
