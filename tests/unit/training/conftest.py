"""Training needs torch; one thread keeps sums in one order and small tests quick."""

import pytest

torch = pytest.importorskip("torch")
torch.set_num_threads(1)
