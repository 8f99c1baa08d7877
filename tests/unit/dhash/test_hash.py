# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The hash against its peer (ImageHash) and against what it promises, on photographs."""

from __future__ import annotations

import functools
import hashlib
import io
import statistics
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import imagehash
import numpy
import pillow_heif
import pytest
from PIL import Image, ImageOps

from mobius.dhash import (
    BrokenPictureError,
    Dhash,
    MislabelledError,
    NotAPictureError,
    PictureError,
    TooManyPixelsError,
    hash_bytes,
    hash_file,
    hash_image,
    thumbnail_of,
)
from mobius.errors import ExitCode

Image.init()
FORMATS_READ = frozenset(Image.OPEN)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def peer(image: Image.Image) -> str:
    return f"{imagehash.dhash(image)}{imagehash.dhash_vertical(image)}"


SIZES = (
    pytest.param((512, 512), marks=pytest.mark.slow),
    pytest.param((600, 401), marks=pytest.mark.slow),
    *((149, 147), (100, 75), (9, 8), (3, 2), (1, 1)),
)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", ["JPEG", "progressive", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_exact_is_what_imagehash_gives(photographs: dict[str, Path], form: str, size: tuple[int, int]) -> None:
    for path in photographs.values():
        with Image.open(path) as opened:
            picture = opened.convert("RGB").resize(size)
        data = encoded(picture, "JPEG", progressive=True) if form == "progressive" else encoded(picture, form)
        with Image.open(io.BytesIO(data)) as image:
            assert hash_bytes(data, "exact").dhash.hex == peer(image)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_exact_is_what_imagehash_gives_in_every_opaque_mode(photographs: dict[str, Path], mode: str) -> None:
    for path in photographs.values():
        with Image.open(path) as opened:
            picture = opened.convert("RGB").convert(mode)
        assert hash_image(picture, "exact").hex == peer(picture)


@pytest.mark.slow
def test_a_palette_whose_every_colour_is_opaque_hashes_like_imagehash(photographs: dict[str, Path]) -> None:
    with Image.open(photographs["chelsea"]) as opened:
        picture = opened.quantize(64)
    data = encoded(picture, "PNG", transparency=bytes([255] * 64))
    assert hash_bytes(data, "exact").dhash.hex == peer(picture)


@pytest.mark.slow
def test_fast_is_exact_for_what_is_no_large_jpeg(photographs: dict[str, Path]) -> None:
    for path in photographs.values():
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
        small = encoded(picture.resize((300, 143)), "JPEG")
        for data in (small, encoded(picture, "PNG")):
            fast, exact = hash_bytes(data, "fast").dhash, hash_bytes(data, "exact").dhash
            assert (fast.rows, fast.columns) == (exact.rows, exact.columns)
            assert (fast.algorithm, exact.algorithm) == ("fast-2", "exact-1")


@pytest.mark.slow
def test_fast_decodes_a_large_jpeg_small_and_stays_near(photographs: dict[str, Path]) -> None:
    distances = []
    for name in ("astronaut", "camera", "chelsea", "coffee", "rocket"):  # not the textures: they are flat at a distance
        with Image.open(photographs[name]) as opened:
            picture = opened.convert("RGB")
        for size in ((1200, 900), (641, 427), (333, 500), (150, 149)):
            for options in ({"quality": 75}, {"quality": 92, "progressive": True}):
                data = encoded(picture.resize(size), "JPEG", **options)
                found = hash_bytes(data, "fast").dhash
                distances.append(found.distance(hash_bytes(data, "exact").dhash))
                with Image.open(io.BytesIO(data)) as image:
                    assert hash_image(image, "fast") == found
                    if "progressive" not in options:
                        assert min(image.size) >= 72
                        assert image.size[0] <= (size[0] + 1) / 2
    assert statistics.mean(distances) <= 1
    assert max(distances) <= 5


@pytest.mark.slow
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_the_orientation_tag_is_applied(photographs: dict[str, Path], form: str, orientation: int) -> None:
    with Image.open(photographs["rocket"]) as opened:
        picture = opened.convert("RGB").resize((320, 214))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"tiffinfo": {0x0112: orientation}} if form == "TIFF" else {"exif": exif}
    if form == "WEBP":
        options["lossless"] = True
    data = encoded(picture, form, **options)
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
        assert upright.size == ((320, 214) if orientation < 5 else (214, 320))
        wanted = peer(upright)
    exact = hash_bytes(data, "exact")
    assert exact.dhash.hex == wanted
    assert (exact.width, exact.height) == upright.size
    fast = hash_bytes(data, "fast")
    assert fast.dhash.distance(exact.dhash) <= 10
    assert (fast.width, fast.height) == upright.size


def test_a_turned_picture_with_its_tag_is_nearer_than_without(photographs: dict[str, Path]) -> None:
    with Image.open(photographs["astronaut"]) as opened:
        upright = opened.convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    with_tag = hash_bytes(encoded(turned, "JPEG", exif=exif), "exact").dhash
    without = hash_bytes(encoded(turned, "JPEG"), "exact").dhash
    assert with_tag.distance(hash_image(upright, "exact")) <= 4
    assert without.distance(hash_image(upright, "exact")) >= 20


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_spoil_a_good_picture(photographs: dict[str, Path]) -> None:
    with Image.open(photographs["coffee"]) as opened:
        picture = opened.convert("RGB").resize((200, 150))
    for junk in (b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12"):
        data = encoded(picture, "JPEG", exif=junk)
        assert hash_bytes(data, "exact").dhash == hash_bytes(encoded(picture, "JPEG"), "exact").dhash


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1, 16, 257])
def test_sixteen_bits_hash_like_the_eight_they_came_from(photographs: dict[str, Path], factor: int) -> None:
    with Image.open(photographs["camera"]) as opened:
        eight = opened.convert("L")
    wide = numpy.asarray(eight).astype(numpy.uint16) * factor
    for form in ("PNG", "TIFF"):
        data = encoded(Image.fromarray(wide), form)
        with Image.open(io.BytesIO(data)) as image:
            assert image.mode.startswith("I;16")
        assert hash_bytes(data, "exact").dhash.distance(hash_image(eight, "exact")) <= (3 if factor == 16 else 0)
    assert hash_image(eight, "exact").rows != 0


@pytest.mark.parametrize("span", [(0.0, 1.0), (0.0, 255.0), (-3.0, 7.0), (0.0, 1e-6)])
def test_floats_hash_like_the_eight_bits_they_came_from(
    photographs: dict[str, Path], span: tuple[float, float]
) -> None:
    with Image.open(photographs["camera"]) as opened:
        eight = opened.convert("L")
    values = numpy.asarray(eight).astype(numpy.float32) / 255 * (span[1] - span[0]) + span[0]
    data = encoded(Image.fromarray(values.astype(numpy.float32)), "TIFF")
    assert hash_bytes(data, "exact").dhash.distance(hash_image(eight, "exact")) <= 1


def test_floats_that_are_not_numbers_are_survived() -> None:
    values = numpy.full((20, 20), numpy.nan, dtype=numpy.float32)
    assert hash_bytes(encoded(Image.fromarray(values), "TIFF"), "exact").dhash.rows == 0
    values[3:9, 4:12] = 5
    values[0, 0] = numpy.inf
    assert hash_bytes(encoded(Image.fromarray(values), "TIFF"), "exact").dhash.rows == 0
    values[12:15, 4:12] = 9
    assert hash_bytes(encoded(Image.fromarray(values), "TIFF"), "exact").dhash.rows != 0


def masked(photographs: dict[str, Path]) -> Image.Image:
    with Image.open(photographs["chelsea"]) as opened:
        picture = opened.convert("RGB").resize((225, 150))
    mask = Image.radial_gradient("L").resize(picture.size)
    picture.putalpha(ImageOps.invert(mask))
    return picture


@pytest.mark.slow
def test_transparency_is_laid_on_white(photographs: dict[str, Path]) -> None:
    picture = masked(photographs)
    flat = Image.new("RGB", picture.size, "white")
    flat.paste(picture, mask=picture.getchannel("A"))
    assert hash_bytes(encoded(picture, "PNG"), "exact").dhash.distance(hash_image(flat, "exact")) <= 1
    for form in ("WEBP", "TIFF"):
        data = encoded(picture, form, **({"lossless": True} if form == "WEBP" else {}))
        assert hash_bytes(data).dhash == hash_bytes(encoded(picture, "PNG")).dhash


def test_the_colour_under_clear_pixels_does_not_count(photographs: dict[str, Path]) -> None:
    pixels = numpy.array(masked(photographs))
    pixels[:, :110, 3] = 0
    dirty = pixels.copy()
    dirty[:, :110, :3] = numpy.random.default_rng(7).integers(0, 255, (150, 110, 3))
    clean, other = Image.fromarray(pixels), Image.fromarray(dirty)
    assert hash_image(clean, "exact") == hash_image(other, "exact")
    assert peer(clean) != peer(other), "the peer no longer differs: this test proves nothing any more"


def test_a_clear_colour_of_a_palette_or_of_a_channel_counts_as_transparent(photographs: dict[str, Path]) -> None:
    with Image.open(photographs["camera"]) as opened:
        grey = opened.convert("L").resize((160, 160))
    dark = grey.point([0 if value < 60 else value for value in range(256)])
    on_white = dark.point([255, *range(1, 256)])
    for picture in (dark, dark.convert("RGB"), dark.convert("P")):
        clear = (0, 0, 0) if picture.mode == "RGB" else 0
        data = encoded(picture, "PNG", transparency=clear)
        assert hash_bytes(data, "exact").dhash == hash_image(on_white, "exact")


def test_what_is_no_picture_is_one_clear_sentence() -> None:
    for data in (b"", b"hello, this is text", b"\xff\xd8", b"%PDF-1.7\n", b"%!PS-Adobe-3.0 EPSF-3.0\n"):
        with pytest.raises(NotAPictureError) as caught:
            hash_bytes(data)
        assert caught.value.reason.endswith(".")
        assert "\n" not in caught.value.reason
        assert caught.value.code is ExitCode.INPUT


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_picture_cut_short_anywhere_is_refused_and_never_crashes(photographs: dict[str, Path], form: str) -> None:
    with Image.open(photographs["coffee"]) as opened:
        data = encoded(opened.convert("RGB").resize((200, 133)), form)
    for share in (0.01, 0.1, 0.3, 0.5, 0.8, 0.97):
        with pytest.raises((BrokenPictureError, NotAPictureError)) as caught:
            hash_bytes(data[: int(len(data) * share)])
        assert caught.value.reason.count("\n") == 0


@pytest.mark.slow
def test_random_damage_gives_a_hash_or_a_typed_error(photographs: dict[str, Path]) -> None:
    generator = numpy.random.default_rng(20261123)
    with Image.open(photographs["coffee"]) as opened:
        picture = opened.convert("RGB").resize((96, 64))
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        original = encoded(picture, form)
        for _ in range(120):
            data = bytearray(original)
            for place in generator.integers(0, min(len(data), 400), 5):
                data[place] = int(generator.integers(0, 256))
            try:
                hash_bytes(bytes(data), max_pixels=1_000_000)
            except (BrokenPictureError, NotAPictureError, TooManyPixelsError) as error:
                assert error.reason


def test_a_picture_under_another_label_is_refused(photographs: dict[str, Path]) -> None:
    data = photographs["rocket"].read_bytes()
    assert hash_bytes(data, declared="JPEG").format == "JPEG"
    with pytest.raises(MislabelledError, match="declared as PNG, but its bytes are JPEG"):
        hash_bytes(data, declared="PNG")


def tiled(side: int, tile: int) -> bytes:
    """A small black TIFF in one tile of any size, deflated."""
    packer = zlib.compressobj(9)
    pixels = b"".join(packer.compress(bytes(tile)) for _ in range(tile)) + packer.flush()
    pixels += bytes(len(pixels) % 2)
    tags = {256: side, 257: side, 258: 8, 259: 8, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8, 325: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize("work", [hash_bytes, thumbnail_of])
def test_a_tile_larger_than_allowed_is_refused_however_small_the_picture(work: Callable[..., object]) -> None:
    assert work(tiled(100, 256), max_pixels=100_000)
    with pytest.raises(TooManyPixelsError, match="tiles of 1000000 pixels; at most 100000"):
        work(tiled(100, 1000), max_pixels=100_000)
    with pytest.raises(PictureError):  # two numbers, where one is meant
        work(tiled(100, 256).replace(struct.pack("<HHI", 322, 4, 1), struct.pack("<HHI", 322, 4, 2)))


@pytest.mark.parametrize("work", [hash_bytes, functools.partial(hash_bytes, mode="exact"), thumbnail_of])
def test_a_jpeg_whose_scans_only_cost_time_is_refused(work: Callable[..., object]) -> None:
    data = encoded(Image.effect_noise((200, 150), 90), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert work(data[:-2] + 50 * scan + data[-2:])
    for end in (data[-2:], b""):  # nor by way of mending an end that was lost
        with pytest.raises(BrokenPictureError):
            work(data[:-2] + 100 * scan + end)
    with pytest.raises(BrokenPictureError, match="more than the 100 scans"):
        work(data[:-2] + 100 * scan + data[-2:])
    # what only looks like scans, in the metadata, does not count
    assert work(data[:2] + b"\xff\xfe\0\xca" + 100 * b"\xff\xda" + data[2:])


@pytest.mark.slow
def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    bomb = encoded(Image.new("1", (9000, 9000)), "PNG")
    with pytest.raises(TooManyPixelsError, match="9000 x 9000 pixels; at most 80000000"):
        hash_bytes(bomb)
    assert hash_bytes(bomb, max_pixels=81_000_000).width == 9000
    # Pillow's own warning (an error here) and its own limit speak as ours
    for side in (10_000, 60_000):
        claim = bytearray(encoded(Image.new("1", (1, 1)), "PNG"))
        claim[16:24] = struct.pack(">II", side, side)
        claim[29:33] = struct.pack(">I", zlib.crc32(claim[12:29]))
        with pytest.raises(TooManyPixelsError):
            hash_bytes(bytes(claim))


def test_a_file_is_known_by_its_content_and_not_its_name(photographs: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "really-a-jpeg.png"
    path.write_bytes(photographs["rocket"].read_bytes())
    found = hash_file(path)
    assert found == hash_bytes(path.read_bytes())
    assert (found.format, found.width, found.height, found.size) == ("JPEG", 640, 427, path.stat().st_size)
    with pytest.raises(FileNotFoundError):
        hash_file(tmp_path / "missing.jpg")


def test_an_animation_is_hashed_by_its_first_frame(photographs: dict[str, Path]) -> None:
    with Image.open(photographs["coffee"]) as one, Image.open(photographs["chelsea"]) as other:
        frames = [one.convert("RGB").resize((90, 60)), other.convert("RGB").resize((90, 60))]
    moving = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert hash_bytes(moving).dhash == hash_bytes(encoded(frames[0], "PNG")).dhash


def test_hex_and_distance() -> None:
    one = Dhash(0x8000000000000001, 0x00FF, "exact-1")
    assert one.hex == "800000000000000100000000000000ff"
    assert Dhash.from_hex(one.hex) == one
    assert one.distance(Dhash(0, 0)) == 10
    assert one.distance(one) == 0
    for text in ("", "00", "g" * 32, "0" * 33):
        with pytest.raises(ValueError, match=r".+"):
            Dhash.from_hex(text)
    with pytest.raises(ValueError, match="unsigned"):
        Dhash(1 << 64, 0)


def test_the_eight_transforms_are_near_the_hashes_of_the_turned_pictures(photographs: dict[str, Path]) -> None:
    turns = {
        "mirror": Image.Transpose.FLIP_LEFT_RIGHT,
        "flip": Image.Transpose.FLIP_TOP_BOTTOM,
        "rotate90": Image.Transpose.ROTATE_90,
        "rotate180": Image.Transpose.ROTATE_180,
        "rotate270": Image.Transpose.ROTATE_270,
        "transpose": Image.Transpose.TRANSPOSE,
        "transverse": Image.Transpose.TRANSVERSE,
    }
    for name in ("astronaut", "chelsea", "coffee", "rocket"):
        found = hash_file(photographs[name], "exact")
        transforms = found.transforms()
        assert set(transforms) == {"none", *turns}
        assert transforms["none"] == found.dhash
        with Image.open(photographs[name]) as picture:
            for turn, transposition in turns.items():
                turned = hash_image(picture.transpose(transposition), "exact")
                distances = {other: turned.distance(dhash) for other, dhash in transforms.items()}
                assert distances.pop(turn) <= 2
                assert min(distances.values()) >= 15


def test_the_answer_has_the_keys_of_the_service_and_the_command(photographs: dict[str, Path]) -> None:
    found = hash_file(photographs["rocket"], "exact")
    with Image.open(photographs["rocket"]) as picture:
        assert found.as_dict() == {
            "sha256": hashlib.sha256(photographs["rocket"].read_bytes()).hexdigest(),
            "dhash": str(imagehash.dhash(picture)),
            "dhash_vertical": str(imagehash.dhash_vertical(picture)),
            "algorithm": "exact-1",
            "width": 640,
            "height": 427,
            "format": "JPEG",
            "size": photographs["rocket"].stat().st_size,
            "warnings": [],
        }


def test_a_format_that_is_not_allowed_is_no_picture() -> None:
    data = encoded(Image.new("L", (20, 20)), "PNG")
    assert hash_bytes(data, formats=("PNG",)).format == "PNG"
    with pytest.raises(NotAPictureError, match=r"a format that is read here \(JPEG, GIF\)"):
        hash_bytes(data, formats=("JPEG", "GIF"))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["HEIF", "AVIF"])
def test_heic_and_avif_hash_like_what_their_readers_decode(photographs: dict[str, Path], form: str) -> None:
    if form == "AVIF" and "AVIF" not in FORMATS_READ:
        pytest.skip("this Pillow was built without AVIF")
    pillow_heif.register_heif_opener(thumbnails=False)
    with Image.open(photographs["coffee"]) as opened:
        data = encoded(opened.convert("RGB").resize((300, 200)), form, quality=80)
    with Image.open(io.BytesIO(data)) as image:
        wanted = peer(image.convert("RGB"))
    for mode in ("exact", "fast"):
        found = hash_bytes(data, mode)
        assert found.dhash.hex == wanted
        assert (found.format, found.width, found.height) == (form, 300, 200)
    for share in (0.05, 0.5, 0.9):
        with pytest.raises((BrokenPictureError, NotAPictureError)):
            hash_bytes(data[: int(len(data) * share)])
