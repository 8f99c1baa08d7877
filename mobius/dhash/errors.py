# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What can be wrong with a picture. Each is a `MobiusError` whose reason is one sentence for a person."""

from __future__ import annotations

from mobius.errors import MobiusError


class PictureError(MobiusError):
    """A picture that cannot be hashed; the input is at fault, never the program."""

    def __init__(self, reason: str, *, do_next: str | None = None) -> None:
        super().__init__("invalid_input", reason, do_next=do_next)


class NotAPictureError(PictureError):
    """The bytes are of no format that this reads."""


class MislabelledError(PictureError):
    """The bytes are a picture, but of another format than was declared."""


class BrokenPictureError(PictureError):
    """The format is known, but the data is cut short or damaged."""


class TooManyPixelsError(PictureError):
    """The picture would need more pixels decoded than allowed."""


class DecodingLimitError(PictureError):
    """Decoding the picture needs more memory or time than allowed."""


class UnopenedPictureError(BrokenPictureError):
    """The picture is damaged, or its decoder did not get the memory to say its size."""


class DecoderCrashedError(PictureError):
    """The process that decoded the picture ended over it."""
