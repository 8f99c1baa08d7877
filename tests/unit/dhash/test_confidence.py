# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The second look, on photographs and on pictures with nothing in them."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from PIL import Image

from mobius.dhash._confidence import LOOK_BYTES, TRANSFORMS, look_of, transformed

PILLOW = {
    "none": None,
    "mirror": Image.Transpose.FLIP_LEFT_RIGHT,
    "flip": Image.Transpose.FLIP_TOP_BOTTOM,
    "rotate90": Image.Transpose.ROTATE_90,
    "rotate180": Image.Transpose.ROTATE_180,
    "rotate270": Image.Transpose.ROTATE_270,
    "transpose": Image.Transpose.TRANSPOSE,
    "transverse": Image.Transpose.TRANSVERSE,
}


def luma(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("L")


def coefficients(look: bytes) -> numpy.ndarray:
    return numpy.frombuffer(look, numpy.int8)[1:].astype(int)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transformed_look_is_the_look_of_the_transformed_picture(photographs: dict[str, Path], name: str) -> None:
    for photograph in ("astronaut", "camera", "chelsea", "coffee", "rocket"):
        picture = luma(photographs[photograph])
        turned = picture if PILLOW[name] is None else picture.transpose(PILLOW[name])
        made, seen = transformed(look_of(picture), name), look_of(turned)
        assert len(made) == LOOK_BYTES
        assert abs(made[0] - seen[0]) <= 1
        # turning by a quarter swaps the two passes of the resize, which round between them
        assert abs(coefficients(made) - coefficients(seen)).max() <= 2
