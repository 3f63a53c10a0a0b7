"""Tasks as a recipe says them."""

import gzip
import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from t5kit.errors import ConfigError, DataError
from t5kit.sources import BadRecord, table_of, text_field
from t5kit.tasks import PairExamples, TextPair
from t5kit.tasks.config import ObjectiveConfig, ObjectiveName, TaskConfig, TemplateConfig
from t5kit.tasks.configured import default_piece_length, hold_out, make_objective, open_task
from t5kit.tasks.example_sources import DenoisingExamples
from t5kit.text import ByteTokenizer


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())


def pairs(folder: Path, config: TaskConfig, split: str = "train") -> list[tuple[str, str]]:
    task = open_task("t", config, folder, seed=0, splits=(split,))
    table = task.task.split(split)
    found = [task.task.form.pair(table[n]) for n in range(len(table))]
    assert all(isinstance(pair, TextPair) for pair in found), found
    return [(pair.prompt, pair.target) for pair in found if isinstance(pair, TextPair)]


def test_a_headerless_tsv_is_input_and_target(tmp_path: Path) -> None:
    write(tmp_path, "a.tsv.gz", "cat\tK AE T\nox\tAA K S\n")
    assert pairs(tmp_path, TaskConfig(train=("a.tsv.gz",))) == [("cat", "K AE T"), ("ox", "AA K S")]


def test_columns_prefix_and_templates_make_the_prompt(tmp_path: Path) -> None:
    write(tmp_path, "a.tsv", "1\tgood film\n")
    config = TaskConfig(
        train=("a.tsv",),
        columns=("label", "text"),
        prefix="{rate} ",
        templates=(TemplateConfig(prompt="review: {text}", target="{label}", labels={"label": {"1": "positive"}}),),
    )
    assert pairs(tmp_path, config) == [("{rate} review: good film", "positive")]


def test_csv_and_json_lines_have_their_own_names(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "text,label\nfine,yes\n")
    write(tmp_path, "b.jsonl", json.dumps({"text": "bad", "label": "no"}) + "\n")
    config = TaskConfig(train=("a.csv", "b.jsonl"), templates=(TemplateConfig(prompt="{text}", target="{label}"),))
    assert pairs(tmp_path, config) == [("fine", "yes"), ("bad", "no")]


def test_the_paper_s_tasks_are_forms_by_name(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", json.dumps({"sentence": "It works.", "label": 1}) + "\n")
    config = TaskConfig(train=("a.jsonl",), form="glue/sst2")
    assert pairs(tmp_path, config) == [("sst2 sentence: It works.", "positive")]
    wsc = {"text": "He saw it .", "span1_text": "the cat", "span2_text": "it", "span2_index": 2, "label": 0}
    write(tmp_path, "w.jsonl", json.dumps(wsc) + "\n" + json.dumps({**wsc, "label": 1}) + "\n")
    assert len(pairs(tmp_path, TaskConfig(train=("w.jsonl",), form="super_glue/wsc"))) == 1
    assert len(pairs(tmp_path, TaskConfig(dev=("w.jsonl",), form="super_glue/wsc"), "dev")) == 2


def test_structures_as_text_are_forms_by_name_whose_phrasings_may_be_others(tmp_path: Path) -> None:
    write(tmp_path, "a.jsonl", '{"header": ["a", "b"], "rows": [[1, 2]], "text": "One and two."}\n')
    assert pairs(tmp_path, TaskConfig(train=("a.jsonl",), form="table_to_text")) == [
        ("describe table: columns: a | b row 1: 1 | 2", "One and two.")
    ]
    own = (TemplateConfig(prompt="{table} In words:", target="{text}"), TemplateConfig(prompt="say: {table}"))
    config = TaskConfig(train=("a.jsonl",), form="table_to_text", templates=own)
    assert pairs(tmp_path, config) == [("columns: a | b row 1: 1 | 2 In words:", "One and two.")]
    write(tmp_path, "b.tsv", "teh\tthe\n")
    config = TaskConfig(train=("b.tsv",), form="correction", columns=("wrong", "right"))
    assert pairs(tmp_path, config) == [("correct: teh", "the")]
    with pytest.raises(ConfigError, match="brings its templates"):
        TaskConfig(train=("a.jsonl",), form="glue/mrpc", templates=own)


def test_a_line_of_other_columns_is_a_bad_record_that_says_so(tmp_path: Path) -> None:
    write(tmp_path, "a.tsv", "one\ttwo\tthree\n")
    task = open_task("t", TaskConfig(train=("a.tsv",)), tmp_path, seed=0)
    pair = task.task.form.pair(task.task.split("train")[0])
    assert not isinstance(pair, TextPair)
    assert "has 3 column(s), expected 2: input, target" in pair.error


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (TaskConfig(train=("a.tsv",), form="glue/cole"), "data.tasks.t: There is no ready task 'glue/cole'"),
        (TaskConfig(train=("a.tsv",), metrics=("rouje",)), "data.tasks.t: There is no metric 'rouje'"),
        (TaskConfig(train=("a.tsv",), templates=(TemplateConfig(prompt="{a!r}"),)), "data.tasks.t: task.template"),
        (TaskConfig(train=("a.tsv",), held_out=2), "data.tasks.t.held_out = 2 leaves nothing of 2 train records"),
    ],
)  # fmt: skip
def test_what_cannot_be_opened_names_its_task(tmp_path: Path, config: TaskConfig, said: str) -> None:
    write(tmp_path, "a.tsv", "a\tb\nc\td\n")
    with pytest.raises(ConfigError) as error:
        open_task("t", config, tmp_path, seed=0)
    assert said in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.tsv: there is no such file"):
        open_task("t", TaskConfig(train=("none.tsv",)), tmp_path, seed=0)


def test_held_out_records_are_drawn_by_the_seed_and_lost_by_nobody() -> None:
    table = table_of([{"n": number} for number in range(50)])
    drawn = []
    for seed in (0, 0, 1):
        rest, held_out = hold_out(table, 10, name="t", seed=seed)
        numbers = [[part[n].fields["n"] for n in range(len(part))] for part in (rest, held_out)]
        assert (len(numbers[0]), len(numbers[1])) == (40, 10)
        assert sorted(map(int, map(str, numbers[0] + numbers[1]))) == list(range(50))
        drawn.append(numbers[1])
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("lengths", [(96, 96), (512, 114), (1200, 1200)])
@pytest.mark.parametrize(
    "words",
    [
        *({"name": name} for name in get_args(ObjectiveName)),
        {"noise_density": 0.5},
        {"noise_density": 0.4, "mean_span_length": 1.0},
        {"name": "iid", "noise_density": 0.5},
    ],
)
def test_every_objective_fits_the_lengths_by_itself(words: dict[str, Any], lengths: tuple[int, int]) -> None:
    tokenizer = ByteTokenizer()
    objective = make_objective(ObjectiveConfig(**words), tokenizer)
    encoder_length, target_length = lengths
    length = default_piece_length(
        objective, encoder_length=encoder_length, target_length=target_length, num_sentinels=tokenizer.num_sentinels
    )
    texts = table_of(["many words of some text " * 400] * 3)
    source = DenoisingExamples(texts, tokenizer, objective, length)
    block = source.block([0, 1, 2], rng=np.random.default_rng(0))
    examples = block.examples
    assert len(examples) > 10 and not block.bad
    assert max(len(example.encoder_ids) for example in examples) <= encoder_length
    assert max(len(example.target_ids) for example in examples) <= target_length


def test_span_corruption_fills_the_encoder_as_the_paper_s() -> None:
    objective = make_objective(ObjectiveConfig(), ByteTokenizer())
    assert default_piece_length(objective, encoder_length=512, target_length=114, num_sentinels=100) == 568


def test_the_kind_of_a_task_decides_its_examples(tmp_path: Path) -> None:
    write(tmp_path, "a.txt", "some words\nmore words\n")
    write(tmp_path, "a.tsv", "a\tb\n")
    lengths = dict(encoder_length=32, target_length=32)
    text = open_task("t", TaskConfig(train=("a.txt",), objective=ObjectiveConfig()), tmp_path, seed=0)
    supervised = open_task("t", TaskConfig(train=("a.tsv",)), tmp_path, seed=0)
    assert isinstance(text.examples("train", ByteTokenizer(), **lengths), DenoisingExamples)
    assert isinstance(supervised.examples("train", ByteTokenizer(), **lengths), PairExamples)


@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize(("columns", "field"), [(("label", "text"), "text"), ((), "1")])
def test_an_objective_reads_a_column_of_files_without_a_header(
    tmp_path: Path, is_streamed: bool, columns: tuple[str, ...], field: str
) -> None:
    write(tmp_path, "a.tsv", "1\tgood film\n0\tbad film\n0\n")
    config = TaskConfig(
        train=("a.tsv",), columns=columns, objective=ObjectiveConfig(field=field), is_streamed=is_streamed
    )
    records = list(open_task("t", config, tmp_path, seed=0).train_records())
    assert [text_field(record, field) for record in records[:2]] == ["good film", "bad film"]
    unfit = text_field(records[2], field)
    assert isinstance(unfit, BadRecord) and f"a.tsv:3: has no field '{field}'; it has: 0" in unfit.error


def test_an_objective_s_field_is_one_of_the_columns(tmp_path: Path) -> None:
    write(tmp_path, "a.tsv", "1\tgood film\n")
    config = TaskConfig(train=("a.tsv",), columns=("label", "words"), objective=ObjectiveConfig())
    with pytest.raises(ConfigError, match=r"data\.tasks\.t\.objective\.field = 'text' is none of .*: label, words"):
        open_task("t", config, tmp_path, seed=0)
