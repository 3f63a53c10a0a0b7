"""The texts of a file, a chunk at a time: what each is asked, and the lines that its answer becomes.

Plain values that can go to another process, so that a chunk is answered alike wherever it is.
"""

import collections
import dataclasses
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from t5kit.cli.inputs import chunks
from t5kit.cli.outputs import Output, at_place, json_line, tell_of_line_breaks, without_line_breaks
from t5kit.errors import EngineError, RequestError
from t5kit.sources import BadRecord
from t5kit.text import Tokenizer

if TYPE_CHECKING:
    from t5kit.api import Completion, Model

TextItem = tuple[str, str | BadRecord]
"""The place of a text (file:line), and the text or what is wrong there."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AnswerForm:
    """What every text is asked, and how its answer is written."""

    arguments: dict[str, Any]
    """Of `Model.generate`."""
    truncate: bool
    as_json: bool
    num_answers: int
    """Answers a text; without as_json each is a line of its own, empty where there are fewer."""
    whole_within: int | None = None
    """max_new_tokens where the answer is to have a form, of which one that is cut there is the beginning only."""

    @property
    def lines_per_text(self) -> int:
        """Lines that every text has in the output."""
        return 1 if self.as_json else self.num_answers


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class AnsweredChunk:
    """The lines of some texts, in their order."""

    lines: str
    num_texts: int
    problems: tuple[str, ...] = ()
    """Of the texts that have no answer: place and reason, one sentence each."""
    cut: tuple[str, ...] = ()
    """Of the texts whose answer has not the form asked for because it was cut, likewise."""
    has_line_breaks: bool = False
    """Whether an answer's own line breaks became spaces."""
    notes: tuple[str, ...] = ()
    """What another process wrote to standard error."""


class RepeatCounts:
    """How often each prompt came, so that samples under a seed do not depend on how a file is cut into chunks."""

    def __init__(self, tokenizer: Tokenizer, *, max_input_tokens: int, truncate: bool) -> None:
        self._tokenizer = tokenizer
        self._max_input_tokens = max_input_tokens
        self._truncate = truncate
        self.counts: collections.Counter[bytes] = collections.Counter()
        """By the bytes of the prompt's ids, as `Model.try_generate` takes and counts them."""

    def add(self, texts: Sequence[str]) -> list[int]:
        """Count texts; return how often each came before (0 for one that cannot be taken)."""
        before = []
        for key in self._keys(texts):
            before.append(0 if key is None else self.counts[key])
            if key is not None:
                self.counts[key] += 1
        return before

    def start_at(self, texts: Sequence[str], before: Sequence[int]) -> None:
        """Take over how often each of some texts, the next ones, came before: what `add` returned for them."""
        for key, number in zip(self._keys(texts), before, strict=True):
            if key is not None and key not in self.counts:
                self.counts[key] = number

    def _keys(self, texts: Sequence[str]) -> Iterable[bytes | None]:
        from t5kit.api.prompting import encode_each

        encoded = encode_each(texts, self._tokenizer, max_input_tokens=self._max_input_tokens, truncate=self._truncate)
        return (None if isinstance(ids, RequestError) else ids.tobytes() for ids in encoded)


def good_texts(chunk: Sequence[TextItem]) -> list[str]:
    """Return the texts of a chunk without what is no text."""
    return [text for _, text in chunk if isinstance(text, str)]


def pass_over(items: Iterator[TextItem], num_done: int, repeats: RepeatCounts | None, batch_size: int) -> None:
    """Read past the texts that are answered already, counting how often each came where that matters.

    Raises: RequestError if there are fewer.
    """
    left = num_done
    for chunk in chunks(itertools.islice(items, num_done), batch_size):
        left -= len(chunk)
        if repeats is not None:
            repeats.add(good_texts(chunk))
    if left:
        raise RequestError(f"There are {num_done} answers already, but {left} texts fewer. Is it the same input?")


def answer_chunk(
    model: "Model",
    chunk: Sequence[TextItem],
    form: AnswerForm,
    *,
    repeats: "collections.Counter[bytes] | None",
) -> AnsweredChunk:
    """Answer the texts of a chunk; one that cannot be answered leaves an empty line, or an "error", in its place."""
    answers = iter(model.try_generate(good_texts(chunk), truncate=form.truncate, repeats=repeats, **form.arguments))
    lines, problems, cut = [], [], []
    has_line_breaks = False
    for place, text in chunk:
        if isinstance(text, BadRecord):
            problem = text.error
        else:
            answer = next(answers)
            if isinstance(answer, tuple):
                try:
                    lines.append(_json_answer(text, answer, form) if form.as_json else _lines(answer, form))
                    has_line_breaks |= not form.as_json and any(without_line_breaks(c.text) != c.text for c in answer)
                    if form.whole_within is not None and any(c.finish_reason == "length" for c in answer):
                        cut.append(at_place(place, cut_words(form.whole_within)))
                    continue
                except EngineError as error:
                    problem = at_place(place, error)
            else:
                problem = at_place(place, answer)
        problems.append(problem)
        lines.append(json_line({"error": problem}) if form.as_json else "\n" * form.num_answers)
    return AnsweredChunk(
        lines="".join(lines), num_texts=len(chunk), problems=tuple(problems), cut=tuple(cut),
        has_line_breaks=has_line_breaks,
    )  # fmt: skip


def cut_words(max_new_tokens: int) -> str:
    """Return what is said of an answer that was cut before it had the form asked for."""
    return (
        f"the answer was cut at --max-new-tokens {max_new_tokens}, before its form was whole. Raise --max-new-tokens."
    )


def write_answered(out: Output, answered: AnsweredChunk, warned: set[str]) -> None:
    """Write a chunk's lines, and what is to be told of it on standard error. warned: what was said once; added to."""
    for note in set(answered.notes) - warned:
        warned.add(note)
        print(note, file=sys.stderr)
    for problem in (*answered.problems, *answered.cut):
        print(f"t5kit: {problem}", file=sys.stderr)
    if answered.has_line_breaks:
        tell_of_line_breaks(warned)
    out.write(answered.lines)
    out.flush()


def _lines(completions: "tuple[Completion, ...]", form: AnswerForm) -> str:
    """Return `num_answers` lines, so that the lines of every text can be told by their position."""
    lines = [without_line_breaks(completion.text) for completion in completions]
    return "".join(f"{line}\n" for line in lines + [""] * (form.num_answers - len(lines)))


def _json_answer(text: str, completions: "tuple[Completion, ...]", form: AnswerForm) -> str:
    answers = [
        {
            "text": c.text,
            "score": c.score,
            "finish_reason": c.finish_reason,
            "token_ids": list(c.token_ids),
            "token_scores": list(c.token_scores),
        }
        for c in completions
    ]
    return json_line({"input": text, "outputs": answers} if form.num_answers > 1 else {"input": text, **answers[0]})
