"""Questions and demonstrations in files of JSON lines, as the source `records` reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import official_files

from mm1_ablate.data.documents import Item, ItemSet
from mm1_ablate.data.items.records import RecordItems


def row(number: int, **other: Any) -> dict[str, Any]:
    return {"id": number, "ask": f"what is {number}?", "say": [f"it is {number}"], **other}


def source(folder: Path | str, **other: Any) -> RecordItems:
    """Questions in q.jsonl, demonstrations in d.jsonl, fields changed or left out (None)."""
    declared = {
        "type": "records",
        "folder": str(folder),
        "id": "id",
        "fields": {"question": "ask"},
        "references": "say",
        "queries": {"file": "q.jsonl"},
        "demonstrations": {"file": "d.jsonl"},
        **other,
    }
    return RecordItems.model_validate({name: value for name, value in declared.items() if value is not None})


def write_questions(folder: Path) -> None:
    """Thirty questions and sixty demonstrations, in the files that `source` declares."""
    official_files.write_lines(folder / "q.jsonl", [row(number) for number in range(30)])
    official_files.write_lines(folder / "d.jsonl", [row(number) for number in range(60)])


def ids(items: list[Item]) -> list[str]:
    return [item.id for item in items]


def said(items: ItemSet) -> str:
    return "\n".join(
        f"{item.id} {item.group} {dict(item.fields)} {item.references} {item.choices} {item.correct}"
        for item in [*items.queries, *items.demonstrations]
    )
