"""Names that docs/recipes.md and docs/data.md give to sets and files are those that are read."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="adapt needs torch")

from adapt.data.catalog.known_sets import FOLDER_NAMES
from adapt.data.catalog.manifest import COLUMNS, MANIFEST_NAMES
from adapt.data.catalog.splits import LISTS, SPLIT_FOLDERS
from adapt.recipes.papers import Paper, Task

DOCS = Path(__file__).parents[2] / "docs"


def test_every_folder_name_is_documented_in_its_order() -> None:
    text = (DOCS / "recipes.md").read_text()
    for name, folders in FOLDER_NAMES.items():
        assert f"| `{name}` | {', '.join(f'`{folder}`' for folder in folders)} |" in text


def test_every_part_of_a_set_is_documented() -> None:
    text = (DOCS / "data.md").read_text()
    parts = [*SPLIT_FOLDERS.values(), *(name for names in LISTS.values() for name in names)]
    assert not [part for part in parts if f"`{part}`" not in text]


def test_every_name_and_column_of_a_manifest_is_documented() -> None:
    text = (DOCS / "data.md").read_text().partition("## Manifest of a site")[2]
    assert not [name for name in (*COLUMNS, *MANIFEST_NAMES) if f"`{name}`" not in text]


@pytest.mark.parametrize("record", [Paper, Task])
def test_every_field_of_a_papers_file_is_documented(record: type[Paper] | type[Task]) -> None:
    text = (DOCS / "recipes.md").read_text().partition("## The papers' tasks")[2]
    fields = record.model_fields
    assert not [name for name in fields if f"`{name}`" not in text and f"`[{name}]`" not in text]
