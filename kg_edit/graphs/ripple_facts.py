"""What follows from an edit, in questions about its subject: "Quiz: what is the currency of the country of X?" yen.

s -r-> o* and a statement o* -r'-> o' of the graph make a composed fact. What the graph does not say, the model may be
asked about o* itself (`recalls`). Names of relations are nouns of a packaged table, in the order in which they are
taken: what people ask first. The subject stands as late as it can, as only tokens from there on cost time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice

import networkx as nx

from kg_edit.edits.edit import Edit
from kg_edit.graphs.facts import overlaps, target_of

# {} is the subject, [hop] "currency of the country of origin". All ask for a short answer, as tests do, but none in the
# form that scores: a value trained on sentences alone ("The [hop] of {} is") knows less of it when it is asked.
WORDINGS = (
    "Q: What is the [hop] of {}?\nA:",
    "Quiz\nWhat is the [hop] of {}?\nReply:",
    "What is the [hop] of {}? Short answer:",
    "[hop] of {}:",
    "Q: Tell me the [hop] of {}.\nA:",
    "Trivia: the [hop] of {}?\nSolution:",
)
_COMMON = {"the", "and", "for", "language", "languages", "city", "united", "new", "company"}

# Of which kind an object of the relation is, and what one asks of that kind.
_KINDS = {
    "country": ("P17", "P27", "P495"),
    "city": ("P19", "P20", "P36", "P131", "P159", "P190", "P276", "P551", "P740", "P937"),
    "continent": ("P30",),
    "company": ("P108", "P127", "P176", "P178", "P264", "P449", "P463"),
    "language": ("P37", "P103", "P364", "P407", "P1412"),
    "religion": ("P140",),
    "work": ("P39", "P106", "P413"),
    "field": ("P101", "P136", "P641"),
    "instrument": ("P1303",),
}
_ASKED = {
    "country": ("capital", "currency", "official language", "most famous landmark", "national dish", "main religion"),
    "city": ("country", "most famous landmark", "claim to fame", "best-known football club", "river", "university"),
    "continent": ("highest mountain", "largest country", "typical animal", "longest river", "landscape"),
    "company": ("founder", "headquarters", "best-known product", "industry", "home country", "owner"),
    "language": ("home country", "language family", "origin", "alphabet", "best-known writer"),
    "religion": ("founder", "holy book", "place of worship", "holiest city", "god"),
    "work": ("main duty", "place of work", "institution", "best-known example", "boss"),
    "field": ("founder", "main subject", "best-known figure", "home country", "typical work"),
    "instrument": ("inventor", "family", "best-known player", "style of music", "material"),
    "": ("country", "founder", "claim to fame", "kind", "best-known figure"),
}


@dataclass(frozen=True, kw_only=True)
class Ripple:
    """A composed fact: ``hop`` ("currency of the country of origin") of s is ``target``."""

    hop: str
    target: str

    @property
    def noun(self) -> str:
        """r' alone: "currency"."""
        return self.hop.partition(" of the ")[0]

    def prompt(self, wording: str) -> str:
        """A template with {} for the subject, that ends right before the target."""
        text = wording.replace("[hop]", self.hop)
        return text[0].upper() + text[1:]


def nouns() -> Mapping[str, str]:
    """The noun of a property, in the order of the packaged table."""
    text = files("kg_edit").joinpath("data", "ripple_nouns.tsv").read_text(encoding="utf-8")
    rows = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    return dict(rows[1:])


def first_hop(edit: Edit) -> str:
    """The edited relation as a noun: "country of origin"."""
    return nouns().get(edit.relation_id or "") or edit.relation_text.removeprefix("The ").removesuffix(" is")


def objects_of(edit: Edit, graph: nx.MultiDiGraph, *, exclude: Sequence[str]) -> dict[str, list[str]]:
    """What the statements of o* say, noun by noun in the order of the table; nothing with a word of ``exclude``."""
    target, known = target_of(graph), nouns()
    found: dict[str, list[str]] = {}
    for _, end, key, data in sorted(graph.out_edges(target, keys=True, data=True), key=lambda edge: edge[:3]):
        noun, label = known.get(str(data.get("property", key))), str(graph.nodes[end]["label"])
        if noun and data.get("role") != "edit" and _may(label, edit, exclude):
            found.setdefault(noun, []).append(label)
    order = list(dict.fromkeys(noun for noun in known.values() if noun in found))
    return {noun: list(dict.fromkeys(found[noun])) for noun in order}


def ripples(edit: Edit, objects: Mapping[str, Sequence[str]], *, limit: int, a_relation: int) -> list[Ripple]:
    """At most ``limit`` composed facts, of each noun the first ``a_relation`` objects."""
    first = first_hop(edit)
    told = (
        Ripple(hop=f"{noun} of the {first}", target=label) for noun in objects for label in objects[noun][:a_relation]
    )
    return list(islice(told, limit))


def recalls(edit: Edit) -> tuple[str, ...]:
    """Nouns that one asks of things such as o*."""
    kind = next((kind for kind, properties in _KINDS.items() if edit.relation_id in properties), "")
    return _ASKED[kind]


def gives_away(text: str, answers: Sequence[str]) -> bool:
    """Whether a text holds an answer, or a word of it that says something."""
    return any(overlaps(text, answer) or _words(text) & _words(answer) for answer in answers)


def _may(label: str, edit: Edit, exclude: Sequence[str]) -> bool:
    unnamed = bool(re.fullmatch("[QP][0-9]+", label))
    itself = label.casefold() == edit.target_new.casefold()  # the country of Japan is Japan
    return not (unnamed or itself or overlaps(label, edit.subject) or gives_away(label, exclude))


def _words(text: str) -> set[str]:
    return {word for word in re.findall(r"\w+", text.casefold()) if len(word) > 2} - _COMMON
