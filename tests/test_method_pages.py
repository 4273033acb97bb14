"""Every method has a part of the documentation that a reader finds by its name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kg_edit.methods import method_names

DOCS = Path(__file__).resolve().parents[1] / "docs"
_MADE = "methods.md"  # written by `kg-edit methods --markdown`


def section_of(name: str) -> str | None:
    """The page of a method, or the section of a page whose heading has its name in code style."""
    file = DOCS / f"{name.replace('-', '_')}.md"
    if file.exists():
        return file.read_text(encoding="utf-8")
    for page in sorted(DOCS.glob("*.md")):
        if page.name == _MADE:
            continue
        for section in re.split(r"(?m)^(?=## )", page.read_text(encoding="utf-8")):
            if section.startswith("## ") and f"`{name}`" in section.splitlines()[0]:
                return section
    return None


@pytest.mark.parametrize("name", method_names())
def test_a_method_has_a_section_with_its_weakness(name: str) -> None:
    section = section_of(name)
    assert section is not None, f"no page or section of docs/ has {name} as its title"
    assert re.search(r"(?i)weakness", section), f"{name}: where does it fall short?"
