"""What kind of answers a data set asks for, told by its targets alone: labels, numbers, answers of a few words, texts.

The kind decides the metric, and shows what is likely to be wrong with labels before anything is trained on them.
"""

import collections
import dataclasses
import math
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Final, Literal, Self

TargetKind = Literal["labels", "numbers", "answers", "texts"]

MOST_LABELS: Final = 500
RECORDS_A_LABEL: Final = 4
"""Targets are labels if there are at most a label to so many records: fewer repeat too seldom to be a set."""
LONGEST_LABEL: Final = 80
"""Characters; what is longer is a sentence, however often it comes."""
MOST_RATINGS: Final = 20
"""So many different whole numbers may be ratings or classes; more are quantities."""
LONGEST_ANSWER: Final = 40
"""Characters of nearly all (90 %) targets that are answers, not texts."""
IMBALANCE: Final = 10.0
"""The most frequent label beside the least frequent one, from which on it is said."""
MAJORITY: Final = 0.8
"""Share of one label from which on accuracy says little, and macro F1 chooses the best weights."""
MOST_STRAY: Final = 0.2
"""Share of the targets up to which those that alone keep the rest from being numbers or labels are told."""
_WRITTEN_NUMBER: Final = re.compile(r"[-+−]?(\d{1,3}([,.'’ \u00a0\u202f]\d{3})+|\d+)([.,]\d+)?\s?%?")
"""What a reader takes for a number: "1,234.5", "3,14", "1 000", "45 %"."""
RARE: Final = 0.1
"""A label at most so frequent as one that is written nearly alike may be a mistyped one."""


@dataclasses.dataclass(frozen=True)
class TargetProfile:
    """The targets of a data set, summed up."""

    kind: TargetKind
    num_targets: int
    labels: Mapping[str, int]
    """Label -> how often it comes, the most frequent first; empty for other kinds."""
    is_latin: bool
    """Whether the letters are ASCII's for the most part: the only ones that ROUGE's words are made of."""
    stray: str = ""
    """What is to be said of few targets without which the others would be numbers, or labels; empty: there are none."""

    @classmethod
    def of(cls, targets: Sequence[str], *, has_references: bool = False) -> Self:
        """Return the profile of at least one target.

        has_references: other texts count as right too for some, so they are answers, and neither labels nor numbers.
        Examples: ["good", "bad", "good"] -> labels; 0.2, 3.8 … -> numbers; ["Paris", "a whale", …] -> answers.
        """
        counts = collections.Counter(targets)
        letters = [letter for target in counts for letter in target if letter.isalpha()]
        is_latin = sum(letter.isascii() for letter in letters) * 2 >= len(letters)
        kind = _kind(targets, counts)
        if has_references and kind in ("labels", "numbers"):
            kind = "answers"
        labels = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))) if kind == "labels" else {}
        return cls(kind, len(targets), labels, is_latin, _stray(targets, kind))

    @property
    def metrics(self) -> tuple[str, ...]:
        """The metrics that fit, by their names in t5kit.metrics."""
        match self.kind:
            case "labels":
                return ("classification_f1",)
            case "numbers":
                return ("correlations", "exact_match")
            case "answers":
                return ("exact_match", "chrf")
            case "texts":
                return ("rouge", "chrf") if self.is_latin else ("chrf",)

    @property
    def best_metric(self) -> str:
        """The number among those metrics by which weights are chosen; the highest is the best."""
        match self.kind:
            case "labels":
                return "macro_f1" if len(self.labels) > 1 and self.majority >= MAJORITY else "accuracy"
            case "numbers":
                return "pearson"
            case "answers":
                return "exact_match"
            case "texts":
                return "rougeL" if self.is_latin else "chrf"

    @property
    def majority(self) -> float:
        """The share of the most frequent label, in [0, 1]."""
        return max(self.labels.values()) / self.num_targets

    def __str__(self) -> str:
        if self.kind == "labels":
            shown = ", ".join(
                f"{label} {count / self.num_targets:.1%}" for label, count in list(self.labels.items())[:6]
            )
            more = f", … ({len(self.labels) - 6} more)" if len(self.labels) > 6 else ""
            return f"{len(self.labels)} label{'s' * (len(self.labels) > 1)}: {shown}{more}"
        return _words_of(self.kind)

    def findings(self) -> list[str]:
        """Return, in a sentence each, what a person should know of labels before training on them."""
        if self.kind != "labels":
            return [self.stray] if self.stray else []
        if len(self.labels) == 1:
            (label,) = self.labels
            return [
                f"every target is {label!r}: there is nothing to tell apart, and the model will learn to say it "
                "always. Is it the right column?"
            ]
        near = near_labels(self.labels)
        found = [
            f"label {rare!r} ({self._times(rare)}) looks like {frequent!r} ({self._times(frequent)}) mistyped. If it "
            "is, mend the data: they are two labels now."
            for rare, frequent in near
        ]
        mistyped = {rare for rare, frequent in near if _is_rare(self.labels[rare], self.labels[frequent])}
        meant = [(label, count) for label, count in self.labels.items() if label not in mistyped]
        (most, num_most), (least, num_least) = meant[0], meant[-1]
        if num_most >= IMBALANCE * num_least:
            found.append(
                f"the labels are unbalanced: {most!r} comes {num_most:,} times and {least!r} {num_least:,}. Answering "
                f"{most!r} always is right in {self.majority:.1%}; look at macro F1 beside accuracy."
            )
        once = [label for label, count in meant if count == 1]
        if once:
            names = ", ".join(map(repr, once[:5])) + (", …" if len(once) > 5 else "")
            found.append(f"{len(once)} label(s) come once only ({names}): too seldom to be learned or checked.")
        return found

    def _times(self, label: str) -> str:
        count = self.labels[label]
        return "once" if count == 1 else f"{count:,} times"


def near_labels(labels: Mapping[str, int]) -> list[tuple[str, str]]:
    """Return (rare label, the frequent one it is written nearly like), the most frequent first.

    Nearly: equal but for case, spaces and punctuation, or one edit (two letters changing places counts as one) apart
    from 4 letters on, two from 12 on. Labels that differ in a digit ("class 1", "class 2") or by what stands before
    ("related", "unrelated") are not. Both may be frequent where case, spaces and marks of sentences are all that
    differs; signs ("C", "C++"; "1", "-1") are meant.
    """
    found = []
    spelled = {label: _Spelling.of(label) for label in labels}
    names = sorted(labels, key=lambda label: (-labels[label], label))
    for place, rare in enumerate(names):
        for frequent in names[:place]:
            is_the_same = spelled[rare].plain == spelled[frequent].plain != ""
            is_rare = _is_rare(labels[rare], labels[frequent])
            if is_the_same or (is_rare and _is_near(spelled[rare], spelled[frequent])):
                found.append((rare, frequent))
                break
    return found


def _is_rare(times: int, beside: int) -> bool:
    return times <= max(1.0, RARE * beside) < beside


_MARKS = re.compile(r"[\s_!?'\"]|(?<!\d)[.,]|[.,](?!\d)|(?<=[^\W\d_])-(?=[^\W\d_])")
"""Spaces and marks of sentences; a point or comma within a number and a sign before one are none."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Spelling:
    """A label as it is held against others."""

    text: str
    """With single spaces, in one case."""
    plain: str
    """Without spaces and the marks of sentences, in one case."""
    letters: str
    """Letters and digits alone."""
    digits: str

    @classmethod
    def of(cls, label: str) -> Self:
        text = " ".join(label.split()).casefold()
        return cls(
            text,
            _MARKS.sub("", text),
            "".join(letter for letter in text if letter.isalnum()),
            "".join(letter for letter in text if letter.isdigit()),
        )


def _is_near(rare: _Spelling, frequent: _Spelling) -> bool:
    if rare.letters == frequent.letters:
        return bool(rare.letters)
    left, right = rare.text, frequent.text
    if rare.digits != frequent.digits or abs(len(left) - len(right)) > 2:
        return False
    if left.endswith(right) or right.endswith(left):
        return False
    longest = max(len(left), len(right))
    allowed = 2 if longest >= 12 else 1 if longest >= 4 else 0
    # Speed: 500 labels of 78 letters took 148 s by whole distances.
    return _is_within(left, right, allowed) or (
        allowed == 1 and sorted(left) == sorted(right) and _is_within(left, right, 2)  # two letters changed places
    )


def _is_within(left: str, right: str, num_edits: int) -> bool:
    """Say whether so few letters put in, left out or replaced make one text of the other: 2 edits in 13 comparisons."""
    same = 0
    for ours, theirs in zip(left, right, strict=False):
        if ours != theirs:
            break
        same += 1
    left, right = left[same:], right[same:]
    if not (left and right and num_edits):
        return max(len(left), len(right)) <= num_edits
    return (
        _is_within(left[1:], right[1:], num_edits - 1)
        or _is_within(left[1:], right, num_edits - 1)
        or _is_within(left, right[1:], num_edits - 1)
    )


def _kind(targets: Sequence[str], counts: Mapping[str, int]) -> TargetKind:
    numbers = [_number(target) for target in counts]
    if not any(math.isnan(number) for number in numbers):
        has_fractions = any(number != int(number) for number in numbers)
        if len(counts) > (2 if has_fractions else MOST_RATINGS):
            return "numbers"
    most_labels = max(2, min(MOST_LABELS, len(targets) // RECORDS_A_LABEL))
    if len(counts) <= most_labels and max(map(len, counts)) <= LONGEST_LABEL:
        return "labels"
    if len(counts) > 2 and not any(math.isnan(number) for number in numbers):
        return "numbers"
    lengths = sorted(len(target) for target in targets)
    num_words = statistics.median(len(target.split()) for target in targets)
    is_short = lengths[(9 * (len(lengths) - 1)) // 10] <= LONGEST_ANSWER and num_words <= 3
    return "answers" if is_short else "texts"


def _stray(targets: Sequence[str], kind: TargetKind) -> str:
    """Return what is to be said of few targets that decide the kind of all; empty where none does."""
    if kind in ("labels", "numbers"):
        return ""
    for fits, others in (
        (lambda target: not math.isnan(_number(target)), "numbers"),
        (lambda target: len(target) <= LONGEST_LABEL, "labels"),
    ):
        kept = [target for target in targets if fits(target)]
        stray = [target for target in targets if not fits(target)]
        if not stray or len(stray) > MOST_STRAY * len(targets) or _kind(kept, collections.Counter(kept)) != others:
            continue
        shown = ", ".join(f"{target!r:.60}" for target in list(dict.fromkeys(stray))[:3])
        verb = "is" if len(stray) == 1 else "are"
        return (
            f"{len(kept):,} of {len(targets):,} targets are {others}, and {len(stray):,} {verb} not ({shown}): so all "
            f"count as {_words_of(kind)} and are scored as such. If it is a mistake, mend or remove them."
        )
    return _written_otherwise(targets, kind)


def _written_otherwise(targets: Sequence[str], kind: TargetKind) -> str:
    """Return what is to be said of numbers that are not read as such, where others, if there are any, are few."""
    written = [target for target in targets if math.isnan(_number(target)) and _WRITTEN_NUMBER.fullmatch(target)]
    plain = [target for target in targets if not math.isnan(_number(target))]
    plain += [re.sub(r"\D", "", target) for target in written]
    if not written or len(targets) - len(plain) > MOST_STRAY * len(targets):
        return ""
    if _kind(plain, collections.Counter(plain)) != "numbers":
        return ""
    return (
        f"{len(plain):,} of {len(targets):,} targets are numbers, but {len(written):,} of them are written such as "
        f"{written[0]!r}, which is not read as one: so all count as {_words_of(kind)} and are scored as such. Write "
        "digits and a point alone, such as 1234.5, if they shall be scored as numbers."
    )


def _words_of(kind: TargetKind) -> str:
    return {"answers": "answers of a few words", "texts": "free text"}.get(kind, kind)


def _number(target: str) -> float:
    try:
        number = float(target)
    except ValueError:
        return math.nan
    return number if math.isfinite(number) else math.nan
