"""A language model behind an OpenAI-compatible address says whether answers are right."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kg_edit.errors import ConfigError, KgEditError
from kg_edit.text.matching import normalised

PROMPT = (
    "Question: {question}\nRight answers: {answers}\nGiven answer: {text}\n\n"
    "Does the given answer say one of the right answers? Other words for the same thing are right; an answer that "
    "names something else instead, or nothing, is wrong. Reply with yes or no alone."
)
_TRIES, _SECONDS, _LONGEST_WAIT = 4, 60.0, 30.0
_LATER = (408, 429, 500, 502, 503, 504)


class JudgeError(KgEditError):
    """The judge can't be reached, or its reply can't be read."""


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A model that is asked at ``url`` (up to and with /v1, say).

    Attributes:
        url: the address in front of /chat/completions.
        model: the model's name there.
        key: sent as a bearer token; never written anywhere.
    """

    url: str
    model: str
    key: str | None = None

    def __post_init__(self) -> None:
        """Check the address.

        Raises:
            ConfigError: it is none of HTTP's.
        """
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(f"--judge {self.url!r}: expected an address such as http://localhost:8000/v1")

    def says(self, question: str, answers: Sequence[str], text: str) -> tuple[bool | None, str]:
        """Whether ``text`` gives one of the right ``answers``, and the reply; None if it is neither yes nor no.

        Raises:
            JudgeError: the judge can't be reached, refuses, or replies in another form.
        """
        asked = PROMPT.format(question=question, answers=" | ".join(answers), text=text.strip())
        reply = self._reply({"model": self.model, "temperature": 0, "messages": [{"role": "user", "content": asked}]})
        first = (*normalised(reply), "")[0]
        return {"yes": True, "no": False}.get(first), reply

    def _reply(self, body: dict[str, Any]) -> str:
        data = self._post(json.dumps(body).encode())
        try:
            content = json.loads(data)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError) as error:
            raise JudgeError(f"{self.url}: replied {data[:200]!r}; expected a chat completion") from error
        return str(content)

    def _post(self, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        address = f"{self.url.rstrip('/')}/chat/completions"
        for left in reversed(range(_TRIES)):
            request = urllib.request.Request(address, data=body, headers=headers)  # noqa: S310 - checked above
            try:
                with urllib.request.urlopen(request, timeout=_SECONDS) as response:  # noqa: S310
                    return bytes(response.read())
            except urllib.error.HTTPError as error:
                if error.code not in _LATER or not left:
                    said = error.read()[:200]
                    raise JudgeError(f"{address}: refused with {error.code}: {said!r}; check model and key") from error
                time.sleep(_wait(error.headers.get("Retry-After"), _TRIES - left))
            except (OSError, ValueError) as error:
                if not left:
                    raise JudgeError(f"{address}: can't be reached: {error}; check the address") from error
                time.sleep(_wait(None, _TRIES - left))
        raise AssertionError("the last try returns or raises")


def _wait(asked: str | None, tries: int) -> float:
    """Seconds before the next try: what the server asked for, else twice as long each time."""
    seconds = float(asked) if asked and asked.isdecimal() else 0.5 * 2**tries
    return min(seconds, _LONGEST_WAIT)
