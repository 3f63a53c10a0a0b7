"""Examples a second of the data path, and how much padding is left; one JSON line a result.

    python bench/data_path.py [--corpus corpus.txt.gz] [--pairs pairs.tsv.gz] [--vocabulary spiece.model]

Without files it takes random ids and log-normal lengths. Rival timings are of plain re-implementations, written here
from their description: one mask an example by two shuffles, then the batch by masks and reshapes, as the collators of
nanoT5 and of Hugging Face's Flax example do; and t5's preprocessor, one example at a time. All run alternately, on one
thread, in one process; medians of several rounds.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAYON_NUM_THREADS", "1")

import numpy as np

from t5kit.data import BatchConfig, BatchLoader, BlockMaker, MixedStream
from t5kit.data.packing import pack
from t5kit.sources import read_table, table_of
from t5kit.tasks import DenoisingExamples, Example, PairExamples, TaskForm, Template
from t5kit.tasks.objectives import DenoisingIds, SpanCorruption
from t5kit.text import ByteTokenizer, Tokenizer, load_tokenizer

RAW, ENCODER, TARGET = 568, 512, 114
IDS = DenoisingIds(sentinel_ids=np.arange(32099, 31999, -1, dtype=np.int32), eos_id=1, vocab_size=32100)


def mask_by_shuffles(length: int, generator: np.random.Generator) -> np.ndarray:
    """One noise mask as the usual collators draw it: two shuffled indicators, then lengths, then the mask."""
    num_noise = round(length * 0.15)
    num_spans = round(num_noise / 3.0)

    def segment_lengths(num_items: int) -> np.ndarray:
        starts = np.arange(num_items - 1) < num_spans - 1
        generator.shuffle(starts)
        ids = np.cumsum(np.pad(starts, [[1, 0]]))
        return np.unique(ids, return_counts=True)[1]

    lengths = np.stack([segment_lengths(length - num_noise), segment_lengths(num_noise)], axis=1).reshape(-1)
    indicator = np.zeros(length, np.int8)
    indicator[np.cumsum(lengths)[:-1]] = 1
    return np.cumsum(indicator) % 2 == 1


def collate(rows: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A batch as a masking collator makes it: masks one by one, sentinels and filtering for the whole batch."""
    masks = np.asarray([mask_by_shuffles(rows.shape[1], generator) for _ in range(len(rows))])

    def side(is_dropped: np.ndarray) -> np.ndarray:
        starts = is_dropped - np.roll(is_dropped, 1, axis=-1) * is_dropped
        starts[:, 0] = is_dropped[:, 0]
        sentinels = np.where(starts != 0, np.cumsum(starts, axis=-1), 0)
        sentinels = np.where(sentinels != 0, 32100 - sentinels, 0)
        sentinels -= is_dropped - starts
        full = np.where(sentinels != 0, sentinels, rows)
        kept = full[full >= 0].reshape(len(rows), -1)
        return np.concatenate([kept, np.full((len(rows), 1), 1)], axis=-1)

    return side(masks.astype(np.int32)), side((~masks).astype(np.int32))


def one_by_one(row: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One example as t5's preprocessor makes it, in NumPy."""
    mask = mask_by_shuffles(len(row), generator)

    def side(is_dropped: np.ndarray) -> np.ndarray:
        follows = np.concatenate([[False], is_dropped[:-1]])
        first = is_dropped & ~follows
        marked = np.where(first, 32100 - np.cumsum(first), row)
        return np.append(marked[~(is_dropped & follows)], 1)

    return side(mask), side(~mask)


def rates(paths: dict[str, Callable[[], int]], *, rounds: int) -> dict[str, float]:
    """Return each path's median items a second; the paths take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(rounds):
        for name, path in paths.items():
            start = time.perf_counter()
            count = path()
            seconds[name].append((time.perf_counter() - start) / count)
    return {name: 1.0 / statistics.median(values) for name, values in seconds.items()}


def corruption(rounds: int) -> dict[str, float]:
    """Span corruption alone, 512 examples of 568 ids a round."""
    generator = np.random.Generator(np.random.Philox(0))
    rows = generator.integers(3, 32000, (512, RAW), np.int32)
    objective = SpanCorruption()
    ours, theirs = objective.corrupt_rows(rows, denoising_ids=IDS, rng=generator), collate(rows, generator)
    assert len(ours[0].encoder_ids) == theirs[0].shape[1] == ENCODER
    assert len(ours[0].target_ids) == theirs[1].shape[1] == TARGET
    return rates(
        {
            "t5kit, blocks of 64": lambda: sum(
                len(objective.corrupt_rows(rows[n : n + 64], denoising_ids=IDS, rng=generator))
                for n in range(0, 512, 64)
            ),
            "t5kit, one by one": lambda: len(
                [objective.corrupt(row, denoising_ids=IDS, rng=generator) for row in rows[:128]]
            ),
            "masking collator, batches of 64": lambda: sum(
                len(collate(rows[n : n + 64], generator)[0]) for n in range(0, 512, 64)
            ),
            "t5 preprocessor, one by one": lambda: len([one_by_one(row, generator) for row in rows[:128]]),
        },
        rounds=rounds,
    )


def first_fit(examples: list[Example], encoder_length: int, target_length: int) -> int:
    """How many rows plain first fit takes, in the order the examples come."""
    free: list[list[int]] = []
    for example in examples:
        size = len(example.encoder_ids), len(example.target_ids)
        for row in free:
            if row[0] >= size[0] and row[1] >= size[1]:
                row[0] -= size[0]
                row[1] -= size[1]
                break
        else:
            free.append([encoder_length - size[0], target_length - size[1]])
    return len(free)


def loader_of(source: DenoisingExamples | PairExamples, config: BatchConfig) -> BatchLoader:
    maker = BlockMaker([source], seed=0, is_shuffled=True, num_workers=0)
    return BatchLoader(MixedStream(maker, [1.0], seed=0), config, seed=0)


def whole_path(source: DenoisingExamples | PairExamples, config: BatchConfig, num_batches: int) -> dict[str, float]:
    """Everything from records to batches: examples a second, and the share of padding of both sides."""
    loader = loader_of(source, config)
    next(loader)
    start = time.perf_counter()
    batches = [next(loader) for _ in range(num_batches)]
    seconds = time.perf_counter() - start
    count = sum(int(batch.encoder_segment_ids.max(axis=1).sum()) for batch in batches)
    encoder = sum(batch.num_encoder_tokens() for batch in batches) / sum(b.encoder_input_ids.size for b in batches)
    target = sum(batch.num_target_tokens() for batch in batches) / sum(b.labels.size for b in batches)
    return {
        "examples_per_s": count / seconds,
        "encoder_tokens_per_s": sum(batch.num_encoder_tokens() for batch in batches) / seconds,
        "encoder_padding_percent": 100 * (1 - encoder),
        "target_padding_percent": 100 * (1 - target),
        "state_bytes": len(json.dumps(loader.state())),
    }


def packing(examples: list[Example], encoder_length: int, target_length: int) -> dict[str, float]:
    """Packing alone: examples a second, padding of the scarcer side, beside first fit."""
    encoder = sum(len(e.encoder_ids) for e in examples)
    target = sum(len(e.target_ids) for e in examples)
    num_rows = int(max(encoder / encoder_length, target / target_length))
    start = time.perf_counter()
    packed = pack(examples, num_rows=num_rows, encoder_length=encoder_length, target_length=target_length)
    seconds = time.perf_counter() - start
    placed = [examples[n] for row in packed.rows for n in row]
    fill = (
        sum(len(e.encoder_ids) for e in placed) / (num_rows * encoder_length),
        sum(len(e.target_ids) for e in placed) / (num_rows * target_length),
    )
    rows_first_fit = first_fit(examples, encoder_length, target_length)
    most = max(encoder / encoder_length, target / target_length)
    return {
        "examples_per_s": len(examples) / seconds,
        "scarcer_side_padding_percent": 100 * (1 - max(fill)),
        "left_over": len(packed.left_over),
        "first_fit_padding_percent": 100 * (1 - most / rows_first_fit),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, help="text for pre-training, one passage a line")
    parser.add_argument("--pairs", type=Path, help="input TAB target lines")
    parser.add_argument("--vocabulary", type=Path, help="spiece.model; without it, bytes")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, numpy {np.__version__}"

    def report(name: str, numbers: dict[str, float]) -> None:
        rounded = {key: round(value, 2 if value < 1000 else 0) for key, value in numbers.items()}
        print(json.dumps({"bench": f"data_path/{name}", "machine": machine, **rounded}), flush=True)

    report("span_corruption, examples a second", corruption(arguments.rounds))
    rng = np.random.default_rng(0)
    lengths = zip(
        np.clip(rng.lognormal(4, 0.7, 4000), 8, 512), np.clip(rng.lognormal(2, 0.5, 4000), 2, 60), strict=True
    )
    random_pairs = [
        Example.with_full_loss(np.zeros(int(source), np.int32), np.zeros(int(target), np.int32))
        for source, target in lengths
    ]
    report("packing, random lengths, 512/60", packing(random_pairs, 512, 60))
    tokenizer: Tokenizer = load_tokenizer(arguments.vocabulary) if arguments.vocabulary else ByteTokenizer()
    texts = read_table(arguments.corpus) if arguments.corpus else table_of(["some words " * 40] * 5000)
    objective = SpanCorruption()
    documents = DenoisingExamples(texts, tokenizer, objective, objective.raw_length(ENCODER))
    report("denoising, text to batches", whole_path(documents, BatchConfig(64, ENCODER, TARGET), 40))
    if arguments.pairs:
        source = PairExamples(
            TaskForm((Template("{a}", "{b}"),), prepare=by_column), read_table(arguments.pairs), tokenizer
        )
        for target_length in (48, 72, 114):
            numbers = whole_path(source, BatchConfig(32, ENCODER, target_length), 100)
            report(f"pairs, text to batches, {ENCODER}/{target_length}", numbers)
        numbers = whole_path(source, BatchConfig(32, ENCODER, TARGET, arrangement="bucketed"), 100)
        report("pairs, text to batches, bucketed", numbers)


def by_column(fields: object) -> dict[str, object]:
    """Name the two columns of a headerless TSV."""
    assert isinstance(fields, dict)
    return {"a": fields["0"], "b": fields["1"]}


if __name__ == "__main__":
    main()
