# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The parts of a multipart/form-data body that is in memory already (RFC 7578, RFC 2046 section 5.1.1)."""

from __future__ import annotations

import email.message
import email.parser
import email.policy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_HEADERS_MAX_BYTES: Final = 8192


class MalformedError(ValueError):
    """The body is not valid multipart/form-data; the text is one sentence."""


@dataclass(frozen=True)
class Part:
    """One part: the name of its field, that of its file if it has one, its media type and its bytes."""

    name: str
    filename: str | None
    media_type: str
    data: memoryview


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type names.

    Raises:
        MalformedError: it names none, or one that is not allowed.
    """
    message = email.message.Message()
    message["Content-Type"] = content_type
    boundary = message.get_boundary("")
    if not 1 <= len(boundary) <= 70 or not boundary.isascii() or not boundary.isprintable():
        raise MalformedError("The Content-Type multipart/form-data needs a boundary of 1 to 70 characters.")
    return boundary.encode("ascii")


def parts(body: bytes, boundary: bytes) -> Iterator[Part]:
    """The parts, in order; their `data` are views of `body`, not copies.

    Raises:
        MalformedError: a boundary, the end or the headers of a part are missing.
    """
    view, mark = memoryview(body), b"\r\n--" + boundary
    if body.startswith(mark[2:]):
        position = len(mark) - 2
    else:  # RFC 2046: what is before the first boundary is ignored
        position = body.find(mark) + len(mark)
        if position < len(mark):
            raise MalformedError("The body does not have the boundary that its Content-Type names.")
    while not body.startswith(b"--", position):
        line_end = body.find(b"\r\n", position)
        if line_end < 0 or body[position:line_end].strip(b" \t"):
            raise MalformedError("A boundary in the body is not at the end of its line.")
        end = body.find(mark, line_end)
        if end < 0:
            raise MalformedError("The body ends without its last boundary.")
        if end == line_end:
            raise MalformedError("A part has no headers.")
        head_end = body.find(b"\r\n\r\n", line_end, min(end, line_end + _HEADERS_MAX_BYTES) + 2)
        if head_end < 0:
            raise MalformedError("The headers of a part have no end.")
        yield _part(body[line_end + 2 : head_end + 2], view[head_end + 4 : end])
        position = end + len(mark)


def _part(head: bytes, data: memoryview) -> Part:
    try:
        fields = email.parser.HeaderParser(policy=email.policy.compat32).parsestr(head.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MalformedError("The headers of a part are not UTF-8.") from error
    disposition = fields.get("Content-Disposition", "")
    name = fields.get_param("name", header="Content-Disposition")
    if not disposition.lower().startswith("form-data") or not isinstance(name, str):
        raise MalformedError("The headers of a part do not name its field (Content-Disposition: form-data; name=...).")
    media_type = fields.get_content_type() if "Content-Type" in fields else ""
    return Part(name, fields.get_filename(None), media_type, data)
