"""The largest memory of one edit, method by method, each in a process of its own that has the model already.

python pipelines/peak_memory.py                                # all methods that need no trained network
python pipelines/peak_memory.py --network ke=ke/ --methods ke  # with a network that `kg-edit ke train` made

The resident memory of the process, model and libraries included, while the edit is computed; what a method prepares
once (covariance, own texts) is not part of it. With a GPU, the memory of the device.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tables import DEV, GRAPH, check_methods, config_of, is_trained, network_option, own_settings

from kg_edit.cli.console import friendly
from kg_edit.datasets import find_dataset
from kg_edit.datasets.record import as_record
from kg_edit.edits.edit import Edit
from kg_edit.errors import KgEditError
from kg_edit.evaluate.cost import Cost, measured
from kg_edit.methods import find_method, method_names
from kg_edit.methods.config import MethodConfig
from kg_edit.models.language_model import LanguageModel
from wikidata_cache import WikidataCache

log = logging.getLogger("peak_memory")


def cost(name: str, config: MethodConfig, edit: Edit, model: LanguageModel, graph: WikidataCache | None) -> Cost:
    """Prepare the method, and make the edit."""
    found = find_method(name)
    method = found(model, config, graph=graph if found.needs_graph else None)
    method.prepare()
    with measured() as spent:
        method.edit([edit])
    return spent


def _tell(name: str, given: tuple[Any, ...]) -> None:
    try:
        spent = cost(name, *given)
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
    network_option(parser)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    edit = as_record(next(iter(find_dataset("counterfact-plus")(options.data)))).edits[0]
    model = LanguageModel.load(options.model)
    graph = WikidataCache(options.graph)
    names = options.methods.split(",") if options.methods else [*method_names()]
    check_methods(options, names)
    for name in [name for name in names if is_trained(name, own_settings(name, options))]:
        given = (config_of(name, options.preset, own_settings(name, options)), edit, model, graph)
        child = multiprocessing.get_context("fork").Process(target=_tell, args=(name, given))
        child.start()
        child.join()


if __name__ == "__main__":
    with friendly():
        main()
