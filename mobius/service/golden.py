# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The self-test of the health check: a built-in picture must hash to the bits that it has always had.

It is a grey JPEG of 180x160 pixels made of 9x8 random levels, chosen so that neighbours on the grid differ by at least
3 levels: no decoder's rounding changes a bit, and every mode gives the same 128 bits.
"""

from __future__ import annotations

import base64
from typing import Final

from mobius.dhash import ALGORITHMS, Dhash, hash_bytes

HASH: Final = Dhash.from_hex("cbf6464a4b06a7ca56a0fc0d00f2fd0e")
PICTURE: Final = base64.b64decode(
    """
/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDABsSFBcUERsXFhceHBsgKEIrKCUlKFE6PTBCYFVlZF9VXVtqeJmBanGQc1tdhbWGkJ6jq62rZ4C8yb
qmx5moq6T/wAALCACgALQBAREA/8QAGgAAAwEBAQEAAAAAAAAAAAAAAgMEBQEABv/EACMQAAICAgICAwEBAQAAAAAAAAABAgMRIQQSEzEUQWFR
IjL/2gAIAQEAAD8AgOoOI6CLKPo0afRRnQuxk8yeYmSPQWy6gqT0Rct6Zicv2zPktnooorRdQjQpKosPJ8qpBRY2CyUVwK6Y4Langd30BOQmTF
SQpxPRjhlFbwO8miXkTyjK5Cy2Rut5ChUyiFTKaoYK63gfGYXkPlVMbXLJZTHJdVXofGGA1LB3yHHPJzOT3XJ3xnHDAqUuoqV+PsVK3sKcexxU
Z+h0ON+Do8fH0ddfUFy6g+bB7z/p88slFXs0eN9GlVjAyWMCZsX2YSYcWOgOikBakkZ3JljJn2WvJ6E8srq2V1wTKa6kO8SwTXxwZ98sEkrQPK
IVIyEMFNU+pXXyEvsaruwX/R7xnuuDqeBkJDo2C7bNGdyZZyZ1ns9B4ZVVZgsquRdTYmU9tEnJemZHJl7IZz2L7mp4fwCVeCeyXUV8hp+yvj3d
manHXZFSr0LshgnlpnFLAXkAnZlElrySziLejyswOpu2afGtzgujP/JNyZaZkcmW2QzkL7H0biJtjog5EXsicX2LOInlG5xFpF6WhVqJLFsU0C
8gSyLkhUoCLICJRYdSeTU4udGhD/kn5PpmRyfbIZ+xZ9Qxc1lEtteSd8ffop49OGanHWEVp6AnsTKAqUAHABxBcAHWKnUIlUFXVsv48MFsVol5
PpmRyVtkM1sDB9Lk4wGkznRDa4pFVbwOUj2QXgCWBUmgNHUsnegucBMoo9FLJVVgo7aJOQ9My+QtsjnEDqb+QXICVmAPMMrtKa7BymedgDtFzu
Eyu/T0bcspqeR6hlCrY4IrZYYpW4Y6u/8ARyv17F2T7ElkciXUD4fw0Gxc5E1lmBDu2NquLarCjyaAlaJld+iJ3fomV+/YdVuWanFlnBowX+Sf
k6TMflTw2RO7YcLmURuYyM8hpZO+M74kC2LmS2olknkbVlFtUsDu+hc5iJzETkJctjaZbNfiTxg04WLqT8qxYZi8uWWyB5bG1xbKYQY+EWh0Xg
NTR3uhAMlkVOGRTqOxrwNjo65i5SFSYqQGBlemW0WdSyPI17FXX5Xsz7n2YqMMstooz9F0ONr0cnV1JrJdRLvx9nPkfpVg91O+PJ51AyrwKksC
5AMBo51OdTqWAlPASuZx2Ngex1MNmnxa1o0YQXUm5MUkzI5OmyGcnkX2Z9D4glUGqjvhFWVE1lYhwOeM74jjqBdYEo4EzeBbmFGWR0Fkpqjhl9
EsFcblgTfPsjOvh2JZUN/QHx3/AA+l8aOqCDjBBOCEWwJLYCXDZ2NYfiBlUKnARZEjtRO/YytFtUSiMcB98HVcwlPsF07HfBn6PfHX8LfKjqtQ
cbUF5ULsmmTWPIr7DiHrAE2iebQizZNZDIl0vPoZXS0V1QwOxoGUWB0eRlcWimA1NHcozflfp1cr9GR5X6MXJ/Tvmz9nO+T2QlI85i5zJ5zAzk
ZGrsNjxc/R34+Po90wdSDjXkNUfhx19QHLqD5cHvN+mF5n/Qlc/wCjI3P+jY2sfCzI6EsjEzuQXITOQiUthVvLNDjwzg0K6Vg5ZUkiO2OBcVsq
pjkpVawIvjhGfc8EspgeRmR2CUhkZD4MorZVWORxgSE2CJexlPs1uIvRqVR0BctGfetiYey2hFiWiXkrTMrke2QzewGz/9k=
"""
)


def wrong_bits() -> int:
    """Number of wrong bits over all modes; 0 is correct.

    Raises:
        MobiusError: the picture cannot be decoded.
    """
    return sum(hash_bytes(PICTURE, mode).dhash.distance(HASH) for mode in ALGORITHMS)
