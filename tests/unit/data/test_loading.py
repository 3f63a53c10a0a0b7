import dataclasses
import itertools
import json
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5kit.data import Batch, BatchConfig, BatchLoader, BlockMaker, MixedStream
from t5kit.errors import ConfigError, DataError
from t5kit.sources import table_of
from t5kit.tasks import DenoisingExamples, ExampleSource, PairExamples, TaskForm, Template
from t5kit.text import ByteTokenizer

PACKED = BatchConfig(batch_rows=4, encoder_length=64, target_length=32, window_batches=3)
BUCKETED = dataclasses.replace(PACKED, arrangement="bucketed")


def loader(
    sources: Sequence[ExampleSource],
    config: BatchConfig = PACKED,
    *,
    maker: BlockMaker | None = None,
    seed: int = 5,
    num_epochs: int | None = None,
    rates: Sequence[float] | None = None,
) -> BatchLoader:
    maker = maker or BlockMaker(sources, seed=seed, is_shuffled=True, num_workers=0)
    stream = MixedStream(maker, rates or [1.0] * len(sources), seed=seed, num_epochs=num_epochs)
    return BatchLoader(stream, config, seed=seed)


def fingerprint(batch: Batch) -> tuple[bytes, ...]:
    return tuple(getattr(batch, field.name).tobytes() for field in dataclasses.fields(batch))


def take(batches: BatchLoader, count: int) -> list[tuple[bytes, ...]]:
    return [fingerprint(batch) for batch in itertools.islice(batches, count)]


def prompts_of(batch: Batch) -> list[str]:
    """The decoded prompts of a batch of byte ids."""
    found = []
    for ids, segments in zip(batch.encoder_input_ids, batch.encoder_segment_ids, strict=True):
        found += [ByteTokenizer().decode(ids[segments == n]) for n in range(1, segments.max() + 1)]
    return found


@pytest.mark.parametrize("config", [PACKED, BUCKETED])
def test_an_epoch_gives_each_record_once(pairs: PairExamples, config: BatchConfig) -> None:
    prompts = [prompt for batch in loader([pairs], config, num_epochs=1) for prompt in prompts_of(batch)]
    expected = sorted(str(record.fields["source"]) for record in pairs.table.records)
    assert sorted(prompt.removeprefix("say ") for prompt in prompts) == expected
    assert any(prompt.startswith("say ") for prompt in prompts), "phrasings are drawn"


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(
    pairs: PairExamples, documents: DenoisingExamples, num_workers: int
) -> None:
    alone = loader([pairs, documents], rates=[1.0, 2.0])
    with BlockMaker([pairs, documents], seed=5, is_shuffled=True, num_workers=num_workers) as maker:
        helped = loader([pairs, documents], rates=[1.0, 2.0], maker=maker)
        for _ in range(40):
            assert fingerprint(next(alone)) == fingerprint(next(helped))
        assert alone.state() == helped.state()


@settings(max_examples=25)
@given(st.integers(0, 30), st.sampled_from([PACKED, BUCKETED]), st.sampled_from([None, 2]))
def test_a_resumed_loader_gives_what_the_other_would_have_given(
    pairs: PairExamples, documents: DenoisingExamples, num_before: int, config: BatchConfig, num_epochs: int | None
) -> None:
    whole = take(loader([pairs, documents], config, num_epochs=num_epochs), 40)
    first = loader([pairs, documents], config, num_epochs=num_epochs)
    before = take(first, num_before)
    if len(before) < num_before:
        return
    state = json.loads(json.dumps(first.state()))
    assert len(json.dumps(state)) < 4000
    second = loader([pairs, documents], config, num_epochs=num_epochs).restore(state)
    assert second.state() == first.state()
    after = take(second, 40 - num_before)
    assert before + after == whole


def test_seeds_give_unlike_orders(pairs: PairExamples) -> None:
    assert fingerprint(next(loader([pairs], seed=1))) != fingerprint(next(loader([pairs], seed=2)))


def test_epochs_are_shuffled_anew_and_masks_drawn_anew(documents: DenoisingExamples) -> None:
    maker = BlockMaker([documents], seed=0, is_shuffled=False, num_workers=0)
    stream = MixedStream(maker, [1.0], seed=0, num_epochs=2)
    examples = []
    while (found := stream.next()) is not None:
        examples.append(found)
    half = len(examples) // 2
    texts = [documents.objective.restore(e, _ids()).tobytes() for e in examples]
    assert texts[:half] == texts[half:], "unshuffled, both passes cut the same pieces"
    assert [e.encoder_ids.tobytes() for e in examples[:half]] != [e.encoder_ids.tobytes() for e in examples[half:]]


def _ids() -> object:
    from t5kit.tasks.objectives import DenoisingIds

    return DenoisingIds.of(ByteTokenizer())


def test_rates_are_kept_and_the_ended_leave_their_share(pairs: PairExamples, documents: DenoisingExamples) -> None:
    maker = BlockMaker([pairs, documents], seed=3, is_shuffled=True, num_workers=0)
    endless = MixedStream(maker, [3.0, 1.0], seed=3)
    for _ in range(4000):
        assert endless.next() is not None
    assert abs(endless.shares()[0].num_examples / 4000 - 0.75) < 0.03
    once = MixedStream(maker, [1.0, 100.0], seed=3, num_epochs=1)
    while once.next() is not None:
        pass
    assert once.shares()[0].num_examples == 100


def test_bad_records_are_counted_and_do_not_stop_the_run() -> None:
    rows = [{"source": "a", "target": "b"}, {"source": "a"}, {"source": "\ud800", "target": "b"}] * 3
    source = PairExamples(TaskForm((Template("{source}"),)), table_of(rows, name="rows"), ByteTokenizer(), block_size=2)
    stream = MixedStream(BlockMaker([source], seed=0, is_shuffled=False, num_workers=0), [1.0], seed=0, num_epochs=2)
    count = 0
    while stream.next() is not None:
        count += 1
    assert (count, stream.shares()[0].num_bad) == (6, 12)
    assert stream.bad()[0][0].error.startswith("rows:2: has no field 'target'")
    assert stream.bad()[0][1].error.startswith("rows:3: ")


def test_a_source_without_a_single_example_is_an_error() -> None:
    source = PairExamples(TaskForm((Template("{no}"),)), table_of([{"a": "b"}]), ByteTokenizer())
    stream = MixedStream(BlockMaker([source], seed=0, is_shuffled=False, num_workers=0), [1.0], seed=0)
    with pytest.raises(DataError, match=r"record:1: has no field 'no'"):
        stream.next()


def test_long_examples_are_cut_or_left_out_and_counted(pairs: PairExamples) -> None:
    config = dataclasses.replace(PACKED, encoder_length=20)
    cut = loader([pairs], config, num_epochs=1)
    kept = sum(len(prompts_of(batch)) for batch in cut)
    assert (kept, cut.num_dropped) == (100, 0)
    dropping = loader([pairs], dataclasses.replace(config, too_long="drop"), num_epochs=1)
    kept = sum(len(prompts_of(batch)) for batch in dropping)
    assert kept + dropping.num_dropped == 100
    assert dropping.num_dropped == cut.num_truncated > 10


def test_buckets_pad_little_and_take_few_shapes(pairs: PairExamples) -> None:
    config = dataclasses.replace(BUCKETED, window_batches=25)
    batches = list(loader([pairs], config, num_epochs=1))
    shapes = {(batch.encoder_input_ids.shape, batch.labels.shape) for batch in batches}
    assert all(rows == 4 and width % 8 == 0 for (rows, width), _ in shapes)
    real, held = sum(b.num_encoder_tokens() for b in batches), sum(b.encoder_input_ids.size for b in batches)
    assert real / held > 0.8


def test_a_state_of_other_sources_is_refused(pairs: PairExamples, documents: DenoisingExamples) -> None:
    state = loader([pairs, documents]).state()
    with pytest.raises(DataError, match="2 sources, this run 1"):
        loader([pairs]).restore(state)


@pytest.mark.parametrize("setting", [{"batch_rows": 0}, {"arrangement": "padded"}, {"too_long": "cut"}])
def test_impossible_settings_are_refused(setting: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        dataclasses.replace(PACKED, **setting)


def test_an_error_in_a_worker_arrives_as_it_was(pairs: PairExamples) -> None:
    broken = dataclasses.replace(pairs, form=TaskForm((Template("{source}"),), prepare=_divide_by_zero))
    with BlockMaker([broken], seed=0, is_shuffled=True, num_workers=1) as maker, pytest.raises(ZeroDivisionError):
        MixedStream(maker, [1.0], seed=0).next()


def _divide_by_zero(fields: object) -> dict[str, str]:
    raise ZeroDivisionError


def test_real_batches_are_int32_and_float32(documents: DenoisingExamples) -> None:
    batch = next(loader([documents]))
    assert {array.dtype for array in (batch.labels, batch.encoder_input_ids, batch.encoder_segment_ids)} == {
        np.dtype(np.int32)
    }
    assert batch.loss_weights.dtype == np.float32


def test_where_nothing_fits_two_passes_are_enough_to_say_so(pairs: PairExamples, documents: DenoisingExamples) -> None:
    short = dataclasses.replace(PACKED, encoder_length=2, target_length=1, too_long="drop")
    batches = loader([pairs], short)
    with pytest.raises(DataError, match=r"all examples of a whole pass .* longer than data\.encoder_length = 2 or"):
        next(batches)
    assert batches.num_dropped <= 201
    mixed = loader([pairs, documents], short, rates=[5.0, 1.0])
    with pytest.raises(DataError, match="all examples of a whole pass"):
        next(mixed)
    assert all(share.num_epochs >= 2 for share in mixed.shares()) and mixed.num_dropped < 2000


@pytest.mark.parametrize("num_records", [3, 40, 100, 160])
def test_a_table_that_changed_meanwhile_is_told_and_training_goes_on(pairs: PairExamples, num_records: int) -> None:
    first = loader([pairs], num_epochs=60)
    take(first, 12)
    rows = [{"source": f"other {n}", "target": "y"} for n in range(num_records)]
    resumed = loader([dataclasses.replace(pairs, table=table_of(rows))], num_epochs=60)
    with pytest.warns(UserWarning, match=f"data source 0 has other records .* .100 then, {num_records} now"):
        resumed.restore(json.loads(json.dumps(first.state())))
    later = [prompt for batch in resumed for prompt in prompts_of(batch)]
    others = [prompt for prompt in later if "other" in prompt]
    epoch = first.state()["stream"]["streams"][0]["epoch"]
    assert later[-1] in others and len(others) <= (60 - epoch) * num_records


def test_a_table_that_stayed_is_resumed_without_a_word(pairs: PairExamples) -> None:
    first = loader([pairs])
    take(first, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loader([dataclasses.replace(pairs, table=table_of([dict(r.fields) for r in pairs.table]))]).restore(
            first.state()
        )
