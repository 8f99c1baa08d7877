# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The page of duplicates: whole in itself, safe whatever the files are called, and readable."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from mobius.cli.render import page as duplicates_page
from mobius.cli.render.page import count, page, size
from mobius.dhash import BrokenPictureError, Library, NotAPictureError, TooManyPixelsError, thumbnail_of
from tests.unit.dhash.library_tools import entry, fill, mark_verified, picture


class Reader(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def read(library: Library) -> Reader:
    reader = Reader()
    reader.feed(page(library.duplicates(), library.review(), library.thumbnail).decode())
    return reader


def test_the_page_shows_each_group_with_the_kept_copy_marked(tmp_path: Path) -> None:
    folder = tmp_path / "library"
    folder.mkdir()
    evil = '"><script>alert(1)</script>&lt;.jpg'
    for name, data in (("one.jpg", picture(1)), (evil.replace("/", "∕"), picture(1)), ("caf\udce9.jpg", picture(1))):
        (folder / name).write_bytes(data)
    with Library(tmp_path / "index") as library:
        library.scan(folder)
        fill(library, [entry("gone", 1, 5), entry("blind", 2, 5) | {"look": None}])
        reader = read(library)
    assert {"script", "link", "iframe"}.isdisjoint(tag for tag, _ in reader.tags)
    assert [attributes.get("class") for attributes in reader.all("figure")] == ["keep", None, None, None, None]
    for image in reader.all("img"):
        source = str(image["src"])
        assert source.startswith("data:image/webp;base64,")
        with Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))) as printable:
            assert (printable.format, printable.size) == ("WEBP", (96, 96))
    assert len(reader.all("img")) == 3, "the other two are gone from the disk"
    assert "<script>alert(1)<∕script>" in reader.text
    assert "caf\\xe9.jpg" in reader.text
    assert "1 group, 2 copies beside what to keep" in reader.text
    assert "Keep this one." in reader.text
    assert "The same bytes." in reader.text
    assert "Perhaps the same picture: 2 of 128 bits differ." in reader.text
    assert re.search(r"mobius dhash review --decide [0-9a-f]{16}-[0-9a-f]{16} same", reader.text)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in reader.all("meta")


def test_a_page_stays_small_enough_to_look_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates_page, "MOST_GROUPS", 2)
    monkeypatch.setattr(duplicates_page, "MOST_MEMBERS", 3)
    with Library(tmp_path / "index") as library:
        fill(library, [entry((seed, number), 0, seed) for seed in range(3) for number in range(6)])
        mark_verified(library)
        reader = read(library)
    assert len(reader.all("figure")) == 2 * 4
    assert "… and 1 more groups" in reader.text
    assert "… and 2 more in this group." in reader.text


def test_figures_are_in_words() -> None:
    assert [size(number) for number in (0, 999, 1000, 12_345, 1 << 30, 5 * 10**15)] == [
        "0 bytes", "999 bytes", "1.0 KB", "12 KB", "1.1 GB", "5000.0 TB",
    ]  # fmt: skip
    assert [count(1, "copy", "copies"), count(2, "copy", "copies"), count(0, "group")] == [
        "1 copy", "2 copies", "0 groups",
    ]  # fmt: skip


def test_a_thumbnail_is_upright_small_and_without_metadata() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a secret"
    Image.new("RGB", (400, 200), "red").save(buffer, "JPEG", exif=exif)
    data = thumbnail_of(buffer.getvalue(), 100)
    assert b"secret" not in data
    with Image.open(io.BytesIO(data)) as small:
        assert (small.format, small.size) == ("WEBP", (50, 100))
        assert not small.getexif()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_a_thumbnail_is_made_of_every_kind_of_picture(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (300, 300)).save(buffer, "TIFF" if mode in ("CMYK", "F") else "PNG")
    with Image.open(io.BytesIO(thumbnail_of(buffer.getvalue(), 64))) as small:
        assert small.size == (64, 64)
        grey = small.convert("L").getpixel((5, 5))
    assert abs(grey - (255 if mode in ("LA", "RGBA", "CMYK") else 0)) <= 2


def test_what_has_no_thumbnail_says_why(tmp_path: Path) -> None:
    with pytest.raises(NotAPictureError):
        thumbnail_of(b"hello")
    with pytest.raises(BrokenPictureError):
        thumbnail_of(picture(1, form="PNG")[:400])
    with pytest.raises(TooManyPixelsError):
        thumbnail_of(picture(1), max_pixels=100)
    with pytest.raises(FileNotFoundError):
        thumbnail_of(tmp_path / "missing")
