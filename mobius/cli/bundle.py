# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`mobius bundle`: build, verify and sign what a host gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mobius.cli.groups import CommandGroup
from mobius.cli.options import format_option, key_option
from mobius.cli.render.bundle import bundle_lines, excluded_line
from mobius.control.bundle import builder as bundles
from mobius.control.bundle.packing import PLATFORM, pack_folder
from mobius.control.service_file.parse import find_service_file, read_service_file
from mobius.errors import MobiusError
from mobius.manifest import Bundle, signature_path

_sha256 = click.option("--sha256", help="The bundle's SHA-256 from elsewhere; its .sha256 file need not be there then.")


@click.group(cls=CommandGroup)
def bundle() -> None:
    """Pack, build, verify and sign bundles: one file with a whole release of a service."""


@bundle.command()
@click.option("--version", help="The release's version; the version in pyproject.toml when left out.")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), default="dist", show_default=True)
@click.option("--python", default="3.11", show_default=True, help="The Python of the hosts.")
@click.option("--platform", default="linux_x86_64", show_default=True, help="linux_x86_64 or linux_aarch64.")
@click.option(
    "--source",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The checkout whose commit is built.  [default: the one that mobius runs from, else the current folder]",
)
@format_option
def build(version: str | None, out: Path, python: str, platform: str, source: Path | None, form: str) -> None:
    """Build the bundle of the commit that is checked out.

    What is not committed is not in it. Two builds of one commit are the same file, byte for byte.

    \b
    Examples:
      mobius bundle build
      mobius bundle build --version 1.2.0 --out /srv/bundles
      mobius bundle build --python 3.13 --platform linux_aarch64
    """
    made = bundles.build(
        source or bundles.default_source(),
        out,
        version=version,
        python=python,
        platform=platform,
        tell=lambda line: click.echo(line, err=True),
    )
    _show(made, form)


@bundle.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.option(
    "--service",
    metavar="NAME",
    help="The service that the bundle is a release of.  [default: that of mobius.yml in the current folder]",
)
@click.option("--version", required=True, metavar="X.Y.Z", help="The release's version.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    default="dist",
    show_default=True,
    help="Where the bundle and its .sha256 are put.",
)
@click.option(
    "--requirements",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Locked Python dependencies, each with its digests, that are installed into the bundle.",
)
@click.option("--python", metavar="3.N", help="The Python of the hosts, if the bundle needs one.  [default: any host]")
@click.option("--platform", help=f"linux_x86_64 or linux_aarch64, with --python.  [default: {PLATFORM}]")
@format_option
def pack(
    folder: Path,
    service: str | None,
    version: str,
    output: Path,
    requirements: Path | None,
    python: str | None,
    platform: str | None,
    form: str,
) -> None:
    """Pack any folder, of any language, into a bundle.

    The same folder is the same file, byte for byte. Executable bits and symbolic links within the folder are kept.
    `.mobiusignore` in DIR names what is left out, in gitignore's syntax; `__pycache__`, `.git`, empty folders and the
    `environment_file` of a mobius.yml here or in DIR always are.

    \b
    Examples:
      mobius bundle pack build/ --version 1.4.0
      mobius bundle pack build/ --service shop --version 1.4.0
      mobius bundle pack . --service shop --version 1.4.0 --requirements requirements.txt --python 3.13
      mobius bundle pack site/ --service docs --version 2026.12.1 --output /srv/bundles --format json
    """
    packed = pack_folder(
        folder,
        output,
        service=service or _service_of_project(),
        secrets=_secrets_beside(Path.cwd(), folder),
        version=version,
        requirements=requirements,
        python=python,
        platform=platform,
        tell=lambda line: click.echo(line, err=True),
    )
    if form == "json":
        click.echo(json.dumps({**_as_dict(packed.bundle), "excluded": packed.excluded}, indent=2, sort_keys=True))
        return
    left_out = excluded_line(packed.excluded)
    click.echo("\n".join([*bundle_lines(packed.bundle), *([left_out] if left_out else [])]))


@bundle.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_sha256
@click.option(
    "--signers",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="allowed_signers: refuse a bundle that none of them signed, as a host with that list does.",
)
@format_option
def verify(file: Path, sha256: str | None, signers: Path | None, form: str) -> None:
    """Read a bundle whole, compare every file with its manifest and print its release id.

    \b
    Examples:
      mobius bundle verify dist/mobius-dhash-1.2.0.tar.gz
      mobius bundle verify dist/mobius-dhash-1.2.0.tar.gz --signers /etc/mobius/allowed_signers
      mobius bundle verify dist/mobius-dhash-1.2.0.tar.gz --format json
    """
    made = bundles.verify(file, sha256)
    _show(made, form, signed_by=bundles.signed_by(made, signers) if signers else None)


@bundle.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@key_option
@_sha256
@format_option
def sign(file: Path, key: Path, sha256: str | None, form: str) -> None:
    """Sign a bundle, for hosts that stage only what their signers signed.

    The bundle is read whole first. The signature is kept beside it, as FILE.sig, and goes wherever it goes.

    \b
    Examples:
      mobius bundle sign dist/mobius-dhash-1.2.0.tar.gz --key ~/.ssh/id_ed25519
    """
    made = bundles.sign(file, key, sha256)
    if form == "json":
        _show(made, form)
    else:
        click.echo(f"signed   {made.release_id} with {key}; the signature is {signature_path(made.path)}")


def _service_of_project() -> str:
    """The service of the `mobius.yml` in the current folder.

    Raises:
        MobiusError: invalid_input, when there is none, or it is wrong.
    """
    path = find_service_file(Path.cwd())
    if path is None:
        raise MobiusError("invalid_input", "There is no mobius.yml here that names the service; give --service NAME.")
    return read_service_file(path).service


def _secrets_beside(*folders: Path) -> list[Path]:
    """The files of secrets that the `mobius.yml` of these folders name.

    Raises:
        MobiusError: invalid_input, when one is wrong: what it keeps secret is not known then.
    """
    files = [read_service_file(path) for folder in folders if (path := find_service_file(folder))]
    return [
        file.path.absolute().parent / file.values["environment_file"]
        for file in files
        if "environment_file" in file.values
    ]


def _show(made: Bundle, form: str, signed_by: str | None = None) -> None:
    if form == "json":
        click.echo(json.dumps({**_as_dict(made), "signed_by": signed_by}, indent=2, sort_keys=True))
        return
    click.echo("\n".join(bundle_lines(made, signed_by)))


def _as_dict(made: Bundle) -> dict[str, Any]:
    described = {name: value for name, value in made.manifest.as_dict().items() if name not in ("files", "links")}
    return {
        **described,
        "release": made.release_id,
        "bundle": str(made.path),
        "bundle_sha256": made.sha256,
        "bytes": made.size,
        "files": len(made.manifest.files),
        "links": len(made.manifest.links),
        "signature": str(signature_path(made.path)) if made.signature else None,
    }
