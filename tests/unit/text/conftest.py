"""Tiny vocabularies, trained once: about 400 ids each, a fraction of a second."""

import random
from pathlib import Path

import pytest

from t5kit.text import SentencePieceTokenizer, train_tokenizer

NUM_SENTINELS = 10


def make_lines(num_lines: int = 300, seed: int = 0) -> list[str]:
    """Return lines of invented words, some of them with accents or in other scripts."""
    rng = random.Random(seed)
    syllables = "ba be bi ka ke lo mu na ni ra re sa sé ta ti über да ne 日 on".split()
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(150)]
    return [" ".join(rng.choices(words, k=rng.randint(3, 12))) + rng.choice(".!?") for _ in range(num_lines)]


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    path.write_text("\n".join(make_lines()) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def vocabularies(text_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders by name: {unigram, bpe}-{plain, lossless, unknowns}, the last without byte fallback."""
    folders = {}
    for model_type in ("unigram", "bpe"):
        for name in ("plain", "lossless", "unknowns"):
            folder = tmp_path_factory.mktemp("vocabularies") / f"{model_type}-{name}"
            train_tokenizer(
                [text_file],
                folder,
                vocab_size=120 if name == "unknowns" else 400,
                model_type=model_type,
                byte_fallback=name != "unknowns",
                keeps_whitespace=name == "lossless",
                num_sentinels=NUM_SENTINELS,
                num_threads=2,
            )
            folders[folder.name] = folder
    return folders


@pytest.fixture(scope="session")
def plain(vocabularies: dict[str, Path]) -> SentencePieceTokenizer:
    """T5's kind: unigram, NMT-NFKC, byte fallback; sentinels in the model file."""
    return SentencePieceTokenizer((vocabularies["unigram-plain"] / "spiece.model").read_bytes())


@pytest.fixture(scope="session")
def lossless(vocabularies: dict[str, Path]) -> SentencePieceTokenizer:
    """Nothing normalised, every byte writable."""
    return SentencePieceTokenizer((vocabularies["unigram-lossless"] / "spiece.model").read_bytes())
