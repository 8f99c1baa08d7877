# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Progressive JPEGs read no further than a hash needs, and JPEGs that lost their end marker."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageStat

from mobius.dhash import BrokenPictureError, hash_bytes
from mobius.dhash._jpeg import early_scans, restore_end_marker


def encoded(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", **options)
    return stream.getvalue()


def decoded(data: bytes, denominator: int) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        image.draft("L", (image.width // denominator, image.height // denominator))
        return image.convert("L")


@pytest.fixture
def photograph(photographs: dict[str, Path]) -> Image.Image:
    with Image.open(photographs["coffee"]) as opened:
        return opened.convert("RGB").resize((1003, 669))


KINDS: list[dict[str, object]] = [
    {"quality": 85},
    {"quality": 30, "subsampling": 0},
    {"quality": 95, "subsampling": 1},
    {"quality": 75, "restart_marker_blocks": 7},
    {"quality": 75, "restart_marker_rows": 1},
    {"quality": 75, "icc_profile": b"\xff\xd9\xff\xda" * 30_000, "comment": b"\xff\xda\xff\xd9"},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", KINDS, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_early_scans_alone_give_every_pixel_of_an_eighth(
    photograph: Image.Image, options: dict[str, object], mode: str
) -> None:
    data = encoded(photograph.convert(mode), progressive=True, **options)
    early = early_scans(data, 8)
    assert early is not None
    assert len(early) < len(data) / 3
    assert decoded(early, 8).tobytes() == decoded(data, 8).tobytes()


@pytest.mark.parametrize("denominator", [2, 4])
def test_the_early_scans_come_near_a_half_and_a_quarter(photograph: Image.Image, denominator: int) -> None:
    data = encoded(photograph, progressive=True)
    early, means = early_scans(data, denominator), early_scans(data, 8)
    assert early is not None and means is not None
    assert len(means) < len(early) < len(data) / 2
    wanted = decoded(data, denominator)
    errors = [
        ImageStat.Stat(ImageChops.difference(decoded(stream, denominator), wanted)).mean[0] for stream in (early, means)
    ]
    assert errors[0] < 5
    assert errors[0] < 0.6 * errors[1]


def test_a_thumbnail_inside_the_picture_is_not_taken_for_it(photograph: Image.Image) -> None:
    thumbnail = encoded(Image.effect_noise((320, 240), 90), progressive=True)
    exif = b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0" + thumbnail
    with_it, without = encoded(photograph, progressive=True, exif=exif), encoded(photograph, progressive=True)
    assert early_scans(with_it, 8) == early_scans(without, 8)
    assert hash_bytes(with_it).dhash == hash_bytes(without).dhash


def scans(data: bytes) -> list[tuple[int, int]]:
    """Where each scan begins and ends."""
    starts = [found.start() for found in re.finditer(rb"\xff\xda", data)]
    ends = [next(re.compile(rb"\xff[^\0\xd0-\xd7]").finditer(data, start + 2)).start() for start in starts]
    return list(zip(starts, ends, strict=True))


@pytest.mark.slow
def test_what_is_not_surely_understood_goes_the_plain_way(photograph: Image.Image) -> None:
    data = encoded(photograph, progressive=True)
    first, last = scans(data)[0], scans(data)[-1]
    frame = data.index(b"\xff\xc2")
    unclear = {
        "baseline": encoded(photograph),
        "four inks": encoded(photograph.convert("CMYK"), progressive=True),
        "red, green, blue": encoded(photograph, progressive=True, keep_rgb=True),
        "cut": data[: last[0] + 100],
        "no end marker": data[:-2],
        "no means at all": data[: first[0]] + data[first[1] :],
        "the last bit of the means is missing": b"".join(
            data[start:end] for start, end in ((0, scans(data)[6][0]), (scans(data)[6][1], len(data)))
        ),
        "twelve bits": data[: frame + 4] + b"\x0c" + data[frame + 5 :],
        "two frames": data[:frame] + data[frame : frame + 19] + data[frame:],
        "junk between segments": data[:frame] + b"junk" + data[frame:],
        "a segment longer than the file": data[: frame + 2] + b"\xff\xff" + data[frame + 4 :],
        "no height": data[: frame + 5] + b"\0\0" + data[frame + 7 :],
        "no picture": b"\xff\xd8\xff\xd9",
        "nothing": b"",
    }
    assert {name for name, stream in unclear.items() if early_scans(stream, 8) is not None} == set()
    assert early_scans(data, 8) is not None


def test_means_in_scans_of_their_own_are_found(photograph: Image.Image) -> None:
    """A grey picture's scan, put into a picture of three components whose colours come later or never."""
    grey = encoded(photograph.convert("L"), progressive=True)
    frame = grey.index(b"\xff\xc2")
    three = bytes([3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0])
    body = grey[frame + 4 : frame + 9] + three
    split = grey[:frame] + b"\xff\xc2" + (len(body) + 2).to_bytes(2, "big") + body + grey[frame + 2 + 11 :]
    early, early_grey = early_scans(split, 8), early_scans(grey, 8)
    assert early is not None and early_grey is not None
    assert decoded(early, 8).tobytes() == decoded(early_grey, 8).tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 97, "subsampling": 0}], ids=str)
def test_a_jpeg_without_its_end_marker_is_hashed_with_a_warning(
    photograph: Image.Image, mode: str, options: dict[str, object]
) -> None:
    data = encoded(photograph.convert(mode), **options)
    whole = hash_bytes(data)
    assert whole.warnings == ()
    for cut in (1, 2):
        found = hash_bytes(data[:-cut])
        assert found.dhash == whole.dhash
        assert (found.width, found.height, found.format) == (1003, 669, "JPEG")
        assert found.size == len(data) - cut
        assert [warning.endswith(".") for warning in found.warnings] == [True]
        assert hash_bytes(data[:-cut], "exact").dhash == hash_bytes(data, "exact").dhash


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}], ids=str)
def test_a_jpeg_that_lacks_more_is_refused(photograph: Image.Image, options: dict[str, object]) -> None:
    data = encoded(photograph, **options)
    for rest in (300, 0.05 * len(data), 0.5 * len(data)):
        with pytest.raises(BrokenPictureError, match=r"(?i)truncated"):
            hash_bytes(data[: -int(rest)])
    if "progressive" in options:
        for start, end in scans(data)[:-1]:
            for cut in (data[:end], data[: start + 12]):
                with pytest.raises(BrokenPictureError, match=r"(?i)truncated"):
                    hash_bytes(cut)


def test_a_small_jpeg_is_spared_nothing() -> None:
    tiny = encoded(Image.effect_mandelbrot((16, 16), (-2, -1.5, 1, 1.5), 50), quality=95)
    assert restore_end_marker(tiny[:-2]) == tiny
    assert restore_end_marker(tiny[:-12]) is None
    assert restore_end_marker(tiny) is None
    assert restore_end_marker(b"\xff\xd8\xff") is None
