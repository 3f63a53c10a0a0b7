"""Readers: files, datasets and streams -> Record, one at a time, with the place each came from."""

from t5kit.sources.record import BadRecord, Record, text_field
from t5kit.sources.records import read_records
from t5kit.sources.tables import (
    FileStream,
    MemoryTable,
    ReadReport,
    RecordStream,
    RecordTable,
    find_files,
    read_table,
    stream_files,
    table_of,
)

__all__ = [
    "BadRecord",
    "FileStream",
    "MemoryTable",
    "ReadReport",
    "Record",
    "RecordStream",
    "RecordTable",
    "find_files",
    "read_records",
    "read_table",
    "stream_files",
    "table_of",
    "text_field",
]
