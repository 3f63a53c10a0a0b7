"""Small sources: pairs of short byte texts, and documents for denoising."""

import numpy as np
import pytest

from t5kit.sources import table_of
from t5kit.tasks import DenoisingExamples, PairExamples, TaskForm, Template
from t5kit.tasks.objectives import SpanCorruption
from t5kit.text import ByteTokenizer


@pytest.fixture(scope="session")
def pairs() -> PairExamples:
    """100 pairs: prompts of 2 … 42 ids, targets of 2 … 11, in blocks of 8."""
    rng = np.random.default_rng(0)
    rows = [
        {"source": f"{n:02d}" + "x" * int(rng.integers(0, 40)), "target": f"{n}" + "y" * int(rng.integers(0, 9))}
        for n in range(100)
    ]
    form = TaskForm((Template("{source}"), Template("say {source}")))
    return PairExamples(form, table_of(rows), ByteTokenizer(), block_size=8)


@pytest.fixture(scope="session")
def documents() -> DenoisingExamples:
    """50 documents of 1 … 80 bytes."""
    rng = np.random.default_rng(1)
    texts = ["".join(map(chr, rng.integers(97, 123, size=int(rng.integers(1, 80))))) for _ in range(50)]
    return DenoisingExamples(table_of(texts), ByteTokenizer(), SpanCorruption(), piece_length=48, block_size=8)
