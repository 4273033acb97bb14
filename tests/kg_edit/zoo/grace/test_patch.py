"""Codebooks: radii by the order of the edits, exact removal, and the same output however a prompt is run."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from kg_edit.models.hooks import needs_prompt_ends, watch
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import left_pad
from kg_edit.scoring.generation import continuations
from kg_edit.scoring.greedy import greedy
from kg_edit.scoring.likelihood import predictions, score
from kg_edit.scoring.pairs import Pair
from kg_edit.zoo.grace.codebook import Codebook, Deferral, Lookup
from kg_edit.zoo.grace.patch import CodebookPatch
from tests.kg_edit.methods.test_methods import hooks
from tests.kg_edit.tiny import tiny

PROMPT, OTHER, THIRD = "LeBron James plays for", "Spike Hughes originates from", "Where does the river Thames flow?"


def line(*entries: tuple[float, str], **rule: object) -> Codebook:
    """A codebook whose keys lie on a line."""
    keys = torch.tensor([[x, 0.0] for x, _ in entries]).reshape(-1, 2)
    return Codebook(
        keys=keys,
        values=torch.arange(3.0 * len(entries)).reshape(-1, 3),
        labels=tuple(label for _, label in entries),
        ids=tuple(map(str, range(len(entries)))),
        deferral=Deferral.model_validate({"expand": "coverage", **rule}),
    )


def balls(book: Codebook) -> list[tuple[float, float, int]]:
    regions = book.regions
    centres = regions.centres[:, 0].tolist()
    return [
        (round(centre, 5), round(radius, 5), entry)
        for centre, radius, entry in zip(centres, regions.radii.tolist(), regions.entries.tolist(), strict=True)
    ]


COVERAGE, WIDEN = {"expand": "coverage"}, {"expand": "widen"}


@pytest.mark.parametrize(
    ("entries", "expected", "rule"),
    [
        # far apart, whatever the labels: init
        ([(0, "a"), (5, "b")], [(0, 1, 0), (5, 1, 1)], COVERAGE),
        ([(0, "a"), (2.5, "b")], [(0, 1, 0), (2.5, 1, 1)], COVERAGE),
        # near, the same label: the ball grows to reach the new key, and may then reach a farther one
        ([(0, "a"), (1.5, "a")], [(0, 1.5, 0)], COVERAGE),
        ([(0, "a"), (1.5, "a"), (2.4, "a")], [(0, 2.4, 0)], COVERAGE),
        # in another order the far one got a ball of its own first, in which the other one lies
        ([(0, "a"), (2.4, "a"), (1.5, "a")], [(0, 1, 0), (2.4, 1, 1)], COVERAGE),
        # inside, the same label: nothing changes
        ([(0, "a"), (0.5, "a")], [(0, 1, 0)], COVERAGE),
        # near, another label: both end half-way
        ([(0, "a"), (1.5, "b")], [(0, 0.74999, 0), (1.5, 0.75, 1)], COVERAGE),
        ([(0, "a"), (0.5, "b")], [(0, 0.24999, 0), (0.5, 0.25, 1)], COVERAGE),
        # grown, then cut
        ([(0, "a"), (1.5, "a"), (2, "b")], [(0, 0.99999, 0), (2, 1, 2)], COVERAGE),
        # a cut ball is met at epsilon plus what is left of its radius
        ([(0, "a"), (1, "b"), (-1.4, "a")], [(0, 1.4, 0), (1, 0.5, 1)], COVERAGE),
        ([(0, "a"), (1, "b"), (-1.6, "a")], [(0, 0.49999, 0), (1, 0.5, 1), (-1.6, 1, 2)], COVERAGE),
        # of two edits with one key the later one holds, with the radius that it would have had alone
        ([(0, "a"), (0, "b")], [(0, 1, 1)], COVERAGE),
        ([(0, "a"), (0, "b"), (0, "a")], [(0, 1, 2)], COVERAGE),
        ([], [], COVERAGE),
        # as in Algorithm 1, a ball grows by epsilon, and not only to the new key
        ([(0, "a"), (1.5, "a")], [(0, 2, 0)], WIDEN),
        ([(0, "a"), (1.5, "a"), (2.9, "a")], [(0, 3, 0)], WIDEN),
        ([(0, "a"), (0.5, "a")], [(0, 1, 0)], WIDEN),
        ([(0, "a"), (1.5, "b")], [(0, 0.74999, 0), (1.5, 0.75, 1)], WIDEN),
        ([(0, "a"), (1.5, "a")], [(0.75, 1.5, 0)], {"expand": "moving-average"}),
        # as in MELO, a ball lies around the mean of its keys, and reaches the farthest, at least epsilon far
        ([(0, "a"), (1.5, "a")], [(0.75, 1, 0)], {"expand": "mean"}),
        ([(0, "a"), (1.9, "a"), (2.9, "a")], [(1.6, 1.6, 0)], {"expand": "mean"}),
        ([(0, "a"), (0.5, "a")], [(0.25, 1, 0)], {"expand": "mean"}),
        ([(0, "a"), (1.5, "a"), (1.25, "b")], [(0.75, 0.24999, 0), (1.25, 0.25, 2)], {"expand": "mean"}),
    ],
)
def test_radii_follow_from_the_order_of_the_edits(
    entries: list[tuple[float, str]], expected: list[tuple[float, ...]], rule: dict[str, str]
) -> None:
    assert balls(line(*entries, **rule)) == expected


def test_unit_keys_are_compared_by_direction() -> None:
    book = line((3, "a"), (5, "b"), metric="unit")
    assert balls(book) == [(1, 1, 1)], "one direction, so one key"
    points = book.deferral.to_points(torch.tensor([[0.1, 0.0], [-4.0, 0.0]]))
    assert book.regions.find_entries(points).tolist() == [1, -1]


def test_nearest_ball_is_used_within_its_radius_only() -> None:
    """At 2.5 the wide ball around 0 reaches farther, but the other centre is nearer, and its own ball ends at 2.6."""
    book = line((0, "a"), (1.5, "a"), (2.4, "a"), (3.6, "b"), radius=1.0)
    assert balls(book) == [(0, 2.4, 0), (3.6, 1, 3)]
    points = torch.tensor([[0.1, 0.0], [1.7, 0.0], [2.4, 0.0], [2.7, 0.0], [4.61, 0.0], [0.0, 2.4001]])
    assert book.regions.find_entries(points).tolist() == [0, 0, -1, 3, -1, 0]


def test_near_keys_of_large_norm_are_distinguished() -> None:
    """The distance 0.05 is small against the norm 100, so products of keys would find the wrong one of two."""
    draw = torch.Generator().manual_seed(0)
    keys = (4 * torch.randn(20, 576, generator=draw)).repeat_interleave(2, 0)
    keys[1::2] += 0.05 * torch.nn.functional.normalize(torch.randn(20, 576, generator=draw), dim=-1)
    book = book_of(keys, range(40), list(range(40)))
    assert book.regions.find_entries(keys).tolist() == list(range(40))
    assert [int(book.regions.find_entries(key[None])) for key in keys] == list(range(40))


def test_keys_of_a_coarse_type_stay_equal_among_finer_ones() -> None:
    """Two edits of one prompt, read in bfloat16: the later one holds, also after a float32 patch is added."""
    draw = torch.Generator().manual_seed(0)
    key = 6 * torch.randn(1, 48, generator=draw)
    keys = torch.cat([key, key + 0.02 * torch.randn(1, 48, generator=draw)]).bfloat16()
    assert float((keys[0].float() - keys[1].float()).norm()) > 0.05
    coarse, fine = book_of(keys, range(2), [0, 1]), book_of(torch.randn(1, 48, generator=draw), [2], [2])
    assert coarse.regions.entries.tolist() == [1]
    assert (coarse + fine).keys.dtype == torch.float32 and (coarse + fine).regions.entries.tolist() == [1, 2]
    assert book_of(keys.float() + 1e-4, range(2), [0, 1]).regions.entries.tolist() == [0, 1], "two keys in float32"


def test_removed_edit_leaves_the_codebook_without_it() -> None:
    draw = torch.Generator().manual_seed(3)
    keys, labels = 4 * torch.rand(60, 2, generator=draw), torch.randint(3, (60,), generator=draw).tolist()
    full = book_of(keys, range(60), labels)
    gone = {str(n) for n in range(0, 60, 7)}
    kept = [n for n in range(60) if str(n) not in gone]
    again, fresh = full.without(gone).regions, book_of(keys[kept], kept, [labels[n] for n in kept]).regions
    assert len(set(balls_of(full))) > 5 and len(full.regions.entries) < 60, "there was something to expand and split"
    assert torch.equal(again.centres, fresh.centres)
    assert torch.equal(again.radii, fresh.radii) and torch.equal(again.entries, fresh.entries)


def book_of(keys: torch.Tensor, ids: Sequence[int], labels: Sequence[int]) -> Codebook:
    names = tuple(map(str, labels))
    return Codebook(
        keys=keys, values=keys, labels=names, ids=tuple(map(str, ids)), deferral=Deferral(radius=0.4, expand="coverage")
    )


def balls_of(book: Codebook) -> list[float]:
    return book.regions.radii.tolist()


def patch_for(
    model: LanguageModel, *prompts: str, scale: float = 3.0, layer: int = 1, lookup: Lookup = "every-token"
) -> CodebookPatch:
    """An entry for each prompt: its real key, and a value that is nothing like the module's output."""
    rows, _ = weight_matrix(model.down_projection(layer)).shape
    keys = torch.stack([inputs_of(model, prompt, layer)[-1] for prompt in prompts])
    values = scale * torch.randn(len(prompts), rows, generator=torch.Generator().manual_seed(7))
    book = Codebook(
        keys=keys, values=values, labels=prompts, ids=prompts, deferral=Deferral(radius=0.01, lookup=lookup)
    )
    edits = [{"edit": {"id": prompt}} for prompt in prompts]
    provenance = {"model": {"name": model.name, "fingerprint": model.fingerprint}, "edits": edits}
    return CodebookPatch(codebooks={model.weight_name(layer): book}, provenance=provenance)


@torch.no_grad()
def inputs_of(model: LanguageModel, prompt: str, layer: int = 1) -> torch.Tensor:
    seen: list[torch.Tensor] = []
    ids = model.encode(prompt).ids
    with watch(model.down_projection(layer), lambda key, _: seen.append(key)):
        model.model(torch.tensor([ids]))
    return seen[0].reshape(len(ids), -1)


@torch.no_grad()
def outputs_of(model: LanguageModel, prompt: str) -> torch.Tensor:
    """The output of the module that the block reads, after any codebook."""
    seen: list[torch.Tensor] = []
    ids = model.encode(prompt).ids
    with watch(model.down_projection(1), lambda _, value: seen.append(value)):
        model.model(torch.tensor([ids]))
    return seen[0].reshape(len(ids), -1)


@torch.no_grad()
def logits_of(model: LanguageModel, ids: Sequence[int]) -> torch.Tensor:
    logits: torch.Tensor = model.model(torch.tensor([ids])).logits[0]
    return logits


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt-350m"])
def test_output_is_the_value_at_the_key_and_unchanged_elsewhere(family: str) -> None:
    model = tiny(family)
    patch, clean, other = patch_for(model, PROMPT), outputs_of(model, PROMPT), logits_of(model, model.encode(OTHER).ids)
    (book,) = patch.codebooks.values()
    with patch.applied(model) as edited:
        changed = outputs_of(edited, PROMPT)
        assert torch.equal(logits_of(edited, model.encode(OTHER).ids), other), "an unrelated prompt: bit for bit"
    assert torch.equal(changed[-1], book.values[0])
    assert torch.equal(changed[:-1], clean[:-1])
    assert torch.equal(outputs_of(model, PROMPT), clean)


LONGER = f"{PROMPT} the team of"


@pytest.mark.parametrize("family", ["llama", "opt-350m", "falcon-alibi"])
def test_prompt_end_is_looked_up_in_trees_rows_and_generation(family: str) -> None:
    """In a tree, in padded rows, generated after a shared beginning: the same, and a longer prompt is not met."""
    model = tiny(family)
    pairs = [Pair(prompt, answer) for prompt in (LONGER, PROMPT, OTHER) for answer in ("Paris", "the dog")]
    rows = [model.encode(prompt).ids for prompt in (LONGER, PROMPT)]
    clean, written = score(model, pairs), greedy(model, rows, limits=[4, 4])
    with patch_for(model, PROMPT, lookup="prompt-end").applied(model):
        together, alone = score(model, pairs), {pair: score(model, [pair])[pair] for pair in pairs}
        again, (single,) = greedy(model, rows, limits=[4, 4]), greedy(model, rows[1:], limits=[4])
    for pair in pairs:
        assert together[pair].nll == pytest.approx(alone[pair].nll, abs=1e-4)
        met = abs(together[pair].nll - clean[pair].nll) > 1e-3
        assert met is (pair.prompt == PROMPT)
    assert again[0].tokens == written[0].tokens and again[1].tokens == single.tokens
    torch.testing.assert_close(again[0].probabilities, written[0].probabilities, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(again[1].probabilities, single.probabilities, rtol=1e-4, atol=1e-6)
    assert float((again[1].probabilities[0] - written[1].probabilities[0]).abs()) > 1e-4
    with patch_for(model, PROMPT).applied(model):
        assert abs(score(model, pairs)[pairs[0]].nll - clean[pairs[0]].nll) > 1e-3, "at every token it is"


def test_padded_rows_look_up_the_end_of_their_prompts() -> None:
    """`predictions` pads rows; without given ends the last token of a pass is looked up."""
    model, pair = tiny("llama"), Pair(PROMPT, "Paris in the north")
    clean = predictions(model, [pair])
    with patch_for(model, PROMPT, lookup="prompt-end", scale=30.0).applied(model):
        assert predictions(model, [pair, Pair(OTHER, "a")])[pair] != clean[pair]
        assert not torch.equal(outputs_of(model, PROMPT)[-1], outputs_of(model, LONGER)[-4])
    with patch_for(model, LONGER, lookup="prompt-end", scale=30.0).applied(model):
        assert predictions(model, [pair])[pair] == clean[pair]


def test_hooks_are_removed_after_an_exception() -> None:
    model = tiny("llama")
    before = list(hooks(model.model))
    for lookup in ("every-token", "prompt-end"):
        with pytest.raises(RuntimeError, match="stop"), patch_for(model, PROMPT, lookup=lookup).applied(model):  # type: ignore[arg-type]
            raise RuntimeError("stop")
        assert list(hooks(model.model)) == before and not needs_prompt_ends(model)


@torch.no_grad()
def test_left_padded_rows_equal_the_prompts_alone() -> None:
    model = tiny("llama")
    prompts = [PROMPT, OTHER, "The quick brown fox jumps over the lazy dog"]
    rows = [model.encode(prompt).ids for prompt in prompts]
    with patch_for(model, PROMPT, OTHER).applied(model):
        batch = left_pad(rows, device=torch.device("cpu"))
        together = model.model(batch.ids, attention_mask=batch.mask, position_ids=batch.positions).logits[:, -1]
        for row, ids in zip(together, rows, strict=True):
            torch.testing.assert_close(row, logits_of(model, ids)[-1], rtol=1e-4, atol=1e-4)


def test_generation_with_a_cache_equals_generation_without() -> None:
    """The second key is that of what is written after the first: it is met token by token."""
    model = tiny("gpt2")
    with patch_for(model, PROMPT).applied(model):
        (first,) = continuations(model, [PROMPT], limits=[1])
    text = PROMPT + first
    patch = patch_for(model, PROMPT)
    with patch.applied(model):
        later = inputs_of(model, text)[-1]
    (name,) = patch.codebooks
    book = Codebook(
        keys=later[None],
        values=torch.full((1, weight_matrix(model.down_projection(1)).shape[0]), -2.0),
        labels=("later",),
        ids=("later",),
        deferral=Deferral(radius=0.01, lookup="every-token"),
    )
    both = patch + CodebookPatch(codebooks={name: book}, provenance=patch.provenance)
    ids = list(model.encode(PROMPT).ids)
    with both.applied(model):
        (cached,) = continuations(model, [PROMPT], limits=[6])
        for _ in range(6):
            ids.append(int(logits_of(model, ids)[-1].argmax()))
    written = model.tokenizer.decode(ids[len(model.encode(PROMPT).ids) :])
    assert isinstance(written, str) and written.split("\n")[0].split("</s>")[0].startswith(cached)
    with patch.applied(model):
        assert continuations(model, [PROMPT], limits=[6]) != (cached,), "the second entry was met"


def test_prompt_scores_the_same_alone_and_in_a_tree() -> None:
    model = tiny("llama")
    pairs = [Pair(prompt, answer) for prompt in (PROMPT, OTHER, THIRD) for answer in ("Paris", "London", "the dog")]
    clean = score(model, pairs)
    with patch_for(model, PROMPT, OTHER).applied(model):
        together = score(model, pairs)
        for pair in pairs:
            assert score(model, [pair])[pair].nll == pytest.approx(together[pair].nll, abs=1e-4)
    assert together[pairs[0]].nll != pytest.approx(clean[pairs[0]].nll, abs=1e-2)
    assert together[pairs[-1]].nll == pytest.approx(clean[pairs[-1]].nll, abs=1e-6)


def test_two_patches_add_and_each_can_be_removed() -> None:
    model = tiny("llama")
    first, second = patch_for(model, PROMPT), patch_for(model, OTHER, scale=5.0)
    both = first + second
    assert isinstance(both, CodebookPatch)
    assert [record["edit"]["id"] for record in both.edits] == [PROMPT, OTHER]
    for patch, prompt in ((first, PROMPT), (second, OTHER)):
        with patch.applied(model):
            alone = logits_of(model, model.encode(prompt).ids)
        with both.applied(model):
            assert torch.equal(logits_of(model, model.encode(prompt).ids), alone)
    again = both.without([PROMPT])
    assert [record["edit"]["id"] for record in again.edits] == [OTHER]
    with second.applied(model):
        expected = logits_of(model, model.encode(OTHER).ids), logits_of(model, model.encode(PROMPT).ids)
    with again.applied(model):
        outputs = logits_of(model, model.encode(OTHER).ids), logits_of(model, model.encode(PROMPT).ids)
    assert all(torch.equal(*pair) for pair in zip(outputs, expected, strict=True))


def test_codebooks_of_two_layers_add() -> None:
    model = tiny("llama")
    first, second = patch_for(model, PROMPT), patch_for(model, OTHER, layer=2)
    both = first + second
    assert isinstance(both, CodebookPatch) and len(both.codebooks) == 2
    assert both.without([PROMPT, OTHER]).is_empty and not both.is_empty
    assert both.summary.count("1 key for 1 edit") == 2
    with second.applied(model):
        expected = logits_of(model, model.encode(OTHER).ids)
    with both.without([PROMPT]).applied(model):  # one codebook is empty
        assert torch.equal(logits_of(model, model.encode(OTHER).ids), expected)
