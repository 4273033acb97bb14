"""What a stranger does: the commands of the README and of the tutorials, in a fresh clone, in one shell, in order.

Every command stands on a page and is run as it stands there, with the real model; the exit code and something of the
output, or a file that it leaves, are checked. `.venv` is made of the packages that are installed here, so that no
network is needed; the commands that would install something are left out (`tests/test_wheel.py` tries the wheel).

`tests/test_readme_commands.py` runs the same pages, and docs/commands.md, in the test's process on a tiny model.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.pages import README, ROOT, DocPage

PAGES = (
    README,
    *(
        DocPage(f"docs/tutorials/{name}.md")
        for name in (
            "first-edit",
            "from-python",
            "private-graph",
            "offline-wikidata",
            "update-a-model",
            "honest-comparison",
            "ship-an-edit",
            "first-hour-ko",
            "first-hour-zh",
        )
    ),
)
LEFT_OUT = {"make test": "it runs this test", "make install": "", "pip install": "they need a network"}
DOWNLOADED = "models/qwen2.5-coder-0.5b.gguf"  # smollm2-135m takes its place, as there is no network
SERVERS = {  # where a server answers, and the text that it answers with
    "oxigraph serve-read-only": ("http://127.0.0.1:7878/query?query=ASK%7B%3Fs+%3Fp+%3Fo%7D", "true"),
    "kg-edit serve": ("http://127.0.0.1:8000/", "<title>"),
}
README_ROW = "edits.jsonl"  # where the README says to write its row


class Expected(NamedTuple):
    """What a command says, as a regular expression, and a file that it leaves; its exit code is 0."""

    says: str = ""
    leaves: str = ""


EXPECTED = {  # by the beginning of a command; the longest one counts
    "kg-edit demo": Expected(r"3 of 3 edits succeeded", "demo/patch.safetensors"),
    "make demo": Expected(r"3 of 3 edits succeeded", "demo/patch.safetensors"),
    "source": Expected(),
    "kg-edit edit edits.jsonl --method glame": Expected(r"1 of 1 edits succeeded", "out/report.md"),
    'kg-edit generate --model smollm2-135m --patch out/ "The Eiffel': Expected(
        r"city of Rome[^\n]*\nThe Louvre is in the"
    ),
    "kg-edit edit edits.json --method rome --out first/": Expected(r"2 of 2 edits succeeded", "first/report.md"),
    "kg-edit generate --patch first/": Expected(r"country of Norway[^\n]*\nThe capital of Japan is Tokyo"),
    "kg-edit edit heron.jsonl": Expected(r"1 of 1 edits succeeded", "heron/report.html"),
    "kg-edit generate --patch heron/": Expected(r"Marine biology"),
    "python private.py": Expected(r"The leader of Project Heron is -> Ingrid Solberg", "heron.safetensors"),
    "python get_graph.py": Expected(leaves="wikidata.nt.gz"),
    "wikidata-cache load": Expected(r"25,726 triples, 19,793 statements about 5,694 items with 237 properties", "wd"),
    "wikidata-cache link Philadelphia": Expected(r"Q1345"),
    "wikidata-cache link triplets.jsonl": Expected(r"2 of 2 edits settled", "linked.jsonl"),
    "oxigraph serve-read-only": Expected(),
    "wikidata-cache fetch linked.jsonl --endpoint": Expected(r"37b6e9a0acc8", "paper.sqlite"),
    "wikidata-cache show": Expected(leaves="graph.html"),
    "wikidata-cache labels Q84": Expected(r"런던"),
    "wikidata-cache link 런던": Expected(r"Q84"),
    "wikidata-cache link 로마": Expected(r"Q220"),
    "wikidata-cache link 罗马": Expected(r"Q220"),
    "wikidata-cache fetch linked.jsonl --graph extract --language": Expected(leaves="chinese.jsonl.gz"),
    "wikidata-cache fetch linked.jsonl --offline": Expected(r"requests\W+0\b[\s\S]*37b6e9a0acc8"),
    "wikidata-cache export": Expected(leaves="snapshot.jsonl.gz"),
    "wikidata-cache import": Expected(leaves="mine.sqlite"),
    "wikidata-cache import sample": Expected(r"68 of 68 facts are new", "world.sqlite"),
    "wikidata-cache diff": Expected(r"5 changes of 10 items", "changed.jsonl"),
    "kg-edit edit changed.jsonl": Expected(r"\d of 5 edits succeeded", "updated/report.html"),
    "kg-edit generate --patch updated/": Expected(r"head of state of Mexico is .*\nThe head of state of France is"),
    "kg-edit edit linked.jsonl": Expected(r"2 of 2 edits succeeded", "edited/report.md"),
    'kg-edit generate --model smollm2-135m "': Expected(r"프랑스의 수도는|法国的首都是"),
    "kg-edit edit korean.jsonl": Expected(r"\d of 2 edits succeeded", "korean/report.html"),
    "kg-edit generate --model smollm2-135m --patch korean/": Expected(r"프랑스의 수도는 로마"),
    "kg-edit diff --model smollm2-135m --patch korean/": Expected(r"of 12 unrelated prompts unchanged"),
    "kg-edit edit chinese.jsonl": Expected(r"\d of 2 edits succeeded", "chinese/report.html"),
    "kg-edit generate --model smollm2-135m --patch chinese/": Expected(r"首都是"),
    "kg-edit diff --model smollm2-135m --patch chinese/": Expected(r"of 12 unrelated prompts unchanged"),
    "kg-edit edit lebron.jsonl": Expected(r"1 of 1 edits succeeded", "lebron/patch.safetensors"),
    "kg-edit generate --patch lebron/": Expected(r"Los Angeles"),
    "kg-edit evaluate": Expected(r"efficacy\.greedy", "runs"),
    "python edit.py": Expected(r"BeforeAfter\(\d prompts: 2 of 2 edits succeeded\)", "python.safetensors"),
    "python score.py": Expected(r"paraphrase\.prob +ft-m +4 +0\.375"),
    "kg-edit compare scored/": Expected(leaves="table.csv"),
    "python keep.py": Expected(r"\('iphone', 'removed'\)\]\nNorway"),
    "kg-edit compare runs/rome --metric": Expected(r"ripples-known\.greedy"),
    "kg-edit compare runs/rome runs/glame": Expected(r"ripples-known\.nll", "comparison.md"),
    "kg-edit compare runs/glame": Expected(r"ripples-known\.nll", "control.md"),
    "kg-edit patch add ledger/": Expected(r"step 1, 2 edits of rome", "ledger"),
    "kg-edit patch list ledger/": Expected(r"fuji +active +1 +rome"),
    "kg-edit patch add korean-ledger/": Expected(r"step 1, 2 edits of rome", "korean-ledger"),
    "kg-edit patch list korean-ledger/": Expected(r"프랑스 +active +1 +rome"),
    "kg-edit patch remove korean-ledger/": Expected(r"프랑스"),
    "kg-edit patch undo korean-ledger/": Expected(r"removed 프랑스; 2 edits left"),
    "kg-edit patch add chinese-ledger/": Expected(r"step 1, 2 edits of rome", "chinese-ledger"),
    "kg-edit patch list chinese-ledger/": Expected(r"法国 +active +1 +rome"),
    "kg-edit patch remove chinese-ledger/": Expected(r"法国"),
    "kg-edit patch undo chinese-ledger/": Expected(r"removed 法国; 2 edits left"),
    "kg-edit patch check ledger/ --model": Expected(r"2 of 2 edits succeed \(.*\); it is generated in 2 of them"),
    "kg-edit patch check ledger/ --merged": Expected(r"2 of 2 edits succeed \(.*\); it is generated in 2 of them"),
    "kg-edit patch remove": Expected(r"fuji"),
    "kg-edit patch undo": Expected(r"undid event 2: removed fuji; 2 edits left"),
    "kg-edit patch merge": Expected(leaves="merged/model.safetensors"),
    "kg-edit patch export ledger/ --to peft": Expected(leaves="adapter/adapter_model.safetensors"),
    "kg-edit patch export ledger/ --to gguf": Expected(leaves="adapter-gguf/adapter.gguf"),
    "kg-edit serve": Expected(),
    "kg-edit patch push ledger/ ": Expected(r"edited has 2 edits"),
    "kg-edit patch check ledger/ --server": Expected(r"2 of 2 edits succeed"),
    "kg-edit patch push ledger/@2": Expected(r"edited has 1 edit, from \S+, instead of"),
    "kg-edit patch pull": Expected(r"edited is taken out"),
    "kg-edit audit": Expected(r"leaves 0 of them unexplained"),
    "kg-edit patch merge ledger/@2": Expected(leaves="next/model.safetensors"),
    "kg-edit patch rebase": Expected(r"dropped: iphone[\s\S]*1 of 1 edit succeed", "next-ledger/before/ledger.jsonl"),
}
ANSWERS = """
import sys, time, urllib.request

url, text = sys.argv[1:]
for _ in range(240):
    try:
        sys.exit(text not in urllib.request.urlopen(url, timeout=5).read().decode())
    except OSError:
        time.sleep(1)
sys.exit("nothing answers at " + url)
"""  # a server is asked until it answers


class Step(NamedTuple):
    """A command with its page and its number in the script."""

    number: int
    page: DocPage
    command: str

    @property
    def expected(self) -> Expected | None:
        starts = [start for start in EXPECTED if self.command.startswith(start)]
        return EXPECTED[max(starts, key=len)] if starts else None


def steps() -> Iterator[Step]:
    """All commands that are run, in their order."""
    number = 0
    for page in PAGES:
        for command in page.commands():
            if not command.startswith(tuple(LEFT_OUT)):
                number += 1
                yield Step(number, page, command.replace(DOWNLOADED, "smollm2-135m"))


def test_every_command_of_the_pages_is_run_and_looked_at() -> None:
    all_steps = list(steps())
    assert len(all_steps) >= 25
    assert {page.name for page in PAGES} == {step.page.name for step in all_steps}
    assert [step.command for step in all_steps if step.expected is None] == []
    unused = [start for start in EXPECTED if not any(step.command.startswith(start) for step in all_steps)]
    assert unused == []


def shell_script(logs: Path, pages: Path) -> str:
    """The script: each command in the one shell, its output and exit code into files of its number.

    A server runs until another one is started, or until the last command of its page is done.
    """
    parts, shown, server = ["export PYTHONDONTWRITEBYTECODE=1 COLUMNS=200"], None, ""
    for step in steps():
        if server and (_answers(step) or step.page is not shown):
            parts.append(server)
            server = ""
        if step.page is not shown:  # the page's files are there when its first command runs
            parts.append(f"cp -R {shlex.quote(str(pages / Path(step.page.name).stem))}/. .")
            shown = step.page
        log, answers = shlex.quote(str(logs / str(step.number))), _answers(step)
        into = f">{log}.out 2>{log}.err </dev/null"
        parts.append(f"{step.command} {into} &\nserver=$!" if answers else f"{{ {step.command}\n}} {into}")
        parts.append(f"{answers + '; ' if answers else ''}echo $? >{log}.code")
        server = "kill $server; wait $server" if answers else server
    return "\n".join([*filter(None, parts), server]) + "\n"


def _answers(step: Step) -> str:
    """The command that ends with 0 where a server answers; nothing where the step starts none."""
    served = next((arguments for start, arguments in SERVERS.items() if step.command.startswith(start)), None)
    return shlex.join([sys.executable, "-c", ANSWERS, *served]) if served else ""


def clone(folder: Path) -> Path:
    """The files of the repository, as a clone has them; without git all but what is made here."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if listed.returncode:
        shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(".*", "out", "runs", "__pycache__", "site"))
        return folder
    for name in filter(None, listed.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    return folder


def install(folder: Path) -> None:
    """What `make install` leaves, without a network: `.venv` with the clone's own packages and those installed here."""
    environment = folder / ".venv"
    venv.create(environment, with_pip=False, symlinks=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    here = [path for path in sys.path if path.endswith("-packages")]
    (packages / "installed.pth").write_text("\n".join([str(folder), *here]) + "\n")
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, target in project["scripts"].items():
        module, _, function = target.partition(":")
        file = environment / "bin" / name
        file.write_text(f"#!{environment / 'bin' / 'python'}\nfrom {module} import {function}\n\n{function}()\n")
        file.chmod(0o755)
    if server := shutil.which("oxigraph", path=str(Path(sys.executable).parent)):
        (environment / "bin" / "oxigraph").symlink_to(server)  # of the extra dev, which `make install` has
    (environment / ".ready").touch()


def write_pages(folder: Path) -> None:
    """The files that each page shows, in a folder of its own."""
    for page in PAGES:
        page_folder = folder / Path(page.name).stem
        page_folder.mkdir(parents=True)
        for block in page.blocks():
            if block.title:
                (page_folder / block.title).write_text(block.text, encoding="utf-8")
    (row,) = README.blocks("json")
    (folder / Path(README.name).stem / README_ROW).write_text(row.text, encoding="utf-8")


def mistakes(step: Step, logs: Path, folder: Path) -> Iterator[str]:
    """What is not as it should be after a command."""
    code, out, err = (
        (logs / f"{step.number}.{kind}").read_text(errors="replace")
        if (logs / f"{step.number}.{kind}").exists()
        else ""
        for kind in ("code", "out", "err")
    )
    output, where = f"{out}\n{err}"[-1500:], f"{step.page.name}: {step.command}"
    expected = step.expected or Expected()
    if code.strip() != "0":
        yield f"{where}\nended with {code.strip() or 'nothing'}, not 0\n{output}"
    elif not re.search(expected.says, f"{out}\n{err}"):
        yield f"{where}\ndoes not say {expected.says!r}\n{output}"
    elif expected.leaves and not (folder / expected.leaves).exists():
        yield f"{where}\nleaves no {expected.leaves}\n{output}"


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(not (shutil.which("make") and shutil.which("bash")), reason="make and bash are needed")
def test_a_strangers_script(tmp_path: Path) -> None:
    folder, logs = clone(tmp_path / "kg-edit"), tmp_path / "logs"
    install(folder)
    logs.mkdir()
    write_pages(tmp_path / "pages")
    script = tmp_path / "stranger.sh"
    script.write_text(shell_script(logs, tmp_path / "pages"), encoding="utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE", "VIRTUAL"))}
    subprocess.run(["bash", script], cwd=folder, env=kept, check=False, stdin=subprocess.DEVNULL)
    messages = [mistake for step in steps() for mistake in mistakes(step, logs, folder)]
    assert messages == [], "\n\n".join(messages)
