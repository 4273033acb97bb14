"""Store what an unedited model generates after prompts in a file, so that no prompt is asked twice.

An interrupted run continues after the last prompt that it asked, and a second method can reuse all answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from kg_common.json_text import digest
from kg_common.progress import Bar
from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.atomic import append_lines, drop_cut_line, read_lines

_AT_ONCE = 192  # prompts between two writes to the file


class Reply(BaseModel):
    """A line of the file: a prompt and the model's text after it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    text: str


def stored_replies(
    model: LanguageModel,
    prompts: Sequence[str],
    generate: Callable[[Sequence[str]], Iterable[str]],
    *,
    folder: Path,
    form: str,
    about: str,
) -> dict[str, str]:
    """Return the model's text after each prompt; texts that are not in ``folder`` are generated and stored there.

    Args:
        model: the unedited model.
        prompts: what to ask.
        generate: asks ``model``, from prompts to texts.
        folder: has one file for each model, dtype and form.
        form: names the way in which ``generate`` asks.
        about: the title of the progress bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{digest([model.fingerprint, str(model.model.dtype), form])[:16]}.jsonl"
    drop_cut_line(file)  # of a process that was killed
    texts = {line.prompt: line.text for line in read_lines(file, Reply)}
    distinct = list(dict.fromkeys(prompts))
    new = sorted(prompt for prompt in distinct if prompt not in texts)
    with Bar(title=about, unit="prompt", total=len(distinct), done=len(distinct) - len(new)) as bar:
        for chunk in _split(new):
            lines = []
            for prompt, text in zip(chunk, generate(chunk), strict=True):
                texts[prompt] = text
                lines.append(Reply(prompt=prompt, text=text).model_dump_json())
            append_lines(file, lines)
            bar.update(len(chunk))
    return {prompt: texts[prompt] for prompt in distinct}


def _split(prompts: Sequence[str]) -> Iterator[list[str]]:
    """Yield the sorted prompts in chunks.

    The prompts of a chunk have the same examples before the question, because they then share computation.
    """
    for _, same_start in groupby(prompts, key=lambda prompt: prompt.rpartition("\n")[0]):
        group = list(same_start)
        for start in range(0, len(group), _AT_ONCE):
            yield group[start : start + _AT_ONCE]
