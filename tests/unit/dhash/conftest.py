# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Real photographs, out of the wheel of scikit-image, found without importing it."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

PHOTOGRAPHS = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "brick.png", "grass.png", "rocket.jpg")


@pytest.fixture(scope="session")
def photographs() -> dict[str, Path]:
    """Name without suffix to file."""
    found = importlib.metadata.distribution("scikit-image").locate_file("skimage/data")
    paths = {Path(name).stem: Path(str(found)) / name for name in PHOTOGRAPHS}
    missing = [str(path) for path in paths.values() if not path.is_file()]
    assert not missing, f"scikit-image's wheel no longer carries {missing}"
    return paths
