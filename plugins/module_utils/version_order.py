# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Which of two versions is the lower one, in the order of the version specifiers that Python packages have.

https://packaging.python.org/en/latest/specifications/version-specifiers/: a development release comes before the
pre-releases (a, b, rc), these before the release, and a post-release after it; trailing zeros do not count. Epochs and
local versions have characters that a release id cannot have, so they are not read here.
"""

from __future__ import annotations

import math
import re

_VERSION = re.compile(
    r"v?(?P<release>\d+(?:\.\d+)*)"
    r"(?:[._]?(?P<phase>alpha|a|beta|b|preview|pre|c|rc)[._]?(?P<pre>\d*))?"
    r"(?:[._]?(?P<is_post>post|rev|r)[._]?(?P<post>\d*))?"
    r"(?:[._]?(?P<is_dev>dev)[._]?(?P<dev>\d*))?"
)
_PHASES = {"a": 0, "alpha": 0, "b": 1, "beta": 1, "c": 2, "rc": 2, "pre": 2, "preview": 2}
_Key = tuple[tuple[int, ...], tuple[float, int], float, float]


def is_lower(version: str, than: str) -> bool | None:
    """Whether a version comes before another one; None when one of them has no order."""
    one, other = _key(version), _key(than)
    return None if one is None or other is None else one < other


def _key(version: str) -> _Key | None:
    """The sort key of a version; None when it has no order."""
    match = _VERSION.fullmatch(version.lower())
    if match is None:
        return None
    numbers = [int(part) for part in match["release"].split(".")]
    while len(numbers) > 1 and numbers[-1] == 0:
        numbers.pop()
    if match["phase"]:
        phase: tuple[float, int] = (_PHASES[match["phase"]], int(match["pre"] or 0))
    elif match["is_dev"] and not match["is_post"]:
        phase = (-math.inf, 0)
    else:
        phase = (math.inf, 0)
    post = int(match["post"] or 0) if match["is_post"] else -1
    dev = int(match["dev"] or 0) if match["is_dev"] else math.inf
    return tuple(numbers), phase, post, dev
