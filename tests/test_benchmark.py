"""What the methods reach on real records: minutes each, so run by `make test-all` only."""

from __future__ import annotations

from pathlib import Path

import pytest

from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.run import evaluate
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from wikidata_cache import WikidataCache

RECORDS = 24


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["rome", "glame"])
def test_first_records_of_counterfact_plus(name: str, smollm2: LanguageModel, shared: Path, tmp_path: Path) -> None:
    """Layer 6: efficacy >= .95, paraphrase >= .90, neighborhood at most .08 below the unedited model's."""
    records = find_dataset("counterfact-plus")(shared / "counterfact_plus" / "dev.json")
    chosen = find_method(name)
    graph = WikidataCache(shared / "wikidata" / "wikidata.nt.gz")  # labels.nt.gz lies beside it
    method = chosen(smollm2, chosen.config_class.preset("default", {"layer": 6}), graph=graph)
    summary = evaluate(method, smollm2, records[:RECORDS], pool=records, out=tmp_path / "run")
    base, edited = summary.sections["base"], summary.sections["edited"]
    assert edited["efficacy.prob"].mean >= 0.95
    assert edited["paraphrase.prob"].mean >= 0.90
    assert edited["neighborhood.prob"].mean >= base["neighborhood.prob"].mean - 0.08
    assert edited["portability.nll"].mean < base["portability.nll"].mean
