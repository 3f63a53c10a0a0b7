"""Examples -> batches: shuffling, mixing, length limits, packing, workers, exact resume."""

from t5kit.data.batch import Batch
from t5kit.data.lengths import LengthLimits
from t5kit.data.loading import BatchConfig, BatchLoader
from t5kit.data.streamed import NO_RECORDS, StreamedExamples
from t5kit.data.streams import MixedStream, SourceStream
from t5kit.data.workers import BlockMaker

__all__ = [
    "NO_RECORDS",
    "Batch",
    "BatchConfig",
    "BatchLoader",
    "BlockMaker",
    "LengthLimits",
    "MixedStream",
    "SourceStream",
    "StreamedExamples",
]
