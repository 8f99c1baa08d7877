# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One step of a backup with the role's own code, alone in its process: bench/backup.py measures that from outside.

LIBRARY=FOLDER python bench/backup_step.py create|verify|restore WORK saves FOLDER to WORK/backups, and restores it
to WORK/restored.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / ".ansible" / "collections"))

from ansible_collections.mobius.dhash.plugins.module_utils.backup.extraction import unpack_archive
from ansible_collections.mobius.dhash.plugins.module_utils.backup.restore import allowed_owners, require_restorable
from ansible_collections.mobius.dhash.plugins.module_utils.backup.retention import KeepRules
from ansible_collections.mobius.dhash.plugins.module_utils.backup.service import create_backup
from ansible_collections.mobius.dhash.plugins.module_utils.backup.store import find_backup
from ansible_collections.mobius.dhash.plugins.module_utils.backup.verification import verify_backups
from ansible_collections.mobius.dhash.plugins.module_utils.host.config import Host

SERVICE = "bench"


def host(work: Path) -> Host:
    """A host whose folders lie in `work`; its library is a link, as to another disk."""
    folders = {f"{name}_dir": str(work / name) for name in ("state", "config", "log", "run")}
    about = {
        "schema": 1,
        "service": SERVICE,
        "user": "nobody",
        "health_path": "/health",
        "start_timeout": 60,
        "drain_deadline": 30,
        "root": str(work / "root"),
        "backup_dir": str(work / "backups"),
        **folders,
    }
    for name in ("state", "config", "log", "run", "root", "backups", "mobius-host"):
        (work / name).mkdir(exist_ok=True)
    if not (work / "state" / "library").is_symlink():
        (work / "state" / "library").symlink_to(os.environ["LIBRARY"])
    (work / "mobius-host" / f"{SERVICE}.json").write_text(json.dumps(about))
    return Host.load(SERVICE, work / "mobius-host")


def main(step: str, work: Path) -> None:
    """Do one step."""
    here = host(work)
    if step == "create":
        create_backup(here, scope="full", keep=KeepRules(1), scratch=work, host_name=SERVICE)
    elif step == "verify":
        wrong = [why for why in verify_backups(here).values() if why]
        if wrong:
            sys.exit(wrong[0])
    else:
        chosen = find_backup(here, "latest")
        manifest = require_restorable(here, chosen, SERVICE)
        (work / "restored").mkdir()
        unpack_archive(chosen.path, manifest, work / "restored", allowed_owners(here)[0])


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).resolve())
