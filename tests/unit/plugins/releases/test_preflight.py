"""A deploy is refused before anything changes: for want of space, for another Python, and for a lower version."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import staged_tree, version_order
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from mobius import manifest

MakeBundle = Callable[..., manifest.Bundle]
TERABYTE = 1 << 40


def arguments(bundle: manifest.Bundle, **changes: Any) -> dict[str, Any]:
    return {"expect": {**manifest.expectation(bundle), **changes}, "python": sys.executable}


def everything(host: Any) -> dict[str, tuple[int, int]]:
    """Size and time of change of every file of the host, by path."""
    found = {str(path): path.stat() for path in sorted(host.root.rglob("*")) if path.is_file()}
    return {path: (about.st_size, about.st_mtime_ns) for path, about in found.items()}


@pytest.mark.parametrize("check", [True, False])
def test_a_release_is_refused_while_another_one_is_being_promoted(
    host: Any, make_bundle: MakeBundle, check: bool
) -> None:
    bundle = make_bundle()
    host.truth("0.9.0-0123456789ab")
    host.pending("0.9.5-0123456789ab", "0.9.0-0123456789ab")
    before = everything(host)
    reason = host.fails("preflight", "locked", check=check, **arguments(bundle))
    assert "0.9.5-0123456789ab has been promoted by another command on this host since 2026-01-01" in reason
    assert everything(host) == before
    host.pending(bundle.release_id, "0.9.0-0123456789ab")
    assert host.run("preflight", check=check, **arguments(bundle))["changed"] is False, "the same release may go on"


@pytest.mark.parametrize("check", [True, False])
def test_a_release_that_was_marked_bad_is_refused_with_its_reason_unless_it_is_tried_again(
    host: Any, make_bundle: MakeBundle, check: bool
) -> None:
    bundle = make_bundle()
    host.truth("0.9.0-0123456789ab", bad={bundle.release_id: "it hashes wrongly."})
    before = everything(host)
    reason = host.fails("preflight", "release_bad", check=check, **arguments(bundle))
    assert reason == f"{bundle.release_id} was marked bad on this host: it hashes wrongly."
    assert everything(host) == before
    assert host.run("preflight", check=check, **arguments(bundle), retry_bad=True)["changed"] is False


# --- Space ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [True, False])
def test_a_host_with_enough_space_reports_what_is_needed_and_nothing_changes(
    host: Any, make_bundle: MakeBundle, check: bool
) -> None:
    bundle = make_bundle(size=100_000)
    before = everything(host)
    result = host.run("preflight", check=check, **arguments(bundle), backup="full")
    assert result["release_bytes"] > 100_000 + bundle.size
    assert result["backup_bytes"] > 0
    assert (result["changed"], everything(host)) == (False, before)


@pytest.mark.parametrize("check", [True, False])
def test_a_release_that_does_not_fit_is_refused_with_what_is_needed_and_what_there_is(
    host: Any, make_bundle: MakeBundle, check: bool
) -> None:
    bundle = make_bundle()
    given = arguments(bundle, needs_bytes=1000 * TERABYTE)
    reason = host.fails("preflight", "disk_full", check=check, **given)
    assert " MB free; " in reason
    assert f" MB are needed for the release {bundle.release_id} (" in reason
    answer = host.run("preflight", check=check, **given)
    assert answer["mobius_failure"]["code"] == 5
    assert answer["mobius_failure"]["do_next"].startswith("Free or add ")


@pytest.mark.slow
def test_a_backup_that_does_not_fit_is_refused_and_no_space_is_required_without_one(
    host: Any, make_bundle: MakeBundle
) -> None:
    bundle = make_bundle()
    library = host.host.state_dir / "library"
    library.mkdir()
    with open(library / "huge.jpg", "wb") as stream:
        os.truncate(stream.fileno(), TERABYTE * 8)
    reason = host.fails("preflight", "disk_full", **arguments(bundle), backup="full")
    assert "a backup of mobius-dhash (" in reason
    assert host.run("preflight", **arguments(bundle), backup="state")["backup_bytes"] < TERABYTE
    assert host.run("preflight", **arguments(bundle))["backup_bytes"] == 0


@pytest.mark.slow
def test_what_fits_one_by_one_and_not_together_is_refused(host: Any, make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    free = os.statvfs(host.root).f_bavail * os.statvfs(host.root).f_frsize
    library = host.host.state_dir / "library"
    library.mkdir()
    with open(library / "half.jpg", "wb") as stream:
        os.truncate(stream.fileno(), free * 6 // 10)
    given = arguments(bundle, needs_bytes=free * 6 // 10)
    assert host.run("preflight", **given)["release_bytes"] > 0
    assert host.run("preflight", **arguments(bundle), backup="full")["backup_bytes"] > 0
    reason = host.fails("preflight", "disk_full", **given, backup="full")
    assert f"for the release {bundle.release_id} (" in reason and " and a backup of mobius-dhash (" in reason


def test_what_killed_runs_left_counts_as_free_because_the_run_removes_it_first(
    host: Any, make_bundle: MakeBundle
) -> None:
    bundle = make_bundle()
    left = host.host.releases_dir / f"{staged_tree.STAGING_PREFIX}abcdefgh"
    left.mkdir()
    with open(left / "half", "wb") as stream:
        os.truncate(stream.fileno(), 8 * TERABYTE)
    assert host.run("preflight", **arguments(bundle, needs_bytes=8 * TERABYTE))["release_bytes"] > 8 * TERABYTE


def test_a_release_that_is_staged_needs_no_space(host: Any, make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    (host.host.releases_dir / bundle.release_id).mkdir()
    assert host.run("preflight", **arguments(bundle, needs_bytes=1000 * TERABYTE))["release_bytes"] == 0


def test_a_host_without_a_python_may_get_a_bundle_that_needs_none(host: Any, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(commit=None, built_at=None, python=None, platform=None)
    result = host.run("preflight", **{**arguments(bundle), "python": "/nonexistent/python3"})
    assert result["release_bytes"] > bundle.size


@pytest.mark.parametrize("check", [True, False])
def test_another_python_is_refused_before_a_backup_is_written(host: Any, make_bundle: MakeBundle, check: bool) -> None:
    host.fails("preflight", "bundle_platform", check=check, **arguments(make_bundle(python="3.99")))


# --- Versions ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [True, False])
def test_a_lower_version_than_the_confirmed_one_is_refused_unless_it_is_allowed(
    host: Any, make_bundle: MakeBundle, check: bool
) -> None:
    bundle = make_bundle("1.9.0")
    confirmed = "1.10.0-" + "a" * 12
    host.truth(confirmed)
    reason = host.fails("preflight", "downgrade", check=check, **arguments(bundle))
    assert reason == f"{bundle.release_id} is a lower version than {confirmed}, which this host has confirmed."
    assert host.run("preflight", check=check, **arguments(bundle), downgrade=True)["confirmed"] == confirmed


def test_the_confirmed_release_is_never_refused_and_needs_nothing(host: Any, make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    host.truth(bundle.release_id)
    result = host.run("preflight", **arguments(bundle, needs_bytes=1000 * TERABYTE), backup="full")
    assert (result["changed"], result["release_bytes"], result["backup_bytes"]) == (False, 0, 0)


@pytest.mark.parametrize("confirmed", ["1.0.0", "1.0", "0.9.9", "1.0.0rc1", "build.of.tuesday"])
def test_the_same_version_a_higher_one_and_one_without_an_order_are_no_downgrade(
    host: Any, make_bundle: MakeBundle, confirmed: str
) -> None:
    host.truth(f"{confirmed}-{'a' * 12}")
    assert host.run("preflight", **arguments(make_bundle("1.0.0")))["confirmed"] == f"{confirmed}-{'a' * 12}"


def numbers(highest: int) -> st.SearchStrategy[str]:
    return st.integers(0, highest).map(str)


VERSIONS = st.builds(
    "{}{}{}{}".format,
    st.lists(numbers(11), min_size=1, max_size=4).map(".".join),
    st.one_of(
        st.just(""),
        st.builds("{}{}".format, st.sampled_from(["a", "b", "rc", ".alpha", "_beta.", "c"]), numbers(11)),
    ),
    st.one_of(st.just(""), st.builds(".post{}".format, numbers(11))),
    st.one_of(st.just(""), st.builds(".dev{}".format, numbers(11))),
)


@pytest.mark.slow
@settings(deadline=None)
@given(VERSIONS, VERSIONS)
def test_versions_come_in_the_order_that_packaging_gives_them(one: str, other: str) -> None:
    assert version_order.is_lower(one, other) is (Version(one) < Version(other))


@pytest.mark.parametrize("version", ["", "main", "1.0.x", "2026.tuesday", "1..2"])
def test_what_is_no_version_has_no_order(version: str) -> None:
    assert version_order.is_lower(version, "1.0") is None
    assert version_order.is_lower("1.0", version) is None
