"""Store what an unedited model generates after prompts in a file, so that no prompt is asked twice.

An interrupted run continues after the last prompt that it asked, and a second method can reuse all answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from kg_edit.models.language_model import LanguageModel
from kg_edit.storage.atomic import append_lines, drop_cut_line, read_lines
from kg_edit.storage.run_folder import digest
from wikidata_cache.progress import Bar

_AT_ONCE = 192  # prompts between two writes to the file


class Reply(BaseModel):
    """A line of the file: a prompt and the model's text after it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: str
    text: str


@dataclass(frozen=True, eq=False)
class StoredReplies:
    """Asks ``model`` by the function ``generate`` (prompts to texts), and stores the texts in ``folder``.

    ``form`` names the way in which ``generate`` asks; replies of another form, model or dtype are in another file.
    """

    model: LanguageModel
    folder: Path
    form: str
    generate: Callable[[Sequence[str]], Iterable[str]]
    progress: bool = True

    def texts(self, prompts: Sequence[str], *, about: str) -> dict[str, str]:
        """Return the model's text after each prompt; ``about`` is the title of the progress bar."""
        known, asked = self._stored, list(dict.fromkeys(prompts))
        new = sorted(prompt for prompt in asked if prompt not in known)
        with Bar(title=about, unit="prompt", total=len(asked), done=len(asked) - len(new), shown=self.progress) as bar:
            # Prompts with the same examples before the question are one group, because they share computation.
            groups = (list(same) for _, same in groupby(new, key=lambda prompt: prompt.rpartition("\n")[0]))
            for some in (rows[at : at + _AT_ONCE] for rows in groups for at in range(0, len(rows), _AT_ONCE)):
                replies = [
                    Reply(prompt=prompt, text=text) for prompt, text in zip(some, self.generate(some), strict=True)
                ]
                append_lines(self._file, [reply.model_dump_json() for reply in replies])
                known |= {reply.prompt: reply.text for reply in replies}
                bar.update(len(some))
        return {prompt: known[prompt] for prompt in asked}

    @cached_property
    def _stored(self) -> dict[str, str]:
        drop_cut_line(self._file)  # of a process that was killed
        return {line.prompt: line.text for line in read_lines(self._file, Reply)}

    @cached_property
    def _file(self) -> Path:
        self.folder.mkdir(parents=True, exist_ok=True)
        identity = [self.model.fingerprint, str(self.model.model.dtype), self.form]
        return self.folder / f"{digest(identity)[:16]}.jsonl"
