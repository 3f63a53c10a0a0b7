import pytest

from t5kit.data import BatchConfig, BatchLoader, BlockMaker, MixedStream
from t5kit.data.statistics import measure
from t5kit.errors import DataError
from t5kit.tasks import PairExamples


def loader(pairs: PairExamples, config: BatchConfig) -> BatchLoader:
    maker = BlockMaker([pairs], seed=0, is_shuffled=True, num_workers=0)
    return BatchLoader(MixedStream(maker, [1.0], seed=0, num_epochs=1), config, seed=0)


def test_statistics_are_those_of_the_examples(pairs: PairExamples) -> None:
    config = BatchConfig(batch_rows=4, encoder_length=64, target_length=32, window_batches=3)
    examples = [e for batch in loader(pairs, config) for row in batch.examples() for e in row]
    found = measure(loader(pairs, config), num_batches=1000)
    lengths = sorted(len(e.encoder_ids) for e in examples)
    assert (found.num_examples, found.encoder.shortest, found.encoder.longest) == (100, lengths[0], lengths[-1])
    assert found.encoder.mean == pytest.approx(sum(lengths) / 100)
    assert found.encoder.padding == pytest.approx(1 - sum(lengths) / (found.num_batches * 4 * 64))
    assert found.shares[0].num_examples == 100
    assert "100 examples" in str(found)


def test_the_balanced_target_length_fills_both_sides_alike(pairs: PairExamples) -> None:
    config = BatchConfig(batch_rows=4, encoder_length=64, target_length=32, window_batches=6)
    target_length = measure(loader(pairs, config), num_batches=4).balanced_target_length(256)
    wide = BatchConfig(batch_rows=2, encoder_length=256, target_length=target_length, window_batches=2)
    found = measure(loader(pairs, wide), num_batches=2)
    assert found.encoder.padding < 0.06
    assert found.target.padding < 0.15


def test_nothing_to_measure_is_an_error(pairs: PairExamples) -> None:
    with pytest.raises(DataError):
        measure(loader(pairs, BatchConfig(4, 64, 32)), num_batches=0)
