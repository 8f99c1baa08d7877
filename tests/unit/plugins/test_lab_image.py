"""An image is named after its recipe; the machine's own limits and cgroups are found by looking."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import podman
from ansible_collections.mobius.dhash.plugins.modules import lab_image


def test_the_same_recipe_gives_the_same_name_and_each_debian_its_own() -> None:
    assert lab_image.image_name("bookworm") == lab_image.image_name("bookworm")
    repository, _, tag = lab_image.image_name("trixie").partition(":")
    assert repository == "localhost/mobius-lab"
    assert tag.startswith("trixie-")
    assert tag.removeprefix("trixie-") != lab_image.image_name("bookworm").rpartition("-")[2]


def test_a_changed_recipe_gives_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = lab_image.image_name("bookworm")
    monkeypatch.setattr(lab_image, "PACKAGES", (*lab_image.PACKAGES, "less"))
    assert lab_image.image_name("bookworm") != before


def test_what_a_killed_run_left_is_cleared(tmp_path: Path) -> None:
    left = tmp_path / "build" / "chroot" / "etc"
    left.mkdir(parents=True)
    (left / "hostname").write_text("lab\n")
    lab_image.clear(tmp_path / "build")
    lab_image.clear(tmp_path / "build")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_program_is_a_missing_dependency_that_setup_installs() -> None:
    with pytest.raises(podman.MobiusError) as caught:
        podman.find_program("no-such-program")
    assert (caught.value.outcome, caught.value.code, caught.value.do_next) == (
        "missing_dependency",
        3,
        "Run `make setup`.",
    )


def test_a_program_in_sbin_is_found_for_a_path_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert podman.find_program("chroot") == "/usr/sbin/chroot"


def test_hybrid_cgroups_count_as_version_1(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    (tmp_path / "unified").mkdir()
    (tmp_path / "unified" / "cgroup.controllers").touch()
    assert podman.cgroup_version(tmp_path) == 1
    (tmp_path / "cgroup.controllers").touch()
    assert podman.cgroup_version(tmp_path) == 2


def test_a_host_is_given_no_higher_limit_than_this_machine_has() -> None:
    for name, kind in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        hard = resource.getrlimit(kind)[1]
        given = podman.limits()[name]
        assert 0 < given <= (hard if hard != resource.RLIM_INFINITY else given)
    assert podman.limits()["nproc"] <= 32768
