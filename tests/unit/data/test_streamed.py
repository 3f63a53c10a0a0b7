"""Streams in the loader: order, workers, resume by reading again, bad records."""

import dataclasses
import itertools
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5kit.data import NO_RECORDS, BatchConfig, BatchLoader, BlockMaker, MixedStream, StreamedExamples
from t5kit.data.streamed import read_blocks
from t5kit.errors import ConfigError, DataError
from t5kit.sources import BadRecord, Record, stream_files
from t5kit.tasks import DenoisingExamples, PairExamples, TaskForm, Template
from t5kit.tasks.objectives import SpanCorruption
from t5kit.text import ByteTokenizer

CONFIG = BatchConfig(batch_rows=4, encoder_length=64, target_length=32, window_batches=3)
FORM = TaskForm((Template("{source}"), Template("say {source}")))
BAD_EVERY = 10


@dataclasses.dataclass(frozen=True)
class Numbers:
    """A stream of short texts by number; some are unreadable. Workers could not be given it."""

    size: int
    with_bad: bool = False
    read: list[int] = dataclasses.field(default_factory=list)

    def __iter__(self) -> Iterator[Record | BadRecord]:
        for number in range(self.size):
            self.read.append(number)
            place = f"stream:{number + 1}"
            if self.with_bad and number % BAD_EVERY == 0:
                yield BadRecord(place=place, error=f"{place}: unreadable")
            else:
                text = f"{number:03d}"
                yield Record(fields={"source": text, "target": "t" + text, "text": text * 9}, place=place)

    def __reduce__(self) -> str:
        raise TypeError("a stream is read where the run is")


def pairs(stream: Numbers, *, shuffle_buffer: int = 16) -> StreamedExamples:
    return StreamedExamples(stream, PairExamples(FORM, NO_RECORDS, ByteTokenizer(), block_size=8), shuffle_buffer)


def documents(stream: Numbers) -> StreamedExamples:
    made = DenoisingExamples(NO_RECORDS, ByteTokenizer(), SpanCorruption(), piece_length=48, block_size=8)
    return StreamedExamples(stream, made, shuffle_buffer=16)


def mixed(
    sources: Sequence[StreamedExamples | PairExamples],
    *,
    num_workers: int = 0,
    seed: int = 5,
    is_shuffled: bool = True,
    num_epochs: int | None = None,
) -> MixedStream:
    maker = BlockMaker(sources, seed=seed, is_shuffled=is_shuffled, num_workers=num_workers)
    return MixedStream(maker, [1.0] * len(sources), seed=seed, num_epochs=num_epochs)


def prompts(stream: MixedStream, count: int = 10_000) -> list[str]:
    examples = itertools.islice(iter(stream.next, None), count)
    return [ByteTokenizer().decode(example.encoder_ids).removeprefix("say ") for example in examples]


def batches(loader: BatchLoader, count: int) -> list[bytes]:
    taken = itertools.islice(loader, count)
    return [b"".join(getattr(batch, field.name).tobytes() for field in dataclasses.fields(batch)) for batch in taken]


@given(st.integers(1, 60), st.integers(1, 70), st.integers(0, 3))
def test_a_pass_gives_each_record_once_and_holds_no_more_than_the_buffer(size: int, buffer: int, seed: int) -> None:
    stream = Numbers(size)
    source = pairs(stream, shuffle_buffer=buffer)
    given_out = 0
    found = []
    for block in read_blocks(source, seed=seed, number=0, epoch=0, is_shuffled=True):
        given_out += len(block.records)
        assert len(stream.read) <= given_out + buffer
        found += [record.fields["source"] for record in block.records]
    assert sorted(found) == [f"{n:03d}" for n in range(size)]
    assert all(int(text) < place + buffer for place, text in enumerate(found)), "none comes before it was read"


def test_passes_and_seeds_are_shuffled_unlike_and_unshuffled_streams_keep_their_order() -> None:
    twice = prompts(mixed([pairs(Numbers(50))], num_epochs=2))
    assert sorted(twice[:50]) == sorted(twice[50:]) and twice[:50] != twice[50:] != sorted(twice[50:])
    assert prompts(mixed([pairs(Numbers(50))], num_epochs=1, seed=6)) != twice[:50]
    plain = prompts(mixed([pairs(Numbers(50))], num_epochs=1, is_shuffled=False))
    assert plain == [f"{n:03d}" for n in range(50)]


@pytest.mark.parametrize("num_workers", [1, 2])
def test_batches_of_streams_do_not_depend_on_the_number_of_workers(num_workers: int) -> None:
    def sources() -> list[StreamedExamples]:
        return [pairs(Numbers(60, with_bad=True)), documents(Numbers(45))]

    alone = BatchLoader(mixed(sources()), CONFIG, seed=5)
    with BlockMaker(sources(), seed=5, is_shuffled=True, num_workers=num_workers) as maker:
        helped = BatchLoader(MixedStream(maker, [1.0, 1.0], seed=5), CONFIG, seed=5)
        for _ in range(8):
            assert batches(alone, 5) == batches(helped, 5)
            assert alone.state() == helped.state()
    assert alone.shares()[0].num_epochs >= 2


@settings(max_examples=25)
@given(st.integers(0, 30), st.sampled_from([None, 2]))
def test_a_resumed_loader_reads_again_and_gives_what_the_other_would_have_given(
    num_before: int, num_epochs: int | None
) -> None:
    def loader() -> BatchLoader:
        sources = [pairs(Numbers(60, with_bad=True)), documents(Numbers(45))]
        return BatchLoader(mixed(sources, num_epochs=num_epochs), CONFIG, seed=5)

    whole = batches(loader(), 40)
    first = loader()
    before = batches(first, num_before)
    state = json.loads(json.dumps(first.state()))
    assert len(json.dumps(state)) < 4000, "no buffer is kept"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = loader().restore(state)
    assert second.state() == first.state()
    assert before + batches(second, 40 - num_before) == whole


@pytest.mark.parametrize("changed", [Numbers(50, with_bad=True), Numbers(9)])
def test_a_stream_that_changed_meanwhile_is_told_and_training_goes_on(changed: Numbers) -> None:
    first = mixed([pairs(Numbers(50))])
    prompts(first, 30)
    resumed = mixed([pairs(changed)])
    with pytest.warns(UserWarning, match="data source 0 is a stream that gives other records"):
        resumed.restore(first.state())
    assert len(prompts(resumed, 20)) == 20


def test_bad_records_of_a_stream_are_counted_in_every_pass_and_shown() -> None:
    stream = mixed([pairs(Numbers(45, with_bad=True), shuffle_buffer=4)], num_epochs=3)
    assert len(prompts(stream)) == 3 * 40
    assert stream.shares()[0].num_bad == 3 * 5
    assert [record.error for record in stream.bad()[0]][:2] == ["stream:1: unreadable", "stream:11: unreadable"]


def test_records_that_give_no_example_count_beside_unreadable_ones() -> None:
    source = pairs(Numbers(21, with_bad=True))
    unfit = dataclasses.replace(source.examples, form=TaskForm((Template("{no}"),)))
    stream = mixed([dataclasses.replace(source, examples=unfit)], num_epochs=1)
    with pytest.raises(DataError, match=r"gave an example; stream:1: unreadable"):
        stream.next()
    assert stream.shares()[0].num_bad == 21


@pytest.mark.parametrize("size", [0, 1])
def test_a_stream_without_a_good_record_is_an_error_and_no_endless_loop(size: int) -> None:
    with pytest.raises(DataError, match="no record of a whole pass"):
        mixed([pairs(Numbers(size, with_bad=True))]).next()


def test_a_stream_and_a_table_mix(pairs_table: PairExamples) -> None:
    stream = mixed([pairs(Numbers(30)), pairs_table], num_epochs=1)
    found = prompts(stream)
    assert [share.num_examples for share in stream.shares()] == [30, 12]
    assert len(found) == 42


@pytest.fixture
def pairs_table() -> PairExamples:
    from t5kit.sources import table_of

    rows = [{"source": f"x{n}", "target": "y"} for n in range(12)]
    return PairExamples(FORM, table_of(rows), ByteTokenizer(), block_size=8)


def test_a_huge_file_is_read_as_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("".join(f"line {n}\n" for n in range(5000)) + "\n")
    made = PairExamples(TaskForm((Template("{text}", "{text}"),)), NO_RECORDS, ByteTokenizer(), block_size=8)
    stream = mixed([StreamedExamples(stream_files(path), made, shuffle_buffer=100)])
    assert max(int(prompt.split()[1]) for prompt in prompts(stream, 50)) < 100 + 56


def test_hugging_face_streams_go_through_the_loader(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    from t5kit.sources.hugging_face import dataset_stream

    rows = [{"source": f"{n:02d}", "target": "t"} for n in range(40)]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "saved")
    made = PairExamples(FORM, NO_RECORDS, ByteTokenizer(), block_size=8)
    stream = mixed([StreamedExamples(dataset_stream(str(tmp_path / "saved"), split="train"), made)], num_epochs=1)
    found = prompts(stream)
    assert sorted(found) == [row["source"] for row in rows] != found


def test_an_impossible_buffer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.shuffle_buffer = 0"):
        pairs(Numbers(3), shuffle_buffer=0)
