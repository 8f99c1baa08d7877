# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The OpenAPI 3.1 document of the service, served at `/openapi.json` and kept as `docs/openapi.json`.

Written by hand, since what a client may rely on is a promise and no by-product. Tests hold it against the routes, and
schemathesis holds every answer against it.

    python -m mobius.service.openapi > docs/openapi.json
"""

from __future__ import annotations

import functools
import json
import sys
from typing import Any, Final

from mobius.dhash import CONTENT_TYPES, VERIFIED_PER_SEARCH, Mode, Transform
from mobius.service.api import PAGE_DEFAULT_ENTRIES, PAGE_MAX_ENTRIES, SEARCH_MAX_BITS, SHA256
from mobius.service.problems import MEDIA_TYPE

VERSION: Final = "1.0.0"
"""Version of the API, not of the release: additions raise the second number; a new first number would be `/v2`."""

_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_DIGITS: Final = {"type": "string", "pattern": "^[0-9a-f]{16}$"}
_DIGEST: Final = {"type": "string", "pattern": f"^{SHA256.pattern}$"}
_PAIR: Final = {"type": "string", "pattern": "^[0-9a-f]{16}-[0-9a-f]{16}$"}
_CONFIDENCE: Final = {"enum": ["confident", "doubtful"]}
_DISTANCE: Final = {"type": "integer", "minimum": 0, "maximum": 128}


def _choices(literal: Any) -> dict[str, Any]:
    return {"enum": list(literal.__args__)}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(properties: dict[str, Any], *optional: str, more: bool = True) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    schema["required"] = [name for name in properties if name not in optional]
    if not more:
        schema["additionalProperties"] = False
    return schema


def _list(of: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": of}


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, {"type": "null"}]}


_HASH: Final = {
    "sha256": _DIGEST,
    "dhash": _DIGITS,
    "dhash_vertical": _DIGITS,
    "algorithm": _TEXT,
    "width": {"type": "integer", "minimum": 1},
    "height": {"type": "integer", "minimum": 1},
    "format": _TEXT,
    "size": {"type": "integer", "minimum": 1},
}
_FINGERPRINT: Final = {**_HASH, "warnings": _list(_TEXT)}

_SCHEMAS: Final[dict[str, Any]] = {
    "Fingerprint": _object(_FINGERPRINT),
    "Fingerprints": _object(
        {
            "images": _list(
                {
                    "anyOf": [
                        _object({"name": _TEXT, **_FINGERPRINT}),
                        _object({"name": _TEXT, "error": _TEXT, "status": {"type": "integer"}}),
                    ]
                }
            )
        }
    ),
    "Image": _object(
        {"path": {"type": ["string", "null"]}, **_HASH, "release": _TEXT, "confidence": _CONFIDENCE},
    ),
    "Query": _object({"dhash": _DIGITS, "dhash_vertical": _DIGITS}, more=False),
    "Matches": _object(
        {
            "query": _object({"dhash": _DIGITS, "dhash_vertical": _DIGITS, "algorithm": _TEXT}),
            "matches": _list(
                _object(
                    {
                        "image": _ref("Image"),
                        "distance": _DISTANCE,
                        "transform": _choices(Transform),
                        "confidence": _CONFIDENCE,
                    }
                )
            ),
        }
    ),
    "Groups": _object(
        {
            "groups": _list(
                _object(
                    {
                        "kept": _ref("Image"),
                        "others": _list(
                            _object(
                                {
                                    "image": _ref("Image"),
                                    "distance": _DISTANCE,
                                    "confidence": _CONFIDENCE,
                                    "pair": _or_null(_PAIR),
                                }
                            )
                        ),
                    }
                )
            ),
            "next": _or_null(_DIGEST),
        }
    ),
    "Pairs": _object(
        {
            "pairs": _list(
                _object(
                    {
                        "id": _PAIR,
                        "first": _ref("Image"),
                        "second": _ref("Image"),
                        "distance": _DISTANCE,
                        "score": {"type": ["number", "null"]},
                    }
                )
            ),
            "next": _or_null(_PAIR),
        }
    ),
    "Decision": _object({"decision": {"enum": ["same", "different"]}}, more=False),
    "Decided": _object(
        {
            "id": _PAIR,
            "decision": {"enum": ["same", "different"]},
            "by": _TEXT,
            "at": _TEXT,
            "replaced": _or_null(_object({"decision": {"enum": ["same", "different"]}, "by": _TEXT, "at": _TEXT})),
        }
    ),
    "Health": _object(
        {
            "status": {"enum": ["pass", "warn", "fail"]},
            "version": _TEXT,
            "releaseId": _TEXT,
            "serviceId": _TEXT,
            "state": {"enum": ["standby", "serving", "draining"]},
            "uptime": {"type": "number"},
            "warnings": _list(_TEXT),
            "checks": {
                "type": "object",
                "additionalProperties": _list(
                    _object({"status": {"enum": ["pass", "warn", "fail"]}, "observedValue": {}, "observedUnit": _TEXT})
                ),
            },
        }
    ),
    "Alive": _object({"alive": {"const": True}}),
    "Ready": _object({"ready": {"type": "boolean"}, "state": {"enum": ["standby", "serving", "draining"]}}),
    "Figures": _object(
        {
            "release": _TEXT,
            "state": {"enum": ["standby", "serving", "draining"]},
            "requests": _COUNT,
            "errors": _COUNT,
            "error_rate": {"type": "number"},
            "pictures": _COUNT,
            "extraction_failures": _COUNT,
            "extraction_failure_rate": {"type": "number"},
            "hash_seconds": {"type": "object"},
            "doubtful_queue": _COUNT,
            "images": _COUNT,
            "memory_bytes": _COUNT,
            "uptime_seconds": {"type": "number"},
        }
    ),
    "Problem": _object({"type": _TEXT, "title": _TEXT, "status": {"type": "integer"}, "detail": _TEXT}),
}

_WHY: Final = {
    400: "The request is malformed; `detail` says where.",
    401: "A valid bearer token is needed.",
    403: "A page of another site may not use this, or the request is not to a name of this machine.",
    404: "It does not exist, or the service has no index.",
    408: "The body did not arrive in time.",
    409: "The current state does not allow it.",
    413: "Too many bytes, pixels or images, or decoding needs too much memory or time.",
    415: "The format is not supported, or is not the declared one.",
    422: "The content is corrupt or not valid.",
    503: "Not possible now: Retry-After says when to try again.",
    507: "The disk is full: reading works, writing does not.",
}
_HEADERS: Final = {
    "X-Release-Id": {"description": "The release that answered.", "schema": _TEXT},
    "X-Request-Id": {"description": "The request's id in the logs; the client's own if it sent one.", "schema": _TEXT},
}  # fmt: skip
_IMAGE: Final = {"schema": {"type": "string", "format": "binary"}}
_IMAGES: Final = dict.fromkeys([*sorted(CONTENT_TYPES), "application/octet-stream"], _IMAGE)
_FORM: Final = {
    "schema": _object({"image": _list({"type": "string", "format": "binary"})}, more=True),
    "encoding": {"image": {"contentType": ", ".join(["application/octet-stream", *sorted(CONTENT_TYPES)])}},
}


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


def _in_path(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "description": description, "schema": schema}


_SHA256: Final = _in_path("sha256", _DIGEST, "SHA-256 of the encoded image.")
_LIMIT: Final = _query(
    "limit",
    {"type": "integer", "minimum": 1, "maximum": PAGE_MAX_ENTRIES, "default": PAGE_DEFAULT_ENTRIES},
    "Entries of a page.",
)


def _after(schema: dict[str, Any]) -> dict[str, Any]:
    return _query("after", schema, "The value of `next` of the previous page.")


def _operation(
    name: str,
    summary: str,
    answers: dict[int, Any],
    problems: tuple[int, ...],
    *,
    parameters: tuple[dict[str, Any], ...] = (),
    body: dict[str, Any] | None = None,
    token: bool | None = None,
) -> dict[str, Any]:
    """An operation; `token` tells whether one is needed (True) or may be (False: when reads are closed)."""
    responses: dict[str, Any] = {}
    for status, what in answers.items():
        words, content = what
        responses[str(status)] = {"description": words, "headers": _HEADERS}
        if content:
            responses[str(status)]["content"] = content
    for status in problems:
        responses[str(status)] = {
            "description": _WHY[status],
            "headers": _HEADERS,
            "content": {MEDIA_TYPE: {"schema": _ref("Problem")}},
        }
    operation: dict[str, Any] = {"operationId": name, "summary": summary, "responses": responses}
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": body}
    if token is not None:
        operation["security"] = [{"token": []}] if token else [{}, {"token": []}]
    return operation


def _json(name: str, words: str) -> tuple[str, dict[str, Any]]:
    return words, {"application/json": {"schema": _ref(name)}}


_READ: Final = (400, 401, 403, 404, 503)
_BODY: Final = (408, 413, 415, 422)

_PATHS: Final[dict[str, Any]] = {
    "/v1/hash": {
        "post": _operation(
            "hash",
            "Fingerprint one image (the body) or several (a form). Each image of a form has its own result.",
            {
                200: (
                    "The fingerprint; for a form, one result per image, in the order of the form.",
                    {"application/json": {"schema": {"anyOf": [_ref("Fingerprint"), _ref("Fingerprints")]}}},
                )
            },
            (400, 401, 403, *_BODY, 503),
            parameters=(
                _query("mode", {**_choices(Mode), "default": "fast"}, "exact is bit-identical to imagehash."),
            ),
            body={**_IMAGES, "multipart/form-data": _FORM},
            token=False,
        )
    },
    "/v1/images": {
        "post": _operation(
            "addImage",
            "Fingerprint an image and add it to the index. Adding it again changes nothing.",
            {200: _json("Image", "It was in the index already."), 201: _json("Image", "It was added.")},
            (400, 401, 403, 404, *_BODY[:1], 409, *_BODY[1:], 503, 507),
            body=_IMAGES,
            token=True,
        )
    },
    "/v1/images/{sha256}": {
        "get": _operation(
            "getImage", "An image of the index.", {200: _json("Image", "The image.")}, _READ,
            parameters=(_SHA256,), token=False,
        ),
        "delete": _operation(
            "removeImage", "Remove an image that was posted.", {204: ("It was removed.", None)},
            (400, 401, 403, 404, 409, 503, 507), parameters=(_SHA256,), token=True,
        ),
    },
    "/v1/images/{sha256}/thumbnail": {
        "get": _operation(
            "getThumbnail", "A thumbnail of an image.",
            {200: ("The thumbnail.", {"image/webp": _IMAGE})}, (*_READ, 422),
            parameters=(
                _SHA256,
                _query("side", {"type": "integer", "minimum": 16, "maximum": 512, "default": 256}, "Longest side, px."),
            ),
            token=False,
        )
    },
    "/v1/search": {
        "post": _operation(
            "search",
            "Find similar images, by an image or by its hash. A search by hash finds doubtful matches only. A "
            "confident match was verified on the pixels of both files: the "
            f"{VERIFIED_PER_SEARCH} nearest candidates are verified at once, the others are doubtful unless the index "
            "has their verification. An image that was only posted has no file, and is doubtful unless its bytes are "
            "the same.",
            {200: _json("Matches", "The matches: confident ones first, then by distance.")},
            (400, 401, 403, 404, *_BODY, 503),
            parameters=(
                _query("max_distance", {"type": "integer", "minimum": 0, "maximum": SEARCH_MAX_BITS},
                       "Return everything within this distance, in bits of 128; without it, the matches only."),
                _query("limit", {"type": "integer", "minimum": 1, "maximum": PAGE_MAX_ENTRIES, "default": 20},
                       "Maximum number of matches."),
                _query("transforms", {"type": "boolean", "default": False},
                       "Search mirrored and rotated copies as well; needs an image."),
            ),
            body={**_IMAGES, "application/json": {"schema": _ref("Query")}},
            token=False,
        )
    },
    "/v1/duplicates": {
        "get": _operation(
            "listDuplicates",
            "The groups of duplicates, ordered by the SHA-256 of the copy to keep: files whose pixels were verified to "
            "match, and pairs that a person confirmed. Images that were only posted cannot be verified.",
            {200: _json("Groups", "A page.")}, _READ, parameters=(_after(_DIGEST), _LIMIT), token=False,
        )
    },
    "/v1/review": {
        "get": _operation(
            "listReview",
            "Doubtful matches, nearest first: they wait for a person, or for the service to verify the pixels of the "
            "files.",
            {200: _json("Pairs", "A page.")}, _READ, parameters=(_after(_PAIR), _LIMIT), token=False,
        )
    },
    "/v1/review/{id}": {
        "post": _operation(
            "decide", "Decide whether two images are the same. It replaces an earlier decision, which the answer has.",
            {200: _json("Decided", "The decision was stored.")}, (400, 401, 403, 404, 408, 413, 415, 422, 503, 507),
            parameters=(_in_path("id", _PAIR, "Id of the pair of images."),),
            body={"application/json": {"schema": _ref("Decision")}}, token=True,
        )
    },
    "/health": {
        "get": _operation(
            "health", "Health of this instance.",
            {status: (words, {"application/health+json": {"schema": _ref("Health")}})
             for status, words in ((200, "pass or warn."), (503, "fail."))}, (),
        )
    },
    "/livez": {"get": _operation("livez", "Whether the process answers.", {200: _json("Alive", "It answers.")}, ())},
    "/readyz": {
        "get": _operation(
            "readyz", "Whether this instance takes traffic.",
            {200: _json("Ready", "Yes."), 503: _json("Ready", "No.")}, (),
        )
    },
    "/metrics": {
        "get": _operation(
            "metrics", "Metrics of this instance, for Prometheus.",
            {200: ("The text format.", {"text/plain": {"schema": _TEXT}})}, (),
        )
    },
    "/metrics/dhash": {
        "get": _operation(
            "figures", "A summary of the metrics.", {200: _json("Figures", "The figures of this instance.")}, ()
        )
    },
    "/": {
        "get": _operation(
            "page", "The web page for people: figures, search, review.",
            {200: ("The page.", {"text/html": {"schema": _TEXT}})}, (),
        )
    },
    "/openapi.json": {
        "get": _operation(
            "openapi", "This document.",
            {200: ("OpenAPI 3.1.", {"application/json": {"schema": {"type": "object"}}})}, (),
        )
    },
}  # fmt: skip


@functools.cache
def document() -> dict[str, Any]:
    """The document."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "MOBIUS dhash",
            "version": VERSION,
            "summary": "Fingerprints images and finds duplicates and near-duplicates.",
            "license": {"name": "GPL-3.0-or-later", "identifier": "GPL-3.0-or-later"},
        },
        "paths": _PATHS,
        "components": {
            "schemas": _SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def text() -> str:
    """The document as the file holds it."""
    return json.dumps(document(), indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
