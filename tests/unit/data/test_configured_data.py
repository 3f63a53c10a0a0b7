"""A run's data as its recipe says it."""

import dataclasses
import itertools
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from t5kit.data.config import DataConfig
from t5kit.data.configured import evaluation_batches, make_mixture, open_tasks, training_data
from t5kit.data.vocabulary import make_vocabulary, training_texts
from t5kit.errors import ConfigError, DataError
from t5kit.tasks.config import MixtureConfig, ObjectiveConfig, TaskConfig, TemplateConfig
from t5kit.text import ByteTokenizer
from t5kit.text.config import VocabularyConfig


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    (tmp_path / "a.tsv").write_text("".join(f"a{n}\tA {n}\n" for n in range(30)), encoding="utf-8")
    (tmp_path / "b.tsv").write_text("".join(f"b{n}\tB {n}\n" for n in range(10)), encoding="utf-8")
    (tmp_path / "c.txt").write_text("".join(f"some text {n}\n" * 4 for n in range(10)), encoding="utf-8")
    return DataConfig(
        dir=str(tmp_path),
        tasks={
            "a": TaskConfig(train=("a.tsv",), dev=("b.tsv",)),
            "b": TaskConfig(train=("b.tsv",)),
            "only_dev": TaskConfig(dev=("b.tsv",)),
        },
        batch_rows=4,
        encoder_length=32,
        target_length=32,
        window_batches=2,
    )


def replaced(config: DataConfig, **changes: object) -> DataConfig:
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def test_mixing_by_size_leaves_out_what_is_only_evaluated(config: DataConfig) -> None:
    mixture = make_mixture(config, open_tasks(config, seed=0))
    assert [task.name for task in mixture.members] == ["a", "b"] and mixture.rates == (30.0, 10.0)


def test_a_stated_size_and_a_cap_change_the_rates(config: DataConfig) -> None:
    tasks = {**config.tasks, "b": TaskConfig(train=("b.tsv",), num_examples=1000)}
    changed = replaced(config, tasks=tasks, mixture=MixtureConfig(maximum=90, temperature=2.0))
    assert make_mixture(changed, open_tasks(changed, seed=0)).rates == pytest.approx((30**0.5, 90**0.5))


def test_fixed_rates_are_taken_as_they_are(config: DataConfig) -> None:
    def rates(**given: float) -> tuple[float, ...]:
        changed = replaced(config, mixture=MixtureConfig(kind="fixed", rates=given))
        return make_mixture(changed, open_tasks(changed, seed=0)).rates

    assert rates(a=1, b=3, only_dev=0) == (1.0, 3.0)
    with pytest.raises(ConfigError, match="has no rate for 'only_dev'"):
        rates(a=1, b=3)
    with pytest.raises(ConfigError, match=r"rates\.only_dev = 1.0, but the task has no train files"):
        rates(a=1, b=3, only_dev=1)


def test_every_train_example_comes_once_an_epoch(config: DataConfig) -> None:
    one = replaced(config, num_epochs=1)
    tokenizer = ByteTokenizer()
    with training_data(one, open_tasks(one, seed=0), tokenizer, seed=0) as data:
        batches = list(data.loader)
    texts = [tokenizer.decode(e.encoder_ids) for batch in batches for row in batch.examples() for e in row]
    assert sorted(texts) == sorted([f"a{n}" for n in range(30)] + [f"b{n}" for n in range(10)])


def test_evaluation_batches_are_the_same_at_every_call(config: DataConfig, tmp_path: Path) -> None:
    changed = replaced(config, tasks={"c": TaskConfig(train=("c.txt",), held_out=8, objective=ObjectiveConfig())})
    (task,) = open_tasks(changed, seed=0)
    first, second = (evaluation_batches(changed, task, ByteTokenizer()).batches for _ in range(2))
    assert len(first) == len(second) >= 1
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.encoder_input_ids, other.encoder_input_ids)
        np.testing.assert_array_equal(one.labels, other.labels)


def test_evaluation_of_some_examples_ends_with_the_batch_that_holds_them(config: DataConfig) -> None:
    changed = replaced(config, tasks={"a": TaskConfig(train=("a.tsv",), held_out=20)}, batch_rows=1)
    (task,) = open_tasks(changed, seed=0)
    all_of_them = evaluation_batches(changed, task, ByteTokenizer()).batches
    some = evaluation_batches(changed, task, ByteTokenizer(), max_examples=5).batches
    assert sum(batch.num_examples() for batch in all_of_them) == 20
    assert 5 <= sum(batch.num_examples() for batch in some) < 20
    assert sum(batch.num_examples() for batch in some[:-1]) < 5


def test_evaluation_counts_what_is_too_long(config: DataConfig) -> None:
    tasks = {"a": TaskConfig(train=("a.tsv",), dev=("b.tsv",))}
    (Path(config.dir) / "b.tsv").write_text("ab\tc\n" * 3 + "a" * 40 + "\tc\n" + "no pair\n", encoding="utf-8")
    counted = {}
    for too_long in ("truncate", "drop"):
        changed = replaced(config, tasks=tasks, too_long=too_long)
        made = evaluation_batches(changed, open_tasks(changed, seed=0)[0], ByteTokenizer())
        given = sum(len(row) for batch in made.batches for row in batch.examples())
        counted[too_long] = (given, made.num_truncated, made.num_dropped, made.num_bad)
    assert counted == {"truncate": (4, 1, 0, 1), "drop": (3, 0, 1, 1)}
    (Path(config.dir) / "b.tsv").write_text(("a" * 40 + "\tc\n") * 3, encoding="utf-8")
    with pytest.raises(
        DataError, match=r"data\.tasks\.a\.dev: all 3 examples are longer than data\.encoder_length = 32"
    ):
        evaluation_batches(changed, open_tasks(changed, seed=0)[0], ByteTokenizer())


def test_the_test_files_are_not_opened(config: DataConfig) -> None:
    changed = replaced(config, tasks={"a": TaskConfig(train=("a.tsv",), test=("not-there.tsv",))})
    assert list(open_tasks(changed, seed=0)[0].task.splits) == ["train"]


def test_a_vocabulary_is_made_of_train_records_alone(config: DataConfig) -> None:
    tasks = open_tasks(config, seed=0)
    texts = list(itertools.islice(training_texts(tasks), 4))
    assert texts == ["a0", "A 0", "a1", "A 1"] and len(list(training_texts(tasks))) == 80
    tokenizer = make_vocabulary(VocabularyConfig(source="symbols", num_sentinels=0), tasks, seed=0)
    letters = set("ab0123456789")
    words = {"▁A", "▁B", *(f"▁{n}" for n in range(30))}
    assert {tokenizer.id_to_piece(n) for n in range(4, tokenizer.vocab_size)} == letters | words


@pytest.mark.parametrize("source", ["symbols", "unigram"])
def test_a_vocabulary_knows_every_phrasing(config: DataConfig, source: Literal["symbols", "unigram"]) -> None:
    labels = {"target": {f"A {n}": f"Ω{n % 2}" for n in range(30)}}
    templates = (TemplateConfig(), TemplateConfig(prompt="QZ {input}?", target="{target}", labels=labels))
    changed = replaced(config, tasks={"a": TaskConfig(train=("a.tsv",), templates=templates)})
    tasks = open_tasks(changed, seed=0)
    assert list(itertools.islice(training_texts(tasks), 4)) == ["a0", "A 0", "QZ a0?", "Ω0"]
    words = VocabularyConfig(source=source, size=0 if source == "symbols" else 290, num_sentinels=0)
    made = make_vocabulary(words, tasks, seed=0)
    for text in ("QZ a?", "Ω0", "Ω1"):
        assert made.unk_id not in made.encode(text).tolist(), text


def test_a_vocabulary_of_running_text_takes_its_size(config: DataConfig) -> None:
    changed = replaced(config, tasks={"c": TaskConfig(train=("c.txt",), objective=ObjectiveConfig())})
    tasks = open_tasks(changed, seed=0)
    made = make_vocabulary(VocabularyConfig(source="unigram", size=376), tasks, seed=0)
    assert (made.vocab_size, made.num_sentinels) == (376, 100)
    assert made.decode(made.encode("some text 3")) == "some text 3"
    with pytest.raises(ConfigError, match=r"vocabulary\.size = 9000 is too large for this text"):
        make_vocabulary(VocabularyConfig(source="unigram", size=9000), tasks, seed=0)
    with pytest.raises(DataError, match="no task has a train record that gives a pair"):
        make_vocabulary(VocabularyConfig(source="symbols"), tasks, seed=0)


def test_streamed_records_become_the_examples_of_tables(config: DataConfig) -> None:
    tokenizer = ByteTokenizer()
    given = []
    for is_streamed in (False, True):
        task = TaskConfig(train=("a.tsv",), is_streamed=is_streamed)
        one = replaced(config, tasks={"a": task}, num_epochs=1)
        with training_data(one, open_tasks(one, seed=0), tokenizer, seed=0) as data:
            batches = list(data.loader)
        given.append(sorted(tokenizer.decode(e.encoder_ids) for b in batches for row in b.examples() for e in row))
        assert len(list(training_texts(open_tasks(one, seed=0)))) == 60
    assert given[0] == given[1] == sorted(f"a{n}" for n in range(30))


def test_a_stream_among_others_must_say_its_size(config: DataConfig) -> None:
    tasks = {"a": TaskConfig(train=("a.tsv",), is_streamed=True), "b": TaskConfig(train=("b.tsv",))}
    mixed = replaced(config, tasks=tasks)
    with pytest.raises(ConfigError, match=r"data\.tasks\.a is streamed, so its size is not known"):
        make_mixture(mixed, open_tasks(mixed, seed=0))
    tasks["a"] = TaskConfig(train=("a.tsv",), is_streamed=True, num_examples=70)
    mixed = replaced(config, tasks=tasks)
    assert make_mixture(mixed, open_tasks(mixed, seed=0)).rates == (70.0, 10.0)


def test_a_saved_dataset_is_read_by_its_splits(config: DataConfig) -> None:
    datasets = pytest.importorskip("datasets")
    rows = [{"input": f"a{n}", "target": "b"} for n in range(6)]
    saved = datasets.DatasetDict({s: datasets.Dataset.from_list(rows[i:]) for i, s in enumerate(("one", "two"))})
    saved.save_to_disk(Path(config.dir) / "saved")
    for is_streamed in (False, True):
        names = ("one",) if is_streamed else ("one", "two")
        task = TaskConfig(dataset="saved", train=names, dev=("two",), is_streamed=is_streamed)
        (opened,) = open_tasks(replaced(config, tasks={"t": task}), seed=0)
        records = [record.fields["input"] for record in opened.train_records()]
        assert records == [f"a{n}" for n in (range(6) if is_streamed else [*range(6), *range(1, 6)])]
        assert len(opened.task.split("dev")) == 5
