# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The API of an instance with an index, over sockets."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sqlite3
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from PIL import Image

from mobius.dhash import Library
from mobius.service.tokens import line_for, new_token
from tests.integration.service.conftest import client_of
from tests.integration.service.samples import GOLDEN, PICTURE, SHA256, again, bearer, encoded, flat, noisy, smaller

if TYPE_CHECKING:
    from tests.integration.service.conftest import RunningInstance, ServiceHost

OLD, NEW = "1.0.0-aaaaaaaaaaaa", "1.1.0-bbbbbbbbbbbb"


@pytest.fixture
def token() -> str:
    return new_token()


@pytest.fixture
def index(host: ServiceHost, tmp_path: Path, token: str) -> dict[str, str]:
    """The settings of an instance with an index and one token, ada's."""
    tokens = tmp_path / "tokens"
    tokens.write_text(f"# who may write\n{line_for('ada', token)}\n")
    return {"index": str(tmp_path / "index.sqlite"), "tokens": str(tokens)}


def is_problem(answer: httpx.Response, status: int, words: str = "") -> bool:
    document = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["x-release-id"]
    assert answer.headers["x-request-id"]
    assert (answer.status_code, document["status"]) == (status, status), document
    assert document["detail"].endswith(".")
    assert words in document["detail"]
    return True


def test_an_image_is_added_once_found_shown_and_removed(host: ServiceHost, index: dict[str, str], token: str) -> None:
    host.start(OLD, **index)
    with host.client() as client:
        client.headers.update(bearer(token))
        first = client.post("/v1/images", content=PICTURE, headers={"Content-Type": "image/jpeg"})
        assert (first.status_code, first.headers["Location"]) == (201, f"/v1/images/{SHA256}")
        again = client.post("/v1/images", content=PICTURE)
        assert (again.status_code, again.json()) == (200, first.json())
        assert (first.json()["sha256"], first.json()["path"], first.json()["release"]) == (SHA256, None, OLD)
        assert client.get(f"/v1/images/{SHA256}").json() == first.json()
        assert client.post("/v1/hash", content=PICTURE).json()["dhash"] == first.json()["dhash"]

        small = client.get(f"/v1/images/{SHA256}/thumbnail?side=64")
        assert small.headers["content-type"] == "image/webp"
        with Image.open(io.BytesIO(small.content)) as image:
            assert max(image.size) == 64

        assert client.delete(f"/v1/images/{SHA256}").status_code == 204
        for answer in (client.delete(f"/v1/images/{SHA256}"), client.get(f"/v1/images/{SHA256}")):
            assert is_problem(answer, 404, f"The index has no image {SHA256}.")
        assert is_problem(client.get(f"/v1/images/{SHA256}/thumbnail"), 404)
        assert is_problem(client.get("/v1/images/nothing"), 400, "64 hexadecimal digits")


def test_search_finds_copies_by_image_by_hash_and_turned(host: ServiceHost, index: dict[str, str], token: str) -> None:
    host.start(OLD, **index)
    coffee = (GOLDEN / "coffee-progressive.jpg").read_bytes()
    with host.client() as client:
        for picture in (PICTURE, coffee):
            assert client.post("/v1/images", content=picture, headers=bearer(token)).status_code == 201
        result = client.post("/v1/search", content=smaller(PICTURE)).json()
        assert [match["image"]["sha256"] for match in result["matches"]] == [SHA256]
        assert (result["matches"][0]["transform"], result["matches"][0]["confidence"]) == ("none", "doubtful")

        query = {key: result["query"][key] for key in ("dhash", "dhash_vertical")}
        by_hash = client.post("/v1/search?max_distance=4&limit=1", json=query).json()
        assert [match["image"]["sha256"] for match in by_hash["matches"]] == [SHA256]
        assert by_hash["matches"][0]["confidence"] == "doubtful", "a hash alone cannot be verified"
        assert len(client.post("/v1/search?max_distance=64&limit=2", content=PICTURE).json()["matches"]) == 2
        assert len(client.post("/v1/search?max_distance=64&limit=1", content=PICTURE).json()["matches"]) == 1

        with Image.open(io.BytesIO(PICTURE)) as image:
            turned = encoded(image.transpose(Image.Transpose.ROTATE_90), quality=90)
        assert client.post("/v1/search", content=turned).json()["matches"] == []
        matches = client.post("/v1/search?transforms=true", content=turned).json()["matches"]
        assert [(match["image"]["sha256"], match["transform"]) for match in matches] == [(SHA256, "rotate270")]

        for path, body, status, words in (
            ("/v1/search?max_distance=65", PICTURE, 400, "max_distance must be a number from 0 to 64, not '65'."),
            ("/v1/search?limit=0", PICTURE, 400, "limit must be a number from 1 to 500"),
            ("/v1/search?transforms=yes", PICTURE, 400, "transforms must be one of true, false"),
            ("/v1/search?max_distnace=3", PICTURE, 400, "There is no parameter 'max_distnace'; known are"),
            ("/v1/search", b"no picture", 415, "not a picture"),
        ):
            assert is_problem(client.post(path, content=body), status, words)
        for body, status, words in (
            (b"{", 400, "not JSON"),
            (b"[" * 4000, 400, "not JSON"),
            (b"[" * 100_000, 413, "longer than 4096 bytes"),
            (b"[]", 422, "a JSON object"),
            (b"{}", 422, "16 hexadecimal digits"),
            (b'{"dhash": "0123456789abcdeg", "dhash_vertical": "0123456789abcdef"}', 422, "16 hexadecimal digits"),
            (b'{"dhash": 5, "colour": 1}', 422, "There is no key 'colour'"),
        ):
            answer = client.post("/v1/search", content=body, headers={"Content-Type": "application/json"})
            assert is_problem(answer, status, words)
        answer = client.post("/v1/search?transforms=true", json=query)
        assert is_problem(answer, 422, "found by a picture, not by a hash")


def scanned(tmp_path: Path, *pictures: bytes) -> None:
    """An index of these files."""
    (tmp_path / "library").mkdir()
    for number, data in enumerate(pictures):
        (tmp_path / f"library/{number}.jpg").write_bytes(data)
    with Library(tmp_path / "index.sqlite") as library:
        library.scan(tmp_path / "library")


def test_duplicates_are_listed_in_pages(host: ServiceHost, index: dict[str, str], tmp_path: Path) -> None:
    originals = [noisy(seed) for seed in (0, 2, 3, 6, 11)]  # each has one confident copy
    scanned(tmp_path, *originals, *map(again, originals))
    instance = host.start(OLD, **index)
    with host.client() as client:
        # the pixels are verified in the background
        instance.wait_until(lambda figures: figures["images"] == 10 and figures["doubtful_queue"] == 0)
        whole = client.get("/v1/duplicates").json()
        assert {group["kept"]["sha256"] for group in whole["groups"]} == {
            hashlib.sha256(picture).hexdigest() for picture in originals
        }
        assert [len(group["others"]) for group in whole["groups"]] == [1] * 5
        assert whole["next"] is None
        groups, after = [], ""
        while after is not None:
            page = client.get(f"/v1/duplicates?limit=2{f'&after={after}' if after else ''}").json()
            assert len(page["groups"]) <= 2
            groups += page["groups"]
            after = page["next"]
        assert groups == whole["groups"]
        assert is_problem(client.get("/v1/duplicates?after=x"), 400, "`next` of the previous page")


def test_a_pair_is_doubtful_until_the_serving_release_has_verified_it(
    host: ServiceHost, index: dict[str, str], tmp_path: Path
) -> None:
    scanned(tmp_path, PICTURE, again(PICTURE))
    waiting = host.start(OLD, state="standby", **index)
    waiting.wait_until(lambda figures: figures["images"] == 2)
    for path in ("/v1/duplicates", "/v1/review"):
        document = waiting.client.get(path).json()
        assert [len(document[key]) for key in ("groups", "pairs") if key in document] == [path == "/v1/review"]
    matches = waiting.client.post("/v1/search", content=again(again(PICTURE))).json()["matches"]
    assert [match["confidence"] for match in matches] == ["confident"] * 2, (
        "the pixels of the query are verified at once"
    )
    with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM proofs").fetchone() == (0,), "the serving release does that"
        serving = host.start(NEW, state="serving", **index)
        serving.wait_until(lambda figures: figures["images"] == 2 and figures["doubtful_queue"] == 0)
        assert database.execute("SELECT proven, release FROM proofs").fetchall() == [(1, NEW)]
    for instance in (waiting, serving):
        (group,) = instance.client.get("/v1/duplicates").json()["groups"]
        assert [other["confidence"] for other in group["others"]] == ["confident"]
        assert instance.client.get("/v1/review").json()["pairs"] == []


def test_matches_of_a_posted_image_stay_doubtful(
    host: ServiceHost, index: dict[str, str], token: str, tmp_path: Path
) -> None:
    instance = host.start(OLD, **index)
    with host.client() as client:
        for data in (PICTURE, smaller(PICTURE)):
            assert client.post("/v1/images", content=data, headers=bearer(token)).status_code == 201
        matches = client.post("/v1/search", content=smaller(PICTURE, 70)).json()["matches"]
        assert [match["confidence"] for match in matches] == ["doubtful"] * 2
        instance.wait_until(lambda figures: figures["doubtful_queue"] == 1)
        assert client.get("/v1/duplicates").json()["groups"] == []
    with contextlib.closing(sqlite3.connect(tmp_path / "index.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM proofs").fetchone() == (0,)


def test_a_doubtful_match_is_reviewed_once(host: ServiceHost, index: dict[str, str], token: str) -> None:
    instance = host.start(OLD, **index)
    with host.client() as client:
        for seed in range(4):
            assert client.post("/v1/images", content=flat(seed * 20), headers=bearer(token)).status_code == 201
        queue = client.get("/v1/review").json()
        assert len(queue["pairs"]) >= 2
        assert queue["next"] is None
        first = client.get("/v1/review?limit=1").json()
        assert first["pairs"] == queue["pairs"][:1]
        second = client.get(f"/v1/review?after={first['next']}").json()
        assert second["pairs"] == queue["pairs"][1:]
        # health and metrics count the queue in the background
        waiting = len(queue["pairs"])
        instance.wait_until(lambda figures: figures["doubtful_queue"] == waiting and figures["images"] == 4)
        checks = instance.client.get("/health").json()["checks"]
        assert checks["review:queue"][0] == {"status": "pass", "observedValue": waiting, "observedUnit": "pairs"}
        assert f'mobius_review_queue_pairs{{release="{OLD}"}} {waiting}.0' in client.get("/metrics").text

        pair = queue["pairs"][0]["id"]
        answer = client.post(f"/v1/review/{pair}", json={"decision": "different"}, headers=bearer(token))
        assert (answer.status_code, answer.json()["by"], answer.json()["decision"]) == (200, "ada", "different")
        assert answer.json()["replaced"] is None
        opposite = client.post(f"/v1/review/{pair}", json={"decision": "same"}, headers=bearer(token))
        replaced = {name: answer.json()[name] for name in ("decision", "by", "at")}
        assert (opposite.status_code, opposite.json()["replaced"]) == (200, replaced)
        assert pair not in [entry["id"] for entry in client.get("/v1/review").json()["pairs"]]

        nowhere = f"/v1/review/{'0' * 16}-{'1' * 16}"
        assert is_problem(client.post(nowhere, json={"decision": "same"}, headers=bearer(token)), 404, "no pair")
        assert is_problem(client.post(f"/v1/review/{pair}", json={"decision": "maybe"}, headers=bearer(token)), 422)
        assert is_problem(client.post(f"/v1/review/{pair}", content=b"same", headers=bearer(token)), 415)
        assert is_problem(client.post(f"/v1/review/{pair}", json={"decision": "same"}), 401)


def test_several_images_in_one_form_have_a_result_each(host: ServiceHost) -> None:
    host.start(OLD, max_parts="3")
    with host.client() as client:
        single = client.post("/v1/hash", content=PICTURE).json()
        files = [
            ("image", ("a ä.jpg", PICTURE, "image/jpeg")),
            ("image", ("b.png", PICTURE, "image/png")),
            ("image", ("c", b"nothing")),
        ]
        answer = client.post("/v1/hash", files=files)
        assert answer.status_code == 200
        first, second, third = answer.json()["images"]
        assert first == {"name": "a ä.jpg", **single}
        assert (second["name"], second["status"]) == ("b.png", 415)
        assert second["error"] == "The picture is declared as PNG, but its bytes are JPEG."
        assert (third["name"], third["status"]) == ("c", 415)
        assert is_problem(client.post("/v1/hash", files=[*files, files[0]]), 413, "at most 3 images")
        for content_type, body in (
            ("multipart/form-data", b"x"),
            ("multipart/form-data; boundary=abc", b"nothing of the kind"),
            ("multipart/form-data; boundary=abc", b"--abc\r\n\r\nno head\r\n--abc--"),
            ("multipart/form-data; boundary=abc", b"--abc\r\nContent-Disposition: form-data; name=x\r\n\r\nno end"),
        ):
            answer = client.post("/v1/hash", content=body, headers={"Content-Type": content_type})
            assert is_problem(answer, 400)


def test_writing_needs_a_token_and_reading_does_when_it_is_not_open(
    host: ServiceHost, index: dict[str, str], token: str
) -> None:
    host.start(OLD, **index)
    wrong = [{}, bearer(new_token()), bearer("x"), {"Authorization": token}, {"Authorization": f"Basic {token}"}]
    with host.client() as client:
        for headers in wrong:
            for answer in (
                client.post("/v1/images", content=PICTURE, headers=headers),
                client.delete(f"/v1/images/{SHA256}", headers=headers),
                client.post("/v1/review/x", json={"decision": "same"}, headers=headers),
            ):
                assert is_problem(answer, 401, "send `Authorization: Bearer TOKEN`")
                assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert client.post("/v1/hash", content=PICTURE).status_code == 200
        assert is_problem(client.get(f"/v1/images/{SHA256}"), 404)
    host.start(NEW, **{**index, "reads": "token"})
    with host.client() as client:
        for path in ("/v1/duplicates", f"/v1/images/{SHA256}"):
            assert is_problem(client.get(path), 401)
        assert is_problem(client.post("/v1/hash", content=PICTURE), 401)
        assert client.get("/v1/duplicates", headers=bearer(token)).status_code == 200
        for path in ("/health", "/livez", "/readyz", "/metrics", "/metrics/dhash", "/openapi.json"):
            assert client.get(path).status_code == 200


def test_tokens_are_rotated_without_a_restart(host: ServiceHost, index: dict[str, str], token: str) -> None:
    instance = host.start(OLD, **index)
    file, other = Path(index["tokens"]), new_token()

    def answers(*tokens: str) -> list[int]:
        return [client.delete(f"/v1/images/{SHA256}", headers=bearer(one)).status_code for one in tokens]

    with host.client() as client:
        assert answers(token, other) == [404, 401]
        file.write_text(f"{line_for('ada', token)}\n{line_for('ada-2', other)}\n")
        assert answers(token, other) == [404, 404]
        file.write_text(f"{line_for('ada-2', other)}\n")
        assert answers(token, other) == [401, 404]
        file.write_text(f"{line_for('ada-2', other)}\nada {token}\n")
        answer = client.delete(f"/v1/images/{SHA256}", headers=bearer(other))
        assert is_problem(answer, 503, "The tokens cannot be read now."), "it is unknown which were revoked"
        health = instance.client.get("/health").json()
        assert (health["status"], health["checks"]["tokens:file"][0]["status"]) == ("warn", "warn")
        assert token not in json.dumps(health)
        file.write_text(f"{line_for('ada-2', other)}\n")
        assert answers(token, other) == [401, 404]
        assert instance.client.get("/health").json()["status"] == "pass"


def test_a_page_of_another_site_may_not_write(host: ServiceHost, index: dict[str, str]) -> None:
    host.start(OLD, **{**index, "writes": "open"})
    with host.client() as client:
        same_origin = {"Origin": f"http://127.0.0.1:{host.port}"}
        assert client.post("/v1/images", content=PICTURE, headers=same_origin).status_code == 201
        for origin in ("http://evil.example", "null", "http://[", f"http://127.0.0.1:{host.port}.evil.example"):
            answer = client.post("/v1/images", content=PICTURE, headers={"Origin": origin})
            assert is_problem(answer, 403, "A page of another site may not use this.")


def test_open_writing_is_for_names_of_this_machine_unless_a_front_passes_requests_on(
    host: ServiceHost, index: dict[str, str]
) -> None:
    rebound = {"Host": "rebound.example"}
    direct = host.start(OLD, **{**index, "writes": "open"})
    answer = direct.client.post("/v1/images", content=PICTURE, headers=rebound)
    refusal = "This service answers requests to this machine only, not to 'rebound.example'."
    assert is_problem(answer, 403, refusal)
    assert is_problem(direct.client.get("/v1/duplicates", headers=rebound), 403, refusal), "nor may it be read"
    assert direct.client.get("/livez", headers=rebound).status_code == 200
    fronted = host.start(NEW, **{**index, "writes": "open", "client_address": "forwarded"})
    assert fronted.client.post("/v1/images", content=PICTURE, headers=rebound).status_code == 201


def test_without_an_index_only_hashing_works(host: ServiceHost) -> None:
    host.start(OLD, writes="open")
    with host.client() as client:
        assert client.post("/v1/hash", content=PICTURE).status_code == 200
        for answer in (
            client.post("/v1/images", content=PICTURE),
            client.post("/v1/search", content=PICTURE),
            client.get("/v1/duplicates"),
            client.get("/v1/review"),
            client.get(f"/v1/images/{SHA256}"),
            client.get(f"/v1/images/{SHA256}/thumbnail"),
        ):
            assert is_problem(answer, 404, "This service keeps no index: its setting `index` names none.")


def test_two_instances_on_one_index_see_each_others_images(
    host: ServiceHost, index: dict[str, str], token: str
) -> None:
    old, new = host.start(OLD, **index), host.start(NEW, state="standby", **index)

    def matches_of(instance: RunningInstance) -> list[str]:
        return [
            match["image"]["sha256"] for match in instance.client.post("/v1/search", content=PICTURE).json()["matches"]
        ]

    assert (matches_of(old), matches_of(new)) == ([], [])
    assert old.client.post("/v1/images", content=PICTURE, headers=bearer(token)).status_code == 201
    assert (matches_of(old), matches_of(new)) == ([SHA256], [SHA256])
    assert new.client.delete(f"/v1/images/{SHA256}", headers=bearer(token)).status_code == 204
    assert (matches_of(old), matches_of(new)) == ([], [])
    # both write at once: they wait for each other, and nothing is lost
    pictures = [noisy(seed) for seed in range(40)]
    statuses: list[int] = []

    def post(instance: RunningInstance, batch: list[bytes]) -> None:
        with client_of(instance.port) as client:
            client.headers.update(bearer(token))
            statuses.extend(client.post("/v1/images", content=one, timeout=30).status_code for one in batch)

    threads = [
        threading.Thread(target=post, args=(instance, pictures[start::4]))
        for start, instance in enumerate((old, new, old, new))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [201] * 40
    for instance in (old, new):
        instance.wait_until(lambda figures: figures["images"] == 40)


def test_the_document_is_served(host: ServiceHost) -> None:
    host.start(OLD)
    with host.client() as client:
        served = client.get("/openapi.json")
    committed = json.loads((Path(__file__).parents[3] / "docs/openapi.json").read_text())
    assert served.json() == committed
