"""OpenAI's completions of the served model: what the ledger holds is in them, and what is not done is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kg_edit.app.messages import TryRequest
from kg_edit.scoring.generation import continuations
from tests.kg_edit.app.serving import EDIT, Served, served, workshop
from tests.kg_edit.tiny import tiny

PROMPTS = ["LeBron James plays for the", "The river", "\nParis is the capital of"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KG_EDIT_CACHE", str(tmp_path_factory.mktemp("cache")))
        with served(workshop(tmp_path_factory.mktemp("kept") / "ledger", steps=5)) as running:
            yield running


def completed(server: Served, prompt: str | list[str], **options: object) -> list[str]:
    code, answer = server.post("/v1/completions", {"prompt": prompt, "max_tokens": 6, **options})
    assert code == 200, answer
    return [choice["text"] for choice in answer["choices"]]


def test_completions_equal_generate_with_the_active_edits(server: Served) -> None:
    plain = continuations(tiny("llama"), PROMPTS, limits=[6] * 3)
    assert completed(server, PROMPTS) == list(plain)
    assert completed(server, PROMPTS[0], temperature=0, model=tiny("llama").name, stream=False) == [plain[0]]
    tried = server.workshop.try_edit(TryRequest.model_validate(EDIT))
    server.workshop.add(tried.id, force=True)
    edited = completed(server, PROMPTS[0], max_tokens=16)
    assert edited[0].strip().startswith(tried.outcomes[0].after.split()[0])
    assert completed(server, PROMPTS[0]) != [plain[0]]
    assert continuations(tiny("llama"), PROMPTS, limits=[6] * 3) == plain, "the model is as before"


def test_models_lists_the_served_model(server: Served) -> None:
    code, text, _ = server.get("/v1/models")
    assert code == 200 and tiny("llama").name in text and '"data":[' in text


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ({"temperature": 0.7}, 422, "send temperature 0"),
        ({"n": 2}, 422, "n 1"),
        ({"best_of": 3}, 422, "best_of 1"),
        ({"best_of": 1}, 200, "text_completion"),
        ({"stream": True}, 422, "stream false"),
        ({"logprobs": 5}, 422, "leave out logprobs"),
        ({"stop": ["."]}, 422, "leave out stop"),
        ({"model": "gpt-4"}, 404, "unknown model 'gpt-4'; this server has only"),
        ({"max_tokens": 0}, 422, "max_tokens"),
        ({"prompt": []}, 422, "prompt"),
        ({"prompt": 7}, 422, "prompt"),
        ({"presence_penalty": 1}, 422, "presence_penalty"),
    ],
)
def test_unsupported_options_are_refused(options: dict[str, object], code: int, message: str, server: Served) -> None:
    found, answer = server.post("/v1/completions", {"prompt": "The river", "max_tokens": 2, **options})
    assert found == code, answer
    assert message in str(answer)


def test_completions_without_a_ledger_are_of_the_unedited_model(tmp_path: Path) -> None:
    desk = workshop(None)
    assert desk.complete(PROMPTS, tokens=3) == continuations(tiny("llama"), PROMPTS, limits=[3] * 3)
