"""`t5kit serve` in a process of its own, for tests that are its clients."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from t5kit.errors import EngineError


class HttpReply(NamedTuple):
    """A response read to its end."""

    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of server-sent events, parsed where it is JSON."""
        found = [line[6:] for line in self.body.decode("utf-8").splitlines() if line.startswith("data: ")]
        return [each if each == "[DONE]" else json.loads(each) for each in found]


class ServerProcess:
    """A running server; leaving the `with` block stops it.

    Example: with ServerProcess(["-m", folder]) as server: server.post("/v1/generate", {"text": "…"}).json
    """

    def __init__(self, arguments: Sequence[str], *, environment: dict[str, str] | None = None) -> None:
        """Start `t5kit serve --port 0` with more arguments; `wait_until_ready` before asking."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from t5kit.cli.main import main; main()", "serve", "--port", "0", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=os.environ | (environment or {}),
        )
        self.port = 0
        self.lines: list[str] = []
        """What it wrote to standard error so far."""
        self._is_serving = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line.rstrip("\n"))
            if found := re.search(r"t5kit: serving .* at https?://[^ ]*:(\d+)$", self.lines[-1]):
                self.port = int(found[1])
                self._is_serving.set()
        self._is_serving.set()

    @property
    def url(self) -> str:
        """Where it listens, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process that listens."""
        return self._process.pid

    @property
    def engine_pids(self) -> list[int]:
        """Of its engine processes, on Linux."""
        pids = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                parent = int(path.read_text().rpartition(")")[2].split()[1])
                command = (path.parent / "cmdline").read_bytes()
            except OSError:  # it has just ended
                continue
            if parent == self.pid and b"spawn_main" in command:
                pids.append(int(path.parent.name))
        return pids

    @property
    def log(self) -> list[dict[str, Any]]:
        """The lines of its log, parsed."""
        return [json.loads(line) for line in self.lines if line.startswith("{")]

    def wait_until_ready(self, timeout_s: float = 60.0) -> Self:
        """Wait until it serves. Raises: EngineError with what it said, if it ended or took too long."""
        if not self._is_serving.wait(timeout_s) or not self.port:
            self.stop(signal.SIGKILL)
            raise EngineError("The server did not start: " + "\n".join(self.lines[-5:]))
        return self

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: dict[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> HttpReply:
        """Send a request (bytes as they are, anything else as JSON) and return the whole response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return HttpReply(response.status, names, response.read())
        finally:
            connection.close()

    def get(self, path: str, **more: Any) -> HttpReply:
        """Send a GET request."""
        return self.request("GET", path, **more)

    def post(self, path: str, body: object, **more: Any) -> HttpReply:
        """Send a POST request with JSON."""
        return self.request("POST", path, body, **more)

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples that carry these labels."""
        total = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            sample, _, value = line.rpartition(" ")
            if sample.partition("{")[0] == name and all(f'{key}="{each}"' in sample for key, each in labels.items()):
                total += float(value)
        return total

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait until it has ended by itself and return the exit code."""
        code = self._process.wait(timeout_s)
        self._reader.join(5)
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """Send a signal and return the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._reader.join(5)
        return code

    def wait_for(self, is_so: Any, timeout_s: float = 20.0) -> bool:
        """Wait until `is_so()` holds; return whether it does."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            if is_so():
                return True
            time.sleep(0.02)
        return False

    def __enter__(self) -> Self:
        return self.wait_until_ready()

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
