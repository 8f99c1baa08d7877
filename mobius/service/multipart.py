# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The parts of a multipart/form-data body that is in memory already (RFC 7578, RFC 2046 section 5.1.1).

Every byte is looked at a fixed number of times. The parameters of headers are read here too: those of the standard
library's `email` take the square of their length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

_HEADERS_MAX_BYTES: Final = 8192
_MAX_PARAMETERS: Final = 32
_PARAMETER: Final = re.compile(
    r""";[ \t]*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]*)[ \t]*"""
    r"""(?:=[ \t]*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<token>[^;"]*)))?[ \t]*""",
    re.DOTALL,
)
_ESCAPED: Final = re.compile(r'\\(["\\])')


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
    _, parameters = parse_parameters(content_type)
    boundary = parameters.get("boundary", "")
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
        yield _part(body[line_end + 2 : head_end], view[head_end + 4 : end])
        position = end + len(mark)


def parse_parameters(value: str) -> tuple[str, dict[str, str]]:
    """A header's value as its first word in lower case, and its parameters by name in lower case.

    What cannot be read, and what follows it or 32 others, is left out. Of two parameters of one name the first counts.
    """
    start = value.find(";")
    if start < 0:
        return value.strip().lower(), {}
    parameters: dict[str, str] = {}
    position = start
    for _ in range(_MAX_PARAMETERS):
        if (match := _PARAMETER.match(value, position)) is None:
            break
        quoted, token = match["quoted"], match["token"]
        if quoted is not None:
            parameters.setdefault(match["name"].lower(), _ESCAPED.sub(r"\1", quoted))
        elif token is not None:
            parameters.setdefault(match["name"].lower(), token.strip())
        position = match.end()
    return value[:start].strip().lower(), parameters


def _part(head: bytes, data: memoryview) -> Part:
    try:
        lines = head.decode("utf-8").split("\r\n")
    except UnicodeDecodeError as error:
        raise MalformedError("The headers of a part are not UTF-8.") from error
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip().lower(), value)
    kind, parameters = parse_parameters(fields.get("content-disposition", ""))
    if kind != "form-data" or "name" not in parameters:
        raise MalformedError("The headers of a part do not name its field (Content-Disposition: form-data; name=...).")
    media_type, _ = parse_parameters(fields.get("content-type", ""))
    return Part(parameters["name"], _filename(parameters), media_type, data)


def _filename(parameters: dict[str, str]) -> str | None:
    """The name of the file; one in another character set than UTF-8 is left out (RFC 7578, 4.2, allows none)."""
    extended = parameters.get("filename*", "")
    if extended[:7].lower() == "utf-8''":
        return unquote(extended[7:], errors="replace")
    return parameters.get("filename")
