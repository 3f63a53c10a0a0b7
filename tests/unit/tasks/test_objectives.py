import numpy as np
import pytest

from t5kit.errors import ConfigError, DataError
from t5kit.tasks.objectives import (
    Denoiser,
    DenoisingIds,
    Deshuffling,
    FullLanguageModeling,
    Masking,
    MixtureOfDenoisers,
    PrefixLanguageModeling,
    SpanCorruption,
)
from t5kit.tasks.objectives.text_pieces import cut_into_pieces

IDS = np.arange(3, 63, dtype=np.int32)


def test_masking_keeps_its_shares(denoising_ids: DenoisingIds) -> None:
    ids = np.full(40_000, 7, np.int32)
    bert = Masking(noise_density=0.5, random_share=0.1, keep_share=0.1)
    encoder = bert.corrupt(ids, denoising_ids=denoising_ids, rng=np.random.default_rng(0)).encoder_ids[:-1]
    assert len(encoder) == len(ids)
    assert abs((encoder == 129).mean() - (0.4 + 0.05 / 127)) < 0.01
    assert abs((encoder == 7).mean() - (0.5 + 0.05 + 0.05 / 127)) < 0.01
    assert encoder.min() >= 3, "pad, EOS and unknown are never drawn"


def test_masked_spans_and_dropped_tokens(denoising_ids: DenoisingIds) -> None:
    for noise, targets in [("span", "noise"), ("drop", "noise"), ("drop", "all")]:
        objective = Masking(noise_density=0.3, noise=noise, targets=targets)
        example = objective.corrupt(IDS, denoising_ids=denoising_ids, rng=np.random.default_rng(3))
        kept = example.encoder_ids[:-1]
        text_kept = kept[kept != 129]
        assert (len(text_kept) < len(kept)) == (noise == "span")
        if targets == "noise":
            assert sorted([*text_kept, *example.target_ids[:-1]]) == IDS.tolist()
        else:
            assert example.target_ids[:-1].tolist() == IDS.tolist()
        if noise == "span":
            assert not np.any((kept[1:] == 129) & (kept[:-1] == 129)), "a run has one mask"


def test_what_a_pair_does_not_tell_cannot_be_restored(denoising_ids: DenoisingIds) -> None:
    masking = Masking(targets="noise")
    example = masking.corrupt(IDS, denoising_ids=denoising_ids, rng=np.random.default_rng(0))
    with pytest.raises(DataError, match="cannot be restored"):
        masking.restore(example, denoising_ids)
    mixture = MixtureOfDenoisers({"[R]": np.array([90], np.int32)}, (Denoiser(SpanCorruption(), "[R]", 1.0),))
    with pytest.raises(DataError, match=r"begin with no mode of \[R\]"):
        mixture.restore(example, denoising_ids)


def test_prefix_split_is_uniform_over_one_to_n_minus_one(denoising_ids: DenoisingIds) -> None:
    rng = np.random.default_rng(0)
    sizes = [
        len(PrefixLanguageModeling().corrupt(IDS[:5], denoising_ids=denoising_ids, rng=rng).encoder_ids) - 1
        for _ in range(4000)
    ]
    values, counts = np.unique(sizes, return_counts=True)
    assert values.tolist() == [1, 2, 3, 4]
    assert abs(counts - 1000).max() < 130  # 4.7 standard deviations


def test_full_language_modeling_reads_nothing(denoising_ids: DenoisingIds) -> None:
    example = FullLanguageModeling().corrupt(IDS, denoising_ids=denoising_ids, rng=np.random.default_rng(0))
    assert example.encoder_ids.tolist() == [1]
    assert example.target_ids.tolist() == [*IDS, 1]


def test_deshuffling_reads_a_permutation(denoising_ids: DenoisingIds) -> None:
    example = Deshuffling().corrupt(IDS, denoising_ids=denoising_ids, rng=np.random.default_rng(0))
    assert example.encoder_ids.tolist() != example.target_ids.tolist()
    assert sorted(example.encoder_ids[:-1]) == IDS.tolist()


def test_mixture_draws_by_rate_and_names_the_mode(denoising_ids: DenoisingIds) -> None:
    mixture = MixtureOfDenoisers(
        mode_ids={"[R]": np.array([90], np.int32), "[S]": np.array([91, 92], np.int32)},
        denoisers=(Denoiser(SpanCorruption(), "[R]", 3.0), Denoiser(PrefixLanguageModeling(), "[S]", 1.0)),
    )
    rng = np.random.default_rng(0)
    firsts = [int(mixture.corrupt(IDS, denoising_ids=denoising_ids, rng=rng).encoder_ids[0]) for _ in range(2000)]
    assert abs(firsts.count(90) / 2000 - 0.75) < 0.04
    assert set(firsts) == {90, 91}
    with pytest.raises(ConfigError, match=r"\[X\]"):
        MixtureOfDenoisers(mode_ids={}, denoisers=(Denoiser(SpanCorruption(), "[X]", 1.0),))


def test_pieces_are_the_documents_joined_and_cut() -> None:
    documents = [np.arange(n, dtype=np.int32) for n in (5, 0, 11, 3)]
    pieces = cut_into_pieces(documents, piece_length=8, rng=np.random.default_rng(0))
    assert pieces.full.shape == (2, 8)
    assert [*pieces.full.reshape(-1), *pieces.rest] == np.concatenate(documents).tolist()


def test_a_long_document_gives_one_aligned_chunk() -> None:
    seen = set()
    for seed in range(40):
        pieces = cut_into_pieces(
            [np.arange(25, dtype=np.int32)], piece_length=99, rng=np.random.default_rng(seed), max_chunk=10
        )
        seen.add((int(pieces.rest[0]), len(pieces.rest)))
    assert seen == {(0, 10), (10, 10), (20, 5)}


def test_no_text_is_a_data_error(denoising_ids: DenoisingIds) -> None:
    for objective in (Masking(), Deshuffling(), FullLanguageModeling(), PrefixLanguageModeling()):
        with pytest.raises(DataError):
            objective.corrupt(IDS[:0], denoising_ids=denoising_ids, rng=np.random.default_rng(0))
