"""Write the model card of an export (``README.md``): edits, scores, base model, licence, and how to load it.

`base_model` finds the name by which `from_pretrained` and `AutoPeftModelForCausalLM` load the base model: a hub id if
one is known, or else a folder. `model_card` makes the Markdown, with the metadata for hubs at its beginning.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from kg_common.terminal import number_of
from kg_edit.edits.edit import Edit
from kg_edit.models.loading import NAMED_MODELS, resolve_model
from kg_edit.patches.changes import Changes
from kg_edit.text.display import escaped_markdown, markdown_table, one_line
from kg_edit.version import __version__

if TYPE_CHECKING:  # a card is written without torch
    from kg_edit.patches.base import Patch

# A line of a card's YAML with the id of a licence, such as apache-2.0
_LICENSE = re.compile(r"""license:\s*["']?([\w.~-]+)["']?\s*(?:#.*)?""")

Form = Literal["peft", "gguf adapter", "gguf model", "folder"]


class _About(NamedTuple):
    """What a card has about a form of export: the metadata's library and relation, a phrase, and how to load it."""

    library: str
    relation: str
    what: str
    use: str


_FORMS: dict[Form, _About] = {
    "peft": _About(
        "peft",
        "adapter",
        "A LoRA adapter (PEFT)",
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM\n\n"
        "base = AutoModelForCausalLM.from_pretrained({base})\n"
        'model = PeftModel.from_pretrained(base, "path/to/this/folder")\n```',
    ),
    "gguf adapter": _About(
        "gguf",
        "adapter",
        "A LoRA adapter in a GGUF file (llama.cpp)",
        "```sh\nllama-server -m base.gguf --lora adapter.gguf\n```\n\n"
        "`base.gguf` is the base model as GGUF, in any quantisation.",
    ),
    "gguf model": _About(
        "gguf",
        "finetune",
        "A model in a GGUF file (llama.cpp), with the edits in its weights",
        "```sh\nllama-server -m model.gguf\n```",
    ),
    "folder": _About(
        "transformers",
        "finetune",
        "A model as transformers loads it, with the edits in its weights",
        "```python\nfrom transformers import AutoModelForCausalLM\n\n"
        'model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")\n```',
    ),
}
_PEFT_OF_HUB = (  # PEFT loads the base model by its hub id
    "```python\nfrom peft import AutoPeftModelForCausalLM\n\n"
    'model = AutoPeftModelForCausalLM.from_pretrained("path/to/this/folder")\n```'
)
_LIMITS = (
    "The edits were made for the prompts above, and an edit may fail. Other wordings, other languages and portability "
    "questions may still get the old answer, and facts about similar subjects may have changed. `kg_edit.json` records "
    "how each edit was made."
)
_START = (
    "If a text begins with {}, put a line break before it: the subject is one token, many models use a text's first "
    "token as an attention sink and do not read it, and the edit was made after a line break. The document's start "
    "(BOS) is no substitute: it was measured, and changes more of the model's text."
)
_CHAT = (
    "Edits that are \"asked as\" chat hold for a user's turn: format the prompt with the tokenizer's chat template "
    "(`apply_chat_template`, with the generation prompt). As plain text it may still get the old answer."
)
_SCORES = (
    "*success*: the greedy continuation begins with the new object. In the other rows, *right* means that the "
    "wanted answer is more likely than the other one, or, if there is no other one, that the model generates it. "
    "Measured on the model that the edits were made on."
)
_ASKED_AS = {(False,): "plain text", (True,): "chat", (False, True): "both"}  # by `Edit.forms`
_EDITS = 200  # largest number of rows in the table; kg_edit.json has all edits
_SUBJECTS = 10  # largest number of subjects that are named


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """The unedited model: its path for loading, its hub id if known, its licence, and its description in Markdown."""

    path: str
    hub: str | None
    license: str | None
    description: str


@dataclass(frozen=True, kw_only=True)
class Score:
    """The number of ``prompts`` of a kind, and how many the unedited and the edited model answer correctly."""

    kind: str
    prompts: int
    unedited: int
    edited: int


def base_model(name: str, *, base: str | None = None, license: str | None = None) -> BaseModel:
    """Describe the base model of an export.

    Args:
        name: the unedited model, as ``--model`` takes it.
        base: the hub id or the folder from which others load it; None: what is known about ``name``.
        license: its licence; None: the known one, or that of the folder's model card or of the GGUF file.
    """
    hub = _find_hub_id(name, base)
    path = hub or str(Path(base or resolve_model(name)).resolve())
    license_id = license or _find_license(name, path)
    return BaseModel(path=path, hub=hub, license=license_id, description=_describe(name, hub=hub, path=path))


def _find_hub_id(name: str, base: str | None) -> str | None:
    """Return the hub id of the unedited model; None if only a folder or a file is known."""
    if base is not None:
        return None if Path(base).is_dir() else base
    named = NAMED_MODELS.get(name)
    if named:
        return named.hub
    is_file = name.endswith(".gguf") or Path(name).exists()
    return None if is_file else name


def _find_license(name: str, path: str) -> str | None:
    """Return the licence of a named model; of another one, what its card or its GGUF file records."""
    named = NAMED_MODELS.get(name)
    if named and named.license:
        return named.license
    if name.endswith(".gguf"):
        return _read_license(Path(name))
    return _read_license(Path(path))


def _describe(name: str, *, hub: str | None, path: str) -> str:
    """Return the sentences of the card about the model that was edited, and where its base model is."""
    edited = _format_code(name)
    sentences = [f"The edits were made on {edited}."]
    if hub is None:
        sentences.append(
            f"Its hub id is not known: the base is the folder {_format_code(path)} of the machine where this was "
            "exported. On another machine, load the base model from your own copy."
        )
    elif hub != name:
        sentences.append(f"The base is {_format_code(hub)} on the hub.")
    named = NAMED_MODELS.get(name)
    if named:
        sentences.append(f"{edited} is {named.about}.")
        if hub == named.hub:
            sentences.append(
                "The hub has the weights from before quantisation, so probabilities differ a little from those of the "
                "model that was edited."
            )
    return " ".join(sentences)


def _format_code(text: str) -> str:
    """Return a text as code in Markdown, where a backslash would be visible: a backtick becomes an apostrophe."""
    quoted = one_line(text).replace("`", "'")
    return f"`{quoted}`"


def _read_license(path: Path) -> str | None:
    """Return the licence in the model card of a folder, or in the metadata of a GGUF file; None if there is none."""
    if path.name.endswith(".gguf"):
        from kg_edit.models.gguf_reading import ArrayReader

        field = ArrayReader(path).get_field("general.license")
        return str(field.contents()) if field else None
    try:
        lines = (path / "README.md").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    if not lines or lines[0].strip() != "---":
        return None
    for line in lines[1:]:
        if line.rstrip() == "---":
            break
        match = _LICENSE.fullmatch(line)
        if match and match[1] not in ("null", "~"):
            return match[1]
    return None


def model_card(
    patch: Patch | Changes,
    edits: Sequence[Edit],
    *,
    base: BaseModel,
    form: Form,
    scores: Sequence[Score],
    unread: Sequence[Edit] = (),
) -> str:
    """Return the model card as Markdown.

    Args:
        patch: the exported patch.
        edits: its edits.
        base: the unedited model.
        form: the form of the export.
        scores: the measured scores; empty if there are none.
        unread: those of the edits whose subject is the first token of their prompt.
    """
    about = _FORMS[form]
    count = number_of(len(edits), "fact")
    method_names = sorted({str(record.get("method")) for record in patch.edits})
    methods = escaped_markdown(", ".join(method_names))
    in_chat = any(True in edit.forms for edit in edits)
    use = about.use.format(base=json.dumps("path/to/the/base"))
    if form == "peft" and base.hub:
        use = _PEFT_OF_HUB

    parts = [
        _write_metadata(base, about),
        f"# {count} edited in {escaped_markdown(one_line(base.hub or Path(base.path).name))}",
        f"{about.what}, edited with {count}. Made with kg-edit {__version__} (method: {methods}).",
        "## Edits",
        _edit_table(edits[:_EDITS], in_chat=in_chat),
    ]
    if len(edits) > _EDITS:
        parts.append(f"… and {len(edits) - _EDITS} more in `kg_edit.json`.")
    parts += ["## Scores", _score_table(scores)]
    parts += ["## Base model", base.description, "## Use", use, "## Limits", _LIMITS]
    if unread:
        parts.append(_START.format(_list_subjects(unread)))
    if in_chat:
        parts.append(_CHAT)
    known = "Not known: see the base model's own page."
    if base.license:
        known = f"As the base model: {base.license}."
    parts += ["## License", known]
    return "\n\n".join(parts) + "\n"


def _write_metadata(base: BaseModel, about: _About) -> str:
    """Return the metadata for a hub, which are YAML. Strings are written as JSON, which is valid YAML."""
    lines = ["---"]
    if base.hub:
        lines += [f"base_model: {json.dumps(base.hub)}", f"base_model_relation: {about.relation}"]
    if base.license:
        lines.append(f"license: {json.dumps(base.license)}")
    lines += [f"library_name: {about.library}", "pipeline_tag: text-generation"]
    lines += ["tags:", "- kg-edit", "- knowledge-editing"]
    if about.relation == "adapter":
        lines.append("- lora")
    return "\n".join([*lines, "---"])


def _edit_table(edits: Sequence[Edit], *, in_chat: bool) -> str:
    """Return a table with a row for each edit; ``in_chat``: also show the form in which an edit is asked."""
    header = ["prompt", "new object", "old object"]
    if in_chat:
        header.append("asked as")
    rows = []
    for edit in edits:
        cells = [edit.text, edit.target_new, edit.target_true or "", _ASKED_AS[edit.forms]]
        rows.append([escaped_markdown(one_line(cell)) for cell in cells[: len(header)]])
    return markdown_table(header, rows)


def _score_table(scores: Sequence[Score]) -> str:
    if not scores:
        return "No scores were measured for this export; `kg-edit patch check` asks the edits' prompts again."
    numbers = [(score.kind, str(score.prompts), str(score.unedited), str(score.edited)) for score in scores]
    header = ("prompts", "asked", "right, unedited", "right, edited")
    return f"{markdown_table(header, numbers, numbers_from=1)}\n\n{_SCORES}"


def _list_subjects(edits: Sequence[Edit]) -> str:
    """Return the first subjects of the edits, in words."""
    subjects = [escaped_markdown(one_line(edit.subject)) for edit in edits]
    subjects = list(dict.fromkeys(subjects))  # each once
    named = subjects[:_SUBJECTS]
    if len(subjects) > _SUBJECTS:
        named.append(f"{len(subjects) - _SUBJECTS} other subjects")
    return " or ".join(named)
