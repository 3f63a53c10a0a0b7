"""Weighted means of model folders."""

import subprocess
import sys
from pathlib import Path

import numpy as np

from t5kit.checkpoint import open_folder
from t5kit.testing.folders import write_tiny_folder
from t5kit.testing.tiny import TINY_CONFIGS
from t5kit.text import load_tokenizer

SCRIPT = Path(__file__).parents[3] / "scripts" / "average_models.py"


def run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True, check=False)


def test_each_tensor_is_the_mean_by_weight(tmp_path: Path) -> None:
    first, second = (write_tiny_folder(tmp_path / str(seed), seed=seed) for seed in (1, 2))
    done = run(tmp_path / "mean", f"{first}=1", f"{second}=3")
    assert done.returncode == 0, done.stderr
    a, b, mean = (open_folder(path) for path in (first, second, tmp_path / "mean"))
    assert mean.config == b.config and mean.prefixes == b.prefixes
    for name in mean.names():
        expected = 0.25 * a.tensor(name).to_float32() + 0.75 * b.tensor(name).to_float32()
        np.testing.assert_allclose(mean.tensor(name).to_float32(), expected, rtol=1e-6, atol=1e-7)
    assert load_tokenizer(mean.path).encode("a b").tolist() == load_tokenizer(second).encode("a b").tolist()


def test_what_has_no_mean_is_a_sentence(tmp_path: Path) -> None:
    first = write_tiny_folder(tmp_path / "a")
    other = write_tiny_folder(tmp_path / "b", config=TINY_CONFIGS["t5"])
    for words, says in (
        ([f"{first}=0"], "expected FOLDER=WEIGHT"),
        ([str(first)], "expected FOLDER=WEIGHT"),
        ([f"{first}=1", f"{other}=1"], "are of different shapes"),
        ([f"{tmp_path / 'none'}=1"], "cannot be opened as a model folder"),
    ):
        done = run(tmp_path / "mean", *words)
        assert done.returncode == 1 and says in done.stderr and "Traceback" not in done.stderr
        assert not (tmp_path / "mean").exists()
