"""Writes the model card of an export (``README.md``): edits, scores, base model, licence, and how to load it.

`base_model` finds the name by which `from_pretrained` and `AutoPeftModelForCausalLM` load the base model: a hub id if
one is known, or else a folder. `model_card` makes the Markdown, with the metadata for hubs at its beginning.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kg_edit.edits.edit import Edit
from kg_edit.models.loading import NAMED_MODELS, resolve_model
from kg_edit.patches.base import Patch
from kg_edit.text.display import escaped_markdown, markdown_table, one_line
from kg_edit.version import __version__

Form = Literal["peft", "gguf adapter", "gguf model", "folder"]
_START = (
    "If a prompt begins with its subject, put a line break before it: some models do not read a text's first token."
)
_CHAT = (
    "Edits that are \"asked as\" chat hold for a user's turn: format the prompt with the tokenizer's chat template "
    "(`apply_chat_template`, with the generation prompt). As plain text it may still get the old answer."
)
_FORMS = {(False,): "plain text", (True,): "chat", (False, True): "both"}  # by `Edit.forms`
_EDITS = 200  # largest number of rows in the table; kg_edit.json has all edits
_LIBRARY: dict[Form, str] = {"peft": "peft", "gguf adapter": "gguf", "gguf model": "gguf", "folder": "transformers"}
_RELATION: dict[Form, str] = {
    "peft": "adapter",
    "gguf adapter": "adapter",
    "gguf model": "finetune",
    "folder": "finetune",
}
_WHAT: dict[Form, str] = {
    "peft": "A LoRA adapter (PEFT)",
    "gguf adapter": "A LoRA adapter in a GGUF file (llama.cpp)",
    "gguf model": "A model in a GGUF file (llama.cpp), with the edits in its weights",
    "folder": "A model as transformers loads it, with the edits in its weights",
}


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """The unedited model: its path for loading, its hub id if known, its licence, and sentences that describe it."""

    path: str
    hub: str | None
    license: str | None
    said: str


@dataclass(frozen=True, kw_only=True)
class Score:
    """The number of prompts of a kind (``asked``), and how many the unedited and the edited model answer rightly."""

    kind: str
    asked: int
    unedited: int
    edited: int


def base_model(name: str, *, base: str | None = None, license: str | None = None) -> BaseModel:
    """The base model for a name (as ``--model`` takes it); ``base`` and ``license`` override what is known about it.

    Raises:
        ModelError: a named model is not installed, or a ``.gguf`` file can't be read.
    """
    named = NAMED_MODELS.get(name)
    hub = named.hub if named else None if _is_here(name) else name
    if base is not None:
        hub = None if Path(base).is_dir() else base
    path = hub or str(Path(base or resolve_model(name)).resolve())
    known = license or (named.license if named else None) or _license_of(Path(name if _is_gguf(name) else path))
    return BaseModel(path=path, hub=hub, license=known, said=" ".join(_said(name, path, hub)))


def _is_here(name: str) -> bool:
    return _is_gguf(name) or Path(name).exists()


def _said(name: str, path: str, hub: str | None) -> Iterator[str]:
    """Yield sentences in Markdown that describe the base model."""
    yield f"The edits were made on {_code(name)}."
    if hub is None:
        yield (
            f"Its hub id is not known: the base is the folder {_code(path)} of the machine where this was exported. "
            "On another machine, load the base model from your own copy."
        )
    elif hub != name:
        yield f"The base is {_code(hub)} on the hub."
    if name in NAMED_MODELS:
        yield f"{_code(name)} is {NAMED_MODELS[name].about}."
    if name in NAMED_MODELS and hub == NAMED_MODELS[name].hub:
        yield (
            "The hub has the weights from before quantisation, so probabilities differ a little from those of the "
            "model that was edited."
        )


def _code(text: str) -> str:
    """A name as Markdown code; characters can't be escaped there, because a backslash would be visible."""
    return f"`{one_line(text).replace('`', chr(39))}`"


def _is_gguf(name: str) -> bool:
    return name.endswith(".gguf")


def _license_of(place: Path) -> str | None:
    """The licence in the model card of a folder, or in the metadata of a GGUF file; None if there is none."""
    return _license_in_gguf(place) if _is_gguf(place.name) else _license_in_card(place)


def _license_in_gguf(file: Path) -> str | None:
    from kg_edit.models.gguf_reading import ArrayReader

    found = ArrayReader(file).get_field("general.license")
    return str(found.contents()) if found else None


def _license_in_card(folder: Path) -> str | None:
    try:
        lines = (folder / "README.md").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    if not lines or lines[0].strip() != "---":
        return None
    front = lines[1 : lines.index("---", 1)] if "---" in lines[1:] else []
    found = [line.partition(":")[2].strip().strip("'\"") for line in front if line.startswith("license:")]
    return found[0] if found and found[0] else None


def model_card(patch: Patch, edits: Sequence[Edit], *, base: BaseModel, form: Form, scores: Sequence[Score]) -> str:
    """The model card as Markdown; ``edits`` are those of the patch, ``scores`` their measured scores, if any."""
    methods = ", ".join(sorted({str(record.get("method")) for record in patch.edits}))
    count = f"{len(edits)} fact{'' if len(edits) == 1 else 's'}"
    parts = [
        _front(base, form),
        f"# {count[0].upper()}{count[1:]} edited in {escaped_markdown(one_line(base.hub or Path(base.path).name))}",
        f"{_WHAT[form]}: it changes what the model says about {count}. Made with "
        f"kg-edit {__version__} (method: {escaped_markdown(methods)}).",
        "## Edits",
        *_edits(edits),
        "## Scores",
        _scores(scores),
        "## Base model",
        base.said,
        "## Use",
        *_use(form, base),
        "## Limits",
        "The edits were asked with the prompts above. Other wordings, other languages and what follows from a fact may "
        "still give the old answer, and facts about similar subjects may have changed. `kg_edit.json` says how each "
        "edit was made.",
        *([_START] if any(False in edit.forms and edit.text.startswith(edit.subject) for edit in edits) else []),
        *([_CHAT] if any(True in edit.forms for edit in edits) else []),
        "## License",
        f"As the base model: {base.license}." if base.license else "Not known: see the base model's own page.",
    ]
    return "\n\n".join(parts) + "\n"


def _front(base: BaseModel, form: Form) -> str:
    """The YAML metadata for a hub; strings are written as JSON, which is valid YAML."""
    lines = [f"base_model: {json.dumps(base.hub)}", f"base_model_relation: {_RELATION[form]}"] if base.hub else []
    lines += [f"license: {json.dumps(base.license)}"] if base.license else []
    lines += [f"library_name: {_LIBRARY[form]}", "pipeline_tag: text-generation"]
    tags = ["kg-edit", "knowledge-editing", *(["lora"] if form in ("peft", "gguf adapter") else [])]
    return "\n".join(["---", *lines, "tags:", *(f"- {tag}" for tag in tags), "---"])


def _edits(edits: Sequence[Edit]) -> Iterator[str]:
    cells = [(edit.text, edit.target_new, edit.target_true or "", _FORMS[edit.forms]) for edit in edits[:_EDITS]]
    escaped = [[escaped_markdown(one_line(cell)) for cell in row] for row in cells]
    shown = 4 if any(True in edit.forms for edit in edits) else 3
    header = ("prompt", "new answer", "old answer", "asked as")
    yield markdown_table(header[:shown], [row[:shown] for row in escaped])
    if len(edits) > _EDITS:
        yield f"… and {len(edits) - _EDITS} more in `kg_edit.json`."


def _scores(scores: Sequence[Score]) -> str:
    if not scores:
        return "No scores were measured for this export; `kg-edit patch check` asks the edits' prompts again."
    rows = [(score.kind, str(score.asked), str(score.unedited), str(score.edited)) for score in scores]
    header = ("prompts", "asked", "right, unedited", "right, edited")
    note = (
        "*success*: the greedy continuation begins with the new object. In the other rows, *right* means that the "
        "wanted answer is more likely than the other one, or, if there is no other one, that the model generates it. "
        "Measured on the model that the edits were made on."
    )
    return f"{markdown_table(header, rows, numbers_from=1)}\n\n{note}"


def _use(form: Form, base: BaseModel) -> Iterator[str]:
    known = base.hub or "path/to/the/base"
    match form:
        case "peft" if base.hub:
            yield _python(
                "from peft import AutoPeftModelForCausalLM",
                "",
                'model = AutoPeftModelForCausalLM.from_pretrained("path/to/this/folder")',
            )
        case "peft":
            yield _python(
                "from peft import PeftModel",
                "from transformers import AutoModelForCausalLM",
                "",
                f"base = AutoModelForCausalLM.from_pretrained({json.dumps(known)})",
                'model = PeftModel.from_pretrained(base, "path/to/this/folder")',
            )
        case "folder":
            yield _python(
                "from transformers import AutoModelForCausalLM",
                "",
                'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")',
            )
        case "gguf adapter":
            yield "```sh\nllama-server -m base.gguf --lora adapter.gguf\n```"
            yield "`base.gguf` is the base model as GGUF, in any quantisation."
        case "gguf model":
            yield "```sh\nllama-server -m model.gguf\n```"


def _python(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])
