"""What a person brings to train on: every odd thing is a sentence, and nothing is lost."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from t5kit.api.fitting_data import (
    FitTables,
    fit_tables,
    num_to_hold_out,
    read_pairs,
    read_rows,
    references_of,
    template_findings,
)
from t5kit.errors import ConfigError, DataError, RequestError
from t5kit.evaluation.pair_form import PairColumns
from t5kit.tasks.configured import DEV, TEST, TRAIN
from t5kit.text import ByteTokenizer, Tokenizer

REVIEWS = [(f"film number {n}", "good" if n % 3 else "bad") for n in range(120)]


def tables_of(
    train: list[Any], *, dev: list[Any] | None = None, test: list[Any] | None = None, tokenizer: Tokenizer | None = None
) -> FitTables:
    given = {TRAIN: train, DEV: dev, TEST: test}
    pairs = {
        split: read_pairs(read_rows(rows, None), PairColumns()) for split, rows in given.items() if rows is not None
    }
    return fit_tables(pairs, tokenizer or ByteTokenizer(), seed=3)


def rows_of(tables: FitTables, split: str) -> list[tuple[str, str]]:
    table = tables.tables[split]
    return [(str(table[n].fields["input"]), str(table[n].fields["target"])) for n in range(len(table))]


def test_a_tsv_with_a_header_is_told_how_to_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("text\tlabel\nfine\tyes\n", encoding="utf-8")
    with pytest.raises(RequestError, match=r"Its first line holds 'text': .* by --format csv"):
        read_pairs(read_rows(tmp_path / "a.tsv", None), PairColumns("go: {text}", "label"))
    assert len(read_pairs(read_rows(tmp_path / "a.tsv", "csv"), PairColumns("go: {text}", "label"))) == 1


def test_a_header_that_is_learned_as_a_record_is_told() -> None:
    said = "\n".join(tables_of([("input", "target"), *REVIEWS]).findings)
    assert "the first record, 'input' with the target 'target', looks like a header" in said
    assert "header" not in "\n".join(tables_of([*REVIEWS, ("input", "target")]).findings)


@pytest.mark.parametrize(
    ("number", "held_out"), [(3, 0), (39, 0), (40, 4), (500, 50), (3000, 200), (10_000, 500), (10**6, 1000)]
)
def test_how_much_is_held_out(number: int, held_out: int) -> None:
    assert num_to_hold_out(number) == held_out


def test_what_is_held_out_and_what_is_left_are_the_data_again() -> None:
    tables = tables_of(REVIEWS)
    train, dev = rows_of(tables, TRAIN), rows_of(tables, DEV)
    assert sorted(train + dev) == sorted(REVIEWS) and len(dev) == tables.num_held_out == 12
    assert sum(target == "bad" for _, target in dev) == 4  # labels keep their proportions
    assert rows_of(tables_of(REVIEWS), DEV) == dev


def test_equal_inputs_stay_together_and_rare_labels_are_learned() -> None:
    rows = [(f"text {n % 30}", "a" if n % 2 else "b") for n in range(90)] + [("once", "rare")]
    tables = tables_of(rows)
    train, dev = rows_of(tables, TRAIN), rows_of(tables, DEV)
    assert dev and not {source for source, _ in train} & {source for source, _ in dev}
    assert ("once", "rare") in train


def test_inputs_that_a_vocabulary_reads_alike_stay_together_and_are_found() -> None:
    rows = [(text, "x") for n in range(30) for text in (f"film {n}", f" film  {n}\n", f"film\u00a0{n}", f"ﬁlm {n}")]
    tables = tables_of(rows, test=[("film  7 ", "x"), ("film seven", "x")])
    held_out, train = (
        {" ".join(source.split()).replace("ﬁ", "fi") for source, _ in rows_of(tables, split)} for split in (DEV, TRAIN)
    )
    assert held_out and not held_out & train
    said = " ".join(tables.findings)
    assert "90 train record(s) repeat an earlier one" in said and "1 of 2 test inputs are in train too" in said


def test_one_input_many_times_still_leaves_something_to_learn() -> None:
    tables = tables_of([("same", "x")] * 50)
    assert len(rows_of(tables, TRAIN)) == 49 and len(rows_of(tables, DEV)) == 1


def test_few_inputs_that_repeat_are_held_out_whole() -> None:
    """Ten records an input are more than a tenth of them all; one record alone would be in train nine times."""
    tables = tables_of([(f"input {n % 5}", "bad" if n % 5 == 0 else "good") for n in range(50)])
    train, dev = rows_of(tables, TRAIN), rows_of(tables, DEV)
    assert len(dev) == 10 and not set(dev) & set(train) and {target for _, target in dev} == {"good"}


def test_a_held_out_record_that_stays_in_train_is_told() -> None:
    tables = tables_of([("the same", "x")] * 50)
    assert len(rows_of(tables, DEV)) == 1
    assert any("1 of 1 dev inputs are in train too" in finding for finding in tables.findings)


def test_a_target_too_long_to_be_scored_is_trained_on_and_told() -> None:
    rows = [(f"text {n}", f"an answer of its own, number {n}") for n in range(60)]
    endless = [(f"endless {n}", "word " * 20_001) for n in range(6)]
    tables = tables_of(rows + endless)
    assert len(rows_of(tables, DEV)) == tables.num_held_out == 7 and set(rows_of(tables, DEV)) <= set(rows)
    assert len(rows_of(tables, TRAIN)) == 59
    tables = tables_of(rows, dev=[*rows[:3], endless[0]], test=[endless[1], rows[4]])
    assert rows_of(tables, DEV) == rows[:3] and rows_of(tables, TEST) == rows[4:5]
    said = "\n".join(tables.findings)
    assert "1 record(s) of dev have a target of more than 100,000 letters (row:4: 100,004) and are not scored." in said
    with pytest.raises(
        DataError, match=r"1 record.* of test have a target of more than 100,000 letters .* none is left"
    ):
        tables_of(rows, test=endless[:1])


def test_three_records_are_taken_and_told_of() -> None:
    tables = tables_of(REVIEWS[:3])
    assert len(rows_of(tables, TRAIN)) == 3 and DEV not in tables.tables
    assert any("3 record(s) are too few to hold some out" in finding for finding in tables.findings)


def test_duplicates_and_contradictions_are_told() -> None:
    rows = [*REVIEWS, REVIEWS[0], (REVIEWS[0][0], "good"), (REVIEWS[1][0], "bad")]
    said = "\n".join(tables_of(rows, dev=[REVIEWS[5], ("new", "fine")], test=REVIEWS[4:6]).findings)
    assert "1 train record(s) repeat an earlier one" in said
    assert "2 input(s) come with different targets, such as 'film number 0' with 'bad' and 'good'" in said
    assert "1 of 2 dev inputs are in train too" in said and "2 of 2 test inputs are in train too" in said
    assert "dev has 1 label(s) that train never shows ('fine')" in said


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (
            ("{text} {label}", "label"),
            "the input, '{text} {label}', has the column 'label', of which the target is made",
        ),
        (("{text} {label}", "is {label}"), "has the column 'label'"),
        (("text", "text"), "the input, 'text', has the column 'text'"),
        (("{text}", "{text} -> {label}"), ""),
        (("{text}", "label"), ""),
    ],
)
def test_an_input_made_of_the_target_s_columns_is_told(columns: tuple[str, str], said: str) -> None:
    table = read_rows([{"text": "a", "label": "b"}], None)
    found = "".join(template_findings(table, PairColumns(*columns)))
    assert (said in found) if said else not found


def test_the_target_s_column_is_known_by_its_usual_name_and_its_number(tmp_path: Path) -> None:
    assert template_findings(read_rows([{"input": "a", "target": "b"}], None), PairColumns("{input} {target}"))
    (tmp_path / "a.tsv").write_text("a\tb\n", encoding="utf-8")
    table = read_rows(tmp_path / "a.tsv", None)
    assert template_findings(table, PairColumns("{0} {1}"))
    assert template_findings(table, PairColumns("{0}")) == template_findings(table, PairColumns()) == []


@pytest.mark.parametrize(
    ("template", "is_told"),
    [
        ("{text} ({label})", True),
        ("{text}", False),
        ("{text} Is it related or unrelated?", False),
        ("{text} {rarely}", False),
    ],
)
def test_inputs_that_hold_their_own_label_alone_are_told(template: str, is_told: bool) -> None:
    labels = ["related", "unrelated"]
    rows = [
        (
            template.format(text=f"film {n}", label=labels[n % 2].title(), rarely=labels[n % 2] * (n % 10 > 0)),
            labels[n % 2],
        )
        for n in range(3000)
    ]
    said = "\n".join(tables_of(rows, dev=rows[:5]).findings)
    assert ("1,000 of 1,000 inputs that were looked at hold their own label" in said) == is_told
    assert ("hold their own label" in said) == is_told


def test_short_labels_stand_in_other_words_and_are_not_told() -> None:
    rows = [(f"no {n}" if n % 2 else f"yes {n}", "no" if n % 2 else "yes") for n in range(100)]
    assert "hold their own" not in "\n".join(tables_of(rows).findings)


def test_what_the_vocabulary_cannot_write_becomes_what_it_can() -> None:
    class Spaceless(ByteTokenizer):
        def decode(self, ids: Any) -> str:
            return super().decode(ids).replace("_", " ")

    tables = tables_of([(f"t{n}", "so_so" if n % 2 else "good") for n in range(60)], tokenizer=Spaceless())
    assert {target for _, target in rows_of(tables, TRAIN)} == {"so so", "good"}
    assert any("cannot write 1 of 2 targets as they are: 'so_so' becomes 'so so'" in words for words in tables.findings)
    torn = tables_of([(f"t{n}", "so_so" if n % 2 else "so so") for n in range(60)], tokenizer=Spaceless())
    assert any("cannot be told apart" in words for words in torn.findings)


def test_a_file_in_another_encoding_is_not_read_in_part(tmp_path: Path) -> None:
    lines = ["text,label"] + [f"film {'schön' if n % 4 == 0 else 'gut'} {n},x" for n in range(40)]
    (tmp_path / "a.csv").write_bytes("\n".join(lines).encode("cp1252"))
    with pytest.raises(
        DataError, match=r"10 of 40 lines cannot be read, first .*a.csv:2: not UTF-8.*--encoding cp1252"
    ):
        read_rows(tmp_path / "a.csv", None)
    assert len(read_rows(tmp_path / "a.csv", None, "cp1252")) == 40
    (tmp_path / "b.csv").write_bytes("text,label\nschön,x\nübel,y\n".encode("cp1252"))
    with pytest.raises(DataError, match=r"no line can be read, first .*b.csv:2: not UTF-8.*--encoding cp1252"):
        read_rows(tmp_path / "b.csv", None)
    (tmp_path / "c.csv").write_text("text,label\n")
    with pytest.raises(DataError, match=r"c.csv: empty, or a header and nothing else"):
        read_rows(tmp_path / "c.csv", None)


@pytest.mark.parametrize(
    ("columns", "error", "said"),
    [
        (PairColumns("go: {txt}", "label"), RequestError, "the column 'txt', .*: 'text', 'label'. Did you mean 'text'"),
        (PairColumns("text", "labels"), RequestError, "target names the column 'labels'.*Did you mean 'label'"),
        (PairColumns("Review: text", "label"), RequestError, r"columns stand in braces: 'Review: \{text\}'"),
        (PairColumns(), DataError, r'''has no field 'input'; it has: 'text', 'label'.*such as input="{text}"'''),
    ],
)  # fmt: skip
def test_a_missing_column_is_named_with_the_nearest(
    tmp_path: Path, columns: PairColumns, error: type[Exception], said: str
) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,b\n", encoding="utf-8")
    with pytest.raises(error, match=said):
        read_pairs(read_rows(tmp_path / "a.csv", None), columns)


def test_a_file_without_a_header_is_read_by_the_names_that_are_given(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("fine,good\nawful,bad\n", encoding="utf-8")
    columns = PairColumns("text", "label")
    hint = (
        r"If the file has no header, name its columns: --columns text,label \(columns=\['text', 'label'\] in Python\)"
    )
    for wanted in (columns, PairColumns()):
        with pytest.raises((RequestError, DataError), match=hint):
            read_pairs(read_rows(tmp_path / "a.csv", None), wanted)
    table = read_pairs(read_rows(tmp_path / "a.csv", None, columns=("text", "label")), columns)
    assert [dict(record.fields) for record in table.records] == [
        {"input": "fine", "target": "good"},
        {"input": "awful", "target": "bad"},
    ]
    with pytest.raises(RequestError, match=r"the column 'text', but .*a\.csv:1 has: 'a', 'b'\.$"):
        read_pairs(read_rows(tmp_path / "a.csv", None, columns=("a", "b")), columns)
    with pytest.raises(RequestError, match="columns are names for files without a header, and the data are rows"):
        read_rows([("a", "b")], None, columns=("a", "b"))


def test_a_missing_column_is_told_with_the_file_that_lacks_it(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("notes\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text("text,label\na,b\n", encoding="utf-8")
    with pytest.raises(RequestError, match=r"'label', but .*a\.txt:1 has: 'text'\.$"):
        read_pairs(read_rows(tmp_path, None), PairColumns("text", "label"))


def test_a_column_with_a_space_in_its_name_is_seen(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text, label\na,b\n", encoding="utf-8")
    with pytest.raises(RequestError, match=r"'label', but .*a\.csv:2 has: 'text', ' label'\. Did you mean ' label'\?"):
        read_pairs(read_rows(tmp_path / "a.csv", None), PairColumns("text", "label"))


def test_a_column_named_twice_is_no_silent_choice(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,text,label\na,b,c\n", encoding="utf-8")
    with pytest.raises(RequestError, match=r"'text', but .*a\.csv:2 has: 'label'.*names a column twice \('text'\)"):
        read_pairs(read_rows(tmp_path / "a.csv", None), PairColumns("text", "label"))


def test_records_without_a_text_are_counted_with_their_places() -> None:
    rows = [{"text": "a", "label": " x "}, {"text": " ", "label": "x"}, {"text": "b", "label": ""}, {"text": "c"}]
    rows += [{"text": float("nan"), "label": "x"}, {"text": "d", "label": None}, {"text": "e", "label": 3}]
    table = read_pairs(read_rows(rows, None), PairColumns("review: {text}", "{label}"))
    assert [dict(record.fields) for record in table.records] == [
        {"input": "review: a", "target": "x"},
        {"input": "review: e", "target": "3"},
    ]
    assert [bad.error for bad in table.report.bad] == [
        "row:2: its input is empty.",
        "row:3: its target is empty.",
        "row:4: has no field 'label'; it has: text.",
        "row:5: field 'text' is NaN, which stands for an empty cell; expected text or a number.",
        "row:6: field 'label' is NoneType, expected text or a number.",
    ]


@pytest.mark.parametrize("word", ["{text", "{}", "{ }", "{text!r}", "{text:>5}", "{stars {1-5}}"])
def test_a_broken_template_is_a_sentence(word: str) -> None:
    with pytest.raises(ConfigError, match=r"is no template|expected field names alone"):
        read_pairs(read_rows([{"text": "a", "label": "b"}], None), PairColumns(input=word, target="label"))


@pytest.mark.parametrize("name", ["Review Text", "stars 1-5", "user.name", "a[0]", "größe", "text.upper", "2"])
def test_a_column_of_any_name_stands_in_a_template(name: str) -> None:
    table = read_pairs(read_rows([{name: "a", "label": "b"}], None), PairColumns(f"review: {{{name}}}", "{label}"))
    assert dict(table.records[0].fields) == {"input": "review: a", "target": "b"}
    with pytest.raises(RequestError, match=r"names the column '.*', but .* has"):
        read_pairs(read_rows([{"text": "a", "label": "b"}], None), PairColumns("{text.upper}", "{label}"))


def test_a_list_of_targets_is_learned_by_its_first_and_scored_by_all() -> None:
    rows = [{"q": f"q {n}", "a": [f" s{n} ", f"o{n}", "", f"s{n}"] if n % 2 else f"s{n}"} for n in range(60)]
    pairs = read_pairs(read_rows(rows, None), PairColumns("{q}", "a"))
    assert pairs.records == read_pairs(read_rows(rows, None), PairColumns("{q}", "{a}")).records
    for word in ("x{a}", "{a}{a}"):  # no text is made of a list
        with pytest.raises(DataError, match="field 'a' is list, expected text or a number"):
            read_pairs(read_rows(rows[1:2], None), PairColumns("{q}", word))
    assert dict(pairs.records[1].fields) == {"input": "q 1", "target": "s1", "references": ["s1", "o1"]}
    found = fit_tables({"train": pairs, "test": pairs}, ByteTokenizer(), seed=0)
    told = "30 of 60 train, 30 of 60 test targets are lists of texts: the first of each is learned"
    assert any(finding.startswith(told) for finding in found.findings)
    for table in found.tables.values():
        for index in range(len(table)):
            fields = table[index].fields
            number = str(fields["target"])[1:]
            expected = [f"s{number}", f"o{number}"] if int(number) % 2 else [f"s{number}"]
            assert fields["references"] == expected == references_of(table[index])
    plain = fit_tables({"train": read_pairs(read_rows(REVIEWS, None), PairColumns())}, ByteTokenizer(), seed=0)
    assert "references" not in plain.tables["train"][0].fields


@pytest.mark.parametrize("bad", [("half \ud800 of a pair", "good"), ("fine", "half \ud800 of a pair")])
def test_half_a_surrogate_pair_is_a_bad_record_with_its_place(bad: tuple[str, str]) -> None:
    table = read_pairs(read_rows([*REVIEWS, bad], None), PairColumns())
    assert len(table) == len(REVIEWS) and table.report.num_bad == 1
    assert f"row:{len(REVIEWS) + 1}" in table.report.bad[0].error and "lone surrogate" in table.report.bad[0].error


class Frame:
    """As much of a data frame, or of a data set of Hugging Face, as counts."""

    def __init__(self, rows: list[Any]) -> None:
        self.rows = rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def to_dict(self, kind: str) -> object:
        return [kind]


def test_a_data_set_that_gives_its_records_is_read() -> None:
    assert len(read_rows(Frame([{"text": "a", "label": "b"}]), None)) == 1


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (5, "of the type int; expected a file's name, or a list"),
        ({"text": ["a"], "label": ["b"]}, "of the type dict.*Of columns, give"),
        (Frame(["text", "label"]), r"Of a data frame, give data.to_dict\(\"records\"\)"),
        (["a fine film", "a dull one"], "row 0 of the data is 'a fine film', which is a text alone"),
        ([("a", "b"), None, ("c",), ("d", "e")], r"row 1 of the data is None; expected an \(input, target\) pair, as"),
        ([("a", "b"), ("c", "d"), {"text": "e"}], r"row 2 of the data is .*expected an \(input, target\) pair"),
        ([None, ("a", "b")], "row 0 of the data is None; expected mappings of fields, or"),
        ([{"text": "a", "label": "b"}, ("c", "d")], r"row 1 of the data is \('c', 'd'\); expected mappings of fields"),
    ],
)
def test_data_of_another_kind_are_told_what_is_expected(data: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        read_rows(data, None)
