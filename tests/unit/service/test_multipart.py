# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Forms are read in linear time, and say what browsers and curl mean."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobius.service.multipart import MalformedError, boundary_of, parse_parameters, parts


def form(*heads: str) -> bytes:
    return b"".join(b"--b\r\n" + head.encode() + b"\r\n\r\ndata\r\n" for head in heads) + b"--b--\r\n"


@pytest.mark.parametrize(
    ("disposition", "name", "filename"),
    [
        ('form-data; name="image"; filename="a.jpg"', "image", "a.jpg"),
        ("form-data; name=image", "image", None),
        ('Form-Data ; NAME = "image" ; FileName=a.jpg', "image", "a.jpg"),
        (r'form-data; name="a\"b\\c"; filename="; name=x"', r"a\"b\c".replace("\\", "", 1), "; name=x"),
        ("form-data; name=image; filename*=UTF-8''%e2%82%ac.jpg; filename=x", "image", "\u20ac.jpg"),
        ("form-data; name=image; filename*=undefined''x", "image", None),
        ("form-data; name=image; filename*=idna''%ff; filename=x", "image", "x"),
        ("form-data; name=image; filename=", "image", ""),
        ('form-data; name="image"; filename="no end', "image", ""),
    ],
)
def test_names_of_fields_and_files(disposition: str, name: str, filename: str | None) -> None:
    (part,) = parts(form(f"Content-Disposition: {disposition}"), b"b")
    found = part.filename and part.filename.strip('"')
    assert (part.name, found, bytes(part.data)) == (name, filename, b"data")


def test_the_media_type_comes_without_its_parameters() -> None:
    head = "content-type:  Image/JPEG; x=y\r\nContent-Disposition: form-data; name=a"
    first, second = parts(form(head, "Content-Disposition: form-data; name=b"), b"b")
    assert (first.media_type, second.media_type) == ("image/jpeg", "")


@pytest.mark.parametrize(
    "disposition", ["form-data", "attachment; name=a", "", ";" * 7000, "form-data; name*=idna''%ff"]
)
def test_a_part_without_a_name_is_malformed(disposition: str) -> None:
    with pytest.raises(MalformedError, match="do not name its field"):
        list(parts(form(f"Content-Disposition: {disposition}"), b"b"))


@pytest.mark.parametrize("content_type", ["multipart/form-data", "multipart/form-data" + ";" * 30_000,
                                          'multipart/form-data; boundary="', "multipart/form-data; boundary=\xff",
                                          "multipart/form-data; boundary*=idna''%ff"])  # fmt: skip
def test_a_boundary_must_be_there(content_type: str) -> None:
    with pytest.raises(MalformedError, match="needs a boundary"):
        boundary_of(content_type)


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data; boundary=b", 'multipart/form-data; x=";"; Boundary="b"']
)
def test_boundaries_are_found(content_type: str) -> None:
    assert boundary_of(content_type) == b"b"


@given(st.text(alphabet=st.sampled_from(";\"\\= \tab*'"), max_size=60))
def test_any_value_is_read(value: str) -> None:
    kind, parameters = parse_parameters(value)
    assert ";" not in kind
    assert all(name == name.lower() for name in parameters)


@given(st.binary(max_size=200))
def test_any_body_is_a_form_or_malformed(body: bytes) -> None:
    for data in (body, b"--b\r\n" + body, b"--b\r\nContent-Disposition: " + body + b"\r\n\r\n\r\n--b--"):
        try:
            list(parts(data, b"b"))
        except MalformedError as error:
            assert str(error).endswith(".")
