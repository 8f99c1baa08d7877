"""Makes docs/mobius-yml.md from the table of keys: `python -m tools.service_file_page > docs/mobius-yml.md`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mobius.control.service_file.keys import KEYS, NOT_YET, Key

_VARIABLES = {
    "listen": ("host_port", "host_address"),
    "shared": ("host_sandbox",),
    "sandbox": ("host_sandbox",),
    "probes": ("deploy_golden", "promote_probes"),
    "hooks": ("mobius_hooks",),
}


def page() -> str:
    """The whole page, as Markdown."""
    lines = [
        "# What can I set in mobius.yml?",
        "",
        "[your-service.md](your-service.md) shows how to begin. Each key becomes the variables of the roles beside it;",
        "an inventory that sets one of these wins over the file, and `-e` over both. An unknown key is refused with",
        "its line. This page and [mobius.schema.json](mobius.schema.json), which editors read, are made from the table",
        "in `mobius/control/service_file/keys.py`; a test compares them.",
        "",
        "| key | what it is | without it | variables |",
        "|---|---|---|---|",
        *_rows(KEYS, ""),
        "",
        "A key that is planned and would do nothing today is refused as well:",
        "",
        "| key | meanwhile |",
        "|---|---|",
        *(f"| `{name}` | {text} |" for name, text in NOT_YET.items()),
        "",
    ]
    return "\n".join(lines)


def _rows(keys: Sequence[Key], within: str) -> Iterator[str]:
    for key in keys:
        name = f"{within}{key.name}"
        variables = key.variables or _VARIABLES.get(name, ())
        if within == "front.":
            variables = (f"host_front_{key.name}",)
        text = " ".join(key.description.split()).replace("<", "&lt;")
        default = "refused" if key.is_required else key.default
        names = ", ".join(f"`{each}`" for each in variables)
        yield f"| `{name}` | {text} For example `{key.example}`. | {default} | {names} |"
        if key.name in ("front", "backup"):
            yield from _rows(key.types[0].keys, f"{key.name}.")


if __name__ == "__main__":
    print(page(), end="")
