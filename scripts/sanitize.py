"""Build the native engine with sanitizers and run its tests in it: `make sanitize`.

    python scripts/sanitize.py [--only address|thread] [PYTEST ARGUMENTS]

Python itself has no sanitizer, so its runtime library has to be loaded before everything else: LD_PRELOAD names GCC's
libasan (or libtsan) and libstdc++, which AddressSanitizer must find first, or the first C++ exception ends the process.
Leaks are not looked for, since CPython frees little at exit. ThreadSanitizer does not know the wide random addresses of
newer kernels; `setarch -R` turns them off. Needs Linux, GCC and pip's ability to build (as `make setup` does).
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache" / "sanitize"
SANITIZERS = {"address": "address,undefined", "thread": "thread"}
LIBRARIES = {"address": ("libasan.so", "libstdc++.so"), "thread": ("libtsan.so", "libstdc++.so")}
OPTIONS = {
    "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}
FAMILIES = "not umt5 and not mt5 and not byt5 and not tied_unscaled"
# Two families, tied and untied, gated and not, are enough here; the rest is for speed's sake left to `make test`.
# pytest's -k knows no case: "TestReference" is the reference runtime's class, and "reference" many a test's name.
CHOSEN = {"address": FAMILIES, "thread": f"{FAMILIES} and not portable and not avx2 and not TestReference"}
TESTS = {
    "address": [
        "tests/unit/native",
        "tests/unit/runtime/test_native_runtime.py",
        "tests/unit/runtime/test_native_threads.py",
        "tests/unit/runtime/test_native_cache.py",
        "tests/unit/runtime/test_native_fuzz.py",
        "tests/unit/runtime/test_adapters.py",
    ],
    # What runs more than one thread.
    "thread": [
        "tests/unit/runtime/test_native_runtime.py",
        "tests/unit/runtime/test_native_threads.py",
        "tests/unit/runtime/test_adapters.py",
    ],
}
# Runs in the test process before anything imports the package.
START = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("t5kit._native", sys.argv.pop(1))
module = importlib.util.module_from_spec(spec)
sys.modules["t5kit._native"] = module
spec.loader.exec_module(module)
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


def build(kind: str) -> Path:
    """Return the extension built with the sanitizers of `kind`."""
    target = CACHE / kind
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-qq", "--no-deps", "--wheel-dir", str(target),
         "--config-settings", f"cmake.define.T5KIT_SANITIZE={SANITIZERS[kind]}",
         "--config-settings", "cmake.build-type=RelWithDebInfo", str(ROOT)],
        check=True,
    )  # fmt: skip
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.startswith("t5kit/_native") and name.endswith(".so")]
        return Path(archive.extract(name, target))


def library(name: str) -> str:
    """Return the path of one of GCC's libraries."""
    found = subprocess.run(["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True)
    path = Path(found.stdout.strip()).resolve()
    if not path.is_file():
        sys.exit(f"GCC has no {name} here; install its sanitizer libraries.")
    return str(path)


def run(kind: str, extension: Path, arguments: list[str]) -> int:
    """Run the tests of `kind` and return pytest's exit code."""
    environment = {
        **os.environ,
        **OPTIONS,
        "LD_PRELOAD": " ".join(library(name) for name in LIBRARIES[kind]),
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONMALLOC": "malloc",
    }
    command = [sys.executable, "-c", START, str(extension), "-q", "-x", "-p", "no:cacheprovider", "-k", CHOSEN[kind]]
    if kind == "thread":
        if shutil.which("setarch"):
            command = ["setarch", platform.machine(), "-R", *command]
        # It ends a forked process that makes threads: the system gives them names that it holds to be taken.
        command += [
            "--deselect",
            "tests/unit/runtime/test_native_threads.py::test_a_forked_child_can_load_the_model_again",
        ]
    # Nothing is left of a test that starts processes of its own: they would load the plain extension.
    for test in (
        "tests/unit/native/test_cpu_features.py::test_the_core_imports_alone",
        "tests/unit/runtime/test_native_cache.py::test_processes_that_start_at_once_agree",
        "tests/unit/runtime/test_native_threads.py::test_threads_that_the_system_does_not_give_are_an_error",
        "tests/unit/runtime/test_native_threads.py::test_memory_that_runs_out_anywhere_in_a_step_is_an_error",
        "tests/unit/runtime/test_native_threads.py::test_the_engine_takes_the_processors_that_the_process_may_use",
    ):
        command += ["--deselect", test]
    return subprocess.run([*command, *TESTS[kind], *arguments], env=environment, cwd=ROOT, check=False).returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", choices=SANITIZERS, help="one of the two builds")
    chosen, arguments = parser.parse_known_args()
    for kind in [chosen.only] if chosen.only else SANITIZERS:
        print(f"Building and testing with -fsanitize={SANITIZERS[kind]}", file=sys.stderr, flush=True)
        code = run(kind, build(kind), arguments)
        if code:
            sys.exit(code)


if __name__ == "__main__":
    main()
