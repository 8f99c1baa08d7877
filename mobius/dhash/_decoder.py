# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a library decodes pictures with: this process, or processes of a pool."""

from __future__ import annotations

from typing import Protocol

from mobius.dhash._thumbnail import thumbnail_of
from mobius.dhash._verification_image import VerificationImage, load_for_verification


class Decoder(Protocol):
    """Decodes encoded pictures. Raises PictureError, and MobiusError when that is not possible now."""

    def load_for_verification(self, data: bytes, side: int, *, max_pixels: int) -> VerificationImage:
        """As the function of this name."""

    def thumbnail_of(self, data: bytes, side: int) -> bytes:
        """As the function of this name."""


class InProcessDecoder:
    """Decodes in the process that asks."""

    def load_for_verification(self, data: bytes, side: int, *, max_pixels: int) -> VerificationImage:
        return load_for_verification(data, side, max_pixels=max_pixels)

    def thumbnail_of(self, data: bytes, side: int) -> bytes:
        return thumbnail_of(data, side)
