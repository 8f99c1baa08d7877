# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""`python -m mobius.cli`: the command where no console script is installed, as on the hosts."""

from mobius.cli import main

if __name__ == "__main__":
    main()
