"""What a user's first lines load, seen from a fresh interpreter."""

import subprocess
import sys

import pytest

FRAMEWORKS = ("torch", "transformers", "tensorflow", "jax")


def modules_after(code: str) -> set[str]:
    """Return the top-level modules loaded once `code` has run in a new Python."""
    script = f"{code}\nimport sys\nprint('LOADED', *{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED")[2].split())


def test_import_t5kit_loads_nothing_outside_the_standard_library() -> None:
    loaded = modules_after("import t5kit")
    assert "t5kit" in loaded
    assert not loaded & {*FRAMEWORKS, "numpy", "safetensors", "tokenizers", "typer"}


@pytest.mark.parametrize("name", ["Model", "T5Config", "T5kitError"])
def test_public_names_load_without_torch(name: str) -> None:
    assert not modules_after(f"import t5kit; t5kit.{name}").intersection(FRAMEWORKS)


def test_help_loads_no_torch() -> None:
    loaded = modules_after(
        "import sys\n"
        "from t5kit.cli.main import main\n"
        "sys.argv = ['t5kit', '--help']\n"
        "try:\n"
        "    code = main()\n"
        "except SystemExit as stop:\n"
        "    code = stop.code\n"
        "assert not code, code"
    )
    assert "t5kit" in loaded
    assert not loaded.intersection(FRAMEWORKS)
