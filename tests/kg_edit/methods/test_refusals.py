"""Methods, presets, settings and calls that are refused before an edit is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from kg_edit.edits.edit import Edit
from kg_edit.errors import (
    ChatTemplateError,
    ConfigError,
    CovarianceError,
    EditError,
    GraphError,
    ModelError,
    PatchError,
    RefusedEditsError,
    UnknownNameError,
    UnsupportedModelError,
)
from kg_edit.methods import find_method
from kg_edit.methods.config import MethodConfig
from kg_edit.methods.glame.batch import GlameBatchConfig
from kg_edit.methods.glame_plus.answers import AnswerOptions
from kg_edit.methods.glame_plus.method import GlamePlusConfig
from kg_edit.methods.rome.method import rank_one_update
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.zoo.ke.network import KeTraining
from tests.kg_edit.methods.glame.test_variants import EDIT as VARIANT_EDIT
from tests.kg_edit.methods.glame.test_variants import control
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.methods.rome.test_rome import covariance
from tests.kg_edit.methods.test_chat_form import EDIT
from tests.kg_edit.methods.test_graph_settings import READERS
from tests.kg_edit.methods.test_graph_settings import settings as graph_settings
from tests.kg_edit.methods.test_idle_settings import config_of
from tests.kg_edit.methods.test_lasting_edits import FIRST, SECOND
from tests.kg_edit.methods.test_methods import graph
from tests.kg_edit.methods.test_unstructured import TEXT
from tests.kg_edit.on_tiny import on_tiny
from tests.kg_edit.ship.app.serving import toy_graph
from tests.kg_edit.tiny import chatting, tiny
from tests.refusals import Call, check_refused, refusals

LLAMA = tiny("llama")


def preset(method: str, name: str) -> Call:
    return lambda _: find_method(method).config_class.preset(name, method=method)


def setting(method: str, **settings: Any) -> Call:
    """The default preset with these settings; a dot of a name is written as two underscores."""
    dotted = {name.replace("__", "."): value for name, value in settings.items()}

    def call(_: Path) -> MethodConfig:
        return find_method(method).config_class.preset("default", dotted, method=method)

    return call


def check(method: str, model: LanguageModel, edit: Edit) -> Call:
    """What a method says of an edit before it computes anything."""
    return lambda _: find_method(method).on(model, settings=QUICK[method]).check([edit])


def edit_twice() -> object:
    first, second = (Edit(id="a", subject=city, prompt="{} is in", target_new="Rome") for city in ("Paris", "Bern"))
    return find_method("rome").on(LLAMA, settings=QUICK["rome"]).edit([first, second])


def idle(name: str, settings: dict[str, Any]) -> Call:
    """A setting that changes nothing."""
    return lambda _: config_of(name, settings).refuse_idle()  # type: ignore[func-returns-value]


def prepare(name: str, **settings: Any) -> Call:
    """Every edit would fail with the settings."""
    return lambda _: on_tiny(name, graph=graph(), **settings).prepare()  # type: ignore[func-returns-value]


def rank_one(change: Sequence[float] = (1.0, 1.0), bare_key: Sequence[float] = (1.0, 1.0)) -> Call:
    """An update of a weight of two rows."""
    return lambda _: rank_one_update(
        change=torch.tensor(change),
        mean_key=torch.tensor([1.0, 0.0]),
        bare_key=torch.tensor(bare_key),
        covariance=covariance(1, 1),
        matrix=torch.eye(2),
    )


def below_a_memory(_: Path) -> object:
    """A memory replaces its layer's output, so a change of the weight below it does nothing."""
    start = on_tiny("memory", layer=2).edit([FIRST])
    return on_tiny("ft-m", layer=2).edit([SECOND], start=start)


def remove_from_scaled(_: Path) -> object:
    """The stored values of a joint patch are those of the whole change."""
    method = on_tiny("memit")
    patch = method.edit([FIRST, SECOND])
    assert isinstance(patch, WeightPatch)
    return method.without(patch.scaled(0.5), [FIRST.id])  # type: ignore[attr-defined]


# (method, its settings, the setting that changes nothing with them)
IDLE: list[tuple[str, dict[str, Any], str]] = [
    ("mend", {"untrained": False, "network": "mend/", "blocks": 2}, "setting blocks"),
    ("ke", {"network": "ke/", "edit_lr": 0.5}, "setting edit_lr"),
    ("serac", {"network": "serac/", "layer": 3}, "setting layer"),
    ("alphaedit", {"covariance": {"ridge": 0.5}}, "setting covariance.ridge"),
    ("ike", {"ratio": (1, 3, 0)}, "setting ratio"),
    ("ike", {"seed": 1}, "setting seed"),
    ("ike", {"demonstrations": "train.json", "count": 0, "seed": 1}, "setting seed"),
    ("rag", {"encoder": "e5"}, "set gate=similarity"),
    ("ike", {"encoder": "e5", "gate": "bm25"}, "setting encoder"),
    ("definition", {"seed": 1}, "setting seed"),
    ("definition", {"insert": "fact", "exclude_answers": True}, "setting exclude_answers"),
    ("defer", {"texts": 0, "gate_weight": 2.0}, "setting gate_weight"),
    ("defer", {"texts": 9, "gate_weight": 0.0}, "setting texts"),
    ("t-patcher", {"memory_weight": 0.0, "hardest": 9}, "setting hardest"),
    ("grace", {"seed": 1}, "setting seed"),
    ("glame-plus", {"ripple_weight": 0.0, "shown": 1}, "set answers.shown"),
    ("glame", {"graph_weight": 1.0}, "graph_rows=0"),
    ("glame-mlp", {"relations": False}, "setting relations"),
    ("rome", {"covariance": {"corpus": "text.txt", "seed": 7}}, "setting covariance.seed"),
    ("alphaedit", {"covariance": {"corpus": "text.txt", "seed": 7}}, "setting covariance.seed"),
]


BOTH_FORMS = EDIT.with_form(chat="both")


@refusals(
    {
        # Names
        "class that is no method": (
            lambda _: find_method(dict),  # type: ignore[arg-type]
            ConfigError,
            "expected the name of a method",
        ),
        "misspelt method": (lambda _: find_method("roem"), UnknownNameError, "did you mean 'rome'"),
        "misspelt preset": (preset("glame", "papr"), UnknownNameError, "did you mean 'paper'"),
        "misspelt preset of a model": (preset("rome", "gpt-2-xl"), UnknownNameError, "did you mean 'gpt2-xl'"),
        "preset of other methods": (preset("glame", "qwen2.5-7b"), UnknownNameError, "known for "),
        "preset that the method lacks": (preset("memit", "long"), UnknownNameError, "fast"),
        "misspelt setting": (setting("glame", step=3), UnknownNameError, "did you mean 'steps'"),
        "misspelt setting of a group": (setting("glame", graph__polcy="uniform"), ConfigError, "did you mean 'policy'"),
        # Values
        "number that is too small": (setting("glame", steps=0), ConfigError, "steps"),
        "setting that is set twice": (
            setting("rome", covariance={"tokens": 5}, covariance__tokens=1000),
            ConfigError,
            "covariance.tokens is set twice",
        ),
        "truth for a number": (setting("glame", steps=True), ConfigError, "found true"),
        "falsehood for a number": (setting("glame", stop_below=False), ConfigError, "found false"),
        "truth in a group": (setting("glame", covariance={"tokens": True}), ConfigError, "covariance.tokens"),
        "truth in a list": (setting("memit", layers=[0, True]), ConfigError, "layers[1]"),
        "truth in a pair": (setting("glame", context_lengths=[[5, True]]), ConfigError, "context_lengths[0][1]"),
        "empty name of a network": (setting("mend", network=""), ConfigError, "expected a name"),
        "empty name of a file": (setting("ike", demonstrations=""), ConfigError, "expected a name"),
        "empty name of a corpus": (setting("rome", covariance__corpus=""), ConfigError, "expected a name"),
        "no layers": (setting("kn", layers=()), ConfigError, "layers"),
        "no modules": (setting("lora", modules=()), ConfigError, "modules"),
        "one layer twice": (setting("kn", layers=(1, 1)), ConfigError, "layers"),
        "layers in another order": (setting("memit", layers=(2, 1)), ConfigError, "layers"),
        "contexts that are too short": (setting("rome", context_lengths=((1, 2),)), ConfigError, "context_lengths"),
        "fewer than no contexts": (setting("glame", context_lengths=((5, -1),)), ConfigError, "context_lengths"),
        "seed that is too large": (setting("rome", seed=2**41), ConfigError, "seed"),
        "seed that is too small": (setting("grace", seed=-(2**64)), ConfigError, "seed"),
        "unknown policy of a graph": (setting("glame", graph__policy="best"), ConfigError, "'relation-stratified'"),
        "unknown direction of a graph": (setting("glame", graph__direction="in"), ConfigError, "'out' or 'both'"),
        "empty answer": (setting("glame", graph__leakage__answers=[""]), ConfigError, "none of them empty"),
        "fewer than no rows of a graph": (setting("glame", graph_rows=-1), ConfigError, "graph_rows"),
        "rows with a negative weight": (setting("glame", graph_rows=1, graph_weight=-1), ConfigError, "graph_weight"),
        "nothing that follows": (
            setting("glame-plus", answers=None, ripple_weight=0),
            ConfigError,
            "ripple_weight=0",
        ),
        # Models and edits
        "pmet and recurrent blocks": (
            lambda _: find_method("pmet").on(tiny("lfm2")),
            UnsupportedModelError,
            "take rome, memit",
        ),
        "kn and recurrent blocks": (
            lambda _: find_method("kn").on(tiny("lfm2")),
            UnsupportedModelError,
            "take rome, memit",
        ),
        "glame-plus and recurrent blocks": (
            lambda _: find_method("glame-plus").on(tiny("lfm2"), graph=toy_graph()),
            UnsupportedModelError,
            "take rome, memit",
        ),
        "both forms with ft-m": (check("ft-m", chatting(), BOTH_FORMS), EditError, "ft-m makes an edit in one form"),
        "both forms with grace": (check("grace", chatting(), BOTH_FORMS), EditError, "grace makes an edit in one form"),
        "both forms with kn": (check("kn", chatting(), BOTH_FORMS), EditError, "kn makes an edit in one form"),
        "both forms of a paragraph": (
            check("memit", LLAMA, TEXT.with_form(chat="both")),
            EditError,
            "give true or false",
        ),
        "chat without a template": (check("rome", LLAMA, EDIT.with_form(chat=True)), ChatTemplateError, "leave --chat"),
        "layer below the edited one": (
            lambda _: GlamePlusConfig(layer=2, answers=AnswerOptions(layer=1)).written_layers(4),
            ConfigError,
            "answers.layer=1 is not above the edited layer 2",
        ),
        "batch with a warm start": (
            lambda _: GlameBatchConfig(warm_start=True),
            ConfigError,
            "the edits of a batch are made at once",
        ),
        "graph in its ablation": (setting("glame-mlp", use_graph=True), ConfigError, "use_graph"),
        "relations in their ablation": (setting("glame-gnn", relations=True), ConfigError, "relations"),
        "rank of MEND": (
            lambda _: KeTraining.model_validate({"rank": 7}),
            ValidationError,
            "rank is a setting of MEND",
        ),
        "statistics of MEND": (
            lambda _: KeTraining.model_validate({"normalise_on": 7}),
            ValidationError,
            "normalise_on is a setting of MEND",
        ),
        **{f"idle: {name} {settings}": (idle(name, settings), ConfigError, said) for name, settings, said in IDLE},
        "idle setting, before a model is loaded": (
            lambda _: find_method("alphaedit").check_inputs(  # type: ignore[func-returns-value]
                config_of("alphaedit", {"covariance": {"ridge": 0.5}}), None, ()
            ),
            ConfigError,
            "covariance.ridge",
        ),
        **{
            f"{name} without a graph": (
                lambda _, name=name: find_method(name)(tiny("llama"), graph_settings(name)),
                ConfigError,
                "needs a knowledge graph",
            )
            for name in READERS
        },
        "pool without statements": (
            lambda _: control(tiny("llama"), "Nowhere").check([VARIANT_EDIT]),  # type: ignore[func-returns-value]
            GraphError,
            "larger pool",
        ),
        "no layer 9 for the keys of labels": (
            prepare("glame", representation_layer=9),
            ModelError,
            "there is no layer 9",
        ),
        "no direction to edit in": (prepare("alphaedit", threshold=1e-9), CovarianceError, "no direction to edit in"),
        "key at a right angle": (rank_one(bare_key=[0.0, 1.0]), PatchError, "orthogonal"),
        "change that is no number": (rank_one(change=[float("nan"), 1.0]), PatchError, "not finite"),
        "weight below a memory": (below_a_memory, PatchError, "replaces the output of this layer"),
        "values beyond the anchor": (
            lambda _: on_tiny("memit", anchor=0.01).edit([FIRST, SECOND]),
            RefusedEditsError,
            "2 edits of the batch fail: '1', '2'",
        ),
        "value beyond the anchor": (
            lambda _: on_tiny("memit", anchor=0.01).edit([FIRST]),
            PatchError,
            "as long as in the unedited model; anchor allows 0.01",
        ),
        "edit of a scaled joint patch": (remove_from_scaled, PatchError, "was scaled"),
        "one id twice": (lambda _: edit_twice(), ConfigError, "edits 1 and 2 have the same id 'a'"),
    }
)
def test_mistake_is_refused(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)
