"""What goes wrong between a server and its clients: nothing is lost in silence, and nothing stays behind."""

import collections
import http.client as http_client
import json
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from t5kit.cli.main import main
from t5kit.testing.server_process import HttpReply, ServerProcess

ENDLESS = {"text": "a", "max_new_tokens": 2000, "min_new_tokens": 2000}
SHORT = {"text": "a", "max_new_tokens": 4}


@pytest.fixture(scope="module")
def sturdy(folder: Path) -> Iterator[ServerProcess]:
    """A server for tests that mistreat it and expect it to go on."""
    arguments = ["-m", f"tiny={folder}", "--threads", "1", "--max-requests", "64", "--max-body-bytes", "50000"]
    with ServerProcess(arguments) as running:
        yield running


def raw(server: ServerProcess, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    connection.sendall(data)
    return connection


def http(body: object, path: str = "/v1/generate") -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data


def is_idle(server: ServerProcess) -> bool:
    return server.metric("t5kit_running") == 0 and server.metric("t5kit_queue_length") == 0


def test_clients_that_leave_free_their_rows(sturdy: ServerProcess) -> None:
    before = sturdy.metric("t5kit_http_disconnects_total")
    streams = [raw(sturdy, http({**ENDLESS, "stream": True})) for _ in range(8)]
    for stream in streams:
        assert b"200 OK" in stream.recv(4096)
    plain = [raw(sturdy, http(ENDLESS)) for _ in range(8)]
    assert sturdy.wait_for(lambda: sturdy.metric("t5kit_running") == 16)
    for connection in streams + plain:
        connection.close()
    assert sturdy.wait_for(lambda: is_idle(sturdy))
    assert sturdy.metric("t5kit_http_disconnects_total") == before + 16
    assert sturdy.post("/v1/generate", SHORT).status == 200


def test_a_reader_that_does_not_read_holds_nobody_up(sturdy: ServerProcess) -> None:
    slow = raw(sturdy, http({**ENDLESS, "stream": True, "timeout_s": 30}))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    for _ in range(5):
        assert sturdy.post("/v1/generate", SHORT).status == 200
    slow.close()
    assert sturdy.wait_for(lambda: is_idle(sturdy))


def test_malformed_requests_are_answered_and_forgotten(sturdy: ServerProcess) -> None:
    large = b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    for data, status in (
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00", b"400"),
        (large + b"%x\r\n%s\r\n" % (60_000, b" " * 60_000), b"413"),
        (b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n\r\n", b"413"),
        (b"\xff\xfe / HTTP/1.1\r\n\r\n", b"400"),
    ):
        with raw(sturdy, data) as connection:
            assert status in connection.recv(4096)[:40], data[:60]
    with raw(sturdy, b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{"):
        assert sturdy.post("/v1/generate", SHORT).status == 200  # half a body holds nobody up
    assert is_idle(sturdy)


def test_more_than_a_client_may_hold_is_refused_and_the_rest_answered(sturdy: ServerProcess) -> None:
    def ask(_: int) -> HttpReply:
        return sturdy.post("/v1/generate", {"text": "a", "max_new_tokens": 60, "min_new_tokens": 60})

    with ThreadPoolExecutor(150) as pool:
        replies = list(pool.map(ask, range(300)))
    counts = collections.Counter(reply.status for reply in replies)
    print(f"300 requests at once, 64 places: {dict(counts)}")  # the figures of docs/how-to/serve.md: pytest -s
    assert set(counts) == {200, 429} and sum(counts.values()) == 300 and counts[200] >= 32
    assert all(int(reply.headers["retry-after"]) >= 1 for reply in replies if reply.status == 429)
    assert len({reply.body.partition(b'"timings"')[0] for reply in replies if reply.status == 200}) == 1
    assert is_idle(sturdy)


def test_a_client_that_floods_does_not_lock_out_another(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("alice = key-of-alice\nbob = key-of-bob1\n")
    arguments = [
        "--threads",
        "1",
        "--max-requests",
        "64",
        "--max-batch-rows",
        "16",
        "--api-keys",
        str(tmp_path / "keys"),
    ]
    alice, bob = ({"Authorization": f"Bearer {key}"} for key in ("key-of-alice", "key-of-bob1"))
    with ServerProcess(["-m", f"tiny={folder}", *arguments]) as server, ThreadPoolExecutor(40) as pool:

        def ask(_: int) -> HttpReply:
            return server.post("/v1/generate", {**ENDLESS, "timeout_s": 600}, headers=alice, timeout_s=600)

        flood = [pool.submit(ask, number) for number in range(40)]
        assert server.wait_for(lambda: sum(each.done() for each in flood) == 8), "64 places: 32 for her, 32 left"
        refused = [each.result() for each in flood if each.done()]
        assert {reply.status for reply in refused} == {429} and all("retry-after" in reply.headers for reply in refused)
        assert "you hold 32 of" in refused[0].json["error"]["message"]
        answers = [server.post("/v1/generate", SHORT, headers=bob) for _ in range(3)]
        assert [answer.status for answer in answers] == [200] * 3
        assert sum(each.done() for each in flood) == 8, "not one of her answers had to end for his"
        assert all(answer.json["results"][0]["timings"]["total_s"] < 20 for answer in answers)
        server.stop(signal.SIGKILL)
        for each in flood:
            each.exception()


def test_a_thousand_connections_are_each_answered(sturdy: ServerProcess) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 1200:
        if hard != resource.RLIM_INFINITY and hard < 1200:
            pytest.skip(f"this process may open only {hard} files")
        resource.setrlimit(resource.RLIMIT_NOFILE, (1200, hard))
    connections = [socket.create_connection(("127.0.0.1", sturdy.port), timeout=60) for _ in range(1000)]
    try:
        for connection in connections:
            connection.sendall(http(SHORT))
        counts = collections.Counter(connection.recv(4096)[9:12] for connection in connections)
    finally:
        for connection in connections:
            connection.close()
    print(f"1,000 connections at once: {dict(counts)}")
    assert sum(counts.values()) == 1000 and set(counts) <= {b"200", b"429"} and counts[b"200"] >= 32


def test_a_killed_engine_answers_what_it_had_with_errors_and_comes_back(folder: Path) -> None:
    with ServerProcess(["-m", f"tiny={folder}", "--threads", "1"]) as server:
        (pid,) = server.engine_pids
        with ThreadPoolExecutor(30) as pool:
            waiting = [pool.submit(server.post, "/v1/generate", ENDLESS) for _ in range(20)]
            streaming = [pool.submit(server.post, "/v1/generate", {**ENDLESS, "stream": True}) for _ in range(4)]
            assert server.wait_for(lambda: server.metric("t5kit_running") == 24)
            os.kill(pid, signal.SIGKILL)
            replies = [each.result() for each in waiting]
            streams = [each.result() for each in streaming]
        assert [reply.status for reply in replies] == [503] * 20
        assert all(reply.json["error"]["code"] == "engine_restarted" for reply in replies)
        assert all(stream.events[-2]["type"] == "error" and stream.events[-1]["type"] == "done" for stream in streams)
        assert server.wait_for(lambda: server.get("/readyz").status == 200, timeout_s=40)
        assert server.post("/v1/generate", SHORT).status == 200
        assert server.metric("t5kit_engine_restarts_total") == 1 and server.engine_pids != [pid]


def test_what_was_accepted_is_answered_when_the_server_is_told_to_stop(folder: Path) -> None:
    with ServerProcess(["-m", f"tiny={folder}", "--threads", "1", "--drain-delay", "0.3"]) as server:
        body = {"text": "a", "max_new_tokens": 300, "min_new_tokens": 300, "num_beams": 4}
        counts: collections.Counter[str] = collections.Counter()
        has_stopped = threading.Event()

        def keep_asking(number: int) -> None:
            while not has_stopped.is_set():
                counts["sent"] += 1
                try:
                    reply = server.post("/v1/generate", SHORT)
                except http_client.RemoteDisconnected:
                    counts["lost"] += 1  # accepted, and left without an answer
                    return
                except (ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
                    counts["refused"] += 1  # nobody listens any more, or the system's queue of connections was dropped
                    return
                except OSError:
                    counts["lost"] += 1
                    return
                counts["answered" if reply.status == 200 else "refused" if reply.status == 503 else "lost"] += 1

        with ThreadPoolExecutor(16) as pool:
            long = [pool.submit(server.post, "/v1/generate", body) for _ in range(8)]
            plain = {**body, "max_new_tokens": 600, "min_new_tokens": 600, "num_beams": 1, "stream": True}
            streams = [pool.submit(server.post, "/v1/generate", plain) for _ in range(4)]
            askers = [pool.submit(keep_asking, number) for number in range(4)]
            assert server.wait_for(lambda: server.metric("t5kit_running") >= 12)
            engine_pids = server.engine_pids
            os.kill(server.pid, signal.SIGTERM)
            assert server.wait_for(lambda: server.get("/readyz").status == 503, timeout_s=0.3)
            assert [each.result().status for each in long] == [200] * 8
            assert all(each.result().events[-1] == {"type": "done"} for each in streams)
            time.sleep(0.1)
            has_stopped.set()
            for asker in askers:
                asker.result()
        assert server.wait() == 0
        print(f"SIGTERM under load: {dict(counts)}, and 12 long requests answered whole")
        assert counts["sent"] == counts["answered"] + counts["refused"] and counts["lost"] == 0, counts
        assert not any(Path(f"/proc/{pid}").exists() for pid in engine_pids)


def test_a_connection_that_has_yet_to_ask_is_told_that_the_server_stops(folder: Path) -> None:
    def is_listening() -> bool:
        try:
            socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
        except OSError:
            return False
        return True

    with ServerProcess(["-m", f"tiny={folder}", "--threads", "1"]) as server:
        with raw(server, b"") as early, raw(server, b"") as silent:
            assert server.get("/readyz").status == 200  # so both were taken
            os.kill(server.pid, signal.SIGTERM)
            assert server.wait_for(lambda: not is_listening())
            early.sendall(http(SHORT))
            assert b"503 Service Unavailable" in early.recv(4096)
            assert silent.recv(4096) == b"", "who says nothing is not waited for much longer"
        assert server.wait() == 0


def test_engines_end_when_the_server_is_killed(folder: Path) -> None:
    with ServerProcess(["-m", f"tiny={folder}", "--threads", "1"]) as server:
        (pid,) = server.engine_pids
        with raw(server, http(ENDLESS)):
            assert server.stop(signal.SIGKILL) == -signal.SIGKILL
        assert server.wait_for(lambda: not Path(f"/proc/{pid}").exists() or "Z" in status_of(pid))


def status_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (["-m", "{tmp}/none"], "none", 1),
        (["-m", "={folder}"], "NAME=MODEL", 2),
        (["-m", "a={folder}", "--adapter", "b@c=d"], "NAME@MODEL", 2),
        (["-m", "a={folder}", "--adapter", "b={tmp}"], "adapter_config.json", 1),
        (["-m", "a={adapter}"], "is an adapter's folder, expected a model's. Serve its model", 2),
        (["-m", "a={folder}", "--tls-cert", "none"], "both files", 2),
        (["-m", "a={folder}", "--tls-cert", "{folder}/config.json", "--tls-key", "{folder}/config.json"], "TLS", 2),
        (["-m", "a={folder}", "--log-level", "loud"], "debug, info", 2),
        (["-m", "a={folder}", "--max-requests", "0"], "max_requests = 0", 2),
        (["-m", "a={folder}", "--max-batch-rows", "0"], "max_batch_rows = 0", 2),
        (["-m", "a={folder}", "--max-kept-bytes", "-1"], "max_kept_bytes = -1", 2),
        (["-m", "a={folder}", "--host", "203.0.113.1"], "Cannot listen at 203.0.113.1", 1),
    ],
)
def test_misuse_is_told_in_a_sentence(
    folder: Path,
    adapter: Path,
    tmp_path: Path,
    arguments: list[str],
    words: str,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("T5KIT_MODEL", raising=False)
    filled = [each.format(folder=folder, adapter=adapter, tmp=tmp_path) for each in arguments]
    monkeypatch.setattr(sys, "argv", ["t5kit", "serve", "--port", "0", "--offline", *filled])
    with pytest.raises(SystemExit) as left:
        main()
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert left.value.code == code and told.startswith("t5kit: ") and words in told


def test_a_missing_extra_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("server", "app", "state"):
        monkeypatch.delitem(sys.modules, f"t5kit.serving.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "fastapi", None)  # as if it were not installed
    monkeypatch.setattr(sys, "argv", ["t5kit", "serve", "-m", str(folder)])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 1 and "pip install 't5kit[serve]'" in capsys.readouterr().err
