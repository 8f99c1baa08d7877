"""Three fresh hosts, and two bundles of the present commit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

import pytest

from tests.end_to_end.by_hand import ROOT, Bundle, Host, build, lab


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
