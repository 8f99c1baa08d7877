"""A host with a list of signers of its own stages what one of them signed, and nothing else; real keys, real ssh-keygen."""

from __future__ import annotations

import base64
import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.mobius.dhash.plugins.module_utils import staged_tree

from mobius import manifest
from mobius.control import signatures
from mobius.control.bundle import builder as bundles

MakeBundle = Callable[..., manifest.Bundle]
NAMES = ("builder", "outsider")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in NAMES:
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", folder / name], check=True)
    return folder


def entry(keys: Path, name: str = "builder", options: str = 'namespaces="mobius-bundle"') -> str:
    return f"{name}@example.org {options} {(keys / f'{name}.pub').read_text().strip()}"


def sign(bundle: manifest.Bundle, key: Path) -> manifest.Bundle:
    bundles.sign(bundle.path, key)
    return manifest.read_bundle(bundle.path)


def with_text(bundle: manifest.Bundle, text: str) -> manifest.Bundle:
    return dataclasses.replace(bundle, signature=text)


def flipped(bundle: manifest.Bundle, place: int) -> manifest.Bundle:
    """The same signature with one bit of its binary form changed."""
    assert bundle.signature is not None
    first, *middle, last = bundle.signature.splitlines()
    blob = bytearray(base64.b64decode("".join(middle)))
    blob[place] ^= 1
    return with_text(bundle, "\n".join([first, base64.b64encode(blob).decode(), last, ""]))


def run(host: Any, module: str, bundle: manifest.Bundle, *, check: bool = False, send: bool = True) -> dict[str, Any]:
    parameters: dict[str, Any] = {"expect": manifest.expectation(bundle), "python": sys.executable}
    if module == "release" and send:
        parameters["src"] = str(bundle.path)
    result: dict[str, Any] = host.run(module, check=check, **parameters)
    return result


def files(host: Any) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(host.root.rglob("*")) if path.is_file()}


def refusal(host: Any, bundle: manifest.Bundle) -> str:
    """The reason; the same in each of the modules and modes, and nothing of the host changes."""
    before = files(host)
    reasons = set()
    for module in ("preflight", "release"):
        for check in (True, False):
            result = run(host, module, bundle, check=check)
            assert result.get("failed"), (module, check, result)
            assert result["changed"] is False
            failure = result["mobius_failure"]
            assert (failure["outcome"], failure["code"]) == ("bundle_unsigned", 1)
            reasons.add(failure["reason"])
    assert files(host) == before
    assert len(reasons) == 1
    reason = reasons.pop()
    assert reason.endswith(".") and "\n" not in reason and bundle.release_id in reason
    return reason


# --- What is staged ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_bundle_of_a_signer_of_the_host_is_staged_as_predicted_and_the_signer_reported(
    host: Any, make_bundle: MakeBundle, keys: Path
) -> None:
    host.sign_bundles_by("# who builds", entry(keys, "outsider", 'namespaces="mobius-history"'), entry(keys))
    bundle = sign(make_bundle(), keys / "builder")
    assert run(host, "preflight", bundle)["signer"] == "builder@example.org"
    predicted = run(host, "release", bundle, check=True)
    assert run(host, "release", bundle, send=False)["transfer"] is True
    done = run(host, "release", bundle)
    assert (predicted["signer"], done["signer"]) == ("builder@example.org", "builder@example.org")
    assert (predicted["changed"], predicted["diff"]) == (done["changed"], done["diff"]) == (True, done["diff"])
    assert staged_tree.verify_tree(host.host.release_dir(bundle.release_id)) == []
    again = run(host, "release", bundle)
    assert (again["changed"], again["signer"]) == (False, "builder@example.org")


@pytest.mark.slow
def test_a_host_without_a_list_requires_no_signature_and_verifies_none(host: Any, make_bundle: MakeBundle) -> None:
    bundle = with_text(make_bundle(), "nonsense")
    assert run(host, "preflight", bundle)["signer"] is None
    assert "signer" not in run(host, "release", bundle)
    host.sign_bundles_by()
    assert run(host, "release", bundle)["changed"] is False


@pytest.mark.slow
def test_any_of_several_signers_will_do_so_a_key_can_be_exchanged(
    host: Any, make_bundle: MakeBundle, keys: Path
) -> None:
    host.sign_bundles_by(entry(keys), entry(keys, "outsider"))
    bundle = make_bundle()
    for name in NAMES:
        assert run(host, "preflight", sign(bundle, keys / name))["signer"] == f"{name}@example.org"


def test_the_file_that_comes_must_be_the_one_that_was_signed(host: Any, make_bundle: MakeBundle, keys: Path) -> None:
    host.sign_bundles_by(entry(keys))
    signed, other = sign(make_bundle(), keys / "builder"), make_bundle("2.0.0")
    parameters = {"expect": manifest.expectation(signed), "python": sys.executable, "src": str(other.path)}
    host.fails("release", "bundle_invalid", **parameters)
    assert list(host.host.releases_dir.iterdir()) == []


# --- What is refused --------------------------------------------------------------------------------------------------


def test_an_unsigned_bundle_is_refused(host: Any, make_bundle: MakeBundle, keys: Path) -> None:
    host.sign_bundles_by(entry(keys))
    assert "is not signed" in refusal(host, make_bundle())
    assert "is not signed" in refusal(host, with_text(make_bundle(), ""))


def test_a_key_that_the_host_does_not_know_is_refused(host: Any, make_bundle: MakeBundle, keys: Path) -> None:
    host.sign_bundles_by(entry(keys))
    assert "No principal matched" in refusal(host, sign(make_bundle(), keys / "outsider"))


@pytest.mark.slow
def test_the_signature_of_another_bundle_is_refused(host: Any, make_bundle: MakeBundle, keys: Path) -> None:
    host.sign_bundles_by(entry(keys))
    other = sign(make_bundle("2.0.0"), keys / "builder")
    assert other.signature is not None
    assert "incorrect signature" in refusal(host, with_text(make_bundle(), other.signature))


@pytest.mark.slow
@pytest.mark.parametrize("namespace", ["mobius-approval-ops_sre", "mobius-history", "file"])
def test_a_signature_for_another_purpose_is_refused(
    host: Any, make_bundle: MakeBundle, keys: Path, namespace: str
) -> None:
    host.sign_bundles_by(entry(keys))
    bundle = make_bundle()
    text = signatures.sign(keys / "builder", namespace, f"{bundle.sha256}\n".encode())
    assert "namespace" in refusal(host, with_text(bundle, text))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "result"),
    [
        ('namespaces="mobius-history"', "namespace"),
        ('namespaces="mobius-bundle",valid-before="20200101"', "expired"),
        ('namespaces="mobius-bundle",valid-after="29990101"', "not yet valid"),
    ],
)
def test_a_key_that_may_not_sign_bundles_or_not_now_is_refused(
    host: Any, make_bundle: MakeBundle, keys: Path, options: str, result: str
) -> None:
    host.sign_bundles_by(entry(keys, options=options))
    assert result in refusal(host, sign(make_bundle(), keys / "builder"))


@pytest.mark.slow
def test_a_flipped_bit_of_the_signature_is_refused_wherever_it_is(
    host: Any, make_bundle: MakeBundle, keys: Path
) -> None:
    host.sign_bundles_by(entry(keys))
    bundle = sign(make_bundle(), keys / "builder")
    assert bundle.signature is not None
    blob = base64.b64decode("".join(bundle.signature.splitlines()[1:-1]))
    for place in range(0, len(blob), 29):
        refusal(host, flipped(bundle, place))


@pytest.mark.parametrize(
    "text", ["nonsense", "\0", "�" * 9, "-----BEGIN SSH SIGNATURE-----\n", "{{ 1 }}\n-f /etc/passwd"]
)
def test_what_is_no_signature_is_refused_in_one_sentence(
    host: Any, make_bundle: MakeBundle, keys: Path, text: str
) -> None:
    host.sign_bundles_by(entry(keys))
    refusal(host, with_text(make_bundle(), text))


def test_a_list_without_signers_for_bundles_refuses_every_bundle(
    host: Any, make_bundle: MakeBundle, keys: Path
) -> None:
    host.sign_bundles_by("# the keys come later")
    refusal(host, sign(make_bundle(), keys / "builder"))


@pytest.mark.slow
def test_a_release_that_is_staged_or_confirmed_already_is_not_excused(
    host: Any, make_bundle: MakeBundle, keys: Path
) -> None:
    bundle = make_bundle()
    run(host, "release", bundle)
    host.sign_bundles_by(entry(keys))
    refusal(host, bundle)
    host.truth(bundle.release_id)
    refusal(host, bundle)
    assert run(host, "release", sign(bundle, keys / "builder"))["changed"] is False


@pytest.mark.parametrize("lines", ["one line", [1], [""], ["two\nlines"], None])
def test_a_damaged_list_refuses_everything_rather_than_nothing(host: Any, make_bundle: MakeBundle, lines: Any) -> None:
    host.sign_bundles_by()
    place = host.config_dir / "mobius-dhash.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "bundle_signers": lines}))
    parameters = {"expect": manifest.expectation(make_bundle()), "python": sys.executable}
    assert "bundle_signers" in host.fails("preflight", "state_damaged", **parameters)


def test_a_host_without_ssh_keygen_fails_with_a_sentence_and_stages_nothing(
    host: Any, make_bundle: MakeBundle, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.sign_bundles_by(entry(keys))
    bundle = sign(make_bundle(), keys / "builder")
    monkeypatch.setenv("PATH", "/nonexistent")
    parameters = {"expect": manifest.expectation(bundle), "python": sys.executable}
    assert "ssh-keygen" in host.fails("release", "missing_dependency", **parameters, src=str(bundle.path))
    assert list(host.host.releases_dir.iterdir()) == []
