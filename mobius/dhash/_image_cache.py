# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pictures of one size in memory, each decoded once while it is there."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future

from mobius.dhash._verification_image import VerificationImage

_Loaded = VerificationImage | None


class ImageCache:
    """The pictures used last, up to a limit of memory; the one used last is always kept. Thread-safe: threads that
    want one picture at the same time decode it once.

    Args:
        load: loads a picture by its id; None when that is not possible.
        limit_bytes: of all pictures in memory.
    """

    def __init__(self, load: Callable[[int], _Loaded], limit_bytes: int) -> None:
        self._load = load
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._images: OrderedDict[int, Future[_Loaded]] = OrderedDict()
        self._bytes = 0

    def get(self, number: int) -> _Loaded:
        """The picture of this id; raises what `load` raises, and tries again the next time."""
        with self._lock:
            future = self._images.get(number)
            if is_new := future is None:
                future = self._images[number] = Future()
            self._images.move_to_end(number)
        assert future is not None
        if is_new:
            self._fill(number, future)
        return future.result()

    def _fill(self, number: int, future: Future[_Loaded]) -> None:
        try:
            image = self._load(number)
        except BaseException as error:  # noqa: BLE001 - other threads wait for the result
            with self._lock:
                del self._images[number]
            future.set_exception(error)
            return
        with self._lock:
            future.set_result(image)
            self._bytes += _bytes_of(image)
            for oldest in [*self._images]:
                if self._bytes <= self._limit_bytes:
                    break
                if oldest != number and self._images[oldest].done():
                    self._bytes -= _bytes_of(self._images.pop(oldest).result())


def _bytes_of(image: _Loaded) -> int:
    """Memory of a picture's pixels."""
    if image is None:
        return 0
    return image.colours.width * image.colours.height * (3 if image.alpha is None else 4)
