"""Parquet files -> records, a batch of rows at a time."""

from collections.abc import Iterator
from pathlib import Path

from t5kit.errors import DataError, DependencyError
from t5kit.sources.record import BadRecord, Record


def read_parquet(path: Path, *, batch_rows: int = 1024) -> Iterator[Record | BadRecord]:
    """Yield a record a row, fields by column; nested columns become lists and dicts.

    Raises: DataError if the file cannot be opened. Damage inside ends the file with one BadRecord.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DependencyError.for_extra("pyarrow", "data", f"{path}: reading Parquet") from None
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: cannot be read as Parquet ({error}).") from error
    row = 0
    with file:
        try:
            for batch in file.iter_batches(batch_size=batch_rows):
                for fields in batch.to_pylist():
                    row += 1
                    yield Record(fields=fields, place=f"{path}:{row}")
        except (OSError, pyarrow.ArrowException) as error:
            place = f"{path}:{row + 1}"
            yield BadRecord(place=place, error=f"{place}: the file is damaged from here on ({error}).")
