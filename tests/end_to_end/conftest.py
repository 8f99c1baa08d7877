"""Three fresh hosts, two bundles of the present commit, and the golden pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pytest

from tests.end_to_end.by_hand import GOLDEN, ROOT, Bundle, Host, build, lab
from tools.steady_client import RequestPicture


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Host]]:
    """Three fresh hosts."""
    lab("down")
    lab("up")
    state = json.loads((ROOT / ".lab/lab.json").read_text(encoding="utf-8"))
    yield [Host(item["name"], item["ssh_port"], item["http_port"], item["container"]) for item in state["hosts"]]
    lab("down")


@pytest.fixture(scope="session")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Sequence[Bundle]:
    """Two releases of the present commit."""
    folder = tmp_path_factory.mktemp("bundles")
    return [build(folder, "1.0.0"), build(folder, "2.0.0")]


@pytest.fixture(scope="session")
def pictures() -> list[RequestPicture]:
    """The golden pictures, with the answer that every release must give."""
    return [
        RequestPicture(
            item["name"], (GOLDEN / item["body_file"]).read_bytes(), item["content_type"], item["json"]["dhash"]
        )
        for item in json.loads((GOLDEN / "golden.json").read_text(encoding="utf-8"))
        if item["json"]["algorithm"] == "fast-2"
    ]
