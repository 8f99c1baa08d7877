# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Verification on pixels: a change of the whole picture is accepted, a change in one spot is not."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from mobius.dhash import load_for_verification
from mobius.dhash._verification import DETAIL_MAX_SIDE_PX, SMALL_MAX_SIDE_PX, measure_residual, verify
from mobius.dhash._verification_image import OVERVIEW_SIDE_PX

NAMES = ("astronaut", "camera", "chelsea", "coffee", "rocket")


def opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def saved(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def is_confirmed(one: Image.Image | bytes, other: Image.Image | bytes) -> bool:
    """Whether two pictures (saved without loss, unless they are saved) are confirmed to be the same, in either order."""
    first, second = (picture if isinstance(picture, bytes) else saved(picture, "PNG") for picture in (one, other))
    far, near = (
        [load_for_verification(picture, side) for picture in (first, second)]
        for side in (OVERVIEW_SIDE_PX, DETAIL_MAX_SIDE_PX)
    )
    found = verify(*far, lambda: (near[0], near[1]))
    assert verify(*far[::-1], lambda: (near[1], near[0])) == found
    return bool(found)


COPIES: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG q85": lambda image: saved(image, quality=85),
    "smaller": lambda image: saved(image.resize((image.width * 2 // 3, image.height * 2 // 3)), quality=85),
    "darker": lambda image: saved(ImageEnhance.Brightness(image).enhance(0.7), quality=92),
    "harder": lambda image: saved(ImageEnhance.Contrast(image).enhance(1.1), quality=92),
    "blurred": lambda image: saved(image.filter(ImageFilter.GaussianBlur(0.5)), quality=92),
    "wider": lambda image: saved(image.resize((image.width, image.height * 3 // 4)), quality=90),
    "WebP": lambda image: saved(image, "WEBP", quality=90),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COPIES)
def test_a_copy_of_a_photograph_is_confirmed(photographs: dict[str, Path], name: str) -> None:
    for photograph in NAMES:
        image = opened(photographs[photograph])
        assert is_confirmed(image, COPIES[name](image)), photograph


@pytest.mark.slow
def test_detail_that_a_brighter_copy_clipped_is_no_difference(photographs: dict[str, Path]) -> None:
    mask = Image.new("L", (300, 300))
    ImageDraw.Draw(mask).ellipse((60, 60, 240, 240), fill=255)
    paper = Image.new("RGB", mask.size, "white")
    for photograph in NAMES:
        image = ImageEnhance.Brightness(opened(photographs[photograph]).resize(mask.size)).enhance(0.5)
        cut = Image.composite(image, paper, mask.filter(ImageFilter.GaussianBlur(25)))
        assert is_confirmed(cut, saved(ImageEnhance.Brightness(cut).enhance(1.3), quality=85)), photograph


def form(lines: str, level: int, photograph: Image.Image) -> Image.Image:
    """A dark photograph with white paper on it, and words in grey on that."""
    image = ImageEnhance.Brightness(photograph.resize((1024, 1024))).enhance(0.45)
    mask = Image.new("L", image.size)
    ImageDraw.Draw(mask).rounded_rectangle((380, 620, 930, 960), 60, fill=255)
    image.paste("white", mask=mask.filter(ImageFilter.GaussianBlur(22)))
    ImageDraw.Draw(image).text((450, 720), lines, fill=(level,) * 3, font=ImageFont.load_default(26))
    return image


@pytest.mark.slow
@pytest.mark.parametrize("level", [150, 200, 230])
def test_words_where_the_other_picture_is_clipped_are_a_difference(photographs: dict[str, Path], level: int) -> None:
    photograph = opened(photographs["astronaut"])
    filled = saved(form("CONTRACT\n4000 EUR\nsigned A. B.", level, photograph), quality=92)
    for words in ("WEDDING\nof Ann & Bo", ""):
        brighter = ImageEnhance.Brightness(form(words, 185, photograph)).enhance(1.4)
        assert min(low for low, _ in brighter.crop((450, 720, 800, 880)).getextrema()) == 255
        assert not is_confirmed(filled, saved(brighter, quality=85))
    assert is_confirmed(saved(form("", 0, photograph), quality=92), saved(brighter, quality=85))


@pytest.mark.slow
def test_the_same_stored_pixels_in_another_orientation_are_another_picture(
    photographs: dict[str, Path],
) -> None:
    image = opened(photographs["chelsea"])
    mirrored = Image.Exif()
    mirrored[0x0112] = 2
    assert not is_confirmed(image, saved(image, "PNG", exif=mirrored))
    assert is_confirmed(image, saved(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), "PNG", exif=mirrored))


@pytest.mark.slow
def test_every_bit_of_a_deep_picture_counts_and_its_clear_grey_is_clear() -> None:
    levels = (257 * numpy.random.default_rng(2).integers(1, 256, (300, 400))).astype(numpy.uint16)
    finer = levels.copy()
    finer[100:140, 100:200] ^= 1
    one, other = (Image.fromarray(pixels) for pixels in (levels, finer))
    assert is_confirmed(one, saved(one, "TIFF"))
    assert not is_confirmed(one, other)
    levels[50:250, 50:350] = 0
    holed = saved(Image.fromarray(levels), "PNG", transparency=0)
    alpha = load_for_verification(holed).alpha
    assert alpha is not None
    assert (alpha.getpixel((100, 100)), alpha.getpixel((5, 5))) == (0, 255)
    assert not is_confirmed(Image.fromarray(levels), holed)


@pytest.mark.slow
def test_a_turned_copy_is_confirmed_once_it_is_turned_back(photographs: dict[str, Path]) -> None:
    image = opened(photographs["chelsea"])
    exif = Image.Exif()
    exif[0x0112] = 6
    assert is_confirmed(image, saved(image.transpose(Image.Transpose.ROTATE_90), quality=90, exif=exif))
    assert not is_confirmed(image, saved(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), quality=90))


def eye_closed(image: Image.Image) -> None:
    """One of the astronaut's."""
    ImageDraw.Draw(image).ellipse((200, 104, 220, 118), fill=image.getpixel((205, 92)))


def marked(image: Image.Image) -> None:
    ImageDraw.Draw(image).ellipse((300, 300, 312, 312), fill="red")


def another_word(image: Image.Image) -> None:
    ImageDraw.Draw(image).text((300, 20), "SALE", fill="white", font=ImageFont.load_default(24))


def a_part_exchanged(image: Image.Image) -> None:
    box = (160, 40, 260, 140)
    image.paste(image.crop(box).transpose(Image.Transpose.ROTATE_180), box[:2])


@pytest.mark.slow
@pytest.mark.parametrize("change", [eye_closed, marked, another_word, a_part_exchanged])
@pytest.mark.parametrize("quality", [30, 85])
def test_a_photograph_changed_in_one_spot_is_refused(
    photographs: dict[str, Path], change: Callable[[Image.Image], None], quality: int
) -> None:
    image = opened(photographs["astronaut"])
    changed = image.copy()
    change(changed)
    assert not is_confirmed(image, saved(changed, quality=quality))


@pytest.mark.slow
def test_photographs_of_other_things_and_other_colours_are_refused(photographs: dict[str, Path]) -> None:
    images = {name: opened(photographs[name]).resize((300, 300)) for name in (*NAMES, "grass", "brick")}
    for one, first in images.items():
        for other, second in images.items():
            assert is_confirmed(first, second) == (one == other)
    red, green, blue = images["astronaut"].split()
    assert not is_confirmed(images["astronaut"], Image.merge("RGB", (blue, green, red)))


def sprite(seed: int) -> Image.Image:
    """A planet on white: the silhouette is always the same, the surface is each seed's own."""
    values = numpy.random.default_rng(seed).normal(90, 5, (24, 24)).clip(0, 255).astype(numpy.uint8)
    surface = Image.fromarray(values).resize((280, 280), Image.Resampling.BICUBIC)
    mask = Image.new("L", surface.size)
    ImageDraw.Draw(mask).ellipse((20, 20, 260, 260), fill=255)
    return Image.composite(surface, Image.new("L", surface.size, 255), mask)


def page(word: str) -> Image.Image:
    """A screenshot of text, as a manual has it, in which one word is `word`."""
    image = Image.new("RGB", (640, 480), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(22)
    for line in range(14):
        pen.text((20, 20 + 32 * line), f"{line}. Choose the partition of the disk to be formatted", "black", font=font)
    pen.rectangle((560, 430, 630, 470), fill="silver", outline="black")
    pen.text((575, 437), word, fill="black", font=font)
    return image


@pytest.mark.slow
@pytest.mark.parametrize("drawing", [page("Yes"), sprite(1)])
@pytest.mark.parametrize(
    ("form", "options"),
    [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("GIF", {}), ("JPEG", {"quality": 95})],
)
def test_a_drawing_in_another_format_is_confirmed(drawing: Image.Image, form: str, options: dict[str, Any]) -> None:
    assert is_confirmed(drawing, saved(drawing, form, **options))


@pytest.mark.slow
def test_drawings_that_differ_inside_one_silhouette_or_in_a_word_are_refused() -> None:
    assert not is_confirmed(sprite(1), sprite(2))
    for form, options in (("PNG", {}), ("JPEG", {"quality": 85})):
        assert not is_confirmed(page("Yes"), saved(page("No"), form, **options))


def legend(colour: tuple[int, int, int]) -> Image.Image:
    image = Image.new("RGB", (300, 300), "white")
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(20)
    for line in range(14):
        pen.text((8, 20 * line), "the colours of the legend", colour, font=font)
    return image


@pytest.mark.slow
def test_the_same_lines_in_another_colour_of_the_same_brightness_are_refused() -> None:
    assert is_confirmed(legend((90, 50, 20)), saved(legend((90, 50, 20)), quality=90))
    assert not is_confirmed(legend((90, 50, 20)), legend((40, 75, 20)))


@pytest.mark.slow
def test_where_nothing_else_differs_a_faint_mark_is_enough_to_refuse(photographs: dict[str, Path]) -> None:
    image = opened(photographs["astronaut"])
    other = image.copy()
    red, green, blue = image.getpixel((300, 300))
    ImageDraw.Draw(other).ellipse((297, 297, 303, 303), fill=(red + 20, green + 20, blue + 20))
    assert not is_confirmed(saved(image, quality=100), other)
    assert is_confirmed(image, saved(image, quality=80)), "what a coder does everywhere is more than that"


@pytest.mark.slow
def test_small_pictures_are_compared_pixel_for_pixel(photographs: dict[str, Path]) -> None:
    icon = opened(photographs["coffee"]).resize((SMALL_MAX_SIDE_PX - 1, SMALL_MAX_SIDE_PX - 1))
    assert is_confirmed(icon, saved(icon, "BMP"))
    other = icon.copy()
    red, green, blue = icon.getpixel((40, 40))
    other.putpixel((40, 40), (red ^ 16, green, blue))
    assert not is_confirmed(icon, other)
    assert not is_confirmed(icon, icon.resize((64, 64)))
    assert not is_confirmed(icon, saved(icon, quality=30))


def test_empty_pictures_are_not_confirmed() -> None:
    for image in (Image.new("RGB", (300, 300), "white"), Image.new("RGB", (300, 300)), Image.new("RGB", (3, 300))):
        assert not is_confirmed(image, saved(image.resize((200, 200))))


def screenshot(size: tuple[int, int], number: str) -> Image.Image:
    """A screen full of text of 14 pixels, in which one number is `number`."""
    image = Image.new("RGB", size, (245, 246, 248))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(14)
    pen.rectangle((0, 0, size[0], 40), fill=(45, 55, 72))
    chance = numpy.random.default_rng(4)
    for top in range(60, size[1] - 30, 24):
        for left in range(20, size[0] - 200, 380):
            pen.text((left, top), f"{chance.integers(1000, 9999)} files copied in {top} s", (30, 30, 30), font=font)
    pen.rectangle((600, 400, 1100, 700), fill="white", outline="gray")
    pen.text((620, 500), "Invoice 3   total", "black", font=font)
    pen.text((800, 500), number, "black", font=font)
    return image


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1280, 800), (1920, 1080), (3840, 2160)])
def test_another_number_in_a_screenshot_is_refused_and_its_copy_is_confirmed(size: tuple[int, int]) -> None:
    image, other = saved(screenshot(size, "1438.00"), "PNG"), screenshot(size, "1433.00")
    assert load_for_verification(image).pixel_digest != load_for_verification(saved(other, "PNG")).pixel_digest
    assert not is_confirmed(image, saved(other, quality=85))
    assert not is_confirmed(image, other.crop((0, 0, size[0], size[1] - 1))), "and of another size"
    assert is_confirmed(image, saved(screenshot(size, "1438.00"), quality=85))


@pytest.mark.slow
def test_a_picture_too_large_for_the_detailed_comparison_is_refused() -> None:
    image = Image.new("RGB", (2 * DETAIL_MAX_SIDE_PX + 1, 400), "white")
    ImageDraw.Draw(image).text((20, 20), "the same text on both\n" * 6, "black", font=ImageFont.load_default(40))
    assert not is_confirmed(image, saved(image, quality=95))
    assert is_confirmed(image, saved(image, "BMP")), "every pixel is the same"
    assert is_confirmed(
        image.crop((0, 0, 2 * DETAIL_MAX_SIDE_PX, 400)),
        saved(image.crop((0, 0, 2 * DETAIL_MAX_SIDE_PX, 400)), quality=95),
    )


@pytest.mark.slow
def test_frames_of_an_animation_are_refused(photographs: dict[str, Path]) -> None:
    frame = opened(photographs["chelsea"])
    after = frame.copy()
    red, green, blue = frame.getpixel((200, 150))
    after.putpixel((200, 150), (red + 3, green, blue))
    assert is_confirmed(frame, saved(frame, "BMP"))
    for form, options in (("PNG", {}), ("TIFF", {}), ("BMP", {}), ("WEBP", {"lossless": True})):
        assert not is_confirmed(frame, saved(after, form, **options)), form


def sea(share: float) -> Image.Image:
    """Waves, by `share` on their way to the next ones."""
    chance, size = numpy.random.default_rng(3), (512, 256)
    before, after = (
        Image.fromarray(chance.normal(100, 25, (32, 64, 3)).clip(0, 255).astype(numpy.uint8)).resize(size) for _ in "12"
    )
    return Image.blend(before, after, share)


@pytest.mark.slow
def test_frames_of_an_animation_in_two_sizes_are_refused() -> None:
    assert is_confirmed(sea(0), sea(0).resize((384, 192)))
    assert not is_confirmed(sea(0), sea(0.06).resize((384, 192)))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["GIF", "PNG", "TIFF", "WEBP"])
def test_a_file_of_several_pictures_is_not_confirmed(form: str) -> None:
    frames = [page("Yes"), page("No")]
    several = saved(
        frames[0], form, save_all=True, append_images=frames[1:], **({"lossless": True} if form == "WEBP" else {})
    )
    with Image.open(io.BytesIO(several)) as image:
        assert image.n_frames == 2
    assert not is_confirmed(frames[0], several)
    assert is_confirmed(frames[0], saved(frames[0], form, **({"lossless": True} if form == "WEBP" else {})))


def cut_out(mark: str | None, background: str = "gray") -> Image.Image:
    """Grey words on a clear ground, and a white mark on it, which is nothing on white paper."""
    image = Image.new("RGBA", (400, 300), (255, 255, 255, 0))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(24)
    for line in range(8):
        pen.text((10, 35 * line), "words on a clear ground", background, font=font)
    if mark is not None:
        pen.text((320, 200), mark, "white", font=font)
    return image


@pytest.mark.slow
def test_what_is_white_on_a_clear_ground_counts() -> None:
    image, options = cut_out("A"), {"quality": 95, "exact": True}
    assert is_confirmed(image, saved(image, "WEBP", **options))
    assert not is_confirmed(image, saved(cut_out("B"), "WEBP", **options))
    assert not is_confirmed(image, saved(cut_out(None), "WEBP", **options))
    tiny = (100, 75)
    for other, same in ((cut_out("A"), True), (cut_out("B"), False), (cut_out(None), False)):
        lossy = saved(other.resize(tiny), "WEBP", quality=100, exact=True)
        with Image.open(io.BytesIO(lossy)) as read:
            assert is_confirmed(lossy, read.convert("RGBA"))
        with Image.open(io.BytesIO(saved(image.resize(tiny), "WEBP", quality=100, exact=True))) as read:
            assert is_confirmed(lossy, read.convert("RGBA")) == same
    hidden = image.copy()
    hidden.putpixel((399, 299), (9, 9, 9, 0))
    assert is_confirmed(image, hidden), "what nobody can see"


@pytest.mark.slow
@pytest.mark.parametrize("size", [(400, 300), (384, 216)])
def test_all_three_colours_are_fitted_at_every_aspect(photographs: dict[str, Path], size: tuple[int, int]) -> None:
    image = opened(photographs["coffee"]).resize(size)
    _, green, blue = image.split()
    flat = Image.new("L", size, 128)
    darker = ImageEnhance.Brightness(Image.merge("RGB", (flat, green, blue))).enhance(0.6)
    found = measure_residual(
        load_for_verification(saved(Image.merge("RGB", (flat, green, blue)), "PNG")),
        load_for_verification(saved(darker, "PNG")),
    )
    assert found.gain == pytest.approx(1 / 0.6, rel=0.1), "red alone would tell nothing"
