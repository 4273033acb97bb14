"""Tables 1 and 2 of the paper on your records: every editor, GLAME's ablations, a wrong graph; resumable.

python pipelines/paper_table.py --data dev.json --graph wikidata.nt.gz --limit 50 --mend mend/

w/o GKE is ROME. FT is the paper's: in an L-infinity ball. MEND has a row where --mend names the folder of an editor
(`kg-edit mend train`). Two rows record by record: `kg-edit compare out/paper_table/rome out/paper_table/glame`.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

from results import COLUMNS, ROOT, SHARED, cell

from kg_edit.cli.console import friendly
from kg_edit.datasets import find_dataset
from kg_edit.evaluate import Summary, evaluate
from kg_edit.methods import find_method
from kg_edit.methods.base import MethodConfig
from kg_edit.methods.presets import preset_names
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.atomic import write_text
from wikidata_cache import WikidataCache

ROWS = {
    "FT": "ft-constrained",
    "MEND": "mend",
    "ROME": "rome",
    "ROME-KG": "rome-kg",
    "MEMIT": "memit",
    "MEMIT-KG": "memit-kg",
    "GLAME": "glame",
    "w/ MLP": "glame-mlp",
    "w/ GNN": "glame-gnn",
    "w/o GKE": "rome",
    "random graph": "glame-random",
}
SHOWN = {**COLUMNS, "editing score": "editing_score"}

log = logging.getLogger("paper_table")


def table(summaries: dict[str, Summary]) -> str:
    """The Markdown: unedited, a row an editor, and the two ceilings."""
    first = next(iter(summaries.values()))
    rows = [("unedited", first, "base"), *((name, run, "edited") for name, run in summaries.items())]
    rows += [
        ("*fact in the prompt*", first, "fact_in_prompt"),
        ("*fact and relation in the prompt*", first, "fact_and_relation_in_prompt"),
    ]
    lines = [["", *SHOWN, "s an edit", "failed"], ["---"] * (len(SHOWN) + 3)]
    for name, run, section in rows:
        scores = [cell(run, section, metric) for metric in SHOWN.values()]
        lines.append([name, *scores, *(_costs(run) if section == "edited" else ("", ""))])
    body = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{body}\n\n{first.n} records of CounterFactPlus on {first.provenance['model']['name']}, single edits.\n"


def _config(key: str, preset: str, settings: dict[str, Any] | None) -> MethodConfig:
    known = find_method(key).config_class
    has = preset in (*known.presets, *preset_names([key]))
    return known.preset(preset if has else "default", settings)


def _costs(run: Summary) -> tuple[str, str]:
    return f"{run.seconds_per_edit or 0:.1f}", str(run.provenance["failed"])


def main() -> None:
    """Run what is missing, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=SHARED / "counterfact_plus" / "dev.json")
    parser.add_argument("--graph", default=str(SHARED / "wikidata" / "wikidata.nt.gz"))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--preset", default="default", help="of every method that has it; default for the others")
    parser.add_argument("--mend", help="folder of MEND's trained editor")
    parser.add_argument("--limit", type=int, default=50)
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "paper_table")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    own: dict[str, dict[str, Any]] = {"mend": {"network": options.mend}}
    rows = {name: key for name, key in ROWS.items() if key != "mend" or options.mend}
    if not options.mend:
        log.info("no row for MEND: give --mend FOLDER, of an editor that `kg-edit mend train` made")
    configs = {key: _config(key, options.preset, own.get(key)) for key in rows.values()}
    records = find_dataset("counterfact-plus")(options.data)
    model, graph = LanguageModel.load(options.model), WikidataCache(options.graph)
    found = {}
    for key, config in configs.items():
        method = find_method(key)(model, config, graph=graph)
        found[key] = evaluate(
            method, model, records[: options.limit], out=options.out / key, pool=records, ceilings=True
        )
    text = table({name: found[key] for name, key in rows.items()})
    write_text(options.out / "table.md", text)
    log.info("%s\n%s", text, options.out / "table.md")


if __name__ == "__main__":
    with friendly():
        main()
