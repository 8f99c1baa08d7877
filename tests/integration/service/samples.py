# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pictures to send, and the header with a token."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy
from PIL import Image

GOLDEN = Path(__file__).parents[3] / "playbooks/files/golden"
PICTURE = (GOLDEN / "astronaut-baseline.jpg").read_bytes()
SHA256 = hashlib.sha256(PICTURE).hexdigest()


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def smaller(data: bytes, quality: int = 60) -> bytes:
    """The same picture, smaller and saved at lower quality."""
    with Image.open(io.BytesIO(data)) as image:
        return encoded(image.convert("RGB").resize((image.width * 3 // 4, image.height * 3 // 4)), quality=quality)


def again(data: bytes) -> bytes:
    """The same picture, saved once more."""
    with Image.open(io.BytesIO(data)) as image:
        return encoded(image.convert("RGB"), quality=90)


def noisy(seed: int) -> bytes:
    """A picture that is unrelated to those of other seeds."""
    levels = numpy.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=numpy.uint8)
    return encoded(Image.fromarray(levels).resize((320, 320), Image.Resampling.BICUBIC), quality=95)


def flat(seed: int) -> bytes:
    """A picture with hardly any detail, whose matches are doubtful."""
    level = 100 + seed
    pixels = numpy.linspace(level, level + 25, 200, dtype=numpy.float64)
    return encoded(Image.fromarray(numpy.tile(pixels, (200, 1)).astype(numpy.uint8)), "PNG")


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}
