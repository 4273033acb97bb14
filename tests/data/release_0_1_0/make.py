"""Make the files beside this one anew: python make.py FOLDER. All paths in them are relative to FOLDER."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

HERE = Path(__file__).parent
BIN = Path(sys.executable).parent
PORT = "47878"
ENDPOINT = ("--endpoint", f"http://127.0.0.1:{PORT}/query", "--cache", "answers.sqlite")
NAMES = ("LeBron James", "France", "Spike Hughes", "The Eiffel Tower", "Dwyane Wade", "The river Thames")
PLACES = ("London", "Paris", "Miami", "Los Angeles", "Rome", "Philadelphia")
GRAPH = """subject\tproperty\tobject
Q1\tP19\tQ11
Q11\tP17\tQ21
Q11\tP131\tQ31
Q12\tP17\tQ22
Q21\tP36\tQ12
Q1\tlabel\tLeBron James
Q2\tlabel\tFrance
Q11\tlabel\tParis
Q12\tlabel\tMiami
Q21\tlabel\tItaly
Q22\tlabel\tNorway
Q31\tlabel\tLazio
P17\tlabel\tcountry
P19\tlabel\tplace of birth
P36\tlabel\tcapital
P131\tlabel\tlocated in
"""


def words(text: str) -> tuple[str, ...]:
    """Arguments as they are typed."""
    return tuple(text.split())


MODEL = words("--model tiny-model --device cpu")
TOKENS = words("--set covariance.corpus=self --set covariance.tokens=300")
SMALL = words("--set layer=1 --set steps=15 --set further_steps=0 --set hold=0 --set context_lengths=[]")
ROME = (*words("--method rome"), *SMALL, *MODEL, *TOKENS)
MEMIT = (*words("--method memit --set layers=[1,2] --set mom2_weight=10 --set context_starts=[]"), *MODEL, *TOKENS)
GRACE = (*words("--method grace --set layer=2"), *MODEL)
IKE = (*words("--method ike --set count=1"), *MODEL)
SINGLE = (*words("--data records.json"), *ROME)
SEQUENCE = (*SINGLE, *words("--schedule sequential:4 --evaluate-every 2 --general text.txt"))
SHARDS = (*words("--layers 3 --corpus self --tokens 300 --folder shards"), *MODEL)


def main(folder: Path) -> None:
    """Everything, in turn."""
    folder.mkdir(parents=True)
    os.chdir(folder)
    os.environ |= {"KG_EDIT_CACHE": "cache", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    write_inputs()
    make_model(Path("tiny-model"))
    edits()
    evaluations()
    ledger()
    run("kg-edit", "covariance", *SHARDS, "--shard", "0/2")
    answers()
    clean()


def write_inputs() -> None:
    """Edits, benchmark records, a text and a graph."""
    rows = [edit(number) for number in range(len(NAMES))]
    rows[0] |= {"subject_id": "Q1", "relation_id": "P19", "target_new_id": "Q11"}
    rows[1] |= {"subject_id": "Q2", "relation_id": "P36", "target_new_id": "Q12"}
    for name, some in (("edits", rows[:3]), ("later", rows[3:5]), ("third", rows[5:]), ("known", rows[:1])):
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    Path("records.json").write_text(json.dumps([record(number) for number in range(len(NAMES))], indent=1) + "\n")
    Path("text.txt").write_text("The quick brown fox jumps over the lazy dog. " * 3)
    Path("graph.tsv").write_text(GRAPH)


def edit(number: int) -> dict[str, object]:
    """An edit as a user writes it."""
    name, place = NAMES[number], PLACES[number]
    return {
        "id": name.split()[-1].lower(),
        "subject": name,
        "prompt": "{} comes from",
        "target_new": PLACES[(number + 1) % 6],
        "target_true": place,
        "relation": "place of birth",
        "paraphrases": [f"{name} was first seen in"],
        "neighborhood": ["Player 7 comes from"],
    }


def record(number: int) -> dict[str, object]:
    """A record of CounterFact+."""
    name = NAMES[number]
    return {
        "case_id": number,
        "requested_rewrite": {
            "prompt": "{} comes from",
            "relation_id": "P19",
            "target_new": {"str": PLACES[(number + 1) % 6], "id": f"Q{number + 41}"},
            "target_true": {"str": PLACES[number], "id": f"Q{number + 40}"},
            "subject": name,
        },
        "paraphrase_prompts": [f"{name} was first seen in"],
        "neighborhood_prompts": ["Player 7 comes from"],
        "portability": {"New Question": f"In which country is {name}?", "New Answer": PLACES[(number + 2) % 6]},
    }


def make_model(folder: Path) -> None:
    """A random Llama of 4 layers and width 16, and a byte-level BPE."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet)
    core.train_from_iterator([*NAMES, *PLACES, "comes from was first seen in the country"] * 3, trainer)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "max_position_embeddings": 128}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    ids = {"vocab_size": core.get_vocab_size(), "bos_token_id": 0, "eos_token_id": 1}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **shape, **heads, **ids))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.35)
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>").save_pretrained(folder)


def edits() -> None:
    """A run of `kg-edit edit` that came to its end, one that was killed, and patches of other kinds."""
    run("kg-edit", "edit", "edits.jsonl", *ROME, "--out", "edit")
    partial = Path("edit-killed/patch.partial.safetensors")
    killed(partial.is_file, "kg-edit", "edit", "edits.jsonl", *ROME, "--out", "edit-killed")
    for name, options in (("memit", MEMIT), ("grace", GRACE), ("ike", IKE)):
        run("kg-edit", "edit", "edits.jsonl", *options, "--out", f"whole-{name}")
        shutil.move(f"whole-{name}/patch.safetensors", f"{name}.safetensors")


def evaluations() -> None:
    """Two evaluations that were killed, and the summaries that they end with where they are not."""
    for name, options in (("single", SINGLE), ("sequence", SEQUENCE)):
        run("kg-edit", "evaluate", *options, "--out", f"whole-{name}")
        shutil.copy(f"whole-{name}/summary.json", f"whole-{name}.json")
        records = Path(f"evaluate-{name}/records.jsonl")
        killed(lambda: lines(records) >= 8, "kg-edit", "evaluate", *options, "--out", f"evaluate-{name}")  # noqa: B023


def ledger() -> None:
    """A patch that was added, and one that was made on the model with the first."""
    run("kg-edit", "patch", "add", "ledger", "edit")
    run("kg-edit", "patch", "edit", "ledger", "later.jsonl", *MEMIT)


def answers() -> None:
    """What an endpoint on this machine answered, its subgraphs and its snapshot."""
    run("wikidata-cache", "load", "graph.tsv", "--store", "store")
    server = subprocess.Popen([BIN / "wikidata-cache", "serve", "store", "--port", PORT], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        server.stdout.readline()
        run("wikidata-cache", "fetch", "known.jsonl", *ENDPOINT, "--out", "subgraphs.jsonl")
        run("wikidata-cache", "labels", "Q1", "Q2", "-g", ENDPOINT[1], *ENDPOINT[2:])
    finally:
        server.terminate()
        server.wait()
    run("wikidata-cache", "export", "answers.jsonl.gz", "--cache", "answers.sqlite")


def clean() -> None:
    """Delete what no later run needs."""
    for folder in (Path("store"), Path("cache/unedited"), Path("answers.sqlite.locks"), *Path().glob("whole-*/")):
        shutil.rmtree(folder)
    for file in (*Path().rglob(".*"), *Path().glob("answers.sqlite-*")):
        file.unlink()  # locks, what killed processes left, and what SQLite keeps beside an open file


def run(*command: str) -> None:
    """A command to its end."""
    subprocess.run([BIN / command[0], *command[1:]], check=True)


def killed(enough: Callable[[], bool], *command: str) -> None:
    """A command till there is enough to go on from."""
    process = subprocess.Popen([BIN / command[0], *command[1:]])
    while not enough():
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    assert process.wait() != 0


def lines(file: Path) -> int:
    """The whole lines of a file."""
    return file.read_bytes().count(b"\n") if file.exists() else 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
