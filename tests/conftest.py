"""Settings and fixtures of all tests."""

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parent.parent
FETCHED = ROOT / ".cache" / "t5kit-test-files"

# Two pytest processes share the machine: one thread each is faster than both asking for all cores. Set before NumPy
# and PyTorch read it.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A shell starts what it runs in the background with interrupts ignored, and every process below inherits that. Those
# that tests interrupt must hear them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Tests that read the variable themselves find what `make weights` fetched. Its last step is the converted folder.
if (FETCHED / "flan-t5-small").is_dir():
    os.environ.setdefault("T5KIT_TEST_FILES", str(FETCHED))

# The same examples in every run, and no verdict by the clock: a failure is a fact about the code.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
# By hand: T5KIT_HYPOTHESIS=search pytest ... looks further, with new examples each time.
hypothesis.settings.register_profile("search", deadline=None, max_examples=1000)
hypothesis.settings.load_profile(os.environ.get("T5KIT_HYPOTHESIS", "ci"))


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Let no test connect to another machine: what passes here passes on a train."""
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: object) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            assert isinstance(address, tuple)
            host = str(address[0])
            assert host in ("localhost", "::1") or host.startswith("127."), f"a test connects to {host}"
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", connect_here)
        yield


@pytest.fixture(scope="session")
def test_files() -> Path:
    """The folder of real model files that `make weights` fetches; the test is skipped where it is missing."""
    folder = os.environ.get("T5KIT_TEST_FILES")
    if not folder:
        pytest.skip("needs the real model files: run `make weights`, or name their folder in T5KIT_TEST_FILES")
    if not Path(folder).is_dir():
        pytest.fail(f"T5KIT_TEST_FILES names {folder}, which is no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of committed vectors."""
    return ROOT / "tests" / "golden"
