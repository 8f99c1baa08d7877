# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A folder for Ansible's own files, so that tests run without a home folder and leave nothing in one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def ansible_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Set ANSIBLE_HOME, for the processes that tests start too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANSIBLE_HOME", str(tmp_path_factory.mktemp("ansible")))
        yield
