"""Score a method on a data set, one edit at a time: before, after, and with the facts told in the prompt instead."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel
from tqdm import tqdm

import kg_edit
from kg_edit.edits import Edit
from kg_edit.errors import KgEditError
from kg_edit.evaluate.metrics import (
    METRICS,
    PORTABILITY,
    Case,
    Evidence,
    fact_pairs,
    few_shot_prompt,
    question_pairs,
)
from kg_edit.evaluate.questions import SHOTS, Form, answers, choices, fact, recalled_fact
from kg_edit.evaluate.records import RunFolder, RunRecord, Section
from kg_edit.evaluate.scoring import score
from kg_edit.evaluate.generation import continuations
from kg_edit.evaluate.summary import Summary, summarise
from kg_edit.language_model import LanguageModel
from kg_edit.patch import Patch

PROTOCOL = 1  # raise it when a metric changes: runs of different protocols are not comparable
REWRITE_TOKENS, ANSWER_TOKENS = 10, 24
