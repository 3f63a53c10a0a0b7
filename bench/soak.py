"""Does the memory of `t5kit serve` stay flat? Many requests of every kind, and the resident memory sampled among them.

    python bench/soak.py [--model FOLDER] [--requests 100000] [--concurrency 32] [--samples 200] [-- SERVE ARGUMENTS]

Without --model a tiny one with random weights answers: what is tested is the bookkeeping and not the arithmetic. Each
text comes once. Of 20 requests 14 are answered whole, 3 as a stream, one stream is left at its first part, one body is
no JSON and one asks for what there is not. Behind `--`, arguments of `t5kit serve`: --max-kept-bytes 0, for one, since
kept prompts (64 MB by default) fill first.

One JSON line a sample, with the resident bytes of the listening process and of its engines, and one at the end:
`growth` is what a straight line through the second half of the samples gains over them, in bytes and as a share of the
memory in their middle, and `is_flat` whether that is below 1 % or 4 MB for both.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from machine import processor_name
from serving import emit, read_response, request_bytes

from t5kit.testing.folders import write_tiny_folder
from t5kit.testing.server_process import ServerProcess

FLAT_SHARE, FLAT_BYTES = 0.01, 4 * 2**20
KINDS = ["whole"] * 14 + ["stream"] * 3 + ["left", "no JSON", "refused"]
"""Of twenty requests."""


def main() -> None:
    own = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder; a tiny one is made where none is given")
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--concurrency", type=int, default=32, help="requests under way at a time")
    parser.add_argument("--samples", type=int, default=200, help="times that memory is read")
    parser.add_argument("--max-new-tokens", type=int, default=8)
    arguments = parser.parse_args(own)
    to_serve = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else []
    with tempfile.TemporaryDirectory() as scratch:
        model = arguments.model or str(write_tiny_folder(Path(scratch) / "tiny"))
        emit(processor=processor_name(), requests=arguments.requests, concurrency=arguments.concurrency)
        server = ServerProcess(["-m", model, "--log-level", "error", *to_serve])
        try:
            server.wait_until_ready(timeout_s=600)
            asyncio.run(soak(server, arguments))
        finally:
            server.stop()


async def soak(server: ServerProcess, arguments: argparse.Namespace) -> None:
    """Send the requests, a share of them between any two samples."""
    fared: Counter[str] = Counter()
    samples: list[dict[str, Any]] = []
    start, sent = time.monotonic(), 0
    for number in range(1, arguments.samples + 1):
        until = arguments.requests * number // arguments.samples
        await send(server.port, range(sent, until), arguments, fared)
        sent = until
        samples.append(
            {"requests": sent, "listening_bytes": resident_bytes(server.pid), "engine_bytes": engine_bytes(server)}
        )
        emit(**samples[-1])
    seconds = time.monotonic() - start
    late = samples[len(samples) // 2 :]
    growth = {name: growth_over(late, name) for name in ("listening_bytes", "engine_bytes")}
    emit(
        requests=sent,
        seconds=round(seconds, 1),
        requests_a_s=round(sent / seconds, 1),
        fared=dict(fared),
        peak={name: max(sample[name] for sample in samples) for name in growth},
        growth=growth,
        is_flat=all(each["share"] < FLAT_SHARE or each["bytes"] < FLAT_BYTES for each in growth.values()),
    )


async def send(port: int, numbers: range, arguments: argparse.Namespace, fared: "Counter[str]") -> None:
    """Send numbered requests, some at a time, over connections that stay open; count how each kind fared."""
    waiting = iter(numbers)

    async def client() -> None:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        for number in waiting:
            kind = KINDS[number % len(KINDS)]
            if connection is None:
                connection = await asyncio.open_connection("127.0.0.1", port)
            reader, writer = connection
            try:
                writer.write(request_bytes(body(kind, number, arguments.max_new_tokens)))
                if kind == "left":
                    await reader.readuntil(b"\r\n\r\n")
                    is_good = False
                else:
                    _, is_good = await read_response(reader)
                fared[f"{kind}: {'answered' if is_good else 'left' if kind == 'left' else 'refused'}"] += 1
            except (OSError, asyncio.IncompleteReadError):
                fared[f"{kind}: lost"] += 1
                is_good = False
            if not is_good:
                writer.close()
                connection = None
        if connection is not None:
            connection[1].close()
            with contextlib.suppress(OSError):
                await connection[1].wait_closed()

    await asyncio.gather(*(client() for _ in range(arguments.concurrency)))


def body(kind: str, number: int, max_new_tokens: int) -> bytes:
    """Return the body of a request of a kind; its text comes once."""
    if kind == "no JSON":
        return b'{"text": '
    asked: dict[str, Any] = {"text": f"summarize: text number {number}", "max_new_tokens": max_new_tokens}
    if kind == "refused":
        asked["num_beams"] = -1
    if kind in ("stream", "left"):
        asked["stream"] = True
    return json.dumps(asked).encode()


def growth_over(samples: list[dict[str, Any]], name: str) -> dict[str, float]:
    """Return what a straight line through samples of memory gains from the first to the last."""
    y = np.array([sample[name] for sample in samples], dtype=np.float64)
    if len(y) < 3:
        return {"bytes": float(y[-1] - y[0]), "share": round(float(y[-1] / y[0] - 1), 5)}
    slope = np.polyfit(np.arange(len(y)), y, 1)[0]
    gained = float(slope * (len(y) - 1))
    return {"bytes": round(gained), "share": round(gained / float(np.median(y)), 5)}


def engine_bytes(server: ServerProcess) -> int:
    """Return the resident bytes of all of a server's engine processes."""
    return sum(resident_bytes(pid) for pid in server.engine_pids)


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process, on Linux."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


if __name__ == "__main__":
    main()
