"""Task instructions tried before training: which wording of the input the model understands best as it is.

A model that was trained on instructions (FLAN) begins nearer to a task that is put in words it knows. Each instruction
is scored on the same dev records by how likely the model finds their targets; nothing is trained for it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from t5kit.errors import RequestError
from t5kit.sources import RecordTable
from t5kit.tasks.target_profile import TargetProfile

MOST_TRIED = 100
"""Records an instruction is scored on."""
MOST_COMPARED = 12
"""Labels that are held against each other; with more, the right one's own likelihood counts."""


@dataclasses.dataclass(frozen=True, slots=True)
class InstructionScore:
    """How well a model as it is answers under one instruction."""

    instruction: str
    nats: float
    """Surprise at the right target, a token of it; of labels, a target among all of them. The lower the better."""
    accuracy: float | None
    """Of labels: percentage of records whose likeliest label is the right one."""

    def __str__(self) -> str:
        accuracy = "" if self.accuracy is None else f", {self.accuracy:.1f} % right"
        return f"{self.nats:.3f} nats{accuracy}: {self.instruction!r}"


def read_instructions(path: Path) -> list[str]:
    """Return the lines of a file that are not empty; # begins a comment. Raises: RequestError for less than two."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RequestError(f"{path}: the instructions cannot be read ({reason}).") from error
    found = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if len(found) < 2:
        raise RequestError(
            f"{path} has {len(found)} instruction(s); expected at least two lines, such as: review: {{text}}"
        )
    return found


def score_instructions(
    start: Path, tables: Mapping[str, RecordTable], profile: TargetProfile, *, threads: int | None, seed: int
) -> list[InstructionScore]:
    """Return a score for each instruction, best first.

    tables: instruction -> its records, the same ones under each. A record whose label train never shows tells nothing:
    it is wrong under every instruction, and left out.
    """
    from t5kit.api.model import Model

    known = list(profile.labels) if 2 <= len(profile.labels) <= MOST_COMPARED else []
    found = []
    with Model.from_pretrained(start, threads=threads) as model:
        for instruction, table in tables.items():
            rng = np.random.Generator(np.random.Philox(seed))
            usable = [n for n in range(len(table)) if str(table[n].fields["target"]) in known]
            labels = known if usable else []
            usable = usable or list(range(len(table)))
            chosen = np.sort(rng.permutation(len(usable))[:MOST_TRIED])
            records = [table[usable[int(place)]].fields for place in chosen]
            inputs, targets = ([str(fields[name]) for fields in records] for name in ("input", "target"))
            if not labels:
                scores = np.array(model.score(inputs, targets, truncate=True))
                lengths = [len(ids) for ids in model.tokenizer.encode_targets(targets, inputs)]
                found.append(InstructionScore(instruction, float(-scores.sum() / sum(lengths)), None))
                continue
            flat = model.score([text for text in inputs for _ in labels], labels * len(inputs), truncate=True)
            scores_NL = np.array(flat).reshape(len(inputs), len(labels))
            right_N = np.array([labels.index(target) for target in targets])
            largest_N1 = scores_NL.max(axis=1, keepdims=True)
            total_N = np.log(np.exp(scores_NL - largest_N1).sum(axis=1)) + largest_N1[:, 0]
            nats = float((total_N - scores_NL[np.arange(len(inputs)), right_N]).mean())
            found.append(InstructionScore(instruction, nats, float((scores_NL.argmax(axis=1) == right_N).mean() * 100)))
    return sorted(found, key=lambda score: score.nats)


def template_prefix(template: str) -> str:
    """Return what stands before the first field of a template: "review: {text}" -> "review: "; "" of a column."""
    return template.partition("{")[0] if _is_plain_template(template) else ""


def template_suffix(template: str) -> str:
    """Return what stands behind a template's last field: "{text} Is it good?" -> " Is it good?"; "" of a column."""
    return template.rpartition("}")[2] if _is_plain_template(template) else ""


def _is_plain_template(word: str) -> bool:
    """Say whether a word is a template in which every brace is a field's."""
    return "{" in word and "{{" not in word and "}}" not in word
