"""Change single facts in a trained language model, and measure what follows from them.

    from kg_edit import Edit, LanguageModel, Rome, ask

    model = LanguageModel.load("smollm2-135m")
    edit = Edit(subject="The Eiffel Tower", prompt="{} is in the city of", target_new="Rome")
    patch = Rome.on(model).edit([edit])
    with patch.applied(model) as edited:
        print(ask(edited, edit.text))
    patch.save("patch.safetensors")

The names of `__all__` are the front door; each is imported when it is first asked for, so `import kg_edit` alone
imports no torch. All else is in the subpackages; CONTRIBUTING.md names them in the order in which an edit flows.
"""

from typing import TYPE_CHECKING

from kg_common import lazy_names
from kg_edit.version import __version__ as __version__

# Three lists have the same names: these imports, which type checkers read; `__all__`; and the modules of `lazy_names`,
# which the first use imports. `test_public_names_are_imported_at_first_use` compares the last two, and mypy the first.
if TYPE_CHECKING:
    from kg_edit.edits.edit import Edit, LocalityPrompt, Question
    from kg_edit.edits.files import read_edits
    from kg_edit.errors import KgEditError
    from kg_edit.evaluation.comparison import Comparison, compare
    from kg_edit.evaluation.config import EvalConfig
    from kg_edit.evaluation.datasets import find_dataset
    from kg_edit.evaluation.records import RunFolder
    from kg_edit.evaluation.run import evaluate
    from kg_edit.evaluation.summary import Summary
    from kg_edit.methods.glame.method import Glame, GlameConfig
    from kg_edit.methods.registry import find_method, method_names
    from kg_edit.methods.rome.method import Rome, RomeConfig
    from kg_edit.models.language_model import LanguageModel
    from kg_edit.patches.base import Patch
    from kg_edit.reports.probes import before_and_after
    from kg_edit.reports.prompt_comparison import compare_prompts
    from kg_edit.reports.report import BeforeAfter
    from kg_edit.scoring.generation import ask
    from kg_edit.ship.ledger.ledger import Ledger


__all__ = [
    "BeforeAfter",
    "Comparison",
    "Edit",
    "EvalConfig",
    "Glame",
    "GlameConfig",
    "KgEditError",
    "LanguageModel",
    "Ledger",
    "LocalityPrompt",
    "Patch",
    "Question",
    "Rome",
    "RomeConfig",
    "RunFolder",
    "Summary",
    "ask",
    "before_and_after",
    "compare",
    "compare_prompts",
    "evaluate",
    "find_dataset",
    "find_method",
    "method_names",
    "read_edits",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "kg_edit.evaluation.datasets": ["find_dataset"],
        "kg_edit.edits.edit": ["Edit", "LocalityPrompt", "Question"],
        "kg_edit.edits.files": ["read_edits"],
        "kg_edit.errors": ["KgEditError"],
        "kg_edit.evaluation.comparison": ["Comparison", "compare"],
        "kg_edit.evaluation.config": ["EvalConfig"],
        "kg_edit.evaluation.records": ["RunFolder"],
        "kg_edit.evaluation.run": ["evaluate"],
        "kg_edit.evaluation.summary": ["Summary"],
        "kg_edit.ship.ledger.ledger": ["Ledger"],
        "kg_edit.methods.glame.method": ["Glame", "GlameConfig"],
        "kg_edit.methods.registry": ["find_method", "method_names"],
        "kg_edit.methods.rome.method": ["Rome", "RomeConfig"],
        "kg_edit.models.language_model": ["LanguageModel"],
        "kg_edit.patches.base": ["Patch"],
        "kg_edit.reports.prompt_comparison": ["compare_prompts"],
        "kg_edit.reports.probes": ["before_and_after"],
        "kg_edit.reports.report": ["BeforeAfter"],
        "kg_edit.scoring.generation": ["ask"],
    },
)
