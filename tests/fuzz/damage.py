"""Damage to a file's bytes at random: flipped, cut, dropped, added, swapped, and exchanged blocks of a tar archive."""

from __future__ import annotations

from hypothesis import strategies as st

BLOCK_BYTES = 512  # of a tar archive
Damage = tuple[str, int, int, bytes]
"""Kind, offset, length or bit or other offset, and what is added."""


@st.composite
def damages(draw: st.DrawFn, length: int) -> Damage:
    """One damage to so many bytes."""
    kind = draw(st.sampled_from(("flip", "cut", "drop", "add", "swap", "blocks")))
    at = draw(st.integers(0, length - 1))
    if kind == "flip":
        return kind, at, draw(st.integers(0, 7)), b""
    if kind == "add":
        return kind, at, 0, draw(st.one_of(st.binary(min_size=1, max_size=2000), st.just(bytes(BLOCK_BYTES))))
    return kind, at, draw(st.integers(1, length - 1)), b""


def damaged(data: bytes, damage: Damage) -> bytes:
    """The bytes after a damage; two equal blocks or bytes that are exchanged leave them as they were."""
    kind, at, number, added = damage
    changed = bytearray(data)
    if kind == "flip":
        changed[at] ^= 1 << number
    elif kind == "cut":
        del changed[at:]
    elif kind == "drop":
        del changed[at : at + number]
    elif kind == "add":
        changed[at:at] = added
    elif kind == "swap":
        changed[at], changed[number] = changed[number], changed[at]
    else:
        one, other = (
            slice(begin, begin + BLOCK_BYTES) for begin in (at - at % BLOCK_BYTES, number - number % BLOCK_BYTES)
        )
        changed[one], changed[other] = changed[other], changed[one]
    return bytes(changed)
