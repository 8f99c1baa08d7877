"""An image is named after its recipe; the limits and the cgroup version of the machine are detected."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils.lab import image, podman


def test_the_same_recipe_gives_the_same_name_and_each_debian_its_own() -> None:
    assert image.image_name("bookworm") == image.image_name("bookworm")
    repository, _, tag = image.image_name("trixie").partition(":")
    assert repository == "localhost/mobius-lab"
    assert tag.startswith("trixie-")
    assert tag.removeprefix("trixie-") != image.image_name("bookworm").rpartition("-")[2]


def test_a_changed_recipe_gives_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = image.image_name("bookworm")
    monkeypatch.setattr(image, "PACKAGES", (*image.PACKAGES, "less"))
    assert image.image_name("bookworm") != before


def test_leftovers_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    left = tmp_path / "build" / "chroot" / "etc"
    left.mkdir(parents=True)
    (left / "hostname").write_text("lab\n")
    image.clear_work_folder(tmp_path / "build")
    image.clear_work_folder(tmp_path / "build")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_program_is_a_missing_dependency_and_the_message_says_how_to_install_it() -> None:
    with pytest.raises(podman.MobiusError) as caught:
        podman.find_program("no-such-program")
    assert (caught.value.outcome, caught.value.code, caught.value.do_next) == (
        "missing_dependency",
        3,
        "Run `apt-get install no-such-program`, or `make setup` in a checkout of MOBIUS.",
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
        limit = podman.limits()[name]
        assert 0 < limit <= (hard if hard != resource.RLIM_INFINITY else limit)
    assert podman.limits()["nproc"] <= 32768
