"""An evaluation as one HTML page: scores, labels, calibration, distributions, slices, examples, and a comparison.

It fetches nothing and needs no script; every drawing has its numbers in a table beside it, every text is escaped.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from t5kit.drawing.axes import number_text
from t5kit.drawing.histogram import Histogram, histogram_image, histogram_legend, histogram_of
from t5kit.drawing.interval_chart import IntervalRow, group_legend, interval_chart
from t5kit.drawing.page import details, document, figure, key_figures, note, section, table
from t5kit.drawing.reliability import ReliabilityPoint, reliability_diagram
from t5kit.evaluation.label_table import confusion_part
from t5kit.evaluation.slices import Slice, are_labels, num_words, slicings_of
from t5kit.metrics.answers import squad_items
from t5kit.metrics.bootstrap import Interval
from t5kit.metrics.calibration import calibration
from t5kit.metrics.named import is_lower_better

if TYPE_CHECKING:
    from t5kit.evaluation.comparison import Comparison
    from t5kit.evaluation.report import EvaluationReport, ExampleResult

NUM_EXAMPLES = 15
"""Examples of one kind that are shown."""
MAX_CHARACTERS = 700
"""Of a text in a table; a longer one is cut, and says so."""
MAX_SLICE_SCORES = 4
MAX_DISTRIBUTIONS = 4
_OF_ONE = {"cer", "chrf", "per", "wer"}
"""Scores of a corpus that mean something for a corpus of one example; BLEU of one short text is 0 or chance."""
_PLACES = {"loss", "perplexity"}
"""Scores that are no shares, and so on another axis."""


def evaluation_page(
    report: "EvaluationReport",
    *,
    name: str = "",
    other: "EvaluationReport | None" = None,
    other_name: str = "",
    comparison: "Comparison | None" = None,
) -> str:
    """Return the report as an HTML document.

    name: of the model or file that was evaluated. other, comparison: a second system's report on the same examples, and
    how the first stands to it.
    """
    sections = [
        section("Scores", _scores(report)),
        section("Findings", "".join(note(finding) for finding in report.findings)),
        section("Comparison", _comparison(report, other, comparison)),
        section("Slices", _slices(report, other)),
        section("Labels", confusion_part(report) if are_labels(report) else ""),
        section("Calibration", _calibration(report)),
        section("Distributions", _distributions(report)),
        section("Examples", _examples(report)),
        section("Records that could not be used", _bad(report)),
    ]
    heading = name or "Evaluation"
    subtitle = f"{report.counts()}."
    if comparison is not None:
        subtitle = f"A: {name or 'the first system'}. B: {other_name or 'the second system'}. {subtitle}"
        heading = f"{heading} beside {other_name}" if other_name else heading
    figures = [
        (_figure_name(score, report.intervals.get(score)), number_text(value)) for score, value in report.scores.items()
    ]
    return document(f"Evaluation of {heading}", heading, subtitle, f"{key_figures(figures)}\n{''.join(sections)}")


def _figure_name(score: str, interval: Interval | None) -> str:
    if interval is None:
        return score
    return f"{score}, {100 * interval.confidence:g} %: {number_text(interval.low)} to {number_text(interval.high)}"


# Scores and their comparison


def _scores(report: "EvaluationReport") -> str:
    names = [name for name in report.scores if not _is_apart(name)]
    rows = [IntervalRow(name, [_point(report.scores[name], report.intervals.get(name))]) for name in names]
    picture = interval_chart(
        rows if report.intervals else [],
        title="Scores with their intervals",
        description="; ".join(_in_words(name, report.scores[name], report.intervals.get(name)) for name in names),
        x_name="score",
        limits=(0.0, 100.0),
    )
    numbers = table(
        "Scores over all examples",
        ("score", "value", *_interval_names(report.intervals), "better is"),
        [
            (
                name,
                number_text(value),
                *_interval_cells(report.intervals, name),
                "lower" if is_lower_better(name) else "higher",
            )
            for name, value in report.scores.items()
        ],
        is_numeric=True,
    )
    return _beside(figure("Scores with their intervals", picture) if picture else "", numbers)


def _comparison(report: "EvaluationReport", other: "EvaluationReport | None", comparison: "Comparison | None") -> str:
    if other is None or comparison is None:
        return ""
    names = [name for name in comparison.differences if not _is_apart(name)]
    differences = comparison.differences
    picture = interval_chart(
        [
            IntervalRow(name, [_point(differences[name].difference.value, differences[name].difference)])
            for name in names
        ],
        title="Differences A - B",
        description="; ".join(
            _in_words(name, differences[name].difference.value, differences[name].difference) for name in names
        ),
        x_name="A - B",
        marked=0.0,
    )
    confidence = next(iter(differences.values())).difference.confidence
    numbers = table(
        "A beside B, by the paired bootstrap",
        ("score", "A", "B", "A - B", f"{100 * confidence:g} % interval", "p", "better"),
        [
            (
                name,
                number_text(comparison.scores_a[name]),
                number_text(comparison.scores_b[name]),
                _signed(found.difference.value),
                f"{_signed(found.difference.low)} to {_signed(found.difference.high)}",
                f"{found.p_value:.3f}",
                comparison.better(name) or "not sure",
            )
            for name, found in differences.items()
        ],
        is_numeric=True,
    )
    explained = note(
        "Both systems are scored on the same resampled examples, so that hard and easy ones cancel. p is the chance of "
        "a difference this large between equal systems. One is called better only where the interval leaves zero out "
        "and p is below what the confidence leaves."
    )
    return (
        explained + _beside(figure("Differences A - B", picture) if picture else "", numbers) + _changes(report, other)
    )


def _changes(report: "EvaluationReport", other: "EvaluationReport") -> str:
    """Return the examples on which the two differ most, either way; "" where nothing was generated."""
    if any(result.prediction is None for each in (report, other) for result in each.results):
        return ""
    score, column_of = _ranking(report, [name for name in report.scores if name in other.scores])
    gains = [
        (better, place)
        for place, better in enumerate(a - b for a, b in zip(column_of(report), column_of(other), strict=True))
    ]
    better_a, better_b = sum(gain > 0 for gain, _ in gains), sum(gain < 0 for gain, _ in gains)
    counts = note(
        f"By {score}, A is better on {better_a:,} examples, B on {better_b:,}; on {len(gains) - better_a - better_b:,} "
        "they are equal."
    )
    parts = []
    for title, sign in (("A is better", -1), ("B is better", 1)):
        chosen = sorted((each for each in gains if each[0] * sign < 0), key=lambda each: each[0] * sign)[:NUM_EXAMPLES]
        if chosen:
            rows = [
                (
                    report.results[place].place,
                    _cut(report.results[place].prompt),
                    _joined(report.results[place].references),
                    _cut(report.results[place].prediction or ""),
                    _cut(other.results[place].prediction or ""),
                    _signed(abs(gain)),
                )
                for gain, place in chosen
            ]
            caption = f"{title}: the largest differences in {score}"
            names = ("place", "prompt", "right", "A", "B", "better by")
            parts.append(details(title, table(caption, names, rows)))
    return counts + "".join(parts)


# Slices


def _slices(report: "EvaluationReport", other: "EvaluationReport | None") -> str:
    parts = []
    for slicing in slicings_of(report):
        slices = slicing.of(report)
        others = [] if other is None else slicing.of(other)
        score = next(iter(report.scores))
        groups = [slices, others] if other is not None and score in other.scores else [slices]
        picture = interval_chart(
            [
                IntervalRow(each[0].name, [_point(one.scores[score], one.intervals.get(score)) for one in each])
                for each in zip(*groups, strict=True)
            ],
            title=f"{slicing.title}: {score}",
            description="; ".join(_in_words(one.name, one.scores[score], one.intervals.get(score)) for one in slices),
            x_name=score,
            limits=None if _is_apart(score) else (0.0, 100.0),
        )
        legend = group_legend(["A", "B"]) if len(groups) > 1 else ""
        picture = figure(f"{slicing.title}: {score}", picture, above=legend) if picture else ""
        parts.append(_beside(picture, _slice_table(slicing.title, slices, others)))
    return "".join(parts)


def _slice_table(title: str, slices: Sequence[Slice], others: Sequence[Slice]) -> str:
    names = list(slices[0].scores)[: 2 if others else MAX_SLICE_SCORES]
    first = names[0]
    has_intervals = first in slices[0].intervals
    head = ["slice", "examples"]
    for name in names:
        head += [name, f"{name} of B"] if others and name in others[0].scores else [name]
        head += ["interval"] if has_intervals and name == first else []
    rows = []
    for number, part in enumerate(slices):
        row = [part.name, f"{part.num_examples:,}"]
        for name in names:
            row.append(number_text(part.scores[name]))
            if others and name in others[0].scores:
                row.append(number_text(others[number].scores[name]))
            if has_intervals and name == first:
                row.append(f"{number_text(part.intervals[name].low)} to {number_text(part.intervals[name].high)}")
        rows.append(row)
    return table(title, head, rows, is_numeric=True)


# Calibration


def _calibration(report: "EvaluationReport") -> str:
    told = [result for result in report.results if result.confidence is not None and result.prediction is not None]
    num_right = sum(result.is_right for result in told)
    if not told:
        return ""
    if not num_right:
        return note(
            "No answer is equal to a reference, so how often answers of a confidence are right cannot be told. The "
            "distribution of confidence is below."
        )
    found = calibration([result.confidence or 0.0 for result in told], [result.is_right for result in told])
    points = [
        ReliabilityPoint(each.confidence, each.accuracy, each.accuracy_low, each.accuracy_high, each.num_items)
        for each in found.bins
    ]
    picture = reliability_diagram(
        points,
        title="Reliability",
        description="; ".join(
            f"confidence {each.confidence:.2f}: {100 * each.accuracy:.0f} % of {each.num_items:,} right"
            for each in found.bins
        ),
    )
    figures = key_figures(
        [
            ("expected calibration error (ECE), 10 bins", f"{found.expected_error:.3f}"),
            ("Brier score", f"{found.brier_score:.3f}"),
            ("mean confidence", f"{found.mean_confidence:.3f}"),
            ("share right", f"{found.accuracy:.3f}"),
        ]
    )
    numbers = table(
        "Answers by confidence",
        ("confidence", "answers", "mean confidence", "share right", "95 % interval (Wilson)"),
        [
            (
                f"{each.low:.1f} to {each.high:.1f}",
                f"{each.num_items:,}",
                f"{each.confidence:.3f}",
                f"{each.accuracy:.3f}",
                f"{each.accuracy_low:.3f} to {each.accuracy_high:.3f}",
            )
            for each in found.bins
        ],
        is_numeric=True,
    )
    explained = note(
        "Confidence is the probability that the model gives its answer: that of the whole text, or its share among the "
        "choices. Right is an answer that is equal to a reference. Points on the dashed line are calibrated, below it "
        "too sure; a point's area is its number of answers."
    )
    return explained + figures + _beside(figure("Reliability", picture), numbers)


# Distributions


def _distributions(report: "EvaluationReport") -> str:
    results = report.results
    told = [result for result in results if result.confidence is not None]
    size, unit = _measure([reference for result in results for reference in result.references])
    lengths = {"right answer": [float(size(result.references[0])) for result in results]}
    answers = [float(size(result.prediction)) for result in results if result.prediction is not None]
    if answers:
        lengths = {"prediction": answers, **lengths}
    prompt_size, prompt_unit = _measure([result.prompt for result in results])
    prompts = {"prompt": [float(prompt_size(result.prompt)) for result in results]}
    drawn = [
        _distribution("Length of prompts", prompts, prompt_unit, are_counts=True),
        _distribution("Length of answers", lengths, unit, are_counts=True),
    ]
    if told:
        groups = {
            "right": [result.confidence or 0.0 for result in told if result.is_right],
            "wrong": [result.confidence or 0.0 for result in told if not result.is_right],
        }
        groups = {name: values for name, values in groups.items() if values}
        drawn.append(_distribution("Confidence", groups, "confidence", are_counts=False))
    columns = [
        (name, [result.scores[name] for result in results if name in result.scores]) for name in report.item_scores.each
    ]
    several = [
        (name, values)
        for number, (name, values) in enumerate(columns)
        if len(set(values)) > 2 and values not in [earlier for _, earlier in columns[:number]]
    ]
    drawn += [
        _distribution(f"{name} of single examples", {name: values}, name, are_counts=False)
        for name, values in several[:MAX_DISTRIBUTIONS]
    ]
    return f'<div class="charts">{"".join(drawn)}</div>'


def _distribution(title: str, groups: Mapping[str, Sequence[float]], x_name: str, *, are_counts: bool) -> str:
    found = histogram_of(groups, are_counts=are_counts)
    if found is None:
        return ""
    picture = histogram_image(found, title=title, description=_spread(groups, found), x_name=x_name)
    numbers = table(title, (x_name, *(f"examples: {name}" for name in found.counts)), found.rows(), is_numeric=True)
    return figure(title, picture, above=histogram_legend(found), below=details("Numbers", numbers))


def _spread(groups: Mapping[str, Sequence[float]], found: Histogram) -> str:
    parts = []
    for name, values in groups.items():
        ordered = sorted(values)
        middle = ordered[len(ordered) // 2]
        parts.append(
            f"{name}: {len(ordered):,} values from {number_text(ordered[0])} to {number_text(ordered[-1])}, "
            f"median {number_text(middle)}"
        )
    tail = "; the last bar holds all larger values" if found.has_tail else ""
    return "; ".join(parts) + tail


def _measure(texts: Sequence[str]) -> tuple[Callable[[str], int], str]:
    """Return how lengths are counted: in words, or in characters where most texts are one word."""
    counts = sorted(num_words(text) for text in texts)
    return (num_words, "words") if counts and counts[len(counts) // 2] > 1 else (len, "characters")


# Examples


def _examples(report: "EvaluationReport") -> str:
    if all(result.prediction is None for result in report.results):
        return ""
    score, column_of = _ranking(report, list(report.scores))
    values = column_of(report)
    sureness = [result.confidence or 0.0 for result in report.results]
    order = sorted(range(len(values)), key=lambda place: (values[place], -sureness[place]))
    chosen = [place for place in order if values[place] < max(values) or not report.results[place].is_right]
    chosen = chosen[:NUM_EXAMPLES]
    has_right = any(result.is_right for result in report.results)
    is_graded = len(set(values)) > 2 or not any(sureness) or not has_right
    parts = []
    if chosen and is_graded:
        rows = [_example_row(report.results[place], number_text(abs(values[place]))) for place in chosen]
        parts.append(table(f"The worst examples by {score}", ("place", "prompt", "right", "predicted", score), rows))
    sure = sorted(
        (
            result
            for result in report.results
            if result.confidence is not None and not result.is_right and not result.error
        ),
        key=lambda result: -(result.confidence or 0.0),
    )[:NUM_EXAMPLES]
    if sure and has_right:
        rows = [_example_row(result, f"{result.confidence:.3f}") for result in sure]
        caption = "The most confident wrong examples"
        parts.append(table(caption, ("place", "prompt", "right", "predicted", "confidence"), rows))
    failed = [result for result in report.results if result.error is not None]
    if failed:
        rows = [(result.place, _cut(result.prompt), _cut(str(result.error))) for result in failed[:NUM_EXAMPLES]]
        parts.append(table(f"{len(failed):,} examples without an answer", ("place", "prompt", "why"), rows))
    return "".join(parts)


def _example_row(result: "ExampleResult", number: str) -> tuple[str, ...]:
    predicted = _cut(result.prediction or "") if result.error is None else f"({result.error})"
    return result.place, _cut(result.prompt), _joined(result.references), predicted or "(empty)", number


def _ranking(
    report: "EvaluationReport", among: Sequence[str]
) -> tuple[str, Callable[["EvaluationReport"], list[float]]]:
    """Return the score, of those among, that ranks examples, and what gives its values of a report, best highest.

    The first score that single examples have, one of more than two values before one of right and wrong; that of each
    example as a corpus of its own; F1 of words where neither means anything.
    """
    of_items = report.item_scores.each
    names = [name for name in among if name != "perplexity" and name in of_items]
    graded = [name for name in names if len(set(of_items[name].tolist())) > 2]
    alone = [name for name in among if _last_word(name) in _OF_ONE]
    if chosen := [*graded, *alone, *names]:
        name = chosen[0]
        sign = -1.0 if is_lower_better(name) else 1.0
        return name, lambda of: [sign * value for value in _of_each(of, name)]
    return (
        "F1 of words",
        lambda of: (
            squad_items(
                [result.references for result in of.results], [result.prediction or "" for result in of.results]
            )
            .each["f1"]
            .tolist()
        ),
    )


def _of_each(report: "EvaluationReport", name: str) -> list[float]:
    """Return a score of every example."""
    if name in report.item_scores.each:
        return [float(value) for value in report.item_scores.each[name]]
    return [report.item_scores.of(np.array([place]))[name] for place in range(len(report.results))]


def _bad(report: "EvaluationReport") -> str:
    if not report.num_bad:
        return ""
    rows = [(record.place, record.error) for record in report.bad]
    return table(f"The first of {report.num_bad:,} bad records", ("place", "what is wrong"), rows)


# Texts and numbers


def _beside(left: str, right: str) -> str:
    """Return two parts beside each other, where there is room."""
    return f'<div class="charts">{left}<div class="beside">{right}</div></div>' if left else right


def _joined(texts: Sequence[str]) -> str:
    """Return the accepted texts of one example."""
    return " | ".join(_cut(text) for text in itertools.islice(texts, 4)) + (" | …" if len(texts) > 4 else "")


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARACTERS else f"{text[:MAX_CHARACTERS]} … ({len(text):,} characters)"


def _point(value: float, interval: Interval | None) -> tuple[float, float, float]:
    return (value, value, value) if interval is None else (value, interval.low, interval.high)


def _in_words(name: str, value: float, interval: Interval | None) -> str:
    if interval is None:
        return f"{name}: {number_text(value)}"
    return f"{name}: {number_text(value)}, from {number_text(interval.low)} to {number_text(interval.high)}"


def _interval_names(intervals: Mapping[str, Interval]) -> list[str]:
    return [f"{100 * next(iter(intervals.values())).confidence:g} % interval"] if intervals else []


def _interval_cells(intervals: Mapping[str, Interval], name: str) -> list[str]:
    return [f"{number_text(intervals[name].low)} to {number_text(intervals[name].high)}"] if intervals else []


def _signed(value: float) -> str:
    return f"+{number_text(value)}" if value > 0 else number_text(value)


def _last_word(score: str) -> str:
    return score.rsplit(".", 1)[-1]


def _is_apart(score: str) -> bool:
    return _last_word(score) in _PLACES
