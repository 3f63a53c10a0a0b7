import re
import sys

import numpy as np
import pytest

from t5kit.errors import ConfigError, DataError, RequestError
from t5kit.metrics import METRICS
from t5kit.sources import BadRecord, Record, table_of
from t5kit.tasks import (
    DenoisingExamples,
    Mixture,
    PairExamples,
    Task,
    TaskForm,
    Template,
    TextPair,
    proportional_rates,
    rates_by_name,
)
from t5kit.tasks.objectives import DenoisingIds, IidDenoising, SpanCorruption
from t5kit.text import ByteTokenizer

RECORD = Record(fields={"text": "fine film", "label": 1, "answers": ["good", "positive"]}, place="f:3")


def test_a_template_fills_fields_and_puts_labels_into_words() -> None:
    template = Template("sst2 {{x}}: {text}", "{label}", {"label": {"0": "negative", "1": "positive"}})
    assert template.render(RECORD.fields) == ("sst2 {x}: fine film", "positive")
    assert template.render({"text": "{label}", "label": 0}) == ("sst2 {x}: {label}", "negative"), (
        "values are no templates"
    )


@pytest.mark.parametrize("prompt", ["{}", "{ }", "{a!r}", "{a:9999999999}", "{a", "a}", "{a {b}}"])
def test_a_template_takes_names_alone(prompt: str) -> None:
    with pytest.raises(ConfigError, match="prompt"):
        Template(prompt)


@pytest.mark.parametrize("name", ["0", "a.b", "a[0]", "a b", "a.__class__"])
def test_a_name_in_a_template_is_a_fields_own_and_reaches_into_nothing(name: str) -> None:
    template = Template(f"x {{{name}}}")
    assert template.render({name: "text", "target": "t"}) == ("x text", "t")
    with pytest.raises(DataError, match=re.escape(f"no field {name!r}; it has: a")):
        template.render({"a": "text", "target": "t"})


def test_what_a_template_cannot_fill_is_told() -> None:
    template = Template("{text}", "{label}", {"label": {"0": "no"}})
    for fields, told in (
        ({"label": 0}, "no field 'text'; it has: label"),
        ({"text": ["a"], "label": 0}, "'text' is list"),
        ({"text": "a", "label": 7}, "'label' is '7', expected one of: 0"),
    ):
        with pytest.raises(DataError, match=told):
            template.render(fields)


def test_training_draws_phrasings_and_evaluation_takes_the_first() -> None:
    form = TaskForm((Template("one {text}", "x"), Template("two {text}", "x")))
    rng = np.random.default_rng(0)
    drawn = {form.pair(RECORD, rng=rng).prompt for _ in range(20)}
    assert drawn == {"one fine film", "two fine film"}
    assert form.pair(RECORD) == TextPair("one fine film", "x", ("x",), "f:3")


def test_references_are_all_that_counts_as_right() -> None:
    form = TaskForm((Template("{text}", "{label}"),), (METRICS["exact_match"],), references_field="answers")
    pair = form.pair(RECORD)
    assert pair.references == ("good", "positive")
    assert form.score([pair], [" positive\n"]) == {"exact_match": 100.0}
    drawing = TaskForm((Template("{text}", "1"),), references_field="answers", draws_target=True)
    rng = np.random.default_rng(0)
    assert {drawing.pair(RECORD, rng=rng).target for _ in range(20)} == {"good", "positive"}
    assert isinstance(TaskForm((Template("a", "b"),), references_field="none").pair(RECORD), BadRecord)


def test_a_task_names_its_splits() -> None:
    task = Task("mine", TaskForm((Template("{text}"),)), {"train": table_of(["a"])})
    assert len(task.split("train")) == 1
    with pytest.raises(RequestError, match="train"):
        task.split("test")


def test_rates_are_those_of_the_paper() -> None:
    # min(n, K)^(1/T), the cap before the temperature (seqio rate_num_examples).
    assert proportional_rates([400, 100], maximum=225, temperature=2) == (15.0, 10.0)
    assert proportional_rates([392_702, 8_551, 10**6], maximum=2**19) == (392_702, 8_551, 2**19)
    assert proportional_rates([0, 10], temperature=10)[0] == 0.0
    assert proportional_rates([10, 20], scale=0.5) == (5.0, 10.0)
    assert Mixture(("a", "b"), (3.0, 1.0)).shares() == (0.75, 0.25)


@pytest.mark.parametrize("temperature", [0.9, 0.5, 0.01, 0.001, 1e-300])
def test_a_low_temperature_favours_the_largest_task_and_drops_none(temperature: float) -> None:
    rates = proportional_rates([400, 300, 100, 0], temperature=temperature)
    assert rates[0] == 1.0 > rates[1] >= rates[2] > 0.0 == rates[3]
    assert rates[1] == pytest.approx(max(0.75 ** (1 / temperature), sys.float_info.min))
    assert sum(Mixture(tuple("abcd"), rates).shares()) == pytest.approx(1.0)


def test_fixed_rates_must_name_every_task() -> None:
    assert rates_by_name(["a", "b"], {"b": 1, "a": 0}) == (0.0, 1.0)
    with pytest.raises(ConfigError, match="'c'"):
        rates_by_name(["a"], {"a": 1, "c": 1})
    with pytest.raises(ConfigError, match="'b'"):
        rates_by_name(["a", "b"], {"a": 1})


@pytest.mark.parametrize("rates", [(0.0, 0.0), (-1.0, 2.0), (float("nan"), 1.0), (float("inf"), 1.0), (1.0,)])
def test_impossible_mixtures_are_refused(rates: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError):
        Mixture(("a", "b"), rates)


@pytest.mark.parametrize("arguments", [{"temperature": 0.0}, {"maximum": 0.0}, {"scale": -1.0}])
def test_impossible_rates_are_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        proportional_rates([1.0], **arguments)


def test_pairs_become_ids_with_eos_and_a_bad_one_loses_no_other() -> None:
    rows = [{"text": "a", "target": "b"}, {"text": "\ud800", "target": "b"}, {"text": "c"}, {"text": "d", "target": ""}]
    source = PairExamples(TaskForm((Template("{text}"),)), table_of(rows), ByteTokenizer())
    block = source.block(range(4), rng=np.random.default_rng(0))
    assert [example.encoder_ids.tolist() for example in block.examples] == [[100, 1], [103, 1]]
    assert block.examples[1].target_ids.tolist() == [1]
    assert sorted(bad.place for bad in block.bad) == ["record:2", "record:3"]


def test_denoising_joins_documents_and_loses_no_token() -> None:
    texts = [chr(97 + n) * (5 * n + 1) for n in range(20)]
    source = DenoisingExamples(table_of(texts), ByteTokenizer(), SpanCorruption(), piece_length=40)
    block = source.block(range(20), rng=np.random.default_rng(0))
    ids = DenoisingIds.of(ByteTokenizer())
    restored = np.concatenate([SpanCorruption().restore(example, ids) for example in block.examples])
    assert ByteTokenizer().decode(restored) == "".join(texts)
    assert all(len(e.encoder_ids) == SpanCorruption().lengths(40)[0] for e in block.examples[:-1])
    assert ids.sentinel_ids[:3].tolist() == [258, 257, 256]


def test_a_text_that_cannot_be_encoded_and_an_unlucky_draw_are_bad_records() -> None:
    source = DenoisingExamples(
        table_of(["ab" * 20, "\ud800", "cd"]), ByteTokenizer(), SpanCorruption(), piece_length=40
    )
    block = source.block(range(3), rng=np.random.default_rng(0))
    assert (len(block.examples), len(block.bad)) == (2, 1)
    assert block.bad[0].place == "record:2" and block.bad[0].error.startswith("record:2: ")
    # Half of 800 tokens as noise one by one makes about 200 spans; there are 100 sentinels.
    unlucky = DenoisingExamples(table_of(["ab" * 400]), ByteTokenizer(), IidDenoising(0.5), piece_length=800)
    block = unlucky.block(range(1), rng=np.random.default_rng(0))
    assert block.examples == ()
    assert "100 sentinels" in block.bad[0].error
