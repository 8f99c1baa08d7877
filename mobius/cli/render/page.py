# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Duplicates side by side on one page, so that a person can look instead of read.

The page is one file: thumbnails are in it, it has no script, and it asks nobody for anything.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from mobius.dhash import Group, Picture, ReviewPair, usable_cpus

MOST_GROUPS: Final = 1000
MOST_MEMBERS: Final = 24
"""A page with more than this can no longer be read."""
_SIDE: Final = 240

_STYLE: Final = """
:root { color-scheme: light dark }
body { font: 16px/1.4 system-ui, sans-serif; margin: 0 auto; max-width: 75rem; padding: 1rem }
section { border-top: 1px solid #8888; margin-top: 1.5rem; padding-top: .5rem }
h2 { font-size: 1.1rem; margin: .5rem 0 }
.pictures { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(13rem, 44%), 1fr)) }
figure { border: 1px solid #8884; border-radius: .4rem; margin: 0; overflow: hidden; padding: .4rem }
figure.keep { border: 3px solid #2a7d2a }
img, .none { aspect-ratio: 1; background: #8882; display: block; object-fit: contain; width: 100% }
figcaption { font-size: .85rem; overflow-wrap: anywhere; padding-top: .4rem }
strong { color: #2a7d2a }
code { font-size: .8rem; overflow-wrap: anywhere }
@media (prefers-color-scheme: dark) { strong { color: #7c7 } figure.keep { border-color: #7c7 } }
"""


def page(
    groups: Sequence[Group], doubtful: Sequence[ReviewPair], thumbnail: Callable[[str, int], bytes | None]
) -> bytes:
    """The page, UTF-8.

    Args:
        groups, doubtful: the first `MOST_GROUPS` of each are shown, and of a group its first `MOST_MEMBERS`.
        thumbnail: of a SHA-256, at most so many pixels wide and high; called by several threads.
    """
    wanted = [group.keeper for group in groups[:MOST_GROUPS]]
    wanted += [other.picture for group in groups[:MOST_GROUPS] for other in group.others[:MOST_MEMBERS]]
    wanted += [picture for pair in doubtful[:MOST_GROUPS] for picture in (pair.first, pair.second)]
    digests = [*dict.fromkeys(picture.sha256 for picture in wanted)]
    with ThreadPoolExecutor(usable_cpus()) as pool:
        images = dict(zip(digests, pool.map(lambda digest: thumbnail(digest, _SIDE), digests), strict=True))
    parts = [_head(groups, doubtful)]
    parts += [_group(number, group, images) for number, group in enumerate(groups[:MOST_GROUPS], 1)]
    if len(groups) > MOST_GROUPS:
        parts.append(f"<p>… and {len(groups) - MOST_GROUPS} more groups, which are not on this page.</p>\n")
    if doubtful:
        parts.append(
            "<h1>To review</h1>\n"
            "<p>These may or may not be the same. Decide which with <code>mobius dhash review</code>.</p>\n"
        )
    parts += [_question(pair, images) for pair in doubtful[:MOST_GROUPS]]
    if len(doubtful) > MOST_GROUPS:
        parts.append(f"<p>… and {len(doubtful) - MOST_GROUPS} more pairs, which are not on this page.</p>\n")
    return "".join([*parts, "</body>\n</html>\n"]).encode("utf-8", "backslashreplace")


def _head(groups: Sequence[Group], doubtful: Sequence[ReviewPair]) -> str:
    copies = sum(len(group.others) for group in groups)
    spare = sum(other.picture.size for group in groups for other in group.others if other.picture.raw_path is not None)
    beside = f"{count(copies, 'copy', 'copies')} beside what to keep ({size(spare)})"
    summary = f"{count(len(groups), 'group')}, {beside}, {count(len(doubtful), 'pair')} to review."
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:;'
        " style-src 'unsafe-inline'\">\n"
        f"<title>Duplicates</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>Duplicates</h1>\n<p>{summary}</p>\n"
    )


def _group(number: int, group: Group, images: dict[str, bytes | None]) -> str:
    figures = [_figure(group.keeper, images, "<strong>Keep this one.</strong>", keep=True)]
    for other in group.others[:MOST_MEMBERS]:
        figures.append(_figure(other.picture, images, _words(other.distance, other.confidence, other.pair)))
    hidden = len(group.others) - MOST_MEMBERS
    more = f"<p>… and {hidden} more in this group.</p>\n" if hidden > 0 else ""
    return f"<section>\n<h2>Group {number}: {len(group.others) + 1} pictures</h2>\n{_grid(figures)}{more}</section>\n"


def _question(pair: ReviewPair, images: dict[str, bytes | None]) -> str:
    figures = [_figure(pair.first, images, ""), _figure(pair.second, images, _words(pair.distance, "doubtful", None))]
    command = f"mobius dhash review --decide {pair.id} same"
    return f"<section>\n{_grid(figures)}<p><code>{html.escape(command)}</code> (or different)</p>\n</section>\n"


def _grid(figures: Sequence[str]) -> str:
    return f'<div class="pictures">\n{"".join(figures)}</div>\n'


def _words(distance: int, confidence: str, pair: str | None) -> str:
    if confidence == "confident" and pair is None:
        return "The same bytes."
    sure = "certainly the same picture" if confidence == "confident" else "perhaps the same picture"
    return f"{sure.capitalize()}: {distance} of 128 bits differ."


def _figure(picture: Picture, images: dict[str, bytes | None], summary: str, *, keep: bool = False) -> str:
    name = html.escape(picture.path or f"posted, {picture.sha256[:16]}")
    data = images[picture.sha256]
    image = '<div class="none"></div>'
    if data is not None:
        image = f'<img src="data:image/webp;base64,{base64.b64encode(data).decode()}" alt="{name}" loading="lazy">'
    facts = f"{picture.width} × {picture.height}, {picture.format}, {size(picture.size)}"
    damaged = "".join(f"<br>{html.escape(warning)}" for warning in picture.warnings)
    kind = ' class="keep"' if keep else ""
    return (
        f"<figure{kind}>\n{image}\n<figcaption>{summary}{'<br>' if summary else ''}{name}<br>"
        f"{html.escape(facts)}{damaged}</figcaption>\n</figure>\n"
    )


def count(number: int, one: str, more: str = "") -> str:
    """A number of things in words."""
    return f"{number} {one if number == 1 else more or one + 's'}"


def size(number: int) -> str:
    """Bytes in words."""
    value = float(number)
    for unit in ("bytes", "KB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" or value >= 10 else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
