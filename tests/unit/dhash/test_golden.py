# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The deploy role's golden answers are right: by ImageHash, on pixels prepared here and not by `mobius.dhash`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import imagehash
import numpy
import pytest
from PIL import Image, ImageOps

from mobius.dhash import ALGORITHMS, CONTENT_TYPES, Dhash, Mode, hash_file

GOLDEN = Path(__file__).parents[3] / "playbooks" / "files" / "golden"
ENTRIES: list[dict[str, Any]] = json.loads((GOLDEN / "golden.json").read_text())
PICTURES = sorted(path.name for path in GOLDEN.iterdir() if path.suffix in (".jpg", ".png"))


def upright_and_opaque(path: Path) -> Image.Image:
    with Image.open(path) as image:
        image.load()
    if image.mode.startswith("I;16"):
        return Image.fromarray((numpy.asarray(image) / 4095 * 255).round().astype(numpy.uint8))
    image = ImageOps.exif_transpose(image)
    if image.mode == "RGBA":
        pixels = numpy.asarray(image).astype(float)
        alpha = pixels[:, :, 3:] / 255
        return Image.fromarray((pixels[:, :, :3] * alpha + 255 * (1 - alpha)).round().astype(numpy.uint8))
    return image


def test_every_picture_has_an_answer_for_every_algorithm() -> None:
    assert {(entry["body_file"], entry["json"]["algorithm"]) for entry in ENTRIES} == {
        (name, algorithm) for name in PICTURES for algorithm in ALGORITHMS.values()
    }
    assert len(PICTURES) >= 5
    assert len({entry["json"]["dhash"] for entry in ENTRIES if entry["json"]["algorithm"] == "exact-1"}) == len(
        PICTURES
    )


@pytest.mark.parametrize("name", PICTURES)
def test_the_exact_answers_are_what_imagehash_gives(name: str) -> None:
    picture = upright_and_opaque(GOLDEN / name)
    entry = next(entry for entry in ENTRIES if (entry["body_file"], entry["json"]["algorithm"]) == (name, "exact-1"))
    assert entry["json"]["dhash"] == str(imagehash.dhash(picture))
    assert entry["json"]["dhash_vertical"] == str(imagehash.dhash_vertical(picture))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: str(entry["name"]))
def test_the_library_gives_the_golden_answers(entry: dict[str, Any]) -> None:
    mode: Mode = "exact" if entry["json"]["algorithm"] == "exact-1" else "fast"
    found = hash_file(GOLDEN / entry["body_file"], mode).as_dict()
    assert {key: found[key] for key in entry["json"]} == entry["json"]
    assert (entry["method"], entry["path"]) == ("POST", f"/v1/hash?mode={mode}")
    assert CONTENT_TYPES[entry["content_type"]] == found["format"]
    assert (GOLDEN / entry["body_file"]).stat().st_size <= 40_000


def test_the_pictures_show_what_they_are_for() -> None:
    forms = {}
    for name in PICTURES:
        with Image.open(GOLDEN / name) as image:
            image.load()
            forms[name] = (image.mode, bool(image.info.get("progressive")), image.getexif().get(0x0112, 1))
    assert forms["astronaut-baseline.jpg"] == ("RGB", False, 1)
    assert forms["coffee-progressive.jpg"] == ("RGB", True, 1)
    assert forms["camera-grey.png"] == ("L", False, 1)
    assert forms["brick-16bit.png"] == ("I;16", False, 1)
    assert forms["chelsea-transparent.png"] == ("RGBA", False, 1)
    assert forms["rocket-orientation-6.jpg"] == ("RGB", False, 6)
    answers = {
        entry["name"]: Dhash.from_hex(entry["json"]["dhash"] + entry["json"]["dhash_vertical"]) for entry in ENTRIES
    }
    assert answers["coffee-progressive, exact-1"].distance(answers["coffee-progressive, fast-2"]) <= 10
