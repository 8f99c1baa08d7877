# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Fingerprints of pictures, and the library index that finds duplicates by them. Knows no HTTP and no Ansible."""

from mobius.dhash._decisions import Decided, Decision
from mobius.dhash._decoding import MAX_PIXELS
from mobius.dhash._duplicates import Doubtful, Group, Member
from mobius.dhash._exchange import Form, ImportReport
from mobius.dhash._fingerprint import ALGORITHMS, Dhash, Fingerprint, Mode, Transform
from mobius.dhash._formats import CONTENT_TYPES, FORMATS
from mobius.dhash._hashing import hash_bytes, hash_file, hash_image
from mobius.dhash._library import LOOKED_AT, Found, Library
from mobius.dhash._picture import Confidence, Picture
from mobius.dhash._scan import ScanReport, Unreadable
from mobius.dhash._search import HammingIndex, Neighbours, Pairs
from mobius.dhash._thumbnail import thumbnail_of
from mobius.dhash._verification import Room
from mobius.dhash._verification_image import Seen, see
from mobius.dhash.errors import BrokenPictureError, MislabelledError, NotAPictureError, PictureError, TooManyPixelsError

__all__ = [
    "ALGORITHMS",
    "CONTENT_TYPES",
    "FORMATS",
    "LOOKED_AT",
    "MAX_PIXELS",
    "BrokenPictureError",
    "Confidence",
    "Decided",
    "Decision",
    "Dhash",
    "Doubtful",
    "Fingerprint",
    "Form",
    "Found",
    "Group",
    "HammingIndex",
    "ImportReport",
    "Library",
    "Member",
    "MislabelledError",
    "Mode",
    "Neighbours",
    "NotAPictureError",
    "Pairs",
    "Picture",
    "PictureError",
    "Room",
    "ScanReport",
    "Seen",
    "TooManyPixelsError",
    "Transform",
    "Unreadable",
    "hash_bytes",
    "hash_file",
    "hash_image",
    "see",
    "thumbnail_of",
]
