"""The model card, and what an adapter's base is loaded by."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from kg_edit.edits.edit import Edit
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.reports.rows import Reading, ReportProbe, ReportRow
from kg_edit.ship.export.card import Form, Score, base_model, model_card
from kg_edit.ship.export.shipment import gguf_of, scores_of

EDITS = (
    Edit(id="a", subject="Google", prompt="{} was founded by", target_new="Steve | Jobs", target_true="Larry Page"),
    Edit(id="b", subject="Thames", prompt="The river {} flows through", target_new="*Paris*"),
)
PATCH = WeightPatch(factors={}, provenance={"edits": [{"method": "rome"}, {"method": "memit"}]})


def card(name: str, *, form: Form = "peft", base: str | None = None, license: str | None = None) -> tuple[dict, str]:  # type: ignore[type-arg]
    """The metadata, and the text behind it."""
    model = base_model(name, base=base, license=license)
    text = model_card(
        PATCH, EDITS, base=model, form=form, scores=(Score(kind="locality prompts", prompts=3, unedited=3, edited=2),)
    )
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_card_of_a_named_model_names_its_hub_id() -> None:
    base = base_model("smollm2-135m")
    assert base.path == base.hub == "HuggingFaceTB/SmolLM2-135M-Instruct" and base.license == "apache-2.0"
    front, body = card("smollm2-135m")
    assert front["base_model"] == base.hub and front["base_model_relation"] == "adapter"
    assert (front["license"], front["library_name"]) == ("apache-2.0", "peft")
    assert "AutoPeftModelForCausalLM.from_pretrained" in body and "before quantisation" in body
    assert "| Google was founded by | Steve \\| Jobs | Larry Page |" in body, "a cell stays one cell"
    assert "\\*Paris\\*" in body and "| locality prompts | 3 | 3 | 2 |" in body
    assert "method: memit, rome" in body and "As the base model: apache-2.0." in body
    assert "put a line break before it" not in body, "no edit is named whose subject is not read"


def test_card_names_the_form_of_chat_edits() -> None:
    google, thames = EDITS
    base = base_model("smollm2-135m")
    text = model_card(PATCH, (google.with_form(chat=True), thames), base=base, form="peft", scores=())
    assert "| Google was founded by | Steve \\| Jobs | Larry Page | chat |" in text and "| plain text |" in text
    assert "apply_chat_template" in text
    assert "asked as" not in card("smollm2-135m")[1]


def test_card_of_a_local_folder_has_its_path_and_license(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: 'mit'\n---\n# A model\n")
    base = base_model(str(folder))
    assert (base.path, base.hub, base.license) == (str(folder), None, "mit")
    front, body = card(str(folder))
    assert "base_model" not in front and front["license"] == "mit"
    assert f"Its hub id is not known: the base is the folder `{folder}`" in body
    assert "PeftModel.from_pretrained(base" in body and "AutoPeft" not in body
    for line, license_id in (
        ("license: mit # as is", "mit"),
        ("license: null", None),
        ("license: cc-by-4.0", "cc-by-4.0"),
    ):
        (folder / "README.md").write_text(f"---\n{line}\n--- \nlicense: other\n")
        assert base_model(str(folder)).license == license_id
    (folder / "README.md").write_text("no metadata\n")
    front, body = card(str(folder))
    assert "license" not in front and "Not known: see the base model's own page." in body


def test_base_model_options_override_known_values(tmp_path: Path) -> None:
    front, body = card(str(tmp_path), base="someone/model", license="cc-by-4.0", form="gguf adapter")
    assert (front["base_model"], front["license"], front["library_name"]) == ("someone/model", "cc-by-4.0", "gguf")
    assert "--lora adapter.gguf" in body and "The base is `someone/model` on the hub." in body
    assert base_model("smollm2-135m", base=str(tmp_path)).path == str(tmp_path), "the very weights"
    assert base_model("owner/name").path == "owner/name"


@pytest.mark.parametrize(("form", "loading"), [("folder", "AutoModelForCausalLM"), ("gguf model", "-m model.gguf")])
def test_card_has_the_loading_code_of_its_form(form: Form, loading: str) -> None:
    front, body = card("smollm2-135m", form=form)
    assert loading in body and front["base_model_relation"] == "finetune" and "lora" not in front["tags"]


def test_scores_count_right_answers_by_kind() -> None:
    def row(kind: str, before: bool, after: bool, success: bool) -> ReportRow:
        probe = ReportProbe.model_validate({"kind": kind, "prompt": "p", "ask": "p", "score": "p", "wanted": "w"})
        old = Reading(text="", nats=1.0, success=False, right=before)
        return ReportRow(
            edit="a", probe=probe, unedited=old, edited=Reading(text="", nats=1.0, success=success, right=after)
        )

    rows = [row("rewrite", False, True, True), row("rewrite", True, True, False), row("locality", True, False, False)]
    assert scores_of(rows) == (
        Score(kind="edits, success", prompts=2, unedited=0, edited=1),
        Score(kind="edits, more likely", prompts=2, unedited=1, edited=2),
        Score(kind="locality prompts", prompts=1, unedited=1, edited=0),
    )
    assert scores_of([]) == ()
    text = model_card(PATCH, EDITS, base=base_model("owner/name"), form="peft", scores=())
    assert "No scores were measured for this export" in text


def test_gguf_of_finds_the_file_to_merge_into(tmp_path: Path) -> None:
    file = tmp_path / "base.gguf"
    file.write_bytes(b"")
    assert gguf_of("owner/name", file) == gguf_of(str(file), None) == file
    assert gguf_of("smollm2-135m", None).name == "SmolLM2-135M-Instruct.Q4_1.gguf"
