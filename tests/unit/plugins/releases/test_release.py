"""Staging and removing releases: refusals before anything is written, predictions that come true, nothing half done."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import staged_tree

from mobius import manifest
from tests.opened import opened_for

CHECKOUT = Path(__file__).resolve().parents[4]
MakeBundle = Callable[..., manifest.Bundle]


def arguments(bundle: manifest.Bundle, **changes: Any) -> dict[str, Any]:
    """What the action plugin tells the module of a bundle."""
    expect = {**manifest.expectation(bundle), **changes}
    return {"state": "staged", "expect": expect, "python": sys.executable}


def stage(host: Any, bundle: manifest.Bundle, **more: Any) -> dict[str, Any]:
    result: dict[str, Any] = host.run("release", **arguments(bundle), src=str(bundle.path), **more)
    return result


def staged(host: Any) -> list[str]:
    """Everything in the folder of releases, hidden things too."""
    return sorted(path.name for path in host.host.releases_dir.iterdir())


# --- Staged -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_host_asks_for_the_bundle_only_when_it_needs_it(host: Any, make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    result = host.run("release", **arguments(bundle))
    assert (result["transfer"], result["changed"], staged(host)) == (True, False, [])
    assert stage(host, bundle)["changed"] is True
    result = host.run("release", **arguments(bundle))
    assert ("transfer" in result, result["changed"]) == (False, False)


@pytest.mark.slow
def test_a_staged_release_is_intact_and_a_second_time_changes_nothing(host: Any, make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    result = stage(host, bundle)
    assert (result["release"], result["changed"]) == (bundle.release_id, True)
    assert result["diff"] == {
        "before": {"release": bundle.release_id, "state": "absent"},
        "after": {"release": bundle.release_id, "state": "staged"},
    }
    assert staged_tree.verify_tree(host.host.release_dir(bundle.release_id)) == []
    result = stage(host, bundle)
    assert (result["release"], result["changed"], "diff" in result) == (bundle.release_id, False, False)


@pytest.mark.slow
def test_check_mode_predicts_what_the_run_then_does(host: Any, make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    for state, expected in (("absent", True), ("staged", False)):
        predicted = host.run("release", check=True, **arguments(bundle))
        assert staged(host) == ([] if state == "absent" else [bundle.release_id])
        done = stage(host, bundle)
        assert predicted["changed"] is done["changed"] is expected
        assert predicted.get("diff") == done.get("diff")


def test_another_digest_than_expected_is_refused(host: Any, make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    parameters = {**arguments(bundle, sha256="0" * 64), "src": str(bundle.path)}
    assert "was expected" in host.fails("release", "bundle_invalid", **parameters)
    assert staged(host) == []


def test_a_bundle_that_was_damaged_on_its_way_is_refused(host: Any, make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    bundle.path.write_bytes(bundle.path.read_bytes()[:-1])
    host.fails("release", "bundle_invalid", **arguments(bundle), src=str(bundle.path))
    assert staged(host) == []


def test_another_release_than_the_requested_one_is_refused(host: Any, make_bundle: MakeBundle) -> None:
    host.fails("release", "bundle_invalid", **arguments(make_bundle()), release="1.0.0-000000000000")


@pytest.mark.parametrize("check", [True, False])
def test_a_bundle_of_another_service_is_refused(host: Any, make_bundle: MakeBundle, check: bool) -> None:
    host.fails("release", "bundle_invalid", check=check, **arguments(make_bundle(service="another")))


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("changes", [{"python": "3.99"}, {"platform": "linux_s390x"}])
def test_a_bundle_for_another_python_or_platform_is_refused_before_it_is_sent(
    host: Any, make_bundle: MakeBundle, changes: dict[str, str], check: bool
) -> None:
    bundle = make_bundle(**changes)
    reason = host.fails("release", "bundle_platform", check=check, **arguments(bundle))
    assert next(iter(changes.values())) in reason and f"{sys.platform}_{os.uname().machine}" in reason


ANY_HOST = {"commit": None, "built_at": None, "python": None, "platform": None}


@pytest.mark.parametrize("check", [True, False])
def test_a_bundle_without_python_is_for_any_host(host: Any, make_bundle: MakeBundle, check: bool) -> None:
    parameters = {**arguments(make_bundle(**ANY_HOST)), "python": "/nonexistent/python3"}
    answer = host.run("release", check=check, **parameters)
    assert (answer["changed"], answer.get("transfer")) == ((True, None) if check else (False, True))


def test_a_host_without_that_python_is_refused(host: Any, make_bundle: MakeBundle) -> None:
    parameters = {**arguments(make_bundle()), "python": "/nonexistent/python3"}
    assert "no working Python" in host.fails("release", "bundle_platform", **parameters)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("changes", [{"needs_bytes": 1 << 60}, {"bundle_bytes": 1 << 60}])
def test_too_little_space_is_refused_before_the_bundle_is_sent(
    host: Any, make_bundle: MakeBundle, changes: dict[str, int], check: bool
) -> None:
    reason = host.fails("release", "disk_full", check=check, **arguments(make_bundle(), **changes))
    assert "MB free" in reason and staged(host) == []


@pytest.mark.slow
def test_a_disk_that_becomes_full_is_reported_and_nothing_is_staged(host: Any, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(size=20 << 20)
    # the module finds enough on a disk of 18 MB, as it does when something else fills it meanwhile
    parameters = arguments(bundle, needs_bytes=1, bundle_bytes=1)
    program = (
        "import json, os, sys; parameters = json.load(sys.stdin)\n"
        "from ansible.module_utils.testing import patch_module_args\n"
        "from ansible_collections.mobius.dhash.plugins.modules import release\n"
        "with patch_module_args(parameters):\n"
        "    try: release.main()\n"
        "    finally: print(json.dumps(os.listdir(sys.argv[1])), file=sys.stderr)\n"
    )
    disk = host.host.releases_dir
    mount = f'mount -t tmpfs -o size=18m tmpfs {disk} && exec {sys.executable} -c "$0" {disk}'
    namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    environment = {**os.environ, "PYTHONPATH": f"{CHECKOUT}/.ansible/collections:{CHECKOUT}"}
    opened = opened_for("release", host.root)
    about = {"service": "mobius-dhash", "config_dir": str(host.config_dir), "src": str(bundle.path)}
    everything = {**parameters, **opened, **about}
    done = subprocess.run(
        [*namespace, "sh", "-c", mount, program],
        input=json.dumps(everything),
        capture_output=True,
        text=True,
        env=environment,
    )
    result = json.loads(done.stdout)
    assert result["mobius_failure"]["outcome"] == "disk_full", result
    assert "became full" in result["msg"]
    assert json.loads(done.stderr) == []


@pytest.mark.slow
def test_a_damaged_release_that_nothing_uses_is_replaced(host: Any, make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    stage(host, bundle)
    content = host.host.release_dir(bundle.release_id) / "tree/content.bin"
    content.write_bytes(b"other")
    predicted = host.run("release", check=True, **arguments(bundle))
    assert content.read_bytes() == b"other"
    done = stage(host, bundle)
    assert predicted["repaired"] == done["repaired"] == ["changed tree/content.bin: 5 bytes, not 100"]
    assert predicted["diff"] == done["diff"]
    assert staged_tree.verify_tree(host.host.release_dir(bundle.release_id)) == []
    assert stage(host, bundle)["changed"] is False


@pytest.mark.slow
@pytest.mark.parametrize("check", [True, False])
def test_a_damaged_release_that_is_in_use_is_refused_with_what_differs(
    host: Any, make_bundle: MakeBundle, check: bool
) -> None:
    bundle = make_bundle()
    stage(host, bundle)
    host.truth(bundle.release_id)
    content = host.host.release_dir(bundle.release_id) / "tree/content.bin"
    content.write_bytes(b"other")
    reason = host.fails("release", "tree_damaged", check=check, **arguments(bundle), src=str(bundle.path))
    assert "content.bin" in reason and "confirmed" in reason
    assert content.read_bytes() == b"other"


def test_a_host_that_is_not_provisioned_is_refused(host: Any, make_bundle: MakeBundle) -> None:
    host.fails("release", "not_provisioned", **{**arguments(make_bundle()), "config_dir": "/nonexistent"})
    (host.root / "command").unlink()
    host.fails("release", "not_provisioned", **arguments(make_bundle()))


# --- Absent -----------------------------------------------------------------------------------------------------------


def test_a_release_that_nothing_needs_is_removed_and_a_second_time_changes_nothing(
    host: Any, make_bundle: MakeBundle
) -> None:
    release = stage(host, make_bundle())["release"]
    predicted = host.run("release", check=True, state="absent", release=release)
    assert staged(host) == [release]
    done = host.run("release", state="absent", release=release)
    assert predicted["changed"] is done["changed"] is True
    assert predicted["diff"] == done["diff"]
    assert staged(host) == []
    assert host.run("release", state="absent", release=release)["changed"] is False
    assert host.run("release", check=True, state="absent", release=release)["changed"] is False


def test_with_a_release_go_its_byte_code_and_its_logs_and_nobody_elses(host: Any, make_bundle: MakeBundle) -> None:
    release = stage(host, make_bundle())["release"]
    cache, logs = host.host.cache_dir, host.host.log_dir
    (cache / release / "deep").mkdir(parents=True)
    (cache / "other").mkdir()
    for name in (f"{release}.log", f"{release}.2026-01-01.log", "other.log"):
        (logs / name).write_text("a line\n")
    predicted = host.run("release", check=True, state="absent", release=release)
    assert (cache / release).exists()
    assert host.run("release", state="absent", release=release)["diff"] == predicted["diff"]
    assert sorted(path.name for folder in (cache, logs) for path in folder.iterdir()) == ["other", "other.log"]
    (logs / f"{release}.log").write_text("an instance's last line, after its release was removed\n")
    assert host.run("release", state="absent", release=release)["changed"] is True
    assert host.run("release", state="absent", release=release)["changed"] is False


def _confirmed(host: Any, release: str) -> None:
    host.truth(release)


def _rollback_target(host: Any, release: str) -> None:
    host.truth("2.0.0-000000000000", release)


def _pinned(host: Any, release: str) -> None:
    host.truth("2.0.0-000000000000", pinned=(release,))


def _pending(host: Any, release: str) -> None:
    host.pending(release, None)


def _previous_of_pending(host: Any, release: str) -> None:
    host.pending("2.0.0-000000000000", release)


def _running(host: Any, release: str) -> None:
    host.start(release)


def _hanging(host: Any, release: str) -> None:
    host.start(release, "hanging")


@pytest.mark.slow
@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize(
    "use", [_confirmed, _rollback_target, _pinned, _pending, _previous_of_pending, _running, _hanging]
)
def test_a_release_that_is_needed_is_not_removed(
    host: Any, make_bundle: MakeBundle, use: Callable[[Any, str], None], check: bool
) -> None:
    release = stage(host, make_bundle())["release"]
    use(host, release)
    host.fails("release", "release_in_use", check=check, state="absent", release=release)
    assert staged(host) == [release]


@pytest.mark.slow
def test_an_older_release_than_the_rollback_target_is_removed(host: Any, make_bundle: MakeBundle) -> None:
    old, middle, new = (stage(host, make_bundle(version))["release"] for version in ("1.0.0", "1.1.0", "1.2.0"))
    host.truth(new, old, middle)
    assert host.run("release", state="absent", release=old)["changed"] is True
    assert staged(host) == sorted([middle, new])


@pytest.mark.parametrize("release", ["..", "../x", "1.0.0", "1.0.0-0123456789ab/..", ""])
def test_what_is_no_release_id_is_refused(host: Any, release: str) -> None:
    host.fails("release", "invalid_input", state="absent", release=release)
