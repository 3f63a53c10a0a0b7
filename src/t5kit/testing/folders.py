"""Whole model folders for tests: random weights, a byte vocabulary, everything `Model.from_pretrained` needs."""

from pathlib import Path

from t5kit.checkpoint import write_folder
from t5kit.config import T5Config
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors
from t5kit.text import ByteTokenizer


def write_tiny_folder(path: Path, *, config: T5Config | None = None, seed: int = 0) -> Path:
    """Write a tiny ByT5 (or `config`, of at least 384 rows) with random weights to `path` and return it."""
    config = config or TINY_CONFIGS["byt5"]
    write_folder(path, config, random_tensors(config, seed=seed), generation={}, save_tokenizer=ByteTokenizer().save)
    return path
