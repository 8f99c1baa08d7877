"""Makes docs/mobius.schema.json: `python -m tools.service_file_schema > docs/mobius.schema.json`."""

from __future__ import annotations

from mobius.control.service_file.schema import schema_text

if __name__ == "__main__":
    print(schema_text(), end="")
