# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Hash damaged pictures, as a process of its own: a crash then is one, and its memory can be limited.

    python mutations.py SEED COUNT JOURNAL

Prints a JSON object: for each kind of picture how often each outcome came, and the memory. What is no outcome of
`hash_bytes` ends it with a traceback. JOURNAL says which case was the last one begun; the same SEED makes it again.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import random
import resource
import sys
from collections import Counter
from typing import Any, Final

from PIL import Image, PngImagePlugin

from mobius.dhash import PictureError, hash_bytes

MAX_PIXELS: Final = 1_000_000

MEMORY: Final = 32 << 20
"""Bytes that the hashing of damaged pictures may take beyond what whole ones took, of 25,200 pixels each: a million
pixels in eight copies of four channels."""


def seeds() -> dict[str, bytes]:
    """A small picture in every format read, and in each of the forms that take another way through its reader."""
    noise = Image.effect_noise((168, 150), 60)
    ramp = Image.linear_gradient("L").resize(noise.size)
    colours = Image.merge("RGB", (noise, ramp, ramp.transpose(Image.Transpose.ROTATE_180)))
    clear = colours.copy()
    clear.putalpha(ramp)
    turned = Image.Exif()
    turned[0x0112] = 6
    words = PngImagePlugin.PngInfo()
    words.add_text("Comment", "a word " * 200, zip=True)
    wide = Image.new("I;16", noise.size)
    wide.frombytes(bytes(range(256)) * (2 * noise.width * noise.height // 256) + bytes(224))
    made: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "JPEG": (colours, {"format": "JPEG", "exif": turned}),
        "JPEG, progressive": (colours, {"format": "JPEG", "progressive": True}),
        "JPEG, restarts": (noise, {"format": "JPEG", "restart_marker_rows": 1}),
        "JPEG, CMYK": (colours.convert("CMYK"), {"format": "JPEG"}),
        "MPO": (colours, {"format": "MPO", "save_all": True, "append_images": [noise]}),
        "PNG": (colours, {"format": "PNG", "pnginfo": words, "exif": turned}),
        "PNG, transparent": (clear, {"format": "PNG"}),
        "PNG, palette": (colours.quantize(16), {"format": "PNG", "transparency": 3}),
        "PNG, 16 bit": (wide, {"format": "PNG"}),
        "GIF": (colours, {"format": "GIF", "save_all": True, "append_images": [noise]}),
        "BMP": (colours, {"format": "BMP"}),
        "BMP, palette": (colours.quantize(16), {"format": "BMP"}),
        "TIFF": (colours, {"format": "TIFF", "exif": turned}),
        "TIFF, LZW": (colours, {"format": "TIFF", "compression": "tiff_lzw"}),
        "TIFF, JPEG": (colours, {"format": "TIFF", "compression": "jpeg"}),
        "TIFF, deflate": (clear, {"format": "TIFF", "compression": "tiff_adobe_deflate"}),
        "TIFF, fax": (noise.convert("1"), {"format": "TIFF", "compression": "group4"}),
        "TIFF, float": (noise.convert("F"), {"format": "TIFF"}),
        "WEBP": (colours, {"format": "WEBP", "exif": turned}),
        "WEBP, lossless": (clear, {"format": "WEBP", "lossless": True}),
        "WEBP, animated": (colours, {"format": "WEBP", "save_all": True, "append_images": [clear.convert("RGB")]}),
        "AVIF": (colours, {"format": "AVIF", "speed": 10}),
        "HEIF": (colours, {"format": "HEIF"}),
    }
    Image.init()
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener(thumbnails=False)
    found = {}
    for name, (picture, options) in made.items():
        if options["format"] in Image.SAVE:
            buffer = io.BytesIO()
            picture.save(buffer, **options)
            found[name] = buffer.getvalue()
    return found


def mutated(data: bytes, other: bytes, chance: random.Random) -> bytes:
    """The data with one to four faults: cut, flipped, swapped, doubled, wiped, or mixed with another format's."""
    changed = bytearray(data)
    # half of the faults lie where the headers are
    place = lambda: chance.randrange(len(changed) if chance.random() < 0.5 else min(len(changed), 256))  # noqa: E731
    for _ in range(chance.randint(1, 4)):
        if len(changed) < 2:
            break
        start, length = place(), chance.choice((1, 2, 4, 16, 256))
        kind = chance.choice(("cut", "flip", "swap", "double", "wipe", "extreme", "mix", "drop"))
        if kind == "cut":
            del changed[max(1, start) :]
        elif kind == "flip":
            changed[start] ^= 1 << chance.randrange(8)
        elif kind == "swap":
            end = place()
            one, two = changed[start : start + length], changed[end : end + length]
            changed[start : start + length], changed[end : end + length] = two, one
        elif kind == "double":
            changed[start:start] = changed[start : start + length] * chance.choice((1, 2, 50))
        elif kind == "wipe":
            changed[start : start + length] = bytes(length)
        elif kind == "extreme":
            number = chance.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\xff\xff", b"\0\x01", b"\xff"))
            changed[start : start + len(number)] = number
        elif kind == "mix":
            end = chance.randrange(len(other))
            changed[start : start + length] = other[end : end + length]
        else:
            del changed[start : start + length]
    return bytes(changed)


def peak() -> int:
    """Bytes of memory that this process ever held at once."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    seed, count, journal = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    faulthandler.enable()
    pictures = seeds()
    for data in pictures.values():
        for mode in ("exact", "fast"):
            hash_bytes(data, mode, max_pixels=MAX_PIXELS, descriptor=True)
    before = peak()
    outcomes: dict[str, Counter[str]] = {name: Counter() for name in pictures}
    with open(journal, "wb", buffering=0) as said:
        for number in range(count):
            for name, data in pictures.items():
                os.pwrite(said.fileno(), f"seed {seed}, {name}, {number}".ljust(80).encode(), 0)
                chance = random.Random(f"{seed}/{name}/{number}")
                damaged = mutated(data, pictures[chance.choice(sorted(pictures))], chance)
                try:
                    hash_bytes(damaged, chance.choice(("exact", "fast")), max_pixels=MAX_PIXELS, descriptor=True)
                    outcomes[name]["hashed"] += 1
                except PictureError as error:
                    outcomes[name][type(error).__name__] += 1
    print(json.dumps({"outcomes": outcomes, "before": before, "peak": peak(), "allowed": MEMORY}))


if __name__ == "__main__":
    main()
