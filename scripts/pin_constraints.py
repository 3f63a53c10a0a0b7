"""Write constraints.txt: the exact version of everything that any extra of t5kit, and building it, installs.

    python scripts/pin_constraints.py

pip resolves all extras together in an empty environment and reports its choice; nothing is installed. Two versions are
set by hand below, since the parity tests' numbers were taken with them.
"""

import json
import os
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
SET_BY_HAND = ["torch==2.13.0", "transformers==5.23.0"]
BUILD_TOOLS = ["cmake", "ninja"]  # scikit-build-core fetches them where the machine has none.
HEADER = """\
# The exact versions that every installation in the Makefile and in CI uses; made by `make constraints` on Linux with
# Python {python}. Where pip finds a torch {torch} with GPU libraries, those are not pinned here: torch pins its own.
"""


def main() -> None:
    """Resolve, then write the file."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["build-system"]["requires"], *BUILD_TOOLS, *SET_BY_HAND, *project["project"]["dependencies"]]
    wanted += [line for name in sorted(extras) for line in extras[name] if not line.startswith("t5kit[")]
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PIP_") or "CONSTRAINT" not in name
    }
    with tempfile.TemporaryDirectory() as scratch:
        report, python = Path(scratch, "report.json"), Path(scratch, "venv/bin/python")
        venv.create(python.parent.parent, with_pip=True)
        command = [python, "-m", "pip", "install", "-qq", "--dry-run", "--report", report, *wanted]
        subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, check=True)
        chosen = json.loads(report.read_text(encoding="utf-8"))["install"]
    # A local label such as +cpu tells which build this machine offers; other machines have other builds.
    pins = {item["metadata"]["name"]: item["metadata"]["version"].split("+")[0] for item in chosen}
    header = HEADER.format(python=f"{sys.version_info[0]}.{sys.version_info[1]}", torch=pins["torch"])
    lines = [f"{name}=={pins[name]}\n" for name in sorted(pins, key=str.lower)]
    (ROOT / "constraints.txt").write_text(header + "".join(lines), encoding="utf-8")
    print(f"constraints.txt: {len(lines)} versions")


if __name__ == "__main__":
    main()
