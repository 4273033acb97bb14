"""Toy edits and a toy graph in words that the tiny models' tokenizer knows; training takes a second."""

from __future__ import annotations

from typing import Any

import networkx as nx

from kg_edit.edits.edit import Edit
from kg_edit.graphs.source import SubgraphSource, as_source
from kg_edit.methods.glame_net.network import NetTraining

PEOPLE = ("LeBron James", "Dwyane Wade", "Spike Hughes", "The lazy dog", "The river Thames", "The Eiffel Tower")
# names with a word in common, so that something can be learned for a name that is held out
PLACES = ("London", "London Lakers", "London Heat", "Paris", "Paris Lakers", "Paris Heat", "Miami", "Miami Lakers")
CAPITALS = ("Oslo", "Lima", "Cairo", "Quito", "Rome", "Bern", "Kyiv", "Riga")
CONTINENTS = ("Asia", "Africa", "Europe", "Asia", "Africa", "Europe", "Asia", "Africa")


def graph() -> SubgraphSource:
    """Each place has a capital and a continent."""
    made = nx.MultiDiGraph()
    made.add_nodes_from((place, {"label": place}) for place in PLACES)
    for relation, objects in (("P36", CAPITALS), ("P30", CONTINENTS)):
        for place, thing in zip(PLACES, objects, strict=True):
            made.add_node(f"{relation} {thing}", label=thing)
            made.add_edge(place, f"{relation} {thing}", label=relation)
    return as_source(made)


def edits() -> tuple[Edit, ...]:
    """Forty-eight edits."""
    return tuple(
        Edit(
            id=f"{person}, {place}",
            subject=person,
            prompt="{} lies in the country of",
            relation="country",
            relation_id="P17",
            target_new=place,
        )
        for person in PEOPLE
        for place in PLACES
    )


def quick(**settings: Any) -> NetTraining:
    """Six steps of four edits, of all of which the edited block is 1."""
    small = {"layer": 1, "hidden": 16, "steps": 6, "batch": 4, "cached": 2, "visits": 2, "warm_up": 2, "shown": 0}
    held = {"validation": 6, "validate_every": 2, "context_lengths": ((4, 1),), "targets_held_out": 0.2}
    return NetTraining.preset("default", {**small, **held, "learning_rate": 0.003, **settings})
