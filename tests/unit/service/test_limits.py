# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Pixels decoded at the same time: however many threads ask, the sum stays within the limit, and all get their turn."""

from __future__ import annotations

import random
import threading
import time

from mobius.service.limits import Decodes


def test_more_threads_than_the_limit_counts_on_stay_within_it_and_all_come_to_an_end() -> None:
    decodes, counting = Decodes(100, 2), threading.Lock()
    held, most, done = 0, 0, 0

    def work(seed: int) -> None:
        nonlocal held, most, done
        chance = random.Random(seed)
        for _ in range(30):
            pixels = chance.choice([10, 50, 50, 100])
            with decodes.room(pixels):
                with counting:
                    held += pixels
                    most = max(most, held)
                time.sleep(0.001)
                with counting:
                    held -= pixels
        with counting:
            done += 1

    threads = [threading.Thread(target=work, args=(seed,), daemon=True) for seed in range(7)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (done, held) == (7, 0)
    assert most == 100
