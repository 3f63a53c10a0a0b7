"""What a person brings to train on, made into tables of pairs, and all that is strange about it said in sentences.

Nothing is lost in silence: a record that gives no pair is counted with its place, and what looks wrong but can be
trained on (doubled inputs, mistyped labels, a held-out record that is in the train data too) is a finding.
"""

import collections
import dataclasses
import difflib
import itertools
import math
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t5kit.errors import DataError, RequestError
from t5kit.evaluation.pair_form import INPUT_COLUMNS, TARGET_COLUMNS, PairColumns, is_empty, template_fields
from t5kit.metrics import Metric, metric_named
from t5kit.metrics.named import item_scores
from t5kit.sources import BadRecord, MemoryTable, ReadReport, Record, RecordTable, read_table, table_of
from t5kit.sources.lines import NOT_UTF_8
from t5kit.sources.records import Format, header_hint
from t5kit.sources.tables import NUM_SHOWN
from t5kit.tasks.augmentation import Paraphrase, paraphrased
from t5kit.tasks.configured import DEV, TEST, TRAIN, JoinedTable, SelectedTable
from t5kit.tasks.target_profile import TargetProfile
from t5kit.tasks.templates import check_template
from t5kit.text import Tokenizer
from t5kit.text.tokenizer import check_text

FitData = str | Path | Sequence[str | Path] | Iterable[Mapping[str, object]] | Iterable[tuple[str, str]]
"""Files, globs and folders, or rows: mappings of fields, or pairs of input and target."""

FEWEST_TO_HOLD_OUT = 40
"""Of fewer records nothing is held out, for it would say little."""
MOST_HELD_OUT = 1000
MOST_NOT_UTF_8 = 0.01
"""Share of lines that are not UTF-8 from which on a file is in another encoding, not damaged."""
MOST_SCORED_LETTERS = 100_000
"""Of a dev or test target: no answer is nearly as long, and metrics that compare every two words take minutes over
one of ten million."""
NUM_TARGETS_TRIED = 500
"""Targets that are written in the vocabulary and read back, to see what it cannot write."""

MOST_WITHOUT_LABEL = 0.05
"""Share of the inputs that may lack their label where all seem to hold it."""
NUM_SEARCHED = 1000
"""Inputs that labels are looked for in."""
SEARCHED_LETTERS = 2000
"""At the beginning of an input and at its end."""
FEWEST_SEARCHED, SHORTEST_SEARCHED = 10, 4
"""Records, and letters of the shortest label; shorter ones stand in other words."""

HEADER_INPUTS = (*INPUT_COLUMNS, "text", "sentence", "question")
HEADER_TARGETS = (*TARGET_COLUMNS, "label", "output", "answer", "summary")
"""What columns are usually called; a first record of such words is a header that was read as one."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FitTables:
    """The pairs of a run by split, with what was found out about them."""

    tables: Mapping[str, RecordTable]
    """train, and dev and test where there are such; fields "input" and "target", and "references", a list of all that
    counts as right, in every record if there are several for any."""
    reports: Mapping[str, ReadReport]
    """What reading each given split found."""
    profile: TargetProfile
    """Of the train targets."""
    findings: tuple[str, ...]
    """What a person should know, a sentence each."""
    num_held_out: int
    """Records of train that became dev; 0 where dev was given, or there are too few."""
    whole_dev: RecordTable | None = None
    """dev before it was cut; None without one."""


def fit_tables(
    given: Mapping[str, MemoryTable], tokenizer: Tokenizer, *, seed: int, most_watched: int = MOST_HELD_OUT
) -> FitTables:
    """Return the tables of a run: a part of train held out where no dev is given, labels as the vocabulary writes them.

    most_watched: a larger dev is cut to so many records, drawn by the seed, for it is looked at again and again.
    """
    given, findings = _with_references(given)
    targets = _texts(given[TRAIN], "target")
    has_references = "references" in given[TRAIN][0].fields
    profile = TargetProfile.of(targets, has_references=has_references)
    written, said = _as_written(profile, targets, tokenizer)
    findings += said
    tables: dict[str, RecordTable] = {split: _rewritten(table, written) for split, table in given.items()}
    for split in (DEV, TEST):
        if split in tables:
            tables[split], said = _with_scored(tables[split], split)
            findings += said
    profile = TargetProfile.of(_texts(tables[TRAIN], "target"), has_references=has_references)
    findings += profile.findings() + _of_train(tables[TRAIN]) + _of_held_labels(tables[TRAIN], profile)
    findings += _across(tables, profile)
    num_held_out, whole_dev = 0, tables.get(DEV)
    if DEV not in tables:
        num_held_out = num_to_hold_out(len(tables[TRAIN]))
        if num_held_out:
            tables[TRAIN], tables[DEV] = split_off(tables[TRAIN], num_held_out, profile=profile, seed=seed)
            num_held_out, whole_dev = len(tables[DEV]), tables[DEV]
            findings += _across({split: tables[split] for split in (TRAIN, DEV)}, profile)
        else:
            findings.append(
                f"{len(targets):,} record(s) are too few to hold some out: nothing tells how good the model is on what "
                f"it has not seen. Bring {FEWEST_TO_HOLD_OUT} or more, or dev records."
            )
    elif len(tables[DEV]) > most_watched:
        findings.append(
            f"dev has {len(tables[DEV]):,} records; {most_watched:,} of them, drawn by the seed, are looked at during "
            "training."
        )
        tables[DEV] = _drawn(tables[DEV], most_watched, seed=seed)
    return FitTables(
        tables=tables,
        reports={split: table.report for split, table in given.items()},
        profile=profile,
        findings=tuple(findings),
        num_held_out=num_held_out,
        whole_dev=whole_dev,
    )


def num_to_hold_out(num_records: int) -> int:
    """Return how many of so many records are held out: a tenth up to 200, then a twentieth up to 1,000, or none."""
    if num_records < FEWEST_TO_HOLD_OUT:
        return 0
    return min(MOST_HELD_OUT, max(math.ceil(0.05 * num_records), min(200, math.ceil(0.1 * num_records))))


def split_off(
    table: RecordTable, num_held_out: int, *, profile: TargetProfile, seed: int
) -> tuple[RecordTable, RecordTable]:
    """Return the table without and with only about num_held_out records, drawn by the seed, both in their order.

    Records of one input (`_as_read`) go together, so that none of those held out was trained on. Labels keep their
    proportions, and a label that comes with one input only stays in train, as does a target too long to be scored.
    Where every input is too many records, that of the fewest is held out; where no label has two inputs, a single
    record is, and its like stay in train.
    """
    groups: dict[str, list[int]] = {}
    for index in range(len(table)):
        groups.setdefault(_as_read(str(table[index].fields["input"])), []).append(index)
    groups = {
        text: members for text, members in groups.items() if not any(_is_too_long(table[index]) for index in members)
    } or groups
    strata: dict[str, list[list[int]]] = {}
    for members in groups.values():
        label = str(table[members[0]].fields["target"]) if profile.kind == "labels" else ""
        strata.setdefault(label, []).append(members)
    rng = np.random.Generator(np.random.Philox(seed))
    share = num_held_out / sum(map(len, groups.values()))
    held_out: list[int] = []
    owed = 0.0  # what rounding took from the strata before, so that many small ones give their part too
    for label in sorted(strata):
        stratum = strata[label]
        owed += share * sum(map(len, stratum))
        last = len(stratum) - 1  # at least one input of every label is learned
        for place in rng.permutation(len(stratum))[:last]:
            members = stratum[int(place)]
            if len(members) > owed + 0.5:
                continue
            held_out += members
            owed -= len(members)
            if owed < 0.5:
                break
    is_held_out = np.zeros(len(table), np.bool_)
    is_held_out[held_out] = True
    if not held_out:  # every input comes too often for the share
        spare = [members for stratum in strata.values() if len(stratum) > 1 for members in stratum]
        is_held_out[min(spare, key=len) if spare else int(rng.integers(len(table)))] = True
    return SelectedTable(table, np.flatnonzero(~is_held_out)), SelectedTable(table, np.flatnonzero(is_held_out))


def with_paraphrases(table: RecordTable, paraphrase: Paraphrase, *, kept_prefix: str, kept_suffix: str) -> RecordTable:
    """Return the table with every input once more in the callable's words, where those are others."""
    rows = [table[index].fields for index in range(len(table))]
    inputs = _texts(table, "input")
    new = paraphrased(inputs, paraphrase, kept_prefix=kept_prefix, kept_suffix=kept_suffix)
    more = [{**row, "input": other} for other, row in zip(new, rows, strict=True) if other is not None]
    return JoinedTable((table, table_of(more, name="paraphrase"))) if more else table


def read_pairs(table: MemoryTable, columns: PairColumns) -> MemoryTable:
    """Return {"input", "target"} of every record that has both, outer spaces of targets dropped; the others are bad.

    A target that is a list of several texts is the first of them, and all are its "references".
    Raises: DataError if no record has both; RequestError for a column that is not there, with the nearest one.
    """
    _check_columns(table, columns)
    records: list[Record] = []
    bad: list[BadRecord] = []
    for index in range(len(table)):
        record = table[index]
        try:
            fields = columns(record.fields)
            prompt, target = str(fields["prompt"]), str(fields["target"]).strip()
            for name, word, text in (("input", columns.input, prompt), ("target", columns.target, target)):
                if is_empty(word, record.fields, text):
                    raise DataError(f"its {name} is empty.")
                check_text(text)
            accepted: Any = fields["references"]
            references = list(dict.fromkeys([target, *filter(None, (text.strip() for text in accepted))]))
            for text in references[1:]:
                check_text(text)
        except (DataError, RequestError) as error:
            bad.append(BadRecord(place=record.place, error=f"{record.place}: {error}"))
            continue
        pair: dict[str, object] = {"input": prompt, "target": target}
        if len(references) > 1:
            pair["references"] = references
        records.append(dataclasses.replace(record, fields=pair))
    if not records:
        raise DataError(f"no record has an input and a target; {bad[0].error}")
    return with_report(dataclasses.replace(table, records=records), table.report, bad)


def template_findings(table: RecordTable, columns: PairColumns) -> list[str]:
    """Return what is to be said of an input that is made of all columns that the target is made of."""
    fields = table[0].fields
    words = zip((columns.input, columns.target), columns.usual, strict=True)
    inputs, targets = (_column_names(word, usual, fields) for word, usual in words)
    if not targets or not set(targets) <= set(inputs):
        return []
    names = " and ".join(map(repr, dict.fromkeys(targets)))
    return [
        f"the input, {columns.input or inputs[0]!r}, has the column {names}, of which the target is made: the model "
        "learns to copy it, and cannot be asked without it. Take it out of the input, unless copying is the task."
    ]


def _column_names(word: str, usual: Sequence[str], fields: Mapping[str, object]) -> list[str]:
    """Return the columns of a record that a word of PairColumns names."""
    numbers = {"input": "0", "target": "1"} if "0" in fields else {}
    there = fields.keys() | numbers
    names = template_fields(word) if "{" in word else [word or next((name for name in usual if name in there), "")]
    return [numbers.get(name, name) for name in names if name]


def check_targets(tables: Mapping[str, RecordTable], metrics: Sequence[str]) -> None:
    """Raise now, naming the record, what a metric would say of the targets of a split after the whole training.

    Raises: DataError for a target that a metric cannot take, such as "n/a" among numbers; DependencyError where a
    metric's library is missing.
    """
    for split, table in tables.items():
        references = [references_of(table[index]) for index in range(len(table))]
        for name in metrics:
            metric = metric_named(name)
            try:
                item_scores(metric, references, [""] * len(references))
            except DataError as error:
                found = next((n for n in range(len(table)) if not _takes(metric, references[n])), None)
                what = "" if found is None else f"{table[found].place} has the target {references[found][0]!r:.60}. "
                raise DataError(
                    f"{split} cannot be scored: {error} {what}Mend or remove such records, or choose other metrics "
                    "(--metrics; metrics= in Python)."
                ) from error


def _with_scored(table: RecordTable, split: str) -> tuple[RecordTable, list[str]]:
    """Return a table without the records whose targets are too long to be scored, and what is to be said of them.

    Raises: DataError if none is left.
    """
    too_long = [index for index in range(len(table)) if _is_too_long(table[index])]
    if not too_long:
        return table, []
    first = table[too_long[0]]
    what = (
        f"{len(too_long):,} record(s) of {split} have a target of more than {MOST_SCORED_LETTERS:,} letters "
        f"({first.place}: {len(str(first.fields['target'])):,})"
    )
    if len(too_long) == len(table):
        raise DataError(f"{what}: no answer is as long, and none is left to score by. Bring shorter ones.")
    return SelectedTable(table, np.setdiff1d(np.arange(len(table)), too_long)), [f"{what} and are not scored."]


def _is_too_long(record: Record) -> bool:
    return len(str(record.fields["target"])) > MOST_SCORED_LETTERS


def _takes(metric: Metric, references: Sequence[str]) -> bool:
    try:
        item_scores(metric, [references], [""])
    except DataError:
        return False
    return True


def with_report(kept: MemoryTable, read: ReadReport, bad: Sequence[BadRecord]) -> MemoryTable:
    """Return what was kept of a table with the report of all that was not: unreadable lines, then unusable records."""
    shown = (*read.bad, *bad)[:NUM_SHOWN]
    report = ReadReport(len(kept), read.num_bad + len(bad), shown, read.num_by_file)
    return dataclasses.replace(kept, report=report)


def read_rows(
    data: FitData, format: Format | None, encoding: str | None = None, columns: Sequence[str] = ()
) -> MemoryTable:
    """Return the records of files, or of mappings and pairs given in Python.

    encoding: of files; None: UTF-8. columns: names for those of files without a header.
    Raises: DataError if nothing can be read, or a file is in another encoding.
    """
    if isinstance(data, str | Path):
        return _read_files(data, format, encoding, columns)
    is_rows = isinstance(data, Iterable) and not isinstance(data, Mapping)
    rows: list[Any] = list(data) if is_rows else []
    # A data frame gives the names of its columns, a data set of Hugging Face its records; both have to_dict.
    is_frame = hasattr(data, "to_dict") and not all(isinstance(row, Mapping) for row in rows)
    if is_frame or not is_rows:
        hint = ""
        if is_frame:
            hint = ' Of a data frame, give data.to_dict("records").'
        elif isinstance(data, Mapping):
            hint = " Of columns, give [dict(zip(data, row)) for row in zip(*data.values())]."
        raise RequestError(
            f"The data are of the type {type(data).__name__}; expected a file's name, or a list of names, of mappings "
            f"of fields or of (input, target) pairs.{hint}"
        )
    if format is None and rows and all(isinstance(row, str) and not Path(row[:200]).suffix for row in rows):
        raise RequestError(
            f"row 0 of the data is {rows[0]!r:.60}, which is a text alone or a file without an ending; expected "
            "mappings of fields, pairs of an input and a target, or files whose format= is said."
        )
    if rows and all(isinstance(row, str | Path) for row in rows):
        return _read_files(rows, format, encoding, columns)
    if columns:
        raise RequestError("columns are names for files without a header, and the data are rows. Drop them.")
    if rows and _is_pair(rows[0]):
        wrong = next((number for number, row in enumerate(rows) if not _is_pair(row)), None)
        if wrong is not None:
            raise RequestError(
                f"row {wrong} of the data is {rows[wrong]!r:.60}; expected an (input, target) pair, as row 0 is one."
            )
        return table_of([{"input": source, "target": target} for source, target in rows], name="row")
    return checked_rows(rows, "mappings of fields, or (input, target) pairs", (Mapping,))


def _is_pair(row: object) -> bool:
    return isinstance(row, tuple | list) and len(row) == 2


def checked_rows(rows: Sequence[Any], expected: str, kinds: tuple[type, ...]) -> MemoryTable:
    """Return rows given in Python as a table. Raises: RequestError for a row of another kind."""
    for number, row in enumerate(rows):
        if not isinstance(row, kinds):
            raise RequestError(f"row {number} of the data is {row!r:.60}; expected {expected}.")
    return table_of(rows, name="row")


def _read_files(
    names: str | Path | Sequence[str | Path], format: Format | None, encoding: str | None, columns: Sequence[str]
) -> MemoryTable:
    """Return the records of files. Raises: DataError where so many lines are not UTF-8 that it is another encoding."""
    hint = (
        "The file seems to be in another encoding than UTF-8. Name it, such as --encoding cp1252 (encoding='cp1252' in "
        "Python) for one that Windows wrote in Western Europe."
    )
    try:
        table = read_table(names, format=format, columns=columns, encoding=encoding)
    except DataError as error:
        first = next((line.strip() for line in str(error).splitlines() if NOT_UTF_8 in line), None)
        if first is None:
            raise
        raise DataError(f"no line can be read, first {first} {hint}") from error
    report = table.report
    wrong = [bad for bad in report.bad if NOT_UTF_8 in bad.error]
    if wrong and report.num_bad >= MOST_NOT_UTF_8 * (report.num_records + report.num_bad):
        raise DataError(
            f"{report.num_bad:,} of {report.num_records + report.num_bad:,} lines cannot be read, first "
            f"{wrong[0].error} {hint}"
        )
    return table


def _check_columns(table: MemoryTable, columns: PairColumns) -> None:
    """Raise RequestError if the first record lacks a column that is asked for by name, ConfigError for no template."""
    fields = table[0].fields
    if columns.has_numbers_for_names(fields):  # a first line of one cell is a bad record, not a bad file
        fields = {**fields, "input": "", "target": ""}
    for option, word, usual in zip(("input", "target"), (columns.input, columns.target), columns.usual, strict=True):
        if "{" in word:
            check_template(option, word)
        names = template_fields(word) if "{" in word else [word] if word else []
        there = ", ".join(map(repr, list(table[0].fields)[:20])) or "no column"
        for name in names:
            if name not in fields:
                hint = _column_hint(word, name, table)
                raise RequestError(f"{option} names the column {name!r}, but {table[0].place} has: {there}.{hint}")
        if not word and not any(name in fields for name in usual) and isinstance(fields, Mapping):
            example = "{" + next(filter(None, fields), "text") + "}"
            raise DataError(
                f"no record has an input and a target; {table[0].place}: has no field {usual[0]!r}; it has: {there}. "
                f'Say which column or template is the {option}, such as {option}="{example}".'
                f"{header_hint(table[0].place)}"
            )


def _column_hint(word: str, name: str, table: MemoryTable) -> str:
    """Return what may be meant by a column that is not there, and what was wrong with the file's first bad line."""
    columns = list(table[0].fields)
    if "0" in columns and name in table[0].fields.values():
        return (
            f" Its first line holds {name!r}: a TSV file is read as one without a header. Read one with a header by "
            "--format csv (format='csv' in Python), tabs and all."
        )
    spoken = [column for column in columns if column and re.search(rf"\b{re.escape(column)}\b", word)]
    near = difflib.get_close_matches(name, columns, n=2, cutoff=0.5)
    hint = ""
    if "{" not in word and spoken and re.search(r"\s", word):
        template = re.sub(rf"\b{re.escape(spoken[0])}\b", lambda found: "{" + found[0] + "}", word)
        hint = f" In a template columns stand in braces: {template!r}."
    elif near:
        hint = f" Did you mean {' or '.join(map(repr, near))}?"
    else:
        hint = header_hint(table[0].place)
    return hint + (f" {table.report.bad[0].error}" if table.report.bad else "")


def _as_written(
    profile: TargetProfile, targets: Sequence[str], tokenizer: Tokenizer
) -> tuple[Mapping[str, str], list[str]]:
    """Return label -> what the vocabulary makes of it, where that is another text, and what is to be said of it.

    T5's vocabularies know no line breaks, doubled spaces or braces: a model can never answer with them, and every
    answer would count as wrong.
    """
    distinct = list(profile.labels) or list(dict.fromkeys(targets))
    step = -(-len(distinct) // NUM_TARGETS_TRIED)
    tried = distinct[::step]
    try:
        read_back = [tokenizer.decode(ids).strip() for ids in tokenizer.encode_batch(tried)]
    except (DataError, RequestError):
        return {}, []  # a text that cannot be encoded is a bad record later, with its place
    changed = {target: back for target, back in zip(tried, read_back, strict=True) if target != back}
    if not changed:
        return {}, []
    first, back = next(iter(changed.items()))
    words = f"the model's vocabulary cannot write {len(changed):,} of {len(tried):,} targets as they are: {first!r:.60}"
    if profile.kind != "labels":
        return {}, [f"{words} is read back as {back!r:.60}. Answers will never equal them letter for letter."]
    new = [changed.get(label, label) for label in distinct]
    if len(set(new)) < len(new) or not all(new):
        return {}, [
            f"{words} is read back as {back!r:.60}, and so some labels cannot be told apart or written at all. Rename "
            "them in words of letters."
        ]
    return changed, [f"{words} becomes {back!r:.60}. The model is trained on, and answers, what it can write."]


def _rewritten(table: MemoryTable, written: Mapping[str, str]) -> MemoryTable:
    if not written:
        return table
    records = []
    for record in table.records:
        first, *others = [written.get(text, text) for text in references_of(record)]
        new = {"target": first, **({"references": [first, *others]} if "references" in record.fields else {})}
        records.append(dataclasses.replace(record, fields={**record.fields, **new}))
    return dataclasses.replace(table, records=records)


def references_of(record: Record) -> list[str]:
    """Return all texts that count as right for a record of a run, the one that is learned first."""
    several = record.fields.get("references")
    return list(several) if isinstance(several, list) else [str(record.fields["target"])]


def _with_references(given: Mapping[str, MemoryTable]) -> tuple[Mapping[str, MemoryTable], list[str]]:
    """Return tables whose records all have "references" if any has several, and what is to be said of that."""
    counts = {split: sum("references" in each.fields for each in table.records) for split, table in given.items()}
    if not any(counts.values()):
        return given, []
    filled = {
        split: dataclasses.replace(
            table,
            records=[
                dataclasses.replace(each, fields={**each.fields, "references": references_of(each)})
                for each in table.records
            ],
        )
        for split, table in given.items()
    }
    some = ", ".join(f"{count:,} of {len(given[split]):,} {split}" for split, count in counts.items() if count)
    said = "targets are lists of texts: the first of each is learned, and all count as right where answers are scored."
    return filled, [f"{some} {said}"]


def _of_train(table: RecordTable) -> list[str]:
    """Return what is to be said of a first record that is a header, and of inputs that come more than once."""
    found = _of_header(table)
    by_input: dict[str, set[str]] = collections.defaultdict(set)
    for source, target in _pairs(table):
        by_input[_as_read(source)].add(target)
    num_repeated = len(table) - sum(map(len, by_input.values()))
    if num_repeated:
        found.append(f"{num_repeated:,} train record(s) repeat an earlier one, spaces aside; they weigh double.")
    if torn := [source for source, targets in by_input.items() if len(targets) > 1]:
        found.append(
            f"{len(torn):,} input(s) come with different targets, such as {torn[0]!r:.60} with "
            f"{' and '.join(repr(t[:30]) for t in sorted(by_input[torn[0]])[:2])}: no model can be right about both."
        )
    return found


def _of_held_labels(table: RecordTable, profile: TargetProfile) -> list[str]:
    """Return what is to be said where nearly every input holds its own label and none besides.

    Inputs that name all choices are no such; of labels within each other ("related", "unrelated") the longest counts.
    """
    labels = [_as_read(label).casefold() for label in profile.labels]
    if len(labels) < 2 or min(map(len, labels)) < SHORTEST_SEARCHED or len(table) < FEWEST_SEARCHED:
        return []
    step = -(-len(table) // NUM_SEARCHED)
    pairs = list(itertools.islice(_pairs(table), 0, None, step))
    held = []
    for source, target in pairs:
        # Speed: 1,000 inputs of 210,000 letters took 41 s; a label by mistake stands at an end.
        ends = source if len(source) <= 2 * SEARCHED_LETTERS else source[:SEARCHED_LETTERS] + source[-SEARCHED_LETTERS:]
        text, own = _as_read(ends).casefold(), _as_read(target).casefold()
        if own in text and all(label in own for label in labels if label in text):
            held.append((source, target))
    num_held = len(held)
    if num_held < (1.0 - MOST_WITHOUT_LABEL) * len(pairs):
        return []
    drawn = "" if step == 1 else " that were looked at"
    return [
        f"{num_held:,} of {len(pairs):,} inputs{drawn} hold their own label and no other, such as {held[0][0]!r:.60} "
        f"with {held[0][1]!r:.30}: the model learns to copy it. Is the target a part of the input by mistake?"
    ]


def _of_header(table: RecordTable) -> list[str]:
    """Return what is to be said of a first record that looks like the header of a TSV file, which has none."""
    source, target = next(iter(_pairs(table)), ("", ""))
    last_word = (source.lower().split() or [""])[-1]
    if last_word not in HEADER_INPUTS or target.lower() not in HEADER_TARGETS:
        return []
    return [
        f"the first record, {source!r} with the target {target!r}, looks like a header and is learned like any other. "
        "A TSV file with a header is read by --format csv (format='csv' in Python)."
    ]


def _across(tables: Mapping[str, RecordTable], profile: TargetProfile) -> list[str]:
    """Return what is to be said of dev and test beside train."""
    found = []
    seen: dict[str, str] = {}
    for split in (TRAIN, DEV, TEST):
        if split not in tables:
            continue
        inputs = list(map(_as_read, _texts(tables[split], "input")))
        both = collections.Counter(seen[source] for source in inputs if source in seen)
        for other, count in both.items():
            found.append(
                f"{count:,} of {len(inputs):,} {split} inputs are in {other} too: their scores say what was learned by "
                "heart. Remove them from one of the two."
            )
        if split != TRAIN and profile.kind == "labels":
            unknown = sorted(set(_texts(tables[split], "target")) - set(profile.labels))
            if unknown:
                names = ", ".join(map(repr, unknown[:5]))
                found.append(f"{split} has {len(unknown)} label(s) that train never shows ({names}): always wrong.")
        for source in inputs:
            seen.setdefault(source, split)
    return found


def _drawn(table: RecordTable, number: int, *, seed: int) -> SelectedTable:
    rng = np.random.Generator(np.random.Philox(seed))
    return SelectedTable(table, np.sort(rng.choice(len(table), number, replace=False)))


def _as_read(text: str) -> str:
    """Return an input as T5's vocabularies read it: without outer and doubled spaces, letters in one form.

    T5: SentencePiece writes a text in NFKC, one space between words, before it looks for pieces. Inputs that differ in
    nothing else are the same ids.
    Example: "a good\\u00a0 film " -> "a good film"
    """
    return " ".join(unicodedata.normalize("NFKC", text).split())


def _pairs(table: RecordTable) -> Iterator[tuple[str, str]]:
    for index in range(len(table)):
        fields = table[index].fields
        yield str(fields["input"]), str(fields["target"])


def _texts(table: RecordTable, name: str) -> list[str]:
    return [str(table[index].fields[name]) for index in range(len(table))]
