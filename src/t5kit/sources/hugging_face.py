"""Hugging Face datasets as sources: local ones by number, streamed ones in order."""

import dataclasses
import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t5kit.errors import DataError, DependencyError
from t5kit.sources.record import Record


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class DatasetTable:
    """One split of a dataset on disk (Arrow, memory-mapped: opening costs nothing, workers share the pages)."""

    dataset: Any
    name: str

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Record:
        return Record(fields=self.dataset[index], place=f"{self.name}:{index + 1}")


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class DatasetStream:
    """One split of a dataset read over the network or from its files as it comes."""

    dataset: Any
    name: str

    def __iter__(self) -> Iterator[Record]:
        """Yield the records. Raises: DataError where the stream breaks off: a run must not take that for its end."""
        number = 0
        rows = iter(self.dataset)
        while True:
            try:
                fields = next(rows, None)
            except Exception as error:  # whatever the network, the file system or a parser below raises
                raise DataError(
                    f"the dataset {self.name} broke off after {number:,} records ({type(error).__name__}: {error}). "
                    "Resume the run once it can be read again."
                ) from error
            if fields is None:
                return
            number += 1
            yield Record(fields=fields, place=f"{self.name}:{number}")


def dataset_table(
    name: str, *, split: str, configuration: str | None = None, revision: str | None = None
) -> DatasetTable:
    """Load a split by its Hub name, or from a folder made by `save_to_disk`.

    Raises: DependencyError without the library; DataError if the dataset or its split cannot be loaded.
    """
    return DatasetTable(_load(name, split, configuration, revision, is_streamed=False), f"{name}/{split}")


def dataset_stream(
    name: str, *, split: str, configuration: str | None = None, revision: str | None = None
) -> DatasetStream:
    """Open a split as a stream. Raises: as `dataset_table`."""
    return DatasetStream(_load(name, split, configuration, revision, is_streamed=True), f"{name}/{split}")


def _load(name: str, split: str, configuration: str | None, revision: str | None, *, is_streamed: bool) -> Any:
    try:
        import datasets
    except ImportError:
        raise DependencyError.for_extra("datasets", "data", f"The dataset {name!r}") from None
    try:
        if (Path(name) / "dataset_dict.json").is_file() or (Path(name) / "state.json").is_file():
            loaded = datasets.load_from_disk(name)
            if isinstance(loaded, datasets.DatasetDict):
                if split not in loaded:
                    near = difflib.get_close_matches(split, loaded, n=1)
                    hint = f" Did you mean {near[0]!r}?" if near else ""
                    raise DataError(f"the dataset {name!r} has no split {split!r}; it has: {', '.join(loaded)}.{hint}")
                loaded = loaded[split]
            return loaded.to_iterable_dataset() if is_streamed else loaded
        return datasets.load_dataset(name, configuration, split=split, revision=revision, streaming=is_streamed)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise DataError(f"the dataset {name!r}, split {split!r}, cannot be loaded ({error}).") from error
