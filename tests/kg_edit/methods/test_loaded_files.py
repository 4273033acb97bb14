"""An edit loads the files that it needs: ROME no graph, and no method of the core a wing, a report or a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kg_edit.command_line import tiny_folder

__all__ = ["tiny_folder"]  # a fixture

PACKAGES = ("kg_common", "kg_edit", "wikidata_cache")
# The modules that an edit may load, by package: a new one is a decision, as a reader of an edit meets it.
ROME = """
.: kg_common kg_edit
kg_common: atomic errors ids progress
kg_edit: callbacks covariance edits engine errors locate_then_edit methods models patches registry storage
    version writing_systems
kg_edit.covariance: corpora factor files moment store
kg_edit.edits: edit inputs
kg_edit.engine: cache_sums fast_loss passes prefix_cache replay tail_forward
kg_edit.locate_then_edit: descent objective states
kg_edit.methods: base config entries rome value_method
kg_edit.methods.rome: method
kg_edit.models: architectures devices first_token hooks language_model loading prompts sampling
kg_edit.patches: base factors weight_patch
kg_edit.storage: atomic setting_fields
"""
MEASURES_C = """
kg_edit.covariance: doublings keys measure
"""  # of the first edit; a later one reads C from the cache
GLAME_ALSO = """
.: wikidata_cache
kg_common: json_text rows terminal
kg_edit: graphs languages text
kg_edit.edits: templates
kg_edit.engine: cuda_graphs
kg_edit.graphs: controls encoding fact_files facts private_graph rgnn source
kg_edit.methods: glame graph_reader
kg_edit.methods.glame: method
kg_edit.storage: packaged
kg_edit.text: fact_words matching
wikidata_cache: cache deny_lists errors extract ids labels languages offline source_spec sources stores subgraphs values
wikidata_cache.labels: label_index
wikidata_cache.sources: graph_files oxigraph queries source templates user_queries wordings
wikidata_cache.stores: chunks inputs manifest ntriples translators
wikidata_cache.subgraphs: build edit_ends facts options rules sampling subgraph
"""
EDIT = """
import json, sys
from kg_edit import Edit, {method}
edit = Edit(subject="LeBron James", prompt="{{}} plays for the", target_new="Lakers", relation="team")
settings = {{"layer": 1, "steps": 2, "further_steps": 0, "context_lengths": [[3, 1]], "covariance": {{"tokens": 300}}}}
{method}.on({model!r}, settings=settings{graph}).edit([edit])
loaded = [name for name in sys.modules if name.partition(".")[0] in {packages!r}]
print(json.dumps(sorted(loaded)))
"""


def loaded_by(method: str, model: Path, cache: Path, graph: Path | None = None) -> list[str]:
    """Return the modules of the packages that an edit in a fresh process loads; C is stored below ``cache``."""
    given = "" if graph is None else f", graph={str(graph)!r}"
    code = EDIT.format(method=method, model=str(model), graph=given, packages=PACKAGES)
    environment = {**os.environ, "KG_EDIT_CACHE": str(cache)}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    modules: list[str] = json.loads(process.stdout.splitlines()[-1])
    return modules


def named(listing: str) -> set[str]:
    """Return the modules of a listing: a package, a colon, its modules; more lines of one package are indented."""
    modules = set[str]()
    package = ""
    for line in listing.strip().splitlines():
        if not line.startswith(" "):
            package = line.partition(":")[0]
            line = line.partition(":")[2]
        modules |= {name if package == "." else f"{package}.{name}" for name in line.split()}
    return modules


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("graph") / "facts.csv"
    file.write_text("head,relation,tail\nLakers,home,Los Angeles\nLos Angeles,state,California\n")
    return file


@pytest.mark.slow
def test_rome_loads_no_graph_and_no_wing(tiny_folder: Path, tmp_path: Path) -> None:
    first = set(loaded_by("Rome", tiny_folder, tmp_path))
    assert first - named(ROME) - named(MEASURES_C) == set()
    assert set(loaded_by("Rome", tiny_folder, tmp_path)) - named(ROME) == set()


@pytest.mark.slow
def test_glame_loads_graphs_and_no_wing(tiny_folder: Path, facts: Path, tmp_path: Path) -> None:
    loaded = set(loaded_by("Glame", tiny_folder, tmp_path, facts))
    assert loaded - named(ROME) - named(MEASURES_C) - named(GLAME_ALSO) == set()


def test_the_listings_have_no_wing_and_for_rome_no_graph() -> None:
    rooms = {module.split(".")[1] for module in named(ROME) | named(GLAME_ALSO) if module.startswith("kg_edit.")}
    assert rooms.isdisjoint({"cli", "evaluation", "planning", "reports", "ship", "zoo"})
    assert not [module for module in named(ROME) if module.startswith(("wikidata_cache", "kg_edit.graphs"))]
