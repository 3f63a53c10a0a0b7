"""Packed weights in the user's cache: mapped if they are exactly what is asked for, packed anew if they are not."""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t5kit.checkpoint import CheckpointFolder, open_folder
from t5kit.config import T5Config
from t5kit.errors import EngineError
from t5kit.runtime import native_cache
from t5kit.runtime.native import NativeRuntime
from t5kit.runtime.native_cache import PackedCache, cache_folder
from t5kit.testing.folders import write_tiny_folder
from t5kit.testing.tiny import TINY_CONFIGS

_native = pytest.importorskip("t5kit._native")

CONFIG = dataclasses.replace(TINY_CONFIGS["t5_v1_1"], vocab_size=384)
PROMPT = np.array([5, 9, 11, 1], np.int32)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(native_cache, "MIN_CACHED_BYTES", 0)
    monkeypatch.setenv(native_cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache" / "packed"


@pytest.fixture
def folder(tmp_path: Path) -> CheckpointFolder:
    return open_folder(write_tiny_folder(tmp_path / "model", config=CONFIG))


def load(folder: CheckpointFolder, weights: str = "int8", kernels: str | None = None) -> NativeRuntime:
    return NativeRuntime(
        folder.config,
        folder.tensors(),
        weights=weights,  # type: ignore[arg-type]
        threads=1,
        kernels=kernels,
        weight_files=folder.weight_files,
    )


def answer(runtime: NativeRuntime) -> np.ndarray:
    return np.concatenate(
        [runtime.encoder_states([PROMPT])[0].ravel(), runtime.score(runtime.encode([PROMPT]), [PROMPT])[0]]
    )


def only_file(cache: Path) -> Path:
    (file,) = cache.iterdir()
    return file


def was_read(monkeypatch: pytest.MonkeyPatch, folder: CheckpointFolder, **words: str) -> tuple[bool, np.ndarray]:
    """Return whether loading packed nothing, and the answer."""
    written: list[Path] = []
    with monkeypatch.context() as patch:
        patch.setattr(PackedCache, "write", lambda self, data, digest: written.append(self.file))
        given = answer(load(folder, **words))
    return not written, given


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("family", sorted(TINY_CONFIGS))
def test_the_second_start_maps_and_answers_alike(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str, weights: str
) -> None:
    config = dataclasses.replace(TINY_CONFIGS[family], vocab_size=389)
    folder = open_folder(write_tiny_folder(tmp_path / family, config=config))
    first = answer(load(folder, weights))
    is_read, second = was_read(monkeypatch, folder, weights=weights)
    assert is_read
    np.testing.assert_array_equal(second, first)
    assert [path.name for path in cache.parent.iterdir()] == ["packed"]
    assert not list((tmp_path / family).glob("*.t5packed*"))


def test_a_model_without_files_or_a_small_one_is_not_cached(
    cache: Path, folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    NativeRuntime(folder.config, folder.tensors())
    monkeypatch.setattr(native_cache, "MIN_CACHED_BYTES", 1 << 30)
    load(folder)
    assert not cache.exists()


def test_off_means_no_file(cache: Path, folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native_cache.CACHE_VARIABLE, "OFF")
    assert cache_folder() is None
    load(folder)
    assert not cache.exists()


def test_each_precision_and_kernel_set_has_its_own_file(cache: Path, folder: CheckpointFolder) -> None:
    load(folder, "int8", "portable")
    load(folder, "bfloat16", "portable")
    if len(_native.available_kernels()) > 1:
        load(folder, "int8", _native.available_kernels()[0])
    assert len(list(cache.iterdir())) == min(3, 1 + len(_native.available_kernels()))


def test_another_model_of_the_same_sizes_and_times_is_packed_anew(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model"
    folders = []
    for seed in (0, 1):
        if path.exists():
            path.rename(tmp_path / "old")
        write_tiny_folder(path, config=CONFIG, seed=seed)
        os.utime(path / "model.safetensors", ns=(10**18, 10**18))  # as an unpacked archive has them
        folders.append(open_folder(path))
        if seed == 0:
            before = answer(load(folders[0]))
    is_read, after = was_read(monkeypatch, folders[1])
    assert not is_read and not np.array_equal(before, after)
    load(folders[1])
    assert len(list(cache.iterdir())) == 1  # the new one took the old one's place
    np.testing.assert_array_equal(was_read(monkeypatch, folders[1])[1], after)


@pytest.mark.parametrize("how", ["replaced", "written to"])
def test_files_that_changed_since_they_were_opened_are_not_cached(cache: Path, tmp_path: Path, how: str) -> None:
    """What was mapped would be kept as what the files hold now, and trusted ever after."""
    path = tmp_path / "model"
    opened = open_folder(write_tiny_folder(path, config=CONFIG, seed=0))
    if how == "replaced":
        path.rename(tmp_path / "old")
        write_tiny_folder(path, config=CONFIG, seed=1)
    else:
        os.utime(path / "model.safetensors", ns=(10**18, 10**18))
    old = answer(load(opened))
    assert not cache.exists()
    new = answer(load(open_folder(path)))
    assert np.array_equal(old, new) == (how == "written to")
    np.testing.assert_array_equal(answer(load(open_folder(path))), new)
    assert only_file(cache)


def test_two_revisions_of_a_model_keep_their_own_files(cache: Path, tmp_path: Path) -> None:
    """In the Hugging Face cache both are links into one folder of blobs."""
    (tmp_path / "blobs").mkdir()
    for seed in (0, 1):
        folder = write_tiny_folder(tmp_path / "snapshots" / str(seed), config=CONFIG, seed=seed)
        blob = (folder / "model.safetensors").rename(tmp_path / "blobs" / str(seed))
        (folder / "model.safetensors").symlink_to(blob)
        load(open_folder(folder))
    assert len(list(cache.iterdir())) == 2


def test_a_folder_of_nobody_is_told_and_costs_nothing_else(
    folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(native_cache, "_has_warned", False)
    monkeypatch.setattr(native_cache, "MIN_CACHED_BYTES", 0)
    monkeypatch.setenv(native_cache.CACHE_VARIABLE, "~no_such_user_here/x")
    assert np.isfinite(answer(load(folder))).all()
    assert "packed weights are not cached: T5KIT_CACHE='~no_such_user_here/x'" in capfd.readouterr().err


def test_another_architecture_over_the_same_files_is_packed_anew(
    cache: Path, folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folder)
    scaled = dataclasses.replace(folder, config=dataclasses.replace(folder.config, scales_logits=True))
    assert not was_read(monkeypatch, scaled)[0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.integers(0, 2**32), bit=st.integers(0, 7), in_header=st.booleans())
def test_one_flipped_bit_anywhere_is_packed_anew(
    cache: Path, folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch, where: int, bit: int, in_header: bool
) -> None:
    expected = answer(load(folder))
    file = only_file(cache)
    data = bytearray(file.read_bytes())
    data[where % (4096 if in_header else len(data))] ^= 1 << bit
    file.write_bytes(data)
    is_read, given_answer = was_read(monkeypatch, folder)
    assert not is_read
    np.testing.assert_array_equal(given_answer, expected)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.one_of(st.integers(0, 5000), st.integers(0, 2**20)), fill=st.binary(max_size=300))
def test_a_file_of_any_other_length_or_content_is_packed_anew(
    cache: Path, folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch, size: int, fill: bytes
) -> None:
    expected = answer(load(folder))
    file = only_file(cache)
    whole = file.read_bytes()
    for damaged in (whole[: size % len(whole)], whole + bytes(1 + size % 7), fill, fill + whole):
        if damaged != whole:
            file.write_bytes(damaged)
            is_read, given_answer = was_read(monkeypatch, folder)
            assert not is_read
            np.testing.assert_array_equal(given_answer, expected)


def test_a_damaged_file_is_mended(cache: Path, folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    load(folder)
    only_file(cache).write_bytes(b"no cache")
    load(folder)
    assert was_read(monkeypatch, folder)[0]


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_what_is_no_plain_file_is_not_read(
    cache: Path, folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    load(folder)
    file = only_file(cache)
    away = file.rename(cache.parent / "elsewhere")
    if kind == "link":
        file.symlink_to(away)
    elif kind == "folder":
        file.mkdir()
    else:
        os.mkfifo(file)
    assert not was_read(monkeypatch, folder)[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_of_another_user_is_not_read(
    cache: Path, folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folder)
    os.chown(only_file(cache), 12345, 12345)
    assert not was_read(monkeypatch, folder)[0]


def test_where_it_cannot_be_written_there_is_one_line_and_an_answer(
    cache: Path, folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = answer(load(folder))
    cache.parent.rename(cache.parent.parent / "away")
    cache.parent.write_text("a file is in the way")
    monkeypatch.setattr(native_cache, "_has_warned", False)
    for _ in range(2):
        np.testing.assert_array_equal(answer(load(folder)), expected)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "packed weights are not cached" in lines[0] and str(cache) in lines[0]


def test_a_full_disk_leaves_nothing_behind(
    cache: Path, folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(descriptor: int, data: bytes | memoryview) -> None:
        os.write(descriptor, b"a piece")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(native_cache, "_write_all", full)
    monkeypatch.setattr(native_cache, "_has_warned", False)
    answer(load(folder))
    assert list(cache.iterdir()) == [] and "No space left on device" in capsys.readouterr().err


def test_two_engines_keep_a_file_each_as_long_as_they_are_there(
    cache: Path, tmp_path: Path, folder: CheckpointFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(folder)
    own, other = only_file(cache), tmp_path / "venv" / "_native.so"
    other.parent.mkdir()
    other.write_bytes(b"another build")
    locate = PackedCache.locate
    with monkeypatch.context() as patch:
        patch.setattr(PackedCache, "locate", lambda *given, **words: locate(*given, **{**words, "core": other}))
        load(folder)
    assert len(list(cache.iterdir())) == 2 and was_read(monkeypatch, folder)[0]
    other.unlink()
    load(folder, "bfloat16")
    kept = set(cache.iterdir())
    assert own in kept and len(kept) == 2, "the file of the engine that is gone went with it"


def test_files_of_other_versions_are_removed_only_when_they_are_old(cache: Path, folder: CheckpointFolder) -> None:
    cache.mkdir(parents=True)
    fresh, old = cache / f"{'0' * 32}.t5packed999", cache / f"{'1' * 32}.t5packed"
    for file in (fresh, old):
        file.write_bytes(b"another layout")
    os.utime(old, (time.time() - 40 * 86400,) * 2)
    load(folder)
    assert fresh.exists() and not old.exists()


def test_leavings_of_gone_models_and_died_processes_are_removed(
    cache: Path, tmp_path: Path, folder: CheckpointFolder
) -> None:
    other = open_folder(write_tiny_folder(tmp_path / "other", config=CONFIG, seed=3))
    load(other)
    gone = only_file(cache)
    old, fresh, strange = cache / f"{'0' * 32}.a.tmp", cache / f"{'0' * 32}.b.tmp", cache / "notes.txt"
    for file in (old, fresh, strange):
        file.write_text("x")
    os.utime(old, (time.time() - 7200,) * 2)
    (tmp_path / "other").rename(tmp_path / "renamed")
    load(folder)
    assert not gone.exists() and not old.exists() and fresh.exists() and strange.exists()


def test_processes_that_start_at_once_agree(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, vocab_size=20_000, d_model=64)
    path = write_tiny_folder(tmp_path / "model", config=config)
    code = (
        "import sys, numpy as np\nfrom pathlib import Path\nfrom t5kit.checkpoint import open_folder\n"
        "from t5kit.runtime.native import NativeRuntime\nfolder = open_folder(Path(sys.argv[1]))\n"
        "for _ in range(5):\n"
        "    runtime = NativeRuntime(folder.config, folder.tensors(), threads=1, weight_files=folder.weight_files)\n"
        "    print(runtime.score(runtime.encode([np.int32([5, 9, 1])]), [np.int32([7, 1])])[0].tobytes().hex())\n"
    )
    environment = {**os.environ, native_cache.CACHE_VARIABLE: str(tmp_path / "cache")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
        )
        for _ in range(4)
    ]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    assert len({line for out, _ in outputs for line in out.split()}) == 1
    assert [file.suffix for file in (tmp_path / "cache" / "packed").iterdir()] == [native_cache._SUFFIX]


def test_the_engine_refuses_other_bytes() -> None:
    engine = load_engine(CONFIG, None)
    whole, digest = engine.packed().copy(), engine.packed_digest()
    buffer = np.zeros(len(whole) + 128, np.uint8)
    start = -buffer.ctypes.data % 64
    aligned = buffer[start : start + len(whole)]
    aligned[:] = whole
    assert load_engine(CONFIG, (aligned, digest, False)).packed_digest() == digest
    with pytest.raises(EngineError, match="not those that were saved"):
        load_engine(CONFIG, (aligned, digest ^ 1, False))
    with pytest.raises(EngineError, match="bytes; this model has"):
        load_engine(CONFIG, (aligned[:-64], digest, False))
    buffer[start + 1 : start + 1 + len(whole)] = whole
    with pytest.raises(EngineError, match="multiple of 64"):
        load_engine(CONFIG, (buffer[start + 1 : start + 1 + len(whole)], digest, False))


def load_engine(config: T5Config, packed: tuple[np.ndarray, int, bool] | None) -> Any:
    from t5kit.runtime.native import _config_values, _tensor_tuple
    from t5kit.testing.tiny import random_tensors

    tuples = [_tensor_tuple(config, view) for view in random_tensors(config)]
    return _native.Engine(_config_values(config), tuples, "int8", 1, "portable", packed)


def test_the_hash_is_xxh64() -> None:
    """Known answers of the xxHash project's own sanity checks and of its command line."""
    assert _native.xxh64(b"", 0) == 0xEF46DB3751D8E999
    assert _native.xxh64(b"abc", 0) == 0x44BC2CF5AD770999
    assert _native.xxh64(b"Nobody inspects the spammish repetition", 0) == 0xFBCEA83C8A378BF1


def test_the_folder_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(native_cache.CACHE_VARIABLE, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "t5kit" / "packed"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "t5kit" / "packed"
