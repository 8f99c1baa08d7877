# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`make sanity`: run `ansible-test sanity` on the collection.

ansible-test wants a real folder `ansible_collections/mobius/dhash`, not a link to it, so the collection is copied to
`.cache/sanity` as the tarball would hold it. It also wants pip's own installer from ansible.com; a stub that runs
`ensurepip` takes its place, so that only pip's usual package index is needed.

Arguments are passed on: `python -m tools.sanity --test validate-modules plugins/modules/mark.py`.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
WORK_FOLDER = CHECKOUT / ".cache" / "sanity"
COLLECTION = WORK_FOLDER / "ansible_collections" / "mobius" / "dhash"
# ansible-test 2.19 looks for this version of pip's installer
GET_PIP = Path(".ansible/test/cache/get_pip_24_2.py")
GET_PIP_STUB = "import ensurepip\n\nensurepip.bootstrap(default_pip=True)\n"


def copy_collection() -> None:
    """Make `COLLECTION` equal to what the tarball would hold, and add the ignore files; links become files."""
    shutil.rmtree(COLLECTION, ignore_errors=True)
    names: list[str] = runpy.run_path(str(CHECKOUT / "setup.py"))["collection_files"](CHECKOUT)
    ignore_files = [path.relative_to(CHECKOUT).as_posix() for path in (CHECKOUT / "tests/sanity").glob("ignore-*.txt")]
    for name in [*names, *ignore_files]:
        target = COLLECTION / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(CHECKOUT / name, target)
    # ansible-test asks git for the files; the checkout's own git ignores the work folder
    for command in (("init", "--quiet"), ("add", "--all")):
        subprocess.run(["git", "-C", str(COLLECTION), *command], check=True)


def main() -> int:
    """Run from the command line; the exit code is ansible-test's."""
    copy_collection()
    home = WORK_FOLDER / "home"
    (home / GET_PIP).parent.mkdir(parents=True, exist_ok=True)
    (home / GET_PIP).write_text(GET_PIP_STUB, encoding="utf-8")
    bin_folder = Path(sys.executable).parent
    environment = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        # its own collections path leads to the copy
        "ANSIBLE_COLLECTIONS_PATH": str(WORK_FOLDER),
    }
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    command = [str(bin_folder / "ansible-test"), "sanity", "--color", "no", "--requirements", "--python", python]
    return subprocess.run([*command, *sys.argv[1:]], cwd=COLLECTION, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
