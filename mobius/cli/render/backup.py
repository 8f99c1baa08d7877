# Copyright (c) 2026 MOBIUS contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Backups, restores and drills of a host, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def backup_lines(host: str, result: Mapping[str, Any]) -> list[str]:
    read = {"": "", "all": ", read in full"}.get(result.get("read", ""), f", read in part ({result.get('read')})")
    lines = [f"{host}  {len(result.get('backups', []))} backups in {result.get('folder', '')}{read}"]
    return lines + [
        f"  {item['id']:<22}  {item['bytes']:>12} bytes  {item['release'] or 'no release':<32}  {_verification(item)}"
        for item in result.get("backups", [])
    ]


def restored_lines(host: str, result: Mapping[str, Any]) -> list[str]:
    if not result.get("differences"):
        return [f"{host}  is as {result.get('id')} says"]
    saved = " and ".join(result[key] for key in ("saved", "saved_state") if result.get(key))
    aside = " and ".join(result.get("kept_aside") or ())
    before = f"; the state from before is {saved or f'kept aside in {aside}'}" if saved or aside else ""
    lost, unknown = result.get("lost"), result.get("lost_unknown")
    later = f"; {'unknown' if unknown else lost} later writes {'are' if saved or aside else 'would be'} lost"
    return [
        f"{host}  {result['id']}{later if unknown or lost is not None else ''}{before}",
        *([f"  the later writes cannot be counted: {unknown}"] if unknown else []),
        *(f"  damaged: {line}" for line in result.get("damage") or ()),
        *(f"  {name}" for name in result["differences"]),
    ]


def drill_lines(host: str, result: Mapping[str, Any]) -> list[str]:
    if "backup" not in result:
        return []
    release = result.get("release") or "no release"
    if result.get("predicted"):
        return [f"{host}  {result['backup']} is whole; a drill would start {release} on it"]
    counted = f", {result['counted']} pictures" if result.get("counted") is not None else ""
    return [f"{host}  {result['backup']} with {release}: {result['files']} files{counted}, {result['seconds']:g} s"]


def _verification(item: Mapping[str, Any]) -> str:
    if item["damaged"]:
        return f"damaged: {item['damaged']}"
    verified = f"verified {item['verified']}" if item["verified"] else "not verified"
    return f"{verified}, made of damaged data: {item['source_damage']}" if item.get("source_damage") else verified
