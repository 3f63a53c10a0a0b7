"""Servers under open-loop load: t5kit serve beside the obvious alternatives, at rising rates.

    T5KIT_TEST_FILES=... python bench/serving.py [--rates 5,10,20,40] [--seconds 30] [--systems ...] [--texts FILE]

Real FLAN-T5-small weights, int8, greedy, at most 32 new tokens. Systems:

    t5kit           t5kit serve, whole responses
    t5kit:stream    t5kit serve, server-sent events; time to first token is measured
    replicas:N      N times t5kit serve behind bench/balancer.py; they share the --threads (replicas:1 tells what the
                    balancer costs). On one machine this measures the balancing and not more machines
    static          our engine behind a small FastAPI front that collects requests and answers whole batches
    ctranslate2     CTranslate2 int8 behind the same front (--batches tells the sizes it is tried with)

A second process sends the requests: arrivals are Poisson at a fixed rate whether or not answers come (open loop), the
same ones for every system, and latency counts from when a request was due, so that a server cannot hide its queue. The
client eats of the same cores; how many of them both took stands beside. Texts are those of
tests/golden/synopsis64.json, or the "text" of each line of --texts; a number is added to each so that none comes twice,
and kept prompts are off, or encoder runs would be shared. Before the load every system answers those golden texts that
are not cut, and `equal` counts the answers that are Hugging Face's in float32.

One JSON line a result on stdout; a table at the end on stderr. `kept_up` says whether 95 % were answered within 5 s.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from balancer import balance
from machine import processor_name

from t5kit.testing.peers import EngineName, Search, open_engine, prepare_engine
from t5kit.text import load_tokenizer

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "synopsis64.json"
FOLDER = Path(os.environ.get("T5KIT_TEST_FILES", ROOT / ".cache" / "t5kit-test-files")) / "flan-t5-small"
SCRATCH = ROOT / ".cache" / "bench-engine" / "small-converted"
MAX_NEW_TOKENS = 32
DRAIN_S = 60.0
"""How long the client waits for answers after the last request was sent."""
GOOD_LATENCY_S = 5.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", default="t5kit,t5kit:stream,static,ctranslate2")
    parser.add_argument("--rates", default="5,10,20,40,80", help="requests a second")
    parser.add_argument("--seconds", type=float, default=30.0, help="of load at each rate")
    parser.add_argument("--batches", default="8:5,32:10", help="fronts' largest batch and milliseconds to wait for it")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--client", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if (arguments.serve or "").startswith("replicas:"):
        serve_replicas(int(arguments.serve.partition(":")[2]), arguments.port, arguments.threads)
    elif arguments.serve:
        serve_front(arguments.serve, arguments.port, arguments.threads)
    elif arguments.client:
        print(json.dumps(asyncio.run(send_load(**arguments.client))))
    else:
        compare(arguments)


def compare(arguments: argparse.Namespace) -> None:
    """Measure every system at every rate, until one cannot keep up."""
    if not (FOLDER / "model.safetensors").exists():
        sys.exit(f"{FOLDER} is not there. Run `make weights`, or name its parent in T5KIT_TEST_FILES.")
    emit(processor=processor_name(), threads=arguments.threads, load_average=os.getloadavg()[0])
    tokenizer = load_tokenizer(FOLDER)
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))["rows"]
    rows = [row for row in golden if tokenizer.encode(row["text"]).tolist() == row["encoder_ids"]]  # not cut to 128
    texts = [row["text"] for row in golden]
    if arguments.texts:
        lines = arguments.texts.read_text(encoding="utf-8").splitlines()
        texts = [json.loads(line)["text"] for line in lines if line.strip()]
    systems = []
    for name in arguments.systems.split(","):
        batches = arguments.batches.split(",") if name in ("static", "ctranslate2") else [""]
        systems += [f"{name}:{batch}" if batch else name for batch in batches]
    table = []
    for system in systems:
        with running(system, arguments.threads) as (port, pid):
            equal = num_equal(port, rows)
            for rate in map(float, arguments.rates.split(",")):
                result = under_load(system, port, pid, rate, texts, arguments)
                result |= {"system": system, "equal": f"{equal}/{len(rows)}"}
                emit(**result)
                table.append(result)
                if not result["kept_up"]:
                    break
    columns = ("system", "equal", "rate", "answered_a_s", "p50_s", "p95_s", "p99_s", "first_token_p50_s")
    columns += ("failed", "server_cpu", "client_cpu")
    lines = ["  ".join(f"{column:>18}" for column in columns)]
    lines += [
        "  ".join(f"{result.get(column) if result.get(column) is not None else '':>18}" for column in columns)
        for result in table
    ]
    print("\n".join(lines), file=sys.stderr)


# The systems


@contextlib.contextmanager
def running(system: str, threads: int) -> Iterator[tuple[int, int]]:
    """Give the port and the process of a system that is ready."""
    port = free_port()
    if system.startswith("t5kit"):
        command = serve_command(port, threads)
    else:
        if system.startswith("ctranslate2"):
            prepare_engine(EngineName.parse("ctranslate2:int8"), FOLDER, scratch=_scratch())
        command = [sys.executable, __file__, "--serve", system, "--port", str(port), "--threads", str(threads)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_for_port(port, process, system)
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def serve_command(port: int, threads: int) -> list[str]:
    """Return the command that serves our engine at a port."""
    command = [sys.executable, "-c", "from t5kit.cli.main import main; main()", "serve", "-m", str(FOLDER)]
    command += ["--port", str(port), "--weights", "int8", "--threads", str(threads), "--max-kept-bytes", "0"]
    return [*command, "--log-level", "warning", "--max-requests", "100000"]


def serve_replicas(num_replicas: int, port: int, threads: int) -> None:
    """Serve our engine in several processes behind one port until SIGTERM."""
    ports = [free_port() for _ in range(num_replicas)]
    commands = [serve_command(each, max(1, threads // num_replicas)) for each in ports]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]

    def stop(*_: object) -> None:
        raise SystemExit

    signal.signal(signal.SIGTERM, stop)
    try:
        for each, process in zip(ports, processes, strict=True):
            wait_for_port(each, process, "a replica")
        asyncio.run(balance(port, ports))
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(60)


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for_port(port: int, process: "subprocess.Popen[bytes]", name: str) -> None:
    """Wait until a process listens at its port; leave if it ended instead."""
    for _ in range(2400):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    sys.exit(f"{name} did not start.")


def _scratch() -> Path:
    SCRATCH.mkdir(parents=True, exist_ok=True)
    return SCRATCH


def serve_front(system: str, port: int, threads: int) -> None:
    """Serve an engine that answers whole batches: requests that wait are collected, longest wait and size bounded."""
    import uvicorn
    from fastapi import FastAPI, Request

    name, max_batch, wait_ms = system.split(":")
    peer = "native:int8" if name == "static" else "ctranslate2:int8"
    answer = open_engine(
        EngineName.parse(peer), FOLDER, threads=threads, max_new_tokens=MAX_NEW_TOKENS, scratch=_scratch()
    )
    tokenizer = load_tokenizer(FOLDER)
    waiting: asyncio.Queue[tuple[list[int], asyncio.Future[list[int]]]] = asyncio.Queue()

    async def answer_batches() -> None:
        while True:
            batch = [await waiting.get()]
            end_s = time.monotonic() + float(wait_ms) / 1000
            while len(batch) < int(max_batch):
                try:
                    left_s = end_s - time.monotonic()
                    batch.append(waiting.get_nowait() if left_s <= 0 else await asyncio.wait_for(waiting.get(), left_s))
                except (asyncio.QueueEmpty, TimeoutError):
                    break
            answers = await asyncio.to_thread(answer, [ids for ids, _ in batch], Search())
            for (_, future), ids in zip(batch, answers, strict=True):
                if not future.cancelled():
                    future.set_result(ids)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI):  # type: ignore[no-untyped-def]
        task = asyncio.create_task(answer_batches())
        yield
        task.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.post("/v1/generate")
    async def generate(request: Request) -> dict[str, Any]:
        body = await request.json()
        future: asyncio.Future[list[int]] = asyncio.get_running_loop().create_future()
        waiting.put_nowait((tokenizer.encode(body["text"]).tolist(), future))
        return {"results": [{"outputs": [{"text": tokenizer.decode(await future)}]}]}

    uvicorn.run(app, port=port, log_level="warning", access_log=False)


# The load


def under_load(
    system: str, port: int, pid: int, rate: float, texts: Sequence[str], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Let the client process send, and return what came of it with the processor time that it took."""
    asked = {
        "port": port, "rate": rate, "seconds": arguments.seconds, "seed": arguments.seed,
        "is_streamed": system == "t5kit:stream", "texts": list(texts),
    }  # fmt: skip
    before, start = cpu_seconds(pid), time.monotonic()
    command = [sys.executable, __file__, "--client", json.dumps(asked)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    wall = time.monotonic() - start
    result["server_cpu"] = round((cpu_seconds(pid) - before) / wall, 2)
    result["client_cpu"] = round(result.pop("client_cpu_s") / wall, 2)
    return dict(result)


async def send_load(
    port: int, rate: float, seconds: float, seed: int, is_streamed: bool, texts: list[str]
) -> dict[str, Any]:
    """Send requests at Poisson times and return how they fared; latencies count from when each was due."""
    generator = random.Random(seed)
    due_s, when = [], 0.0
    while (when := when + generator.expovariate(rate)) < seconds:
        due_s.append(when)
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    start = time.monotonic()

    async def ask(number: int, due: float) -> tuple[float, float] | None:
        await asyncio.sleep(start + due - time.monotonic())
        text = f"{texts[number % len(texts)]} ({number})"
        body = json.dumps({"text": text, "max_new_tokens": MAX_NEW_TOKENS, "stream": is_streamed}).encode()
        if not is_streamed:
            body = json.dumps({"text": text, "max_new_tokens": MAX_NEW_TOKENS}).encode()
        try:
            reader, writer = idle.pop() if idle else await asyncio.open_connection("127.0.0.1", port)
            writer.write(request_bytes(body))
            first_s, is_good = await read_response(reader)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            return None
        idle.append((reader, writer))
        return (time.monotonic() - start - due, first_s - start - due) if is_good else None

    tasks = [asyncio.create_task(ask(number, due)) for number, due in enumerate(due_s)]
    await asyncio.wait(tasks, timeout=seconds + DRAIN_S)
    wall = time.monotonic() - start
    found = [task.result() if task.done() else None for task in tasks]
    for task in tasks:
        task.cancel()
    good = [each for each in found if each is not None]
    latencies = sorted(latency for latency, _ in good)
    firsts = sorted(first for _, first in good)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rate": rate,
        "sent": len(due_s),
        "failed": len(due_s) - len(good),
        "answered_a_s": round(len(good) / wall, 2),
        "p50_s": quantile(latencies, 0.5),
        "p95_s": quantile(latencies, 0.95),
        "p99_s": quantile(latencies, 0.99),
        "first_token_p50_s": quantile(firsts, 0.5) if is_streamed else None,
        "first_token_p95_s": quantile(firsts, 0.95) if is_streamed else None,
        "kept_up": sum(latency <= GOOD_LATENCY_S for latency in latencies) >= 0.95 * len(due_s),
        "client_cpu_s": usage.ru_utime + usage.ru_stime,
    }


def request_bytes(body: bytes) -> bytes:
    head = "POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}"
    return head.encode() + b"\r\n\r\n" + body


async def read_response(reader: asyncio.StreamReader) -> tuple[float, bool]:
    """Return when the first part of a body came, and whether the whole response is a good one."""
    head = await reader.readuntil(b"\r\n\r\n")
    is_good = head.startswith(b"HTTP/1.1 200")
    lower = head.lower()
    if b"transfer-encoding: chunked" not in lower:
        length = int(lower.split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        return time.monotonic(), is_good
    first_s = 0.0
    while True:
        size = int((await reader.readuntil(b"\r\n")).strip(), 16)
        data = await reader.readexactly(size + 2)
        first_s = first_s or time.monotonic()
        if b'"type":"error"' in data:
            is_good = False
        if not size:
            return first_s, is_good


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """Return the least value that `share` of all do not exceed."""
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4) if ordered else None


# What is seen of a system


def num_equal(port: int, rows: Sequence[dict[str, Any]]) -> int:
    """Return how many of the golden texts a system answers as Hugging Face does in float32."""
    tokenizer = load_tokenizer(FOLDER)

    async def ask(text: str) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes(json.dumps({"text": text, "max_new_tokens": MAX_NEW_TOKENS}).encode()))
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        reply = json.loads(await reader.readexactly(length))
        writer.close()
        return str(reply["results"][0]["outputs"][0]["text"])

    async def ask_all() -> list[str]:
        return await asyncio.gather(*(ask(row["text"]) for row in rows))

    answers = asyncio.run(ask_all())
    return sum(answer == tokenizer.decode(row["greedy_ids"]) for answer, row in zip(answers, rows, strict=True))


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process and its children so far."""
    total, ticks = 0.0, os.sysconf("SC_CLK_TCK")
    parents: dict[int, int] = {}
    times: dict[int, float] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            parents[int(path.parent.name)] = int(fields[1])
            times[int(path.parent.name)] = (int(fields[11]) + int(fields[12])) / ticks
    for each, seconds in times.items():
        ancestor = each
        while ancestor not in (0, 1, pid):
            ancestor = parents.get(ancestor, 0)
        total += seconds if ancestor == pid else 0.0
    return total


def emit(**result: object) -> None:
    """Write one result as a JSON line."""
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
