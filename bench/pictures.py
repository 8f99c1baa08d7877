#!/usr/bin/env python3
# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Real pictures to measure with, from Debian packages, which are unpacked into .cache and not installed.

Every picture is free to use, and anybody can fetch it again by the name of its package. All pictures of a package are
used, so that no choice favours easy ones.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import click

from mobius.dhash._folder import SUFFIXES

CHECKOUT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = CHECKOUT / ".cache" / "pictures"

PACKAGES: Final[dict[str, tuple[str, ...]]] = {
    "photographs": (
        "gnome-backgrounds", "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "mate-backgrounds",
        "plasma-workspace-wallpapers", "sway-backgrounds", "ukui-wallpapers",
    ),
    "stamps": ("tuxpaint-stamps-default",),
    "skies": ("kstars-data", "stellarium-data"),
    "scenes": ("games-thumbnails",),
    "clip art": ("openclipart-png",),
    "sprites": ("endless-sky-data",),
    "manuals": (
        "debian-handbook", "gimp-help-en", "gnome-user-docs", "imagemagick-6-doc", "opencv-doc", "python-astropy-doc",
        "python-skimage-doc", "visp-images-data",
    ),
    "game art": (
        "boswars-data", "flare-game", "freeciv-data", "freecol", "freeorion-data", "hedgewars-data", "lincity-ng-data",
        "megaglest-data", "naev-data", "supertux-data", "unknown-horizons", "warmux-data", "wesnoth-1.16-data",
    ),
    "library": tuple((CHECKOUT / "bench" / "library_packages.txt").read_text().split()),
}  # fmt: skip
"""Kind of pictures to the packages that have them. `library` is for a library as large as can be had: of Debian 12 all
packages of 300 pictures or ten JPEGs and more, but for fonts, icons, themes, translations of one manual and packages of
more than 160 MB; 406 packages, 8 GB to fetch."""


def fetch(folder: Path, packages: tuple[str, ...]) -> None:
    """Unpack packages into a folder each below `folder`; existing folders are left alone.

    Raises:
        click.ClickException: apt-get or dpkg-deb is missing or failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [name for name in packages if not (folder / name).is_dir()]
    if missing and not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise click.ClickException("The pictures are in Debian's packages; this needs apt-get and dpkg-deb.")
    for number, name in enumerate(missing, 1):
        click.echo(f"fetching {name} ({number} of {len(missing)})", err=True)
        with tempfile.TemporaryDirectory(dir=folder) as unfinished:
            _run(["apt-get", "download", "--quiet", name], Path(unfinished))
            (archive,) = Path(unfinished).glob("*.deb")
            _run(["dpkg-deb", "--extract", archive.name, "tree"], Path(unfinished))
            (Path(unfinished) / "tree").rename(folder / name)


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise click.ClickException(f"{' '.join(command)} failed: {reason} (has `apt-get update` ever run here?)")


def pictures_in(folder: Path) -> list[Path]:
    """Every file with the suffix of a picture, without links, in order."""
    paths = (path for path in folder.rglob("*") if path.suffix.lower().encode() in SUFFIXES)
    return sorted(path for path in paths if path.is_file() and not path.is_symlink())


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=FOLDER, show_default=True)
@click.option(
    "--kind", "kinds", type=click.Choice(list(PACKAGES)), multiple=True, help="Only these.  [default: all but library]"
)
def main(folder: Path, kinds: tuple[str, ...]) -> None:
    """Fetch the pictures and count them."""
    for kind in kinds or [kind for kind in PACKAGES if kind != "library"]:
        fetch(folder, PACKAGES[kind])
        count = sum(len(pictures_in(folder / name)) for name in PACKAGES[kind])
        click.echo(f"{kind:<16}{count:>8}")


if __name__ == "__main__":
    main()
