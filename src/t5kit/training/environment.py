"""Where a run runs: versions, machine, threads, seed, commit. What it needs to be told to be made again elsewhere."""

import dataclasses
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from t5kit.training.config import ComputeConfig, Precision
from t5kit.training.processes import num_processes


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """One start of a run, as environment.json holds it."""

    time: str
    """When, ISO 8601 in UTC."""
    command: str
    """The process's arguments."""
    seed: int
    """`training.seed`."""
    git_commit: str | None
    """Commit of the repository the run was started in, with "+changes" if its files differ; None outside one."""
    t5kit: str
    """Version, like the next three."""
    torch: str
    numpy: str
    python: str
    system: str
    """Operating system with its release."""
    machine: str
    """Host name."""
    processor: str
    """Model of the processor."""
    instruction_set: str
    """The widest one that PyTorch uses here, such as AVX512."""
    num_cores: int
    """Cores this process may run on."""
    device: str
    """Where the model is: "cpu", or a GPU with its name."""
    num_threads: int
    """Threads of one operation on the processor."""
    num_processes: int
    """Processes of the run."""


DECIDES_BITS = ("t5kit", "torch", "numpy", "processor", "instruction_set", "device", "num_threads", "num_processes")
"""Where two starts differ in one of these, sums are made in another order: a resumed run is not equal to the bit."""


def fast_precision(device: str = "auto") -> Precision:
    """Return bfloat16 where a kind of device ("auto", "cpu", "cuda:1") multiplies it faster than float32, else float32.

    On a processor that takes instructions for it (AVX-512 BF16 or AMX); without them, bfloat16 is emulated and slow.
    """
    if device != "cpu" and torch.cuda.is_available():
        with torch.cuda.device(None if device in ("auto", "cuda") else device):
            return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return "bfloat16" if any(check() for check in checks if check is not None) else "float32"


def precision_of(compute: ComputeConfig) -> Precision:
    """Return what a run computes in: what its config says, where that is "auto" what is fast here."""
    return fast_precision(compute.device) if compute.precision == "auto" else compute.precision


def this_environment(*, seed: int, device: torch.device | str = "cpu") -> Environment:
    """Return what is true here and now; call it once the number of threads is set."""
    device = torch.device(device)
    return Environment(
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=" ".join(sys.argv),
        seed=seed,
        git_commit=_git_commit(Path.cwd()),
        t5kit=importlib.metadata.version("t5kit"),
        torch=torch.__version__,
        numpy=np.__version__,
        python=platform.python_version(),
        system=platform.platform(),
        machine=platform.node(),
        processor=_processor(),
        instruction_set=torch.backends.cpu.get_cpu_capability(),
        num_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        device=f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device),
        num_threads=torch.get_num_threads(),
        num_processes=num_processes(),
    )


def _git_commit(folder: Path) -> str | None:
    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10, check=False
            )
        except (OSError, subprocess.SubprocessError):  # git is not installed, or hangs on a slow disk
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return f"{commit}+changes" if commit and git("status", "--porcelain", "--untracked-files=no") else commit


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
