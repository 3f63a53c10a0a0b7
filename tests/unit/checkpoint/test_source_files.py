"""Only regular files inside the folder are read, and JSON only if it is plain."""

import os
from pathlib import Path

import pytest

from t5kit.checkpoint.source_files import locate, parse_json_object, read_json
from t5kit.errors import CheckpointError


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "C:x", "a\0b", "-x", "a\n"])
def test_only_plain_names_are_files_of_a_folder(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="plain names"):
        locate(tmp_path, name)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match="symbolic link"):
        locate(tmp_path / "model", "config.json")


def test_the_links_of_the_hugging_face_cache_are_followed(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0123").write_text('{"a": 1}')
    snapshot = tmp_path / "snapshots" / "89ab"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/0123")
    assert read_json(locate(snapshot, "config.json")) == {"a": 1}
    (tmp_path / "elsewhere").symlink_to(snapshot)  # the whole folder may be linked to
    assert read_json(locate(tmp_path / "elsewhere", "config.json")) == {"a": 1}


def test_links_in_circles_and_to_nothing_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "c").symlink_to("nothing")
    for name in "abc":
        with pytest.raises(CheckpointError, match="cannot be read"):
            locate(tmp_path, name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="no regular file"):
        locate(tmp_path, "config.json")
    with pytest.raises(CheckpointError, match="no regular file"):
        read_json(tmp_path / "config.json")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").mkdir()
    with pytest.raises(CheckpointError, match="no regular file"):
        locate(tmp_path, "config.json")


def test_a_file_over_the_limit_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("{" + " " * 100 + "}")
    with pytest.raises(CheckpointError, match="102 bytes; at most 50"):
        read_json(tmp_path / "x", limit_bytes=50)


@pytest.mark.parametrize(
    "raw", [b"", b"[]", b"nul", b'{"a": 1, "a": 1}', b'{"a": Infinity}', b'{"a": 1e999}', b"\xff\xfe{}", b'{"a": 1}}']
)
def test_json_is_read_strictly(raw: bytes) -> None:
    with pytest.raises(CheckpointError, match="here"):
        parse_json_object(raw, source="here")
