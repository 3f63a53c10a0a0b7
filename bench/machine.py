"""What every benchmark says of the machine it ran on, and how it reads its own peak of memory."""

import importlib.metadata
import os
import platform
from pathlib import Path


def processor_name() -> str:
    """Return the processor's model, with family and number where Linux tells them."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in cpuinfo.read_text(encoding="utf-8").splitlines() if ":" in line)
    values = {key.strip(): value.strip() for key, value in fields.items()}
    name = values.get("model name", platform.processor() or platform.machine())
    return f"{name} (family {values.get('cpu family')}, model {values.get('model')})"


def machine_with_torch() -> dict[str, object]:
    """Return what a figure of PyTorch's depends on."""
    import torch

    return {
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "transformers": importlib.metadata.version("transformers"),
    }
