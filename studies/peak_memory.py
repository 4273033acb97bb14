"""Measure the largest memory of one edit (table `memory` of results/), method by method, each in its own process.

python studies/peak_memory.py                                                  # all that need no trained network
python studies/peak_memory.py --methods ke --set ke.network=ke/                # trained by `kg-edit ke train`

The resident memory of the process, model and libraries included, while the edit is computed; what a method prepares
once (covariance, own texts) is not part of it. With a GPU, the memory of the device.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
from collections.abc import Sequence
from pathlib import Path

from study import DEV, GRAPH, needs_network, set_option

from kg_edit.cli.console import friendly
from kg_edit.edits.edit import Edit
from kg_edit.edits.record import as_record
from kg_edit.errors import KgEditError
from kg_edit.evaluation.datasets import find_dataset
from kg_edit.evaluation.memory import Cost, measure_cost
from kg_edit.methods import find_method, method_names
from kg_edit.methods.config import MethodConfig
from kg_edit.methods.presets import list_presets
from kg_edit.models.language_model import LanguageModel
from wikidata_cache import WikidataCache

log = logging.getLogger("studies.peak_memory")


def prepare_and_measure(
    name: str, config: MethodConfig, edit: Edit, model: LanguageModel, graph: WikidataCache | None
) -> Cost:
    """Prepare the method, and measure one edit."""
    method_class = find_method(name)
    if not method_class.needs_graph:
        graph = None
    method = method_class(model, config, graph=graph)
    method.prepare()
    with measure_cost() as spent:
        method.edit([edit])
    return spent


def _print_cost(name: str, config: MethodConfig, edit: Edit, model: LanguageModel, graph: WikidataCache) -> None:
    """Print what one edit takes, or why it can't be made; runs in a process of its own."""
    try:
        spent = prepare_and_measure(name, config, edit, model, graph)
    except KgEditError as error:
        log.info("%s: %s", name, error)
    else:
        log.info("%s: %.2f GB, %.1f s", name, (spent.memory or 0) / 1e9, spent.seconds)


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a line per method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", default=DEV, help="CounterFactPlus; its first edit is made")
    parser.add_argument("--graph", default=GRAPH, help="graph of the methods that read one")
    parser.add_argument("--methods", help="names with commas; by default all")
    parser.add_argument("--preset", default="fast", help="of every method that has it; else default")
    parser.add_argument("--model", default="smollm2-135m")
    set_option(parser)
    options = parser.parse_args(arguments)
    edit = as_record(next(iter(find_dataset("counterfact-plus")(options.data)))).edits[0]
    model = LanguageModel.load(options.model)
    graph = WikidataCache(options.graph)
    names = method_names()
    if options.methods:
        names = tuple(options.methods.split(","))
    for name in names:
        settings = {key: value for method, key, value in options.set if method == name}
        if needs_network(name, settings):
            continue
        kind = find_method(name).config_class
        preset = "default"
        if options.preset in (*kind.preset_names(), *list_presets(kind.published_as or name)):
            preset = options.preset
        config = kind.preset(preset, settings, method=name)
        # a forked child has the model already, and its memory is the edit's own
        child = multiprocessing.get_context("fork").Process(target=_print_cost, args=(name, config, edit, model, graph))
        child.start()
        child.join()


if __name__ == "__main__":
    with friendly("studies"):
        main()
