"""Laws of the denoising objectives over arbitrary texts, densities and seeds."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from t5kit.tasks.objectives import (
    DenoisingIds,
    Deshuffling,
    FullLanguageModeling,
    IidDenoising,
    Masking,
    MixtureOfDenoisers,
    PrefixLanguageModeling,
    SpanCorruption,
)

DENOISING_IDS = DenoisingIds(sentinel_ids=np.arange(399, 299, -1, dtype=np.int32), eos_id=1, vocab_size=400)

MODE_IDS = {
    mode: np.array(ids, np.int32) for mode, ids in (("[NLU]", [290, 291]), ("[S2S]", [290, 292]), ("[NLG]", []))
}
"""Two that begin alike, and one without ids."""

texts = st.lists(st.integers(3, 289), min_size=2, max_size=120).map(lambda ids: np.array(ids, np.int32))
objectives = st.one_of(
    st.builds(SpanCorruption, noise_density=st.floats(0.01, 0.99), mean_span_length=st.floats(1.0, 40.0)),
    st.builds(IidDenoising, noise_density=st.floats(0.01, 0.99)),
    st.just(PrefixLanguageModeling()),
    st.just(FullLanguageModeling()),
    st.just(Deshuffling()),
    st.builds(Masking, noise_density=st.floats(0.01, 0.99), noise=st.sampled_from(["mask", "span", "drop"])),
    st.just(MixtureOfDenoisers(MODE_IDS)),
)


@given(texts, objectives, st.integers(0, 2**32))
def test_restoring_a_corrupted_text_gives_the_text(ids: np.ndarray, objective: object, seed: int) -> None:
    rng = np.random.Generator(np.random.Philox(seed))
    example = objective.corrupt(ids, denoising_ids=DENOISING_IDS, rng=rng)
    assert objective.restore(example, DENOISING_IDS).tolist() == ids.tolist()
    assert example.encoder_ids[-1] == example.target_ids[-1] == 1
    assert example.encoder_ids.dtype == example.target_ids.dtype == np.int32
    assert len(example.loss_weights) == len(example.target_ids)


@given(texts, st.floats(0.01, 0.99), st.floats(1.0, 40.0), st.integers(0, 2**32))
def test_span_corruption_keeps_its_counts(ids: np.ndarray, density: float, mean: float, seed: int) -> None:
    objective = SpanCorruption(density, mean)
    example = objective.corrupt(ids, denoising_ids=DENOISING_IDS, rng=np.random.default_rng(seed))
    assert (len(example.encoder_ids), len(example.target_ids)) == objective.lengths(len(ids))
    encoder_sentinels = example.encoder_ids[np.isin(example.encoder_ids, DENOISING_IDS.sentinel_ids)]
    target_sentinels = example.target_ids[np.isin(example.target_ids, DENOISING_IDS.sentinel_ids)]
    num_spans = objective.counts(len(ids)).num_spans
    assert encoder_sentinels.tolist() == target_sentinels.tolist() == DENOISING_IDS.sentinel_ids[:num_spans].tolist()
    assert example.encoder_ids[0] < 300 <= example.encoder_ids[-2]
