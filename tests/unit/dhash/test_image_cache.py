# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pictures in memory: each decoded once while it is there, and never more memory than allowed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from mobius.dhash import VerificationImage
from mobius.dhash._image_cache import ImageCache

IMAGE_BYTES = 10 * 10 * 3


def image() -> VerificationImage:
    return VerificationImage(Image.new("RGB", (10, 10)), None, (10, 10), "", True)


def test_the_picture_used_longest_ago_is_dropped_at_the_limit() -> None:
    loaded: list[int] = []

    def load(number: int) -> VerificationImage:
        loaded.append(number)
        return image()

    cache = ImageCache(load, 2 * IMAGE_BYTES)
    for number in (1, 2, 1, 3, 1, 2):
        cache.get(number)
    assert loaded == [1, 2, 3, 2]


def test_a_picture_larger_than_the_limit_is_kept_while_it_is_the_last() -> None:
    loaded: list[int] = []
    cache = ImageCache(lambda number: loaded.append(number) or image(), IMAGE_BYTES - 1)
    for number in (1, 1, 2, 1):
        cache.get(number)
    assert loaded == [1, 2, 1]


def test_what_cannot_be_loaded_is_tried_once_and_what_fails_again() -> None:
    answers = [RuntimeError("the first time"), None]

    def load(number: int) -> VerificationImage | None:
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return None

    cache = ImageCache(load, IMAGE_BYTES)
    with pytest.raises(RuntimeError):
        cache.get(1)
    assert cache.get(1) is None
    assert cache.get(1) is None
    assert answers == []


def test_threads_that_want_one_picture_decode_it_once() -> None:
    loaded: list[int] = []
    both = threading.Barrier(2, timeout=30)
    decoding, may_end = threading.Event(), threading.Event()

    def load(number: int) -> VerificationImage:
        loaded.append(number)
        decoding.set()
        assert may_end.wait(30)
        return image()

    cache = ImageCache(load, IMAGE_BYTES)

    def get() -> VerificationImage | None:
        both.wait()
        return cache.get(1)

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(get) for _ in range(2)]
        assert decoding.wait(30)
        may_end.set()
        assert futures[0].result(30) is futures[1].result(30)
    assert loaded == [1]
