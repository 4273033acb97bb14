"""Which error a method raises for which odd input, and what the error names: what the matrix expects of each method.

Found from what a method's class declares (joint, needs a graph, spreads over layers), so that a new method is held to
the same; what a method refuses for reasons of its own is listed by name.
"""

from __future__ import annotations

from typing import NamedTuple

from kg_edit.errors import (
    ConfigError,
    EditError,
    GraphError,
    KgEditError,
    ModelError,
    PatchError,
    PromptError,
    UnsupportedModelError,
)
from kg_edit.methods import find_method
from kg_edit.methods.memit.joint_config import SpreadConfig
from kg_edit.zoo.adapters.base import AdapterMethod

# Families that normalise after the MLP, or scale its output
POST_NORM = {
    *("exaone4", "gemma2", "gemma3", "gemma3_text", "gemma4", "gemma4_text", "gemma4_unified", "gemma4_unified_text"),
    *("glm4", "granite", "granite_swa", "lfm3", "olmo2", "olmo3", "opt-350m"),
}


class Refusal(NamedTuple):
    """The exact class of an error, what its message has in it, and what its last note has, which names the edit;
    none where nothing is said of an edit."""

    error: type[KgEditError]
    message: str
    note: str = ""


_CLASH = Refusal(
    EditError,
    "field target_new: one batch can't make both 'LeBron James plays for' -> 'Los Angeles Lakers' (edit '1') "
    "and -> 'Paris' (edit 'other')",
)
_OWN = {
    ("kn", "a subject at the end"): Refusal(
        PromptError, "'now' and 'later' begin with the same token, expected different ones", "in the edit '1': "
    ),
    ("kn", "no old target"): Refusal(
        PromptError,
        "the edit has no old answer; give target_true",
        "in the edit '1': 'In France, the capital is' -> 'Rome'",
    ),
}
_FIRST = "in the edit '1': 'LeBron James plays for' -> 'Los Angeles Lakers'"
_EMPTY = {
    "nothing is said of o*": None,
    "o* is not there": None,
    "not even the edit's edge": Refusal(GraphError, "one node needs role='subject', found 0: []", _FIRST),
}
_NO_COUNT = Refusal(
    ConfigError, "can't count popularity in a Nothing; give a networkx graph, a WikidataCache, or", _FIRST
)
_NO_GRADIENT = Refusal(ModelError, "the gradient of 'LeBron James plays for Los Angeles Lakers' is not finite", _FIRST)
_NO_NUMBER = {
    "grace": Refusal(ModelError, "the loss of the value is not finite; give a lower learning_rate", _FIRST),
    "kn": Refusal(PatchError, "no neuron for the old answer 'Miami Heat' after 'LeBron James plays for'", _FIRST),
    "ke": _NO_GRADIENT,
    "malmen": _NO_GRADIENT,
    "mend": _NO_GRADIENT,
    "rledit": _NO_GRADIENT,
    "ultraedit": _NO_GRADIENT,
}


def refusal_of_mishap(name: str, mishap: str) -> Refusal | None:
    """What the method ``name`` raises for the edits of ``mishap``; None if it makes them."""
    method = find_method(name)
    if (name, mishap) in _OWN:
        return _OWN[name, mishap]
    return _CLASH if mishap == "contradictory edits" and method.joint else None


def refusal_of_graph(name: str, empty: str) -> Refusal | None:
    """What the method ``name`` raises for a graph in which there is too little; None if it makes the edit."""
    if name == "popularity-retrieval":
        return _NO_COUNT if empty == "not even the edit's edge" else None
    return _EMPTY[empty] if find_method(name).needs_graph else None


def refusal_of_no_number(name: str) -> Refusal | None:
    """What the method ``name`` raises for a model whose logits are not finite; None where no loss is computed."""
    if find_method(name).changed_part == "prompt":
        return None
    fine_tuned = "ft" in name.split("-") or name in ("adalora", "ext-sub", "locft", "lora", "melo")
    tuned = fine_tuned or issubclass(find_method(name), AdapterMethod)
    message = "the loss is nan at step 0; lower" if tuned else "the loss or the value is not finite; lower"
    return _NO_NUMBER.get(name, Refusal(PatchError, message, _FIRST))


def refusal_of_family(name: str, family: str) -> Refusal | None:
    """What the method ``name`` raises for a model of ``family``; None if it edits such models."""
    if family not in POST_NORM or name != "glame-plus":
        return None
    return Refusal(UnsupportedModelError, f"tiny-{family} (")


def settings_of_family(name: str, family: str) -> dict[str, list[int]]:
    """The settings that the method ``name`` needs for a model of ``family``: one layer where changes don't add up."""
    spread = issubclass(find_method(name).config_class, SpreadConfig) and name != "pmet"  # PMET: values of the MLP
    return {"layers": [1]} if spread and family in POST_NORM else {}


def check_refusal(error: BaseException, expected: Refusal) -> None:
    """``error`` is exactly what is expected: its class, what it names, and its last note."""
    assert type(error) is expected.error
    assert expected.message in str(error)
    notes = getattr(error, "__notes__", [])
    assert expected.note in notes[-1] if expected.note else notes == []
