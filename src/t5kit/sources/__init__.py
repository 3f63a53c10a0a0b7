"""Readers: files and streams -> Record, one at a time, with the place each came from."""

from t5kit.sources.records import BadRecord, Record, read_records

__all__ = ["BadRecord", "Record", "read_records"]
