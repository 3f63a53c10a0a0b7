"""The C++ core is built, imports, and knows the machine it runs on."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from t5kit import _native

CPUINFO = Path("/proc/cpuinfo")
NAMES = {
    "x86_64": {
        *("avx", "fma", "f16c", "avx2", "avx_vnni"),
        *("avx512f", "avx512dq", "avx512bw", "avx512vl", "avx512_vnni", "avx512_bf16"),
        *("amx_bf16", "amx_tile", "amx_int8"),
    },
    "aarch64": {"asimd", "asimdhp", "asimddp", "sve", "i8mm", "bf16"},
}


def kernel_flags() -> set[str]:
    """Return what the kernel says of the first processor."""
    if not CPUINFO.is_file() or platform.machine() not in NAMES:
        pytest.skip("needs Linux's /proc/cpuinfo on x86-64 or 64-bit ARM")
    for line in CPUINFO.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    pytest.skip("/proc/cpuinfo lists no flags")


def test_features_are_those_the_kernel_lists() -> None:
    listed = kernel_flags() & NAMES[platform.machine()]
    found = _native.cpu_features()
    # AMX may be there and still refused to this process; the other sets need no permission.
    assert {name for name in found if not name.startswith("amx")} == {n for n in listed if not n.startswith("amx")}
    assert {name for name in found if name.startswith("amx")} <= listed


def test_features_are_an_unchanging_set_of_names() -> None:
    first = _native.cpu_features()
    assert isinstance(first, frozenset)
    assert all(isinstance(name, str) and name.islower() for name in first)
    assert _native.cpu_features() == first


def test_the_core_imports_alone() -> None:
    code = "import t5kit._native, sys; assert 'numpy' not in sys.modules; t5kit._native.cpu_features()"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_wrong_call_is_a_type_error() -> None:
    with pytest.raises(TypeError):
        _native.cpu_features("avx2")  # type: ignore[call-arg]
