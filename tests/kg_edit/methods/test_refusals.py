"""Methods, presets, settings and calls that are refused before an edit is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kg_edit.edits.edit import Edit
from kg_edit.errors import (
    ChatTemplateError,
    ConfigError,
    EditError,
    UnknownNameError,
    UnsupportedModelError,
)
from kg_edit.methods import find_method
from kg_edit.methods.config import MethodConfig
from kg_edit.models.language_model import LanguageModel
from tests.kg_edit.methods.quick import QUICK
from tests.kg_edit.methods.test_chat_form import EDIT
from tests.kg_edit.methods.test_unstructured import TEXT
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


BOTH_FORMS = EDIT.in_chat(chat="both")


@refusals(
    {
        # Names
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
            check("memit", LLAMA, TEXT.in_chat(chat="both")),
            EditError,
            "give true or false",
        ),
        "chat without a template": (check("rome", LLAMA, EDIT.in_chat()), ChatTemplateError, "leave --chat"),
        "one id twice": (lambda _: edit_twice(), ConfigError, "edits 1 and 2 have the same id 'a'"),
    }
)
def test_mistake_is_refused(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)
