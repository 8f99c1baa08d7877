# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pixels compared at the same time: with many threads the sum stays within the limit, and every thread gets its turn."""

from __future__ import annotations

import random
import threading
import time

from mobius.service.limits import PixelBudget


def test_more_threads_than_shares_stay_within_the_limit_and_all_finish() -> None:
    decodes, lock = PixelBudget(100, 2), threading.Lock()
    held, peak, done = 0, 0, 0

    def work(seed: int) -> None:
        nonlocal held, peak, done
        chance = random.Random(seed)
        for _ in range(30):
            pixels = chance.choice([10, 50, 50, 100])
            with decodes.reserve(pixels):
                with lock:
                    held += pixels
                    peak = max(peak, held)
                time.sleep(0.001)
                with lock:
                    held -= pixels
        with lock:
            done += 1

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (done, held) == (7, 0)
    assert peak == 100
