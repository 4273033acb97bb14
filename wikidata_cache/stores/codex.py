"""CoDEx folders: which of their files are facts and labels. Their `*negatives*` are false facts and stay out."""

import json
from collections.abc import Iterator
from pathlib import Path

from wikidata_cache.ids import is_entity
from wikidata_cache.sources.queries import LANGUAGES
from wikidata_cache.stores.lines import text_line
from wikidata_cache.stores.ntriples import Bad, Translate

_SPLITS = ("train.txt", "valid.txt", "test.txt")
_LABELS = ("entities", "relations", "types")


def codex_files(folder: Path) -> list[Path]:
    """The splits and the label files of a CoDEx folder, flat or as in its repository; [] where it is none."""
    for root in (folder, folder / "data"):
        triples = [*(root / "triples").glob("codex-*"), root]
        splits = [folder / name for folder in sorted(triples) for name in _SPLITS if (folder / name).is_file()]
        if splits:
            return splits + list(_label_files(root))
    return []


def _label_files(root: Path) -> Iterator[Path]:
    for part in _LABELS:
        for language in LANGUAGES:
            yield from sorted((root / part / language).glob("*.json"))


def codex_labels(path: Path, bad: Bad) -> Translate:
    """Reads a whole file `{id: {"label": …, "description": …}}` in the language of its folder's name, else English."""
    language = path.parent.name if path.parent.name in LANGUAGES else LANGUAGES[0]

    def translate(text: bytes, first: int) -> list[bytes]:
        try:
            found = json.loads(text)
            return [line for entity, said in found.items() for line in _lines(entity, said, language)]
        except json.JSONDecodeError as error:
            bad(error.lineno, f"is not JSON: {error.msg}")
        except (ValueError, AttributeError, TypeError) as error:
            bad(first, f"expected {{id: {{'label': text, 'description': text}}}} ({error})")
        return []

    return translate


def _lines(entity: str, said: dict[str, str | None], language: str) -> Iterator[bytes]:
    for kind in ("label", "description"):
        text = said.get(kind)
        if is_entity(entity) and text and text.strip():
            yield text_line(entity, kind, text, language)
