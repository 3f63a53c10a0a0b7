"""Random numbers by key and position."""

import numpy as np

from t5kit.decoding.philox import philox4x32, stream_key, uniforms

PI = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344, 0xA4093822, 0x299F31D0]


def test_known_answers() -> None:
    # Random123, kat_vectors, philox4x32 with 10 rounds.
    counters = np.array([[0] * 4, [0xFFFFFFFF] * 4, PI[:4]], np.uint64)
    keys = np.array([[0] * 2, [0xFFFFFFFF] * 2, PI[4:]], np.uint64)
    expected = [
        [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ]
    assert philox4x32(counters, keys).tolist() == expected


def test_a_number_depends_on_its_own_key_and_position_only() -> None:
    keys = np.stack([stream_key(7, np.array([5, 6, 1]), 0, sample) for sample in range(5)])
    positions = np.arange(5) * 1000
    together = uniforms(keys, positions)
    alone = [uniforms(keys[i : i + 1], positions[i : i + 1])[0] for i in (3, 1, 4, 0, 2)]
    assert alone == together[[3, 1, 4, 0, 2]].tolist()


def test_seed_prompt_stream_sample_and_position_all_matter() -> None:
    prompt = np.array([5, 6, 1], np.int32)
    keys = [
        stream_key(7, prompt, 0, 0),
        stream_key(8, prompt, 0, 0),
        stream_key(2**64 - 1, prompt, 0, 0),
        stream_key(7, np.array([5, 7, 1]), 0, 0),
        stream_key(7, np.array([5, 6]), 0, 0),
        stream_key(7, prompt, 1, 0),
        stream_key(7, prompt, 0, 1),
    ]
    numbers = [uniforms(key[None], np.array([position]))[0] for key in keys for position in (0, 1, 2**32)]
    assert len(set(numbers)) == len(numbers)


def test_the_prompts_integer_type_does_not_matter() -> None:
    for dtype in (np.int64, np.uint16, ">i4"):
        assert (stream_key(7, np.array([5, 6, 1], dtype), 0, 0) == stream_key(7, np.int32([5, 6, 1]), 0, 0)).all()


def test_numbers_are_uniform_in_unit_interval() -> None:
    numbers = uniforms(np.tile(stream_key(3, np.array([1]), 0, 0), (20_000, 1)), np.arange(20_000))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.bincount((numbers * 100).astype(int), minlength=100)
    assert ((counts - 200) ** 2 / 200).sum() < 149.4  # chi-square, 99 degrees of freedom, 0.1 % quantile
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.03
