"""What a run was begun with beside its train records: checksums that its folder keeps, and a warning where they differ.

Of train records the loader's state tells (data/streams.py); those that `Model.fit` was given are the run's own.
"""

import json
import tempfile
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

from t5kit.api.run_parts import RunParts
from t5kit.checkpoint.adapters import base_marks
from t5kit.checkpoint.atomic import write_file
from t5kit.checkpoint.source_files import read_json
from t5kit.recipe import RunConfig
from t5kit.sources.tables import table_checksum
from t5kit.tasks.configured import DEV, OpenedTask
from t5kit.text import Tokenizer

BEGUN_WITH = "begun_with.json"
"""File of the run folder: setting -> a CRC-32 of what it stood for when the run began."""


def keep_inputs(run_folder: Path, config: RunConfig, tasks: Sequence[OpenedTask], parts: RunParts) -> None:
    """Keep what a run is begun with; warn (UserWarning) where one that has a checkpoint goes on with something else.

    A run of an older t5kit, which kept nothing, keeps what it goes on with.
    """
    path, now = run_folder / BEGUN_WITH, input_checksums(config, tasks, parts)
    kept: dict[str, object] = {}
    if path.is_file() and any((run_folder / "checkpoints").glob("step-*[0-9]")):  # without one it begins anew
        kept = read_json(path)
        if differing := [setting for setting in now if kept.get(setting, now[setting]) != now[setting]]:
            warnings.warn(
                f"the run in {run_folder} was begun with something else in {', '.join(differing)}, though under the "
                "same name: training goes on, but not as if it had never stopped, and scores of before and after may "
                "not compare. Put the files back, or begin a new run.",
                UserWarning,
                stacklevel=2,
            )
    write_file(path, (json.dumps(now | kept, indent=1) + "\n").encode())


def input_checksums(config: RunConfig, tasks: Sequence[OpenedTask], parts: RunParts) -> dict[str, int]:
    """Return a CRC-32 of every task's dev records and synonyms, of the vocabulary, and of some of the start's weights.

    Of a start that an adaptation leaves as it is the checkpoints have a checksum, and refuse another one.
    Example: {"data.tasks.sounds.dev": 2868012219, "vocabulary": 1071270402}
    """
    checksums: dict[str, int] = {}
    for task in tasks:
        if DEV in task.task.splits:
            checksums[f"data.tasks.{task.name}.dev"] = table_checksum(task.task.split(DEV))
        if task.augmenter is not None and task.augmenter.synonyms:
            words = repr(dict(task.augmenter.synonyms)).encode("utf-8", "backslashreplace")
            checksums[f"data.tasks.{task.name}.augmentation.synonyms"] = zlib.crc32(words)
    checksums["vocabulary"] = _vocabulary_checksum(parts.tokenizer)
    if parts.start is not None and config.adaptation is None:
        checksums["model.start"] = zlib.crc32(json.dumps(base_marks(parts.start.tensors()), sort_keys=True).encode())
    return checksums


def _vocabulary_checksum(tokenizer: Tokenizer) -> int:
    """Return the CRC-32 of a vocabulary's files, as they are written for the run's model."""
    checksum = 0
    with tempfile.TemporaryDirectory(prefix="t5kit-vocabulary-") as folder:
        tokenizer.save(Path(folder))
        for path in sorted(Path(folder).iterdir()):
            checksum = zlib.crc32(path.read_bytes(), zlib.crc32(path.name.encode(), checksum))
    return checksum
