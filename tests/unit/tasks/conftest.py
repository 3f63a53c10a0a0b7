"""Ids of a small vocabulary: text is 3 … 99, sentinels 129, 128, … 30 of them."""

import numpy as np
import pytest

from t5kit.tasks.objectives import DenoisingIds


@pytest.fixture(scope="session")
def denoising_ids() -> DenoisingIds:
    return DenoisingIds(sentinel_ids=np.arange(129, 99, -1, dtype=np.int32), eos_id=1, vocab_size=130)
