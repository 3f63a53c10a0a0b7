"""Build the kernels for 64-bit ARM and hold them to the portable ones under an emulator: `make neon`.

    python scripts/check_neon.py [--sanitize]

Needs a cross compiler and QEMU's user mode: `apt-get install g++-aarch64-linux-gnu qemu-user`. On an ARM machine itself
tests/unit/native runs the same set against NumPy. --sanitize: with UBSan (QEMU has no room for AddressSanitizer's).
"""

import argparse
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
CACHE = ROOT / ".cache" / "neon"
COMPILER = "aarch64-linux-gnu-g++"
EMULATOR = "qemu-aarch64"
FLAGS = "-std=c++17 -Wall -Wextra -Werror -ffp-contract=off -O2 -Inative"
SOURCES = {
    "native/kernels_neon.cpp": "-O3 -march=armv8.2-a+dotprod",  # as in CMakeLists.txt
    "native/kernels_portable.cpp": "-O3",
    "native/kernels.cpp": "",
    "native/cpu_features.cpp": "",
    "native/weights.cpp": "",
    "native/thread_pool.cpp": "",
    "scripts/kernel_driver.cpp": "",
}
SANITIZER = "-fsanitize=undefined -fno-sanitize-recover=all -g"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sanitize", action="store_true")
    sanitizer = SANITIZER if parser.parse_args().sanitize else ""
    for program in (COMPILER, EMULATOR):
        if not shutil.which(program):
            sys.exit(f"{program} is not installed; it comes with: apt-get install g++-aarch64-linux-gnu qemu-user")
    CACHE.mkdir(parents=True, exist_ok=True)
    objects = []
    for source, flags in SOURCES.items():
        print(f"Compiling {source}", file=sys.stderr, flush=True)
        objects.append(str(CACHE / f"{Path(source).stem}.o"))
        call(f"{COMPILER} {FLAGS} {flags} {sanitizer} -c {source} -o {objects[-1]}")
    driver = str(CACHE / "kernel_driver")
    call(f"{COMPILER} {sanitizer} -static {' '.join(objects)} -o {driver} -lpthread")
    call(f"{EMULATOR} {driver} neon")


def call(command: str) -> None:
    code = subprocess.run(shlex.split(command), cwd=ROOT, check=False).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
