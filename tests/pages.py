"""What a page of the documentation shows: its blocks of code, the files among them, and its commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
_FENCE = re.compile(r'^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$', re.DOTALL | re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block; ``title`` is the name of the file that it is, or empty."""

    language: str
    title: str
    text: str


class DocPage(NamedTuple):
    """A page by its place in the repository, such as docs/files.md."""

    name: str

    @property
    def text(self) -> str:
        return (ROOT / self.name).read_text(encoding="utf-8")

    @property
    def prose(self) -> str:
        """The page without its blocks."""
        return _FENCE.sub("", self.text)

    def blocks(self, language: str | None = None) -> list[Block]:
        """Its blocks in their order, of one language or all."""
        blocks = [Block(*match.groups("")) for match in _FENCE.finditer(self.text)]
        return [block for block in blocks if language in (None, block.language)]

    def commands(self) -> Iterator[str]:
        """The lines of its shell blocks, without comments."""
        for block in self.blocks("bash"):
            lines = (line.partition("  #")[0].strip() for line in block.text.splitlines())
            yield from (line for line in lines if line and not line.startswith("#"))

    def missing_files(self) -> list[str]:
        """Files of the repository that it points at and that are not there."""
        links = [link.partition("#")[0] for link in _LINK.findall(self.prose) if not link.startswith(("http", "#"))]
        return [link for link in links if not ((ROOT / self.name).parent / link).exists()]


README = DocPage("README.md")
COMMANDS = DocPage("docs/commands.md")
LANGUAGES = DocPage("docs/languages.md")
TUTORIALS = [DocPage(file.relative_to(ROOT).as_posix()) for file in sorted((ROOT / "docs" / "tutorials").glob("*.md"))]
DOCS = [DocPage(file.relative_to(ROOT).as_posix()) for file in sorted((ROOT / "docs").rglob("*.md"))]
