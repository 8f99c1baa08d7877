"""Which tests share a worker when `make test` runs two of them."""

from __future__ import annotations

from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# These have one lab between them, the checkout's own, and take the longest: so they begin first.
CHECKOUT_LAB = ("molecule", "end_to_end")


# before xdist, which writes the groups into the tests' ids
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A package of tests with hosts, or a file of the others, stays together: it shares what its fixtures made."""
    for item in items:
        parts = item.path.relative_to(TESTS).parts
        group = "checkout_lab" if parts[0] in CHECKOUT_LAB else "/".join(parts)
        if parts[0] == "integration":
            group = "/".join(parts[:2])
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: item.path.relative_to(TESTS).parts[0] not in CHECKOUT_LAB)
