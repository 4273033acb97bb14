"""`kg-edit patch push` and `pull`: what a server has afterwards, also where something went wrong in between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.everyday import keep_first
from tests.kg_edit.command_line import Result, Run, cache, content, kg_edit, place, tiny_folder
from tests.kg_edit.ship.cli.test_patch import HEAT, RIVER, write_patch
from tests.kg_edit.ship.ledger.ledgers import edits_of
from tests.kg_edit.ship.live.standins import BASE, Llama, Sglang, StandIn

__all__ = ["cache", "kg_edit", "place", "tiny_folder"]  # fixtures
TEXTS = {HEAT.text: " Miami Heat", RIVER.text: " Paris"}


@pytest.fixture
def ledger(kg_edit: Run, place: Path, tiny_folder: Path) -> Path:
    """A ledger with one edit a step, in two steps."""
    one = write_patch(place / "one.safetensors", tiny_folder, HEAT, size=0.1)
    two = write_patch(place / "two.safetensors", tiny_folder, RIVER, size=0.1)
    assert kg_edit("patch", "add", "ledger", one, two).code == 0
    return place / "ledger"


@pytest.fixture(params=[StandIn, Sglang], ids=["vllm", "sglang"])
def server(request: pytest.FixtureRequest) -> Iterator[StandIn]:
    with request.param() as running:
        running.texts = TEXTS
        yield running


@pytest.fixture
def push(kg_edit: Run, ledger: Path) -> Run:
    """`kg-edit patch push` into ./pushed."""

    def run(server: StandIn, *options: str, what: str = "ledger") -> Result:
        return kg_edit("patch", "push", what, "--server", server.url, "--folder", "pushed", *options)

    return run


def test_pushed_edits_are_served_beside_the_base_and_taken_out(
    kg_edit: Run, push: Run, place: Path, server: StandIn
) -> None:
    result = push(server, "--as", "edited", "--check")
    assert result.code == 0, result.err
    assert f"2 of 2 edits succeed in {server.url}" in result.out
    folder = Path(server.adapters["edited"])
    assert folder.is_absolute() and folder.parent == place / "pushed"
    kg_edit("patch", "export", "ledger", "--to", "peft", "exported")
    ours, exported = load_file(folder / "adapter_model.safetensors"), place / "exported" / "adapter_model.safetensors"
    assert all((tensor == load_file(exported)[name]).all() for name, tensor in ours.items())
    assert kg_edit("patch", "check", "ledger", "--server", server.url, "--served", "edited").code == 0
    assert kg_edit("patch", "check", "ledger", "--server", server.url, "--served", BASE).code == 1
    again = push(server, "--as", "edited")
    assert again.code == 0 and server.loads == 1, "the server has it already"
    pulled = kg_edit("patch", "pull", "edited", "--server", server.url)
    assert pulled.code == 0 and str(folder) in pulled.out and server.adapters == {}
    missing = kg_edit("patch", "pull", "edited", "--server", server.url)
    assert missing.code == 2 and "has no adapter 'edited'" in missing.err


def test_name_that_is_taken_is_replaced_only_if_asked(push: Run, server: StandIn) -> None:
    assert push(server, "--as", "edited", what="ledger@1").code == 0
    first = dict(server.adapters)
    refused = push(server, "--as", "edited")
    assert refused.code == 2 and "--replace" in refused.err and server.adapters == first
    replaced = push(server, "--as", "edited", "--replace")
    assert replaced.code == 0 and first["edited"] in replaced.out, replaced.err
    assert server.adapters["edited"] != first["edited"] and Path(first["edited"]).is_dir()


def test_older_vllm_unloads_before_it_replaces(push: Run) -> None:
    with StandIn(replaces_in_place=False) as server:
        for event in ("ledger@1", "ledger@2"):
            result = push(server, "--as", "edited", "--replace", what=event)
            assert result.code == 0, result.err
        assert json.loads((Path(server.adapters["edited"]) / "adapter_config.json").read_text())["r"] == 2


FAULTS = {
    "says nonsense": "lists nothing as edited",
    "dies before": "can't be reached",
    "dies after": "can't be reached",
}


@pytest.mark.parametrize("fault", keep_first(FAULTS))
def test_server_has_what_it_had_after_a_fault(push: Run, place: Path, server: StandIn, fault: str) -> None:
    server.fault = (fault, 1)
    result = push(server, "--as", "edited")
    assert result.code == 2 and FAULTS[fault] in result.err, result.err
    assert server.adapters == {} and content(place / "pushed") == {}
    assert push(server, "--as", "edited", what="ledger@1").code == 0
    before, server.loads = dict(server.adapters), 0
    result = push(server, "--as", "edited", "--replace")
    assert result.code == 2, result.out
    assert server.adapters == before and len(list((place / "pushed").iterdir())) == 1


def test_server_that_dies_for_good_may_still_read_the_folder(push: Run, place: Path, server: StandIn) -> None:
    server.fault = ("dies for good", 1)
    result = push(server, "--as", "edited")
    assert result.code == 2 and "had no adapter as edited, and can't be asked" in result.err, result.err
    assert Path(server.adapters["edited"]).is_dir()


def test_edits_that_fail_there_are_taken_out_again(push: Run, place: Path, server: StandIn) -> None:
    server.texts = {HEAT.text: " Miami Heat"}
    result = push(server, "--as", "edited", "--check")
    assert result.code == 2 and "1 of 2 edits succeed" in result.out and "river fails" in result.err
    assert server.adapters == {} and content(place / "pushed") == {}
    forced = push(server, "--as", "edited", "--check", "--force")
    assert forced.code == 0 and "river: " in forced.out, "the edit that failed is named"


def test_rank_above_the_limit_names_the_rank_that_fits_and_its_loss(
    kg_edit: Run, place: Path, tiny_folder: Path
) -> None:
    write_patch(place / "ten.safetensors", tiny_folder, *edits_of(10), size=0.1)
    with StandIn(limit=8) as server:
        command = ("patch", "push", "ten.safetensors", "--server", server.url, "--as", "ten")
        result = kg_edit(*command)
        assert result.code == 2 and "takes at most 8: give --rank 8, which keeps 9" in result.err, result.err
        assert server.adapters == {} and content(place / "pushed") is None
        result = kg_edit(*command, "--rank", "8")
        assert result.code == 0 and "rank 10 → 8" in result.out
        assert json.loads((Path(server.adapters["ten"]) / "adapter_config.json").read_text())["r"] == 8


REFUSED: dict[str, tuple[str, str, dict[str, object], str]] = {
    "a colon": ("ledger", "a:b", {}, "can't be served"),
    "the base model": ("ledger", BASE, {}, "not an adapter"),
    "a server that lists nonsense": ("ledger", "edited", {"fault": ("lists nonsense", 0)}, "a list of models"),
    "a server without adapters": ("ledger", "edited", {"takes_adapters": False}, "--enable-lora"),
    "no such event": ("ledger@7", "edited", {}, "no event 7"),
}


@pytest.mark.parametrize("mistake", keep_first(REFUSED, keep=2))
def test_refused_push_leaves_nothing(push: Run, place: Path, mistake: str) -> None:
    what, name, options, keyword = REFUSED[mistake]
    with StandIn(**options) as server:
        result = push(server, "--as", name, what=what)
        assert (result.code, result.out) == (2, "") and keyword in result.err, result.err
        assert server.adapters == {} and not content(place / "pushed")


def test_unknown_server_has_to_be_named(push: Run) -> None:
    with StandIn() as server:
        server.owner = "somebody"
        result = push(server, "--as", "edited")
        assert result.code == 2 and "--kind" in result.err
        assert push(server, "--as", "edited", "--kind", "vllm").code == 0


def test_server_in_a_container_sees_another_path(kg_edit: Run, push: Run, place: Path) -> None:
    with StandIn() as server:
        (place / "pushed").mkdir()
        (place / "mounted").symlink_to(place / "pushed")
        result = push(server, "--as", "edited", "--seen-at", str(place / "mounted"))
        assert result.code == 0, result.err
        assert Path(server.adapters["edited"]).parent == place / "mounted"


def test_llama_server_applies_the_adapter_that_it_was_started_with(kg_edit: Run, push: Run, place: Path) -> None:
    kg_edit("patch", "export", "ledger", "--to", "gguf", "edited")
    with Llama(place / "other.gguf", place / "edited" / "adapter.gguf") as server:
        server.texts, server.scales = TEXTS, [0.5, 0.0]
        per_request = kg_edit("patch", "check", "ledger", "--server", server.url, "--served", "edited")
        assert per_request.code == 0 and server.scales == [0.5, 0.0], "only these requests are edited"
        assert server.asked[-1]["lora"] == [{"id": 1, "scale": 1.0}]
        command = ("patch", "push", "ledger", "--server", server.url, "--as", "edited", "--check")
        assert kg_edit(*command).code == 0 and server.scales == [0.5, 1.0]
        assert kg_edit("patch", "pull", "edited", "--server", server.url).code == 0
        assert server.scales == [0.5, 0.0]


@pytest.mark.slow
def test_llama_server_without_the_adapter_is_left_as_it_is(kg_edit: Run, push: Run, place: Path) -> None:
    kg_edit("patch", "export", "ledger@1", "--to", "gguf", "edited")
    command = ("patch", "push", "ledger", "--as", "edited", "--server")
    with Llama() as server:
        result = kg_edit(*command, server.url)
        assert result.code == 2 and "--lora-scaled edited/adapter.gguf:0 --no-cache-prompt" in result.err
    with Llama(place / "edited" / "adapter.gguf") as server:
        result = kg_edit(*command, server.url)
        assert result.code == 2 and "exported with other edits" in result.err and server.scales == [0.0]
        server.fault = ("ignores", 1)
        result = kg_edit("patch", "push", "ledger@1", "--as", "edited", "--server", server.url)
        assert result.code == 2 and "0 times after it was set to 1" in result.err and server.scales == [0.0]
        result = push(server, "--as", "edited", what="ledger@1")
        assert result.code == 2 and "--folder has no effect" in result.err
