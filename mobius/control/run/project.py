# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Where a run finds its playbooks and its inventory.

`find_checkout` is the only place that looks for the playbooks, so that installing MOBIUS in another way than as a
checkout (a wheel, a collection) changes nothing else.
"""

from __future__ import annotations

from pathlib import Path

import mobius
from mobius.errors import MobiusError

DEFAULT_INVENTORY = "inventories/local"


def find_checkout() -> Path:
    """The checkout whose playbooks are run: the one this package lies in, else the current folder or one above it.

    Raises:
        MobiusError: environment_failed, when there is none.
    """
    here = Path.cwd()
    for folder in (Path(mobius.__file__).resolve().parents[1], here, *here.parents):
        if (folder / "galaxy.yml").is_file() and (folder / "playbooks").is_dir():
            return folder
    raise MobiusError(
        "environment_failed",
        "The playbooks of MOBIUS are not here.",
        do_next="Run mobius inside a checkout of the project.",
    )


def find_inventory(name: str, checkout: Path) -> str:
    """The absolute path of an inventory, looked for from here and from the checkout; a list with commas as it is.

    Raises:
        MobiusError: unknown_inventory.
    """
    if "," in name:
        return name
    for folder in (Path.cwd(), checkout):
        path = folder / Path(name).expanduser()
        if path.exists():
            return str(path.resolve())
    raise MobiusError("unknown_inventory", f"There is no inventory {name}.")
