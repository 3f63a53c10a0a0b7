"""Write the weighted mean of the weights of model folders of one architecture and vocabulary.

    python scripts/average_models.py OUT FOLDER=WEIGHT FOLDER=WEIGHT … [--weights int8]

Weights are shares of their sum. Means of trainings that began from the same model are often as good as either where it
is good (Wortsman et al. 2022). Config, vocabulary and generation defaults are the last folder's.
"""

import argparse
import math
import shutil
import sys
from pathlib import Path

import numpy as np

from t5kit.checkpoint import CheckpointFolder, open_folder, write_folder
from t5kit.checkpoint.tensors import TensorView
from t5kit.config import tensor_shapes
from t5kit.errors import T5kitError

VOCABULARY = ("spiece.model", "tokenizer.json", "tokenizer_config.json")


def parsed(words: list[str]) -> list[tuple[CheckpointFolder, float]]:
    """Return the folders with their shares. Exits with a sentence for a word of another form, and unlike folders."""
    found = []
    for word in words:
        path, _, weight = word.rpartition("=")
        try:
            share = float(weight)
        except ValueError:
            share = math.nan
        if not path or not share > 0 or math.isinf(share):
            sys.exit(f"{word!r}: expected FOLDER=WEIGHT with a weight above 0, such as models/mini-3=0.4.")
        found.append((open_folder(Path(path)), share))
    last = found[-1][0]
    for folder, _ in found:
        if tensor_shapes(folder.config) != tensor_shapes(last.config):
            sys.exit(f"{folder.path} and {last.path} are of different shapes.")
        for name in VOCABULARY:
            files = [each / name for each in (folder.path, last.path)]
            if len({file.read_bytes() if file.exists() else None for file in files}) > 1:
                sys.exit(f"{folder.path} and {last.path} have different {name}: their tokens are not the same.")
    total = sum(share for _, share in found)
    return [(folder, share / total) for folder, share in found]


def averaged(folders: list[tuple[CheckpointFolder, float]]) -> list[TensorView]:
    """Return the mean of each tensor, float32, summed in float64."""
    views = []
    for name in tensor_shapes(folders[-1][0].config):
        parts = [share * folder.tensor(name).to_float32().astype(np.float64) for folder, share in folders]
        views.append(TensorView.from_array(name, np.sum(parts, axis=0).astype(np.float32)))
    return views


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("folders", nargs="+", metavar="FOLDER=WEIGHT")
    parser.add_argument("--weights", choices=("as_is", "int8"), default="as_is", help="int8: a quantised folder")
    arguments = parser.parse_args()
    folders = parsed(arguments.folders)
    last = folders[-1][0]

    def save_vocabulary(folder: Path) -> None:
        for name in VOCABULARY:
            if (last.path / name).exists():
                shutil.copy(last.path / name, folder / name)

    write_folder(
        arguments.out, last.config, averaged(folders), weights=arguments.weights, generation=last.generation,
        labels=last.labels or None, prefixes=last.prefixes, save_tokenizer=save_vocabulary,
    )  # fmt: skip
    print(f"wrote {arguments.out}: " + ", ".join(f"{share:.3f} of {folder.path}" for folder, share in folders))


if __name__ == "__main__":
    try:
        main()
    except T5kitError as error:
        sys.exit(str(error))
