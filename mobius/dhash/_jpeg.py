# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Decode JPEGs small, and read their structure as far as that helps (markers and scans: ITU-T T.81, annexes B and G).

`decode_small` decodes at 1/2, 1/4 or 1/8. A progressive JPEG stores its picture in scans, coarse ones first, and a hash
needs only the first tenth of the file: `early_scans` cuts that out, so that libjpeg reads no more. `restore_end_marker`
repairs a file whose end marker is missing.
"""

from __future__ import annotations

import functools
import io
import re
from dataclasses import dataclass
from typing import Final, NamedTuple

from PIL import Image, ImageChops, JpegImagePlugin

# In coded data 0xff is followed by a stuffed zero, a restart marker or, as padding, another 0xff; anything else is the
# next marker.
_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_SOI: Final = b"\xff\xd8"
_EOI: Final = b"\xff\xd9"
_PROGRESSIVE: Final = 0xC2
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# what the decoding of a scan needs: Huffman and quantisation tables, restart interval, JFIF and Adobe (colours), frame
_TABLES: Final = frozenset({0xC4, 0xDB, 0xDD, 0xE0, 0xEE, _PROGRESSIVE})
_ADOBE: Final = 0xEE

_LOW_BAND: Final = 4
"""The last coefficient, in zigzag order, of the 2x2 that a decode at 1/4 uses."""

MAX_SCANS: Final = 100
"""Encoders write about ten; libtiff allows as many as this of a JPEG inside a TIFF."""
_MAX_SEGMENTS: Final = 10_000

DRAFT_MIN_SIDE_PX: Final = 72
"""Smallest side of a JPEG that is decoded small. Decoded as small as the grid itself, 9 bits of its hash change."""

_FILLER: Final = bytes((number * 151 + 73) % 251 for number in range(64))
"""Meaningless coded data that holds no marker."""


class _Component(NamedTuple):
    name: int
    across: int
    down: int


class _Scan(NamedTuple):
    """Coefficients `first` to `last` of some components, down to bit `low`; `high` is 0 or the bit known before."""

    components: bytes
    first: int
    last: int
    high: int
    low: int


class _Segment(NamedTuple):
    """A marker with its segment, and the coded data of a scan: bytes `start` to `end` of the file."""

    marker: int
    start: int
    end: int
    scan: _Scan | None = None


@dataclass(frozen=True)
class _Jpeg:
    frame: int
    width: int
    height: int
    components: tuple[_Component, ...]
    segments: tuple[_Segment, ...]
    ended: bool

    @property
    def scans(self) -> list[_Scan]:
        return [segment.scan for segment in self.segments if segment.scan is not None]

    @property
    def complete(self) -> bool:
        """Whether every coefficient of every component has its last bit (or at least its last scan has begun)."""
        if self.frame != _PROGRESSIVE:
            return {component.name for component in self.components} <= set(b"".join(s.components for s in self.scans))
        missing = {(component.name, coefficient) for component in self.components for coefficient in range(64)}
        for scan in self.scans:
            if scan.low == 0:
                missing -= {
                    (name, coefficient) for name in scan.components for coefficient in range(scan.first, scan.last + 1)
                }
        return not missing


def _parse(data: bytes) -> _Jpeg | None:
    """The structure; None unless every part of it can be parsed."""
    if not data.startswith(_SOI):
        return None
    frame, width, height = 0, 0, 0
    components: tuple[_Component, ...] = ()
    segments: list[_Segment] = []
    position = 2
    while True:
        match = _MARKER.search(data, position)
        if match is None:
            # cut inside its last scan; a file cut anywhere else lacks too much
            ended = False
            break
        start, marker = match.start(), data[match.start() + 1]
        if segments and segments[-1].scan is not None:
            segments[-1] = _Segment(0xDA, segments[-1].start, start, segments[-1].scan)
        elif data[position:start].strip(b"\xff"):
            return None
        if marker == 0xD9:
            ended = True
            break
        length = int.from_bytes(data[start + 2 : start + 4], "big")
        body, position = data[start + 4 : start + 2 + length], start + 2 + length
        if length < 2 or position > len(data):
            return None
        scan = None
        if marker in _FRAMES:
            if frame or len(body) < 6 or len(body) != 6 + 3 * body[5] or body[0] != 8:
                return None
            frame, height, width = marker, int.from_bytes(body[1:3], "big"), int.from_bytes(body[3:5], "big")
            components = tuple(
                _Component(name, factors >> 4, factors & 15)
                for name, factors in zip(body[6::3], body[7::3], strict=True)
            )
        elif marker == 0xDA:
            if not frame or not body or len(body) != 4 + 2 * body[0]:
                return None
            scan = _Scan(body[1:-3:2], body[-3], body[-2], body[-1] >> 4, body[-1] & 15)
        elif marker == 0xD8:
            return None
        segments.append(_Segment(marker, start, position, scan))
        if len(segments) > _MAX_SEGMENTS:
            return None
    sound = all(1 <= component.across <= 4 and 1 <= component.down <= 4 for component in components)
    if not (width and height and sound and segments[-1].scan is not None):
        return None
    if not ended:
        segments[-1] = _Segment(0xDA, segments[-1].start, len(data), segments[-1].scan)
    return _Jpeg(frame, width, height, components, tuple(segments), ended)


def decode_small(image: Image.Image) -> tuple[Image.Image, float, float] | None:
    """Decode a JPEG at 1/2, 1/4 or 1/8 of its size.

    Returns:
        Its luma, and the width and height of it that the picture covers; None for what is no JPEG, too small, or
        decoded already.
    """
    width, height = image.size
    denominator = next((part for part in (8, 4, 2) if min(width, height) >= part * DRAFT_MIN_SIDE_PX), 1)
    if denominator == 1 or not isinstance(image, JpegImagePlugin.JpegImageFile) or not image.tile:
        return None
    size = (width // denominator, height // denominator)
    covered = (width / denominator, height / denominator)
    if "progressive" in image.info and image.fp is not None:
        image.fp.seek(0)
        if (early := early_scans(image.fp.read(), denominator)) is not None:
            with Image.open(io.BytesIO(early), formats=("JPEG",)) as coarse:
                coarse.draft("L", size)
                return coarse.convert("L"), *covered
    image.draft("L", size)
    image.load()
    return image.convert("L"), *covered


def has_too_many_scans(data: bytes) -> bool:
    """Whether a JPEG has more than `MAX_SCANS` scans, as one made to cost time has: each scan is a pass
    over every block of the picture, and takes a few bytes for each 32,767 blocks."""
    if data.count(b"\xff\xda") <= MAX_SCANS:  # those in its metadata counted as well
        return False
    jpeg = _parse(data)
    return jpeg is None or len(jpeg.scans) > MAX_SCANS


def early_scans(data: bytes, denominator: int) -> bytes | None:
    """A progressive JPEG reduced to the scans that decoding its luma at 1/2, 1/4 or 1/8 needs.

    That is the mean of each 8x8 block (the DC coefficient) to its last bit and, at 1/2 and 1/4, the first coarse bits
    of the luma's lowest other coefficients. About a tenth of the data remains.

    Returns:
        None for anything but a whole progressive JPEG of luma with or without colour differences: the plain way then.
    """
    jpeg = _parse(data)
    if jpeg is None or jpeg.frame != _PROGRESSIVE or not jpeg.ended or not _starts_with_luma(data, jpeg):
        return None
    luma = jpeg.components[0].name
    kept, tables, bit = [_SOI], [], 0
    for segment in jpeg.segments:
        scan, content = segment.scan, data[segment.start : segment.end]
        if scan is None:
            if segment.marker in _TABLES:
                tables.append(content)
            continue
        if luma not in scan.components:
            continue
        if scan.first == 0:
            if scan.high != bit or (scan.high == 0) != (len(kept) == 1):
                return None
            bit = scan.low
        elif denominator == 8 or scan.first > _LOW_BAND or scan.high > 0:
            continue
        kept += [*tables, content]
        tables.clear()
    empty = _empty_scans(jpeg.width, jpeg.height, jpeg.components)
    return b"".join((*kept, empty, _EOI)) if len(kept) > 1 and bit == 0 else None


def _starts_with_luma(data: bytes, jpeg: _Jpeg) -> bool:
    """Whether the first component is the luma by libjpeg's rules, and not red or one of four inks."""
    names = bytes(component.name for component in jpeg.components)
    adobe = [data[segment.start + 4 : segment.end] for segment in jpeg.segments if segment.marker == _ADOBE]
    plain_rgb = any(content.startswith(b"Adobe") and content[11:12] == b"\0" for content in adobe)
    return len(names) == 1 or (len(names) == 3 and names != b"RGB" and not plain_rgb)


@functools.lru_cache(64)
def _empty_scans(width: int, height: int, components: tuple[_Component, ...]) -> bytes:
    """Scans that declare all further coefficients of every component zero.

    Without them libjpeg treats the picture as incomplete and takes as much time again to estimate the missing
    coefficients from neighbouring blocks, which changes the means as well.
    """
    runs = bytes(length << 4 for length in range(15))  # "the next 2^length + (so many bits more) blocks are done"
    scans = [bytes([0xFF, 0xC4, 0, 19 + len(runs), 0x13, 0, 0, 0, len(runs), *bytes(12)]), runs]  # codes of four bits
    across = max(component.across for component in components)
    down = max(component.down for component in components)
    for component in components:
        columns = -(-width * component.across // (across * 8))
        rows = -(-height * component.down // (down * 8))
        left, bits = columns * rows, []
        while left:
            run = min(left, (1 << 15) - 1)
            length = run.bit_length() - 1
            bits.append(f"{length:04b}" + f"{run:b}"[1:])
            left -= run
        text = "".join(bits)
        text += "1" * (-len(text) % 8)
        coded = int(text, 2).to_bytes(len(text) // 8, "big").replace(b"\xff", b"\xff\0")
        scans += [bytes([0xFF, 0xDA, 0, 8, 1, component.name, 0x03, 1, 63, 0]), coded]
    return b"".join(scans)


def restore_end_marker(data: bytes) -> bytes | None:
    """A JPEG without its end marker, with one appended; None when pixels are missing as well.

    libjpeg fills in what is missing, so the file is decoded twice, the second time with meaningless data after its
    end: where coded data is missing, the two differ. A difference within the last 32 pixels of the last rows (at most
    an eighth of either side) is accepted: that is the end of the last block.
    """
    jpeg = _parse(data)
    if jpeg is None or jpeg.ended or not jpeg.complete or len(jpeg.scans) > MAX_SCANS:
        return None
    coded = data.removesuffix(b"\xff")
    whole = coded + _EOI
    luma = _luma(whole)
    box = ImageChops.difference(luma, _luma(coded + _FILLER + _EOI)).getbbox()
    tolerated = (luma.width - min(32, luma.width // 8), luma.height - min(32, luma.height // 8))
    return whole if box is None or (box[0] >= tolerated[0] and box[1] >= tolerated[1]) else None


def _luma(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        image.draft("L", image.size)
        return image.convert("L")
