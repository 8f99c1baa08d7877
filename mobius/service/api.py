# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The public API under `/v1`. What each call takes and gives is written in `openapi.py`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import re
from collections.abc import AsyncIterator
from typing import Any, Final, get_args

from starlette.requests import Request
from starlette.responses import Response

from mobius.dhash import (
    CONTENT_TYPES,
    BrokenPictureError,
    Dhash,
    Fingerprint,
    MislabelledError,
    Mode,
    NotAPictureError,
    Seen,
    TooManyPixelsError,
)
from mobius.errors import MobiusError
from mobius.service import multipart
from mobius.service.instance import Instance
from mobius.service.problems import Json, ProblemError

PAGE: Final = 50
"""Entries of a page, when the client does not say."""
MOST: Final = 500
"""Entries of a page at most."""
WIDEST: Final = 64
"""Bits of 128; pictures that have nothing in common differ by as many."""
SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PAIR: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")
_HASH: Final = re.compile(r"[0-9a-f]{16}")
_STATUS: Final[dict[type[MobiusError], int]] = {
    BrokenPictureError: 422,
    NotAPictureError: 415,
    MislabelledError: 415,
    TooManyPixelsError: 413,
}
_ANY_PICTURE: Final = ("", "application/octet-stream")
_FORM: Final = "multipart/form-data"


class Api:
    """The handlers, each for one request at a time of many."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.settings = instance.settings

    async def hash(self, request: Request) -> Response:
        _only(request, "mode")
        mode: Mode = "exact" if _choice(request, "mode", get_args(Mode), "fast") == "exact" else "fast"
        kind = _kind(request)
        if kind != _FORM:
            _declared(kind)
        async with self._body(request) as data:
            if kind == _FORM:
                return Json({"images": await self._hash_parts(request, data, mode)})
            return Json((await self._hash(data, mode, kind)).as_dict())

    async def add(self, request: Request) -> Response:
        _only(request)
        kind = _kind(request)
        _declared(kind)
        async with self._body(request) as data:
            sha256 = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
            known = await self.instance.index.run(lambda library: library.get(sha256))
            if known is None or not known.posted:
                fingerprint = await self._hash(data, "fast", kind, look=True)
                picture = await self.instance.thumbnail(data)
                new = await self.instance.index.run(lambda library: library.add(fingerprint, thumbnail=picture))
                known = await self.instance.index.run(lambda library: library.get(sha256))
            else:
                new = False
        if known is None:
            raise ProblemError(409, f"The image {sha256} was removed again at the same moment.")
        return Json(known.as_dict(), 201 if new else 200, {"Location": f"/v1/images/{sha256}"})

    async def get(self, request: Request) -> Response:
        _only(request)
        sha256 = _sha256(request)
        picture = await self.instance.index.run(lambda library: library.get(sha256))
        if picture is None:
            raise _no_image(sha256)
        return Json(picture.as_dict())

    async def remove(self, request: Request) -> Response:
        _only(request)
        sha256 = _sha256(request)
        if not await self.instance.index.run(lambda library: library.remove(sha256), refused=409):
            raise _no_image(sha256)
        return Response(status_code=204)

    async def thumbnail(self, request: Request) -> Response:
        _only(request, "side")
        sha256, side = _sha256(request), _whole(request, "side", 16, 512, 256)
        found = await self.instance.stored_thumbnail(sha256, side)
        if found is None:
            raise ProblemError(404, f"There is no thumbnail of the image {sha256}.")
        media_type = "image/webp" if found[8:12] == b"WEBP" else "image/jpeg"
        # the name is the content's digest, so the answer stays true
        return Response(found, media_type=media_type, headers={"Cache-Control": "private, max-age=86400, immutable"})

    async def search(self, request: Request) -> Response:
        _only(request, "max_distance", "limit", "transforms")
        distance = _whole(request, "max_distance", 0, WIDEST, None)
        limit = _whole(request, "limit", 1, MOST, 20)
        transforms = _choice(request, "transforms", ("true", "false"), "false") == "true"
        kind = _kind(request)
        if kind != "application/json":
            _declared(kind)
        async with self._body(request) as data:
            query: Fingerprint | Dhash
            query = _hash_of(data) if kind == "application/json" else await self._hash(data, "fast", kind, look=True)
            index = self.instance.index

            def seen(side: int) -> Seen | None:
                return self.instance.see(data, query, side)

            found = await index.run(
                lambda library: library.search(
                    query, max_distance=distance, limit=limit, transforms=transforms,
                    picture=seen,
                    max_pixels=index.max_pixels, room=index.room,
                )
            )  # fmt: skip
        dhash = query.dhash if isinstance(query, Fingerprint) else query
        asked = {"dhash": dhash.hex[:16], "dhash_vertical": dhash.hex[16:], "algorithm": dhash.algorithm}
        return Json({"query": asked, "matches": [_match(entry) for entry in found]})

    async def duplicates(self, request: Request) -> Response:
        _only(request, "after", "limit")
        after, limit = _cursor(request, SHA256), _whole(request, "limit", 1, MOST, PAGE)
        self.instance.index.count()
        groups = await self.instance.index.run(lambda library: library.duplicates())
        # by name, so that a page goes on where the one before ended even when the library changed in between
        groups = sorted((group for group in groups if group.kept.sha256 > (after or "")), key=lambda g: g.kept.sha256)
        found = [
            {"kept": group.kept.as_dict(), "others": [
                {"image": member.picture.as_dict(), "distance": member.distance, "confidence": member.confidence,
                 "pair": member.pair}
                for member in group.others
            ]}
            for group in groups[:limit]
        ]  # fmt: skip
        return Json({"groups": found, "next": groups[limit - 1].kept.sha256 if len(groups) > limit else None})

    async def review(self, request: Request) -> Response:
        _only(request, "after", "limit")
        after, limit = _cursor(request, _PAIR), _whole(request, "limit", 1, MOST, PAGE)
        self.instance.index.count()
        found = await self.instance.index.run(lambda library: library.review(after=after, limit=limit + 1), refused=400)
        pairs = [
            {"id": pair.id, "first": pair.first.as_dict(), "second": pair.second.as_dict(),
             "distance": pair.distance, "score": pair.score}
            for pair in found[:limit]
        ]  # fmt: skip
        return Json({"pairs": pairs, "next": found[limit - 1].id if len(found) > limit else None})

    async def decide(self, request: Request) -> Response:
        _only(request)
        if _kind(request) != "application/json":
            raise ProblemError(415, "A decision is sent as application/json.", headers={"Accept": "application/json"})
        async with self._body(request) as data:
            said = _object(data, {"decision"})
        decision = said.get("decision")
        if decision not in ("same", "different"):
            raise ProblemError(422, 'A decision is {"decision": "same"} or {"decision": "different"}.')
        pair, by = request.path_params["id"], request.scope["mobius.by"]
        made = await self.instance.index.run(lambda library: library.decide(pair, decision, by), refused=404)
        return Json({"id": pair, "decision": made.decision, "by": made.by, "at": made.at})

    # -- bodies ----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _body(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body, within the limits of size, time and memory; its memory counts until the block ends."""
        most, seconds = self.settings.max_body_bytes, self.settings.body_timeout
        too_long = ProblemError(413, f"The body is longer than {most} bytes.")
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > most:
            raise too_long
        data = io.BytesIO()  # hands its memory over without a copy
        with self.instance.bodies.room() as room:
            room.expect(int(length) if length.isdigit() else 0)
            try:
                async with asyncio.timeout(seconds):
                    async for part in request.stream():
                        if data.tell() + len(part) > most:
                            raise too_long
                        room.take(len(part))
                        data.write(part)
            except TimeoutError:
                raise ProblemError(
                    408, f"The body did not arrive within {seconds:g} seconds.", headers={"Connection": "close"}
                ) from None
            yield data.getvalue()

    async def _hash(self, data: bytes | memoryview, mode: Any, kind: str, *, look: bool = False) -> Fingerprint:
        declared = _declared(kind)
        try:
            return await self.instance.hash(data, mode, declared, look=look)
        except MobiusError as error:
            if (status := _STATUS.get(type(error))) is None:
                raise ProblemError(503, error.reason, headers={"Retry-After": "5"}) from error
            raise ProblemError(status, error.reason) from error

    async def _hash_parts(self, request: Request, data: bytes, mode: Mode) -> list[dict[str, Any]]:
        """Each file of a form, hashed; one that cannot be is told in its place and does not spoil the others."""
        most = self.settings.max_parts
        try:
            files = []
            for part in multipart.parts(data, multipart.boundary_of(request.headers["content-type"])):
                files.append(part)
                if len(files) > most:
                    raise ProblemError(413, f"More than {most} images in one request are not taken.")
        except multipart.MalformedError as error:
            raise ProblemError(400, str(error)) from error
        if not files:
            raise ProblemError(400, "The form holds no image.")

        async def one(part: multipart.Part) -> dict[str, Any]:
            name = part.name if part.filename is None else part.filename
            try:
                return {"name": name, **(await self._hash(part.data, mode, part.media_type)).as_dict()}
            except ProblemError as error:
                return {"name": name, "error": error.detail, "status": error.status}

        return list(await asyncio.gather(*(one(part) for part in files)))


def _match(found: Any) -> dict[str, Any]:
    return {
        "image": found.picture.as_dict(),
        "distance": found.distance,
        "transform": found.transform,
        "confidence": found.confidence,
    }


def _no_image(sha256: str) -> ProblemError:
    return ProblemError(404, f"The index has no image {sha256}.")


# -- what a request says -----------------------------------------------------------------------------------------------


def _only(request: Request, *names: str) -> None:
    """Refuse a parameter that would be ignored: a slip of the pen must not change what is asked."""
    for name in request.query_params:
        if name not in names:
            known = f"known are {', '.join(names)}" if names else "there is none here"
            raise ProblemError(400, f"There is no parameter {name[:40]!r}; {known}.")


def _choice(request: Request, name: str, allowed: tuple[str, ...], default: str) -> str:
    value = request.query_params.get(name, default)
    if value not in allowed:
        raise ProblemError(400, f"{name} must be one of {', '.join(allowed)}, not {value[:40]!r}.")
    return value


def _whole(request: Request, name: str, low: int, high: int, default: Any) -> Any:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise ProblemError(400, f"{name} must be a number from {low} to {high}, not {text[:40]!r}.")
    return int(text)


def _cursor(request: Request, form: re.Pattern[str]) -> str | None:
    after = request.query_params.get("after")
    if after is not None and not form.fullmatch(after):
        raise ProblemError(400, "after must be the `next` of the page before.")
    return after


def _sha256(request: Request) -> str:
    text = str(request.path_params["sha256"])
    if not SHA256.fullmatch(text):
        raise ProblemError(400, f"An image is named by its SHA-256, 64 hexadecimal digits, not {text[:80]!r}.")
    return text


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _declared(kind: str) -> str | None:
    """The format that a media type names, None when it says nothing."""
    if kind in _ANY_PICTURE:
        return None
    if kind not in CONTENT_TYPES:
        raise ProblemError(
            415, f"Content-Type {kind[:60]!r} is not read here.", headers={"Accept": ", ".join(sorted(CONTENT_TYPES))}
        )
    return CONTENT_TYPES[kind]


def _object(data: bytes, names: set[str]) -> dict[str, Any]:
    try:
        said = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProblemError(400, "The body is not JSON.") from error
    if not isinstance(said, dict):
        raise ProblemError(422, "The body must be a JSON object.")
    if unknown := sorted(said.keys() - names):
        raise ProblemError(422, f"There is no key {unknown[0][:40]!r}; known are {', '.join(sorted(names))}.")
    return said


def _hash_of(data: bytes) -> Dhash:
    said = _object(data, {"dhash", "dhash_vertical"})
    digits = [said.get("dhash"), said.get("dhash_vertical")]
    if not all(isinstance(text, str) and _HASH.fullmatch(text) for text in digits):
        raise ProblemError(422, "dhash and dhash_vertical must be 16 hexadecimal digits (0-9, a-f) each.")
    return Dhash.from_hex("".join(map(str, digits)))
