"""Write the table of Chinese and Japanese names inside longer ones from the packaged labels.

python bench/tools/longer_names.py kg_edit/data/longer_names.tsv

A text without spaces has no mark of where a name ends, so 柏林 (Berlin) is in 都柏林 (Dublin). Names of one thing don't
count as two: 中非 and 中非共和国.
"""

from __future__ import annotations

import gzip
import re
import sys
from collections import defaultdict
from pathlib import Path

from kg_edit.languages import names_in
from kg_edit.storage.atomic import write_text
from kg_edit.text.matching import normalised
from kg_edit.writing_systems import is_unspaced
from wikidata_cache.extract import packaged_extract

_LANGUAGES = {"zh": "zh", "zh-hant": "zh", "ja": "ja"}
_LABEL = re.compile(r'<[^>]*/(Q\d+)> <[^>]+> "(.*)"@(zh|zh-hant|ja) \.')
_HEADING = """# Chinese and Japanese names that are in a longer name of another thing: bench/tools/longer_names.py
# From the labels of the extract (wikidata_cache/data/extract_labels.LICENSE) and language_names.tsv
language\tname\tlonger
"""


def read_labels() -> dict[str, dict[str, set[str]]]:
    """Return the ids of each name, by language."""
    names: dict[str, dict[str, set[str]]] = {"ja": defaultdict(set), "zh": defaultdict(set)}
    for language, by_name in names.items():
        for id_, name in names_in(language).items():
            by_name[name].add(id_)
    path = packaged_extract().with_name("extract_labels.nt.gz")
    text = gzip.decompress(path.read_bytes()).decode("utf-8")
    for label in map(_LABEL.match, text.splitlines()):
        if label is not None:
            names[_LANGUAGES[label[3]]][label[2]].add(label[1])
    return names


def find_longer(by_name: dict[str, set[str]], name: str) -> list[str]:
    """Return the names of other things that have a name in them."""
    longer = []
    for other, ids in sorted(by_name.items()):
        is_longer = name in other and other != name and ids.isdisjoint(by_name[name])
        if is_longer and all(is_unspaced(part) for part in normalised(other)):
            longer.append(other)
    return longer


def main(path: Path) -> None:
    """Write the table."""
    lines = []
    for language, by_name in read_labels().items():
        for name in sorted(by_name):
            longer = find_longer(by_name, name)
            if len(name) > 1 and longer:
                lines.append(f"{language}\t{name}\t{'; '.join(longer)}\n")
    write_text(path, _HEADING + "".join(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
