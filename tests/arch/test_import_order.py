"""The two rules of the house, read off the source: one direction of imports, and no torch outside its rooms."""

import ast
import dataclasses
import graphlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest

SRC = Path(__file__).parents[2] / "src"

ORDER = (
    "_native errors drawing config text sources metrics tasks data checkpoint model runtime decoding scheduling "
    "evaluation explanation training recipe api serving cli __main__ testing"
).split()
"""Stages from low to high. A module imports only its own stage and lower ones; `testing` may see everything."""

TORCH_ROOMS = ("t5kit.model", "t5kit.training", "t5kit.runtime.torch", "t5kit.checkpoint.torch_bin")
"""Only modules whose name starts with one of these load torch when they are imported; their config.py does not."""

BEYOND_THE_WALL = {"torch", "torchvision", "transformers", "accelerate", "peft", "captum", "tensorflow", "jax"}
"""Libraries that are, or bring, a deep-learning framework."""

MAY_IMPORT_LATE = ("t5kit.api", "t5kit.cli", "t5kit.testing")
"""Stages that join the others and may import t5kit's modules inside a function, beside t5kit itself."""

NEEDS_EXTRA = (*TORCH_ROOMS, "t5kit.checkpoint.onnx_import")
"""Modules that need an optional library: any higher module may import them inside a function."""


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported module: `target` as written, and what makes it run: importing the file, a call, or nothing."""

    target: str
    line: int
    when: Literal["import", "call", "type checking"]


@dataclasses.dataclass(frozen=True)
class Module:
    name: str
    path: Path
    imports: tuple[Import, ...]

    @property
    def is_in_torch_room(self) -> bool:
        return self.name.startswith(TORCH_ROOMS) and self.path.name not in ("__init__.py", "config.py")

    def at(self, found: Import) -> str:
        return f"{self.path.relative_to(SRC)}:{found.line} imports {found.target}"


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(tree: ast.Module, known: set[str]) -> tuple[Import, ...]:
    """Return every import of a file, `from package import module` resolved to the module where there is one."""
    found = []

    def visit(node: ast.AST, when: Literal["import", "call", "type checking"]) -> None:
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, node.lineno, when) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"line {node.lineno}: relative import; write `from t5kit...`"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.append(Import(inner if inner in known else node.module, node.lineno, when))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            when = "call"
        elif isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            for child in node.body:
                visit(child, "type checking")
            for child in node.orelse:
                visit(child, when)
            return
        for child in ast.iter_child_nodes(node):
            visit(child, when)

    visit(tree, "import")
    return tuple(found)


def read_modules() -> list[Module]:
    paths = sorted(SRC.glob("t5kit/**/*.py"))
    known = {"t5kit._native"} | {module_name(path) for path in paths}
    return [
        Module(module_name(path), path, imports_of(ast.parse(path.read_text(encoding="utf-8")), known))
        for path in paths
    ]


MODULES = read_modules()
BY_NAME = {module.name: module for module in MODULES}


def own_imports(module: Module) -> list[Import]:
    return [found for found in module.imports if found.target.split(".")[0] == "t5kit"]


def rank(name: str) -> float:
    """The stage's place in the order; t5kit itself, which offers names up to those of `api`, stands just above it."""
    return ORDER.index(name.split(".")[1]) if "." in name else ORDER.index("api") + 0.5


def test_every_module_belongs_to_a_stage_of_the_order() -> None:
    stages = {module.name.split(".")[1] for module in MODULES if "." in module.name}
    assert stages <= set(ORDER), "a new folder or file under src/t5kit needs its place in ORDER"


def test_modules_import_only_their_own_and_lower_stages() -> None:
    wrong = [
        module.at(found)
        for module in MODULES
        for found in own_imports(module)
        if rank(found.target) > rank(module.name)
    ]
    assert not wrong


def test_own_modules_are_imported_at_the_top_of_a_file() -> None:
    wrong = [
        module.at(found)
        for module in MODULES
        if module.name != "t5kit" and not module.name.startswith(MAY_IMPORT_LATE)
        for found in own_imports(module)
        if found.when == "call" and not found.target.startswith(NEEDS_EXTRA)
    ]
    assert not wrong


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {
        module.name: {
            found.target for found in own_imports(module) if found.when == "import" and found.target in BY_NAME
        }
        for module in MODULES
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"cycle: {' <- '.join(error.args[1])}")


def test_no_framework_is_imported_outside_its_rooms() -> None:
    wrong = [
        module.at(found)
        for module in MODULES
        if not module.is_in_torch_room
        for found in module.imports
        if found.target.split(".")[0] in BEYOND_THE_WALL
        # Helpers for users' tests may build a torch model, but importing them must not.
        and not (module.name.startswith("t5kit.testing") and found.when == "call")
    ]
    assert not wrong


def test_modules_outside_the_torch_rooms_never_import_one_of_them_at_the_top() -> None:
    wrong = [
        module.at(found)
        for module in MODULES
        if not module.is_in_torch_room
        for found in own_imports(module)
        if found.when == "import" and found.target in BY_NAME and BY_NAME[found.target].is_in_torch_room
    ]
    assert not wrong


@pytest.mark.parametrize("stage", ["model", "training"])
def test_the_torch_rooms_have_empty_init_files(stage: str) -> None:
    path = SRC / "t5kit" / stage / "__init__.py"
    assert not path.exists() or not path.read_text(encoding="utf-8").strip()


LOAD_ONE_BY_ONE = """
import importlib, json, sys
names, forbidden = json.loads(sys.argv[1]), set(json.loads(sys.argv[2]))
for name in names:
    importlib.import_module(name)
    if loaded := forbidden & set(sys.modules):
        sys.exit(f"importing {name} loads {', '.join(sorted(loaded))}")
"""


def test_importing_everything_outside_the_torch_rooms_loads_no_framework() -> None:
    names = [module.name for module in MODULES if not module.is_in_torch_room]
    arguments = [json.dumps(names), json.dumps(sorted(BEYOND_THE_WALL))]
    done = subprocess.run(
        [sys.executable, "-c", LOAD_ONE_BY_ONE, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
