# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The public API under `/v1`. `openapi.py` describes each call."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, get_args

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from mobius.dhash import (
    CONTENT_TYPES,
    BrokenPictureError,
    DecoderCrashedError,
    DecodingLimitError,
    Dhash,
    Fingerprint,
    MislabelledError,
    Mode,
    NotAPictureError,
    TooManyPixelsError,
    UnopenedPictureError,
    VerificationImage,
)
from mobius.errors import MobiusError
from mobius.service import multipart
from mobius.service.instance import Instance
from mobius.service.lanes import LaneName
from mobius.service.listening import GONE, ON_DISCONNECT
from mobius.service.problems import Json, ProblemError

PAGE_DEFAULT_ENTRIES: Final = 50
"""Entries of a page by default."""
PAGE_MAX_ENTRIES: Final = 500
"""Limit of entries of a page."""
SEARCH_MAX_BITS: Final = 64
"""Largest distance of a search, in bits of 128: unrelated pictures differ by as many."""
CHEAP_DISTANCE_BITS: Final = 32
CHEAP_LIMIT: Final = 100
"""A search for more, or within more bits, or for transforms, waits in a lane of its own."""
VERIFY_SECONDS: Final = 5.0
"""A search that has compared pixels for so long opens no further picture."""
SHA256: Final = re.compile(r"[0-9a-f]{64}")
_PAIR: Final = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}")
_HASH: Final = re.compile(r"[0-9a-f]{16}")
_STATUS: Final[dict[type[MobiusError], int]] = {
    BrokenPictureError: 422,
    NotAPictureError: 415,
    MislabelledError: 415,
    TooManyPixelsError: 413,
    UnopenedPictureError: 422,
    DecodingLimitError: 413,
    DecoderCrashedError: 422,
}
JSON_MAX_BYTES: Final = 4096
"""Limit of a JSON body: the largest that is needed has a hundred bytes."""
BODY_WINDOW_SECONDS: Final = 10.0
BODY_WINDOW_BYTES: Final = 10_000
"""So many bytes of a body must arrive in each window, or its end."""
FORM_SECONDS: Final = 60.0
"""Pictures of a form that are not begun after this time are not hashed."""
_ANY_PICTURE: Final = ("", "application/octet-stream")
_FORM: Final = "multipart/form-data"


class Api:
    """The request handlers of `/v1`."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.settings = instance.settings

    async def hash(self, request: Request) -> Response:
        _refuse_unknown(request, "mode")
        mode: Mode = "exact" if _choice(request, "mode", get_args(Mode), "fast") == "exact" else "fast"
        kind = _kind(request)
        if kind != _FORM:
            _declared(kind)
        async with self._body(request) as data:
            if kind == _FORM:
                return Json({"images": await self._hash_parts(request, data, mode)})
            return Json((await self._hash(data, mode, kind)).as_dict())

    async def add(self, request: Request) -> Response:
        _refuse_unknown(request)
        kind = _kind(request)
        _declared(kind)
        async with self._body(request) as data:
            sha256 = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
            known = await self.instance.index.run(lambda library: library.get(sha256))
            if known is None or not known.posted:
                fingerprint = await self._hash(data, "fast", kind, descriptor=True)
                picture = await self.instance.thumbnail(data)
                new = await self.instance.index.run(
                    lambda library: library.add(fingerprint, thumbnail=picture), lane="write"
                )
                known = await self.instance.index.run(lambda library: library.get(sha256))
            else:
                new = False
        if known is None:
            raise ProblemError(409, f"The image {sha256} was removed while it was added; send it again.")
        return Json(known.as_dict(), 201 if new else 200, {"Location": f"/v1/images/{sha256}"})

    async def get(self, request: Request) -> Response:
        _refuse_unknown(request)
        sha256 = _sha256(request)
        picture = await self.instance.index.run(lambda library: library.get(sha256))
        if picture is None:
            raise _no_image(sha256)
        return Json(picture.as_dict())

    async def remove(self, request: Request) -> Response:
        _refuse_unknown(request)
        sha256 = _sha256(request)
        if not await self.instance.index.run(lambda library: library.remove(sha256), lane="write", invalid_status=409):
            raise _no_image(sha256)
        return Response(status_code=204)

    async def thumbnail(self, request: Request) -> Response:
        _refuse_unknown(request, "side")
        sha256, side = _sha256(request), _integer(request, "side", 16, 512, 256)
        data = await self.instance.stored_thumbnail(sha256, side)
        if data is None:
            raise ProblemError(404, f"There is no thumbnail of the image {sha256}.")
        media_type = "image/webp" if data[8:12] == b"WEBP" else "image/jpeg"
        # the URL names the content by its digest, so the answer never changes
        return Response(data, media_type=media_type, headers={"Cache-Control": "private, max-age=86400, immutable"})

    async def search(self, request: Request) -> Response:
        _refuse_unknown(request, "max_distance", "limit", "transforms")
        distance = _integer(request, "max_distance", 0, SEARCH_MAX_BITS, None)
        limit = _integer(request, "limit", 1, PAGE_MAX_ENTRIES, 20)
        transforms = _choice(request, "transforms", ("true", "false"), "false") == "true"
        kind = _kind(request)
        is_json = kind == "application/json"
        if not is_json:
            _declared(kind)
        async with self._body(request, JSON_MAX_BYTES if is_json else None) as data:
            query: Fingerprint | Dhash
            query = _hash_of(data) if is_json else await self._hash(data, "fast", kind, descriptor=True)
            index = self.instance.index

            def load_query(side: int) -> VerificationImage | None:
                return self.instance.load_for_verification(data, query, side)

            is_wide = transforms or limit > CHEAP_LIMIT or (distance or 0) > CHEAP_DISTANCE_BITS
            begun = await index.run(
                lambda library: library.begin_search(
                    query, max_distance=distance, limit=limit, transforms=transforms,
                    load_query=load_query, max_pixels=index.max_pixels, memory_budget=index.memory_budget,
                    verify_seconds=VERIFY_SECONDS,
                ),
                lane="compare" if is_wide else "read",
            )  # fmt: skip
            last: LaneName = "verify" if begun.needs_pixels else "compare" if is_wide else "read"
            matches = await index.run(lambda _: begun.finish(), lane=last)
        dhash = query.dhash if isinstance(query, Fingerprint) else query
        query_hash = {"dhash": dhash.hex[:16], "dhash_vertical": dhash.hex[16:], "algorithm": dhash.algorithm}
        return Json({"query": query_hash, "matches": [_match_document(match) for match in matches]})

    async def duplicates(self, request: Request) -> Response:
        _refuse_unknown(request, "after", "limit")
        after, limit = _cursor(request, SHA256), _integer(request, "limit", 1, PAGE_MAX_ENTRIES, PAGE_DEFAULT_ENTRIES)
        self.instance.index.count()
        groups = await self.instance.index.run(
            lambda library: library.duplicates_page(after=after, limit=limit + 1), lane="page"
        )
        documents = [
            {"kept": group.keeper.as_dict(), "others": [
                {"image": member.picture.as_dict(), "distance": member.distance, "confidence": member.confidence,
                 "pair": member.pair}
                for member in group.others
            ]}
            for group in groups[:limit]
        ]  # fmt: skip
        return Json({"groups": documents, "next": groups[limit - 1].keeper.sha256 if len(groups) > limit else None})

    async def review(self, request: Request) -> Response:
        _refuse_unknown(request, "after", "limit")
        after, limit = _cursor(request, _PAIR), _integer(request, "limit", 1, PAGE_MAX_ENTRIES, PAGE_DEFAULT_ENTRIES)
        self.instance.index.count()
        entries = await self.instance.index.run(
            lambda library: library.review(after=after, limit=limit + 1), lane="page", invalid_status=400
        )
        pairs = [
            {"id": pair.id, "first": pair.first.as_dict(), "second": pair.second.as_dict(),
             "distance": pair.distance, "score": pair.score}
            for pair in entries[:limit]
        ]  # fmt: skip
        return Json({"pairs": pairs, "next": entries[limit - 1].id if len(entries) > limit else None})

    async def decide(self, request: Request) -> Response:
        _refuse_unknown(request)
        if _kind(request) != "application/json":
            raise ProblemError(415, "A decision is sent as application/json.", headers={"Accept": "application/json"})
        async with self._body(request, JSON_MAX_BYTES) as data:
            decision = _parse_object(data, {"decision"}).get("decision")
            if decision not in ("same", "different"):
                raise ProblemError(422, 'A decision is {"decision": "same"} or {"decision": "different"}.')
            pair, by = request.path_params["id"], request.scope["mobius.by"]
            stored = await self.instance.index.run(
                lambda library: library.decide(pair, decision, by), lane="write", invalid_status=404
            )
        # so that of two people who decide at once, the second learns it
        earlier = stored.replaced and {
            "decision": stored.replaced.decision, "by": stored.replaced.by, "at": stored.replaced.at
        }  # fmt: skip
        return Json({"id": pair, "decision": stored.decision, "by": stored.by, "at": stored.at, "replaced": earlier})

    # -- bodies ----------------------------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def _body(self, request: Request, limit: int | None = None) -> AsyncIterator[bytes]:
        """The whole body, within the limits of size, time and memory; its memory is reserved until the block ends."""
        limit, seconds = min(limit or 1 << 40, self.settings.max_body_bytes), self.settings.body_timeout
        too_long = ProblemError(413, f"The body is longer than {limit} bytes.")
        length = request.headers.get("content-length", "0")
        if length.isdigit() and int(length) > limit:
            raise too_long
        data = io.BytesIO()  # its value is returned without a copy
        with self.instance.bodies.open() as reservation:
            reservation.check(int(length) if length.isdigit() else 0)
            now = asyncio.get_running_loop().time
            end, expected = now() + seconds, BODY_WINDOW_BYTES
            try:
                async with asyncio.timeout_at(min(end, now() + BODY_WINDOW_SECONDS)) as timer:
                    async for part in request.stream():
                        if data.tell() + len(part) > limit:
                            raise too_long
                        reservation.reserve(len(part))
                        data.write(part)
                        if data.tell() >= expected:
                            expected = data.tell() + BODY_WINDOW_BYTES
                            timer.reschedule(min(end, now() + BODY_WINDOW_SECONDS))
            except TimeoutError:
                raise ProblemError(408, _slow_body(seconds), headers={"Connection": "close"}) from None
            with self.instance.in_flight(), cancelled_when_gone(request):
                yield data.getvalue()

    async def _hash(self, data: bytes | memoryview, mode: Any, kind: str, *, descriptor: bool = False) -> Fingerprint:
        declared = _declared(kind)
        try:
            return await self.instance.hash(data, mode, declared, descriptor=descriptor)
        except MobiusError as error:
            if (status := _STATUS.get(type(error))) is None:
                raise ProblemError(503, error.reason, headers={"Retry-After": "5"}) from error
            raise ProblemError(status, error.reason) from error

    async def _hash_parts(self, request: Request, data: bytes, mode: Mode) -> list[dict[str, Any]]:
        """Hash each file of a form; an error is reported in the entry of its file and does not stop the others."""
        limit = self.settings.max_parts
        try:
            files = []
            for part in multipart.parts(data, multipart.boundary_of(request.headers["content-type"])):
                files.append(part)
                if len(files) > limit:
                    raise ProblemError(413, f"A request may hold at most {limit} images.")
        except multipart.MalformedError as error:
            raise ProblemError(400, str(error)) from error
        if not files:
            raise ProblemError(400, "The form holds no image.")

        # one form must not fill the queue of the decoders
        turns, last_start = asyncio.Semaphore(self.settings.threads), time.monotonic() + FORM_SECONDS

        async def hash_part(part: multipart.Part) -> dict[str, Any]:
            name = part.name if part.filename is None else part.filename
            try:
                async with turns:
                    if time.monotonic() > last_start:
                        return {"name": name, "error": "The pictures before it took too long.", "status": 503}
                    return {"name": name, **(await self._hash(part.data, mode, part.media_type)).as_dict()}
            except ProblemError as error:
                return {"name": name, "error": error.detail, "status": error.status}

        return list(await asyncio.gather(*(hash_part(part) for part in files)))


def _slow_body(seconds: float) -> str:
    if seconds <= BODY_WINDOW_SECONDS:
        return f"The body did not arrive within {seconds:g} seconds."
    return (
        f"The body did not arrive within {seconds:g} seconds, or fewer than {BODY_WINDOW_BYTES} bytes of it within"
        f" {BODY_WINDOW_SECONDS:g}."
    )


@contextlib.contextmanager
def cancelled_when_gone(request: Request) -> Iterator[None]:
    """Cancel the task of the block when its client disconnects: nobody waits for the answer."""
    task = asyncio.current_task()
    assert task is not None
    if request.scope.get(GONE):
        raise ClientDisconnect
    request.scope[ON_DISCONNECT] = task.cancel
    try:
        yield
    finally:
        del request.scope[ON_DISCONNECT]


def _match_document(match: Any) -> dict[str, Any]:
    return {
        "image": match.picture.as_dict(),
        "distance": match.distance,
        "transform": match.transform,
        "confidence": match.confidence,
    }


def _no_image(sha256: str) -> ProblemError:
    return ProblemError(404, f"The index has no image {sha256}.")


# -- reading a request -------------------------------------------------------------------------------------------------


def _refuse_unknown(request: Request, *names: str) -> None:
    """Refuse unknown parameters: a misspelt one must not be ignored."""
    for name in request.query_params:
        if name not in names:
            known = f"known are {', '.join(names)}" if names else "there is none here"
            raise ProblemError(400, f"There is no parameter {name[:40]!r}; {known}.")


def _choice(request: Request, name: str, allowed: tuple[str, ...], default: str) -> str:
    value = request.query_params.get(name, default)
    if value not in allowed:
        raise ProblemError(400, f"{name} must be one of {', '.join(allowed)}, not {value[:40]!r}.")
    return value


def _integer(request: Request, name: str, low: int, high: int, default: Any) -> Any:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
        raise ProblemError(400, f"{name} must be a number from {low} to {high}, not {text[:40]!r}.")
    return int(text)


def _cursor(request: Request, form: re.Pattern[str]) -> str | None:
    after = request.query_params.get("after")
    if after is not None and not form.fullmatch(after):
        raise ProblemError(400, "after must be the value of `next` of the previous page.")
    return after


def _sha256(request: Request) -> str:
    text = str(request.path_params["sha256"])
    if not SHA256.fullmatch(text):
        raise ProblemError(400, f"An image is named by its SHA-256, 64 hexadecimal digits, not {text[:80]!r}.")
    return text


def _kind(request: Request) -> str:
    if request.headers.get("content-encoding", "identity").strip().lower() != "identity":
        raise ProblemError(415, "A body with a Content-Encoding is not read.", headers={"Accept-Encoding": "identity"})
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _declared(kind: str) -> str | None:
    """The format that a media type names; None when it names none."""
    if kind in _ANY_PICTURE:
        return None
    if kind not in CONTENT_TYPES:
        raise ProblemError(
            415, f"Content-Type {kind[:60]!r} is not supported.", headers={"Accept": ", ".join(sorted(CONTENT_TYPES))}
        )
    return CONTENT_TYPES[kind]


def _parse_object(data: bytes, names: set[str]) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ProblemError(400, "The body is not JSON.") from error
    if not isinstance(value, dict):
        raise ProblemError(422, "The body must be a JSON object.")
    if unknown := sorted(value.keys() - names):
        raise ProblemError(422, f"There is no key {unknown[0][:40]!r}; known are {', '.join(sorted(names))}.")
    return value


def _hash_of(data: bytes) -> Dhash:
    body = _parse_object(data, {"dhash", "dhash_vertical"})
    digits = [body.get("dhash"), body.get("dhash_vertical")]
    if not all(isinstance(text, str) and _HASH.fullmatch(text) for text in digits):
        raise ProblemError(422, "dhash and dhash_vertical must be 16 hexadecimal digits (0-9, a-f) each.")
    return Dhash.from_hex("".join(map(str, digits)))
