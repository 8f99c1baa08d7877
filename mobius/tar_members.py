# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The members of a bundle's tar stream: how each is written, and that each is exactly the one that must come next.

A header follows from what the manifest says of a member, so a reader compares bytes and interprets none of them: what
an attacker writes into a header has no effect but a refusal. A name that does not fit into a plain header has an
extended one before it, which is compared in the same way. Hosts use this same file
(`plugins/module_utils/tar_members.py` is a link to it), so it imports the standard library only.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

BLOCK_BYTES = 512
"""Of a tar header; every member is padded to a multiple of it."""

_CHUNK_BYTES = 1 << 20
_TRAILER_MAX_BYTES = 1 << 20  # zeros after the last member; tar writes at most one record of 10 KiB
_LINK_MODE = 0o777  # Linux gives a link no other


class MemberError(ValueError):
    """A member is not what must come next. The message is one sentence."""


class Stream(Protocol):
    """What members are read from."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes; none at the end."""


@dataclass(frozen=True)
class Member:
    """A regular file, or a symbolic link to `target`: name, time in seconds since 1970, size in bytes, mode."""

    name: str
    mtime: int
    size: int = 0
    mode: int = _LINK_MODE
    target: str | None = None

    def header(self) -> bytes:
        """Its header as MOBIUS writes it; several blocks when a name, a target or a size is too long for one."""
        info = tarfile.TarInfo(self.name)
        info.size, info.mode, info.mtime = self.size, self.mode, self.mtime
        if self.target is not None:
            info.type, info.linkname = tarfile.SYMTYPE, self.target
        try:
            return info.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
        except ValueError:
            return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "strict")

    def padding(self) -> bytes:
        """The zeros after its content."""
        return bytes(-self.size % BLOCK_BYTES)


END_MARK = bytes(2 * BLOCK_BYTES)
"""What follows the last member."""


def read_first_size(block: bytes, name: str, limit: int) -> int:
    """The size that the first header gives, which must be that of a file called `name`.

    Raises:
        MemberError: it is another member, or larger than `limit` bytes.
    """
    info = _parse_header(block)
    if info is None or info.name != name or not info.isreg() or info.size > limit:
        raise MemberError(f"The bundle does not begin with {name}.")
    return info.size


def read_header(stream: Stream, expected: Member) -> None:
    """Read the header of the next member.

    Raises:
        MemberError: it is not the expected one.
    """
    header = expected.header()
    compare_header(read_exactly(stream, len(header)), header, expected)


def compare_header(actual: bytes, header: bytes, expected: Member) -> None:
    """Refuse a header that differs from the expected member's.

    Raises:
        MemberError: with what differs.
    """
    if actual == header:
        return
    info, name = _parse_header(actual[:BLOCK_BYTES]), shorten(expected.name)
    if info is None:
        raise MemberError(f"The bundle ends before {expected.name}, which its manifest names.")
    if info.name != expected.name and len(header) == BLOCK_BYTES:
        raise MemberError(f"The bundle has the member {shorten(info.name)} where its manifest says {name}.")
    if info.type != (tarfile.REGTYPE if expected.target is None else tarfile.SYMTYPE) and len(header) == BLOCK_BYTES:
        kind = "a regular file" if expected.target is None else "a symbolic link"
        raise MemberError(f"{name} in the bundle is not {kind}.")
    raise MemberError(
        f"{name} in the bundle has another size, mode, owner, link or time than the manifest says or MOBIUS writes."
    )


def read_content(stream: Stream, size: int) -> Iterator[bytes]:
    """The content of a member in chunks, and its padding.

    Raises:
        MemberError: it is cut short, or the padding is not zeros.
    """
    remaining = size
    while remaining:
        chunk = read_exactly(stream, min(remaining, _CHUNK_BYTES))
        remaining -= len(chunk)
        yield chunk
    if read_exactly(stream, -size % BLOCK_BYTES).strip(b"\0"):
        raise MemberError("The bundle has data between two members.")


def read_end(stream: Stream) -> None:
    """Read what follows the last member.

    Raises:
        MemberError: it is not an end mark of zeros and nothing more.
    """
    info = _parse_header(read_exactly(stream, BLOCK_BYTES))
    if info is not None:
        raise MemberError(f"The bundle has the member {shorten(info.name)}, which its manifest does not name.")
    trailer = stream.read(_TRAILER_MAX_BYTES + 1)
    if len(trailer) > _TRAILER_MAX_BYTES or trailer.strip(b"\0"):
        raise MemberError("The bundle goes on after its last member.")


def read_exactly(stream: Stream, size: int) -> bytes:
    """`size` bytes.

    Raises:
        MemberError: there are fewer.
    """
    data = stream.read(size)
    if len(data) != size:
        raise MemberError("The bundle is cut short.")
    return data


def shorten(value: object) -> str:
    """A value from a bundle in quotes, for a message."""
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _parse_header(block: bytes) -> tarfile.TarInfo | None:
    """A header, for a message only; None for the zeros of the end mark."""
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
        return None
    except (tarfile.TarError, ValueError):
        raise MemberError("The bundle is damaged: a member's header cannot be read.") from None
