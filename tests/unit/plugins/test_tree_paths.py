"""Which paths and links a tree may hold: what Linux itself makes of them is the reference."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import tree_paths
from ansible_collections.mobius.dhash.plugins.module_utils.tree_paths import LinkError, check_links, path_problem
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

FILES = ("bin/run", "lib/deep/a", "lib/b", "top")


@pytest.mark.parametrize(
    "links",
    [
        {"link": "top"},
        {"link": "./top"},
        {"link": "lib"},
        {"link": "lib/"},
        {"link": "lib/deep/../b"},
        {"lib/link": "../bin/run"},
        {"lib/deep/up": "../.."},
        {"lib/deep/here": "."},
        {"one": "two", "two": "lib", "three": "one/deep/a"},
        {"new/link": "../top"},
        {"new/link": "../other", "other/link": "../top"},
        {f"l{number:02}": f"l{number + 1:02}" for number in range(39)} | {"l39": "top"},
    ],
    ids=lambda links: repr(links)[:60],
)
def test_a_link_that_stays_in_the_tree_is_valid(links: dict[str, str]) -> None:
    check_links(FILES, links)


@pytest.mark.parametrize(
    ("links", "problem"),
    [
        ({"link": "/etc/passwd"}, "is an absolute path"),
        ({"link": "/"}, "is an absolute path"),
        ({"link": "../outside"}, "outside of the tree"),
        ({"lib/link": "../../outside"}, "outside of the tree"),
        ({"link": ".."}, "outside of the tree"),
        ({"link": "lib/../../tree/top"}, "outside of the tree"),
        ({"link": "nothing"}, "does not hold"),
        ({"link": "lib/nothing"}, "does not hold"),
        ({"link": "top/"}, "which is a file"),
        ({"link": "top/.."}, "which is a file"),
        ({"link": "link"}, "in a circle"),
        ({"one": "two", "two": "one"}, "in a circle"),
        ({"deep": "lib/deep", "link": "deep/../../outside"}, "does not hold"),
        ({"deep": "lib/deep", "link": "deep/../../../outside"}, "outside of the tree"),
        ({"one": "two/..", "two": "bin", "lib/deep/x": "../../one/.."}, "outside of the tree"),
        ({f"l{number:02}": f"l{number + 1:02}" for number in range(40)} | {"l40": "top"}, "more than 40 links"),
        ({"wide": "/".join(["bin2", ".."] * 41) + "/top", "bin2": "bin"}, "more than 40 links"),
        ({"link": ""}, "empty"),
        ({"link": "to\np"}, "forbidden characters"),
        ({"link": "to\\p"}, "forbidden characters"),
        ({"link": "\udcff"}, "forbidden characters"),
        ({"link": "./" * 600 + "top"}, "1024 bytes"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_a_link_that_leaves_the_tree_or_leads_nowhere_is_refused(links: dict[str, str], problem: str) -> None:
    with pytest.raises(LinkError, match=problem) as caught:
        check_links(FILES, links)
    assert caught.value.path in links
    assert "\n" not in str(caught.value)


NAMES = st.sampled_from(["a", "b", "c", "d"])
TARGETS = st.lists(st.sampled_from(["a", "b", "c", "d", "..", ".", ""]), min_size=1, max_size=6).map("/".join)


@pytest.mark.slow
@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(links=st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), TARGETS, max_size=5))
@example(links={"a": "b/..", "b": "c/d"})
def test_what_is_valid_is_what_linux_resolves_within_the_tree(
    links: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    files = ["c/d/file", "d/file"]
    taken = {*files, *(folder for path in files for folder in tree_paths.parent_folders(path))}
    links = {
        path: target
        for path, target in links.items()
        if path not in taken and not {*tree_paths.parent_folders(path)} & {*links, *files}
    }
    top = tmp_path_factory.mktemp("tree") / "tree"
    top.mkdir()
    for path in files:
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        (top / path).write_text("x")
    for path, target in links.items():
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        if target:
            os.symlink(target, top / path)
    try:
        check_links(files, links)
    except LinkError:
        return
    for path in links:
        assert (top / path).exists()
        assert (top / path).resolve().is_relative_to(top)


@pytest.mark.parametrize("path", ["a", "a/b", "ü" * 127, "/".join(["d"] * 128), "-x", " ", ".hidden", "a b"])
def test_a_path_in_the_tree_is_valid(path: str) -> None:
    assert path_problem(path) is None


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        *((path, "not inside") for path in ("", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "./a")),
        *((path, "forbidden characters") for path in ("a\nb", "a\0b", "a\\b", "\udcff", "\x7f", "\u202e")),
        ("ü" * 128, "longer than"),
        ("/".join(["n" * 250] * 5), "longer than"),
        ("/".join(["d"] * 129), "deeper than"),
    ],
)
def test_a_path_that_is_unsafe_is_refused(path: str, problem: str) -> None:
    assert problem in (path_problem(path) or "")


def test_links_that_fan_out_are_resolved_once_each() -> None:
    """Forty levels with two ways each would be 2 to the power of 40 steps."""
    links = {f"l{number:02}": f"l{number + 1:02}/../l{number + 1:02}" for number in range(39)} | {"l39": "lib"}
    with pytest.raises(LinkError, match="more than 40 links"):
        check_links(FILES, links)


def test_hosts_use_the_same_files() -> None:
    folder = Path(__file__).resolve().parents[3] / "plugins/module_utils"
    assert {os.readlink(folder / f"{name}.py") for name in ("tree_paths", "tar_members")} == {
        "../../mobius/tree_paths.py",
        "../../mobius/tar_members.py",
    }
