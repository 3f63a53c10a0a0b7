"""Keys, rates, sizes, CORS and TLS: who may ask, and how much."""

import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from t5kit.errors import ConfigError, OverloadedError
from t5kit.serving.access import ApiKeys, KeyGuard, RateLimiter, read_api_keys
from t5kit.serving.config import ModelSource, RequestLimits, ServingConfig
from t5kit.serving.server import Listening, _listening_socket, _with_hosts
from t5kit.testing.server_process import ServerProcess

KEYS = "alice = key-of-alice\n# a comment\n\nkey-of-nobody\n"


def test_keys_are_read_from_a_file_and_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(KEYS)
    assert read_api_keys(path, "bob=key-of-bob1") == {
        "alice": "key-of-alice",
        "key 2": "key-of-nobody",
        "bob": "key-of-bob1",
    }
    assert read_api_keys(None, None) == {}


@pytest.mark.parametrize(
    "text", ["", "# none\n", "short", "a=12345678\na=87654321", "a=12345678\nb=12345678", "a=ü2345678"]
)
def test_unusable_keys_are_refused_without_being_shown(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read_api_keys(path, None)
    assert "12345678" not in str(refused.value) and "short" not in str(refused.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_api_keys(tmp_path / "none", None)


def test_a_key_belongs_to_its_client_and_no_digest_is_a_key() -> None:
    keys = ApiKeys({"alice": "key-of-alice", "bob": "key-of-bob1"})
    assert keys.client_of("key-of-bob1") == "bob"
    assert keys.client_of("key-of-bob") is None and keys.client_of("") is None and keys.client_of("ü\ud800") is None
    assert "key-of-alice" not in repr(vars(keys))
    assert "key-of" not in repr(ServingConfig(models=(ModelSource(name="a", path=Path()),), api_keys={"a": "key-of-a"}))


def test_a_rate_is_a_burst_and_then_so_many_a_minute() -> None:
    now = [0.0]
    limiter = RateLimiter(60, clock=lambda: now[0])
    for _ in range(60):
        limiter.take("alice")
    with pytest.raises(OverloadedError) as refused:
        limiter.take("alice")
    assert refused.value.retry_after_s == pytest.approx(1)
    limiter.take("bob")
    now[0] = 1.0
    limiter.take("alice")
    with pytest.raises(OverloadedError):
        limiter.take("alice")
    for number in range(20_000):
        limiter.take(f"client {number}")
    assert len(limiter._buckets) == 10_000
    RateLimiter(0).take("anyone")


def test_wrong_keys_are_tried_so_often_and_then_not_looked_at() -> None:
    now = [0.0]
    guard = KeyGuard(ApiKeys({"alice": "key-of-alice", "bob": "key-of-bob1"}), 20, clock=lambda: now[0])
    assert guard.client_of("key-of-bob1", "10.0.0.1") == "bob"
    for number in range(20):
        assert guard.client_of(f"guess {number}", "10.0.0.1") is None
    for key in ("guess", "key-of-alice"):
        with pytest.raises(OverloadedError, match="20 wrong API keys") as refused:
            guard.client_of(key, "10.0.0.1")
        assert refused.value.retry_after_s == pytest.approx(3), "a right guess is not told from a wrong one"
    assert guard.client_of("key-of-bob1", "10.0.0.1") == "bob", "a client seen there before stays let in"
    assert guard.client_of("key-of-alice", "10.0.0.2") == "alice"
    now[0] = 3.0
    assert guard.client_of("key-of-alice", "10.0.0.1") == "alice"
    for number in range(20):
        guard.client_of(f"guess {number}", f"2001:db8::{number:x}")
    with pytest.raises(OverloadedError):
        guard.client_of("guess", "2001:db8::ffff")  # whoever has one address there has all of them
    assert guard.client_of("guess", "2001:db8:0:1::1") is None
    assert guard.client_of("guess", "::ffff:10.0.0.1") is None
    with pytest.raises(OverloadedError):
        guard.client_of("guess", "::ffff:10.0.0.1")  # as 10.0.0.1 reads on a socket of both kinds
    for number in range(20_000):
        guard.client_of("guess", f"host {number}")
        guard.client_of("key-of-alice", f"other host {number}")
    assert len(guard._wrong._buckets) == len(guard._seen) == 10_000
    unlimited = KeyGuard(ApiKeys({"alice": "key-of-alice"}), 0)
    assert all(unlimited.client_of("guess", "10.0.0.1") is None for _ in range(100))


@pytest.mark.parametrize(
    ("host", "allowed", "expected"),
    [
        ("127.0.0.1", (), ("127.0.0.1",)),
        ("localhost", ("t5.example",), ("t5.example", "localhost")),
        ("0.0.0.0", (), ()),
        ("0.0.0.0", ("t5.example",), ("t5.example", "0.0.0.0")),
    ],
)
def test_hosts_are_checked_where_only_this_machine_hears_or_some_are_named(
    host: str, allowed: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    listening = Listening(host=host, port=0)
    config = ServingConfig(models=(ModelSource(name="a", path=Path()),), allowed_hosts=allowed)
    with _listening_socket(listening) as listener:
        assert _with_hosts(config, listening, listener).allowed_hosts == expected


def test_names_and_limits_that_cannot_be_are_refused() -> None:
    source = ModelSource(name="a", path=Path())
    with pytest.raises(ConfigError, match="two models"):
        ServingConfig(models=(source, source))
    with pytest.raises(ConfigError, match="no model"):
        ServingConfig(models=())
    with pytest.raises(ConfigError, match="max_texts"):
        RequestLimits(max_texts=0)
    with pytest.raises(ConfigError, match="must not be above"):
        RequestLimits(max_timeout_s=30)


@pytest.fixture(scope="module")
def guarded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEYS)
    arguments = ["-m", f"tiny={folder}", "--threads", "1", "--api-keys", str(keys), "--rate-limit", "3", "--no-page"]
    arguments += ["--max-body-bytes", "2000", "--cors-origin", "https://pages.example", "--log-texts"]
    with ServerProcess(arguments) as running:
        yield running


def authorised(key: str, **more: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", **more}


def test_without_a_key_nothing_is_answered_and_nothing_is_told(guarded: ServerProcess) -> None:
    for headers in ({}, authorised("wrong-key-1"), {"Authorization": "Basic a2V5"}):
        for method, path in (("POST", "/v1/generate"), ("GET", "/v1/models"), ("GET", "/metrics")):
            reply = guarded.request(method, path, {"text": "a"} if method == "POST" else None, headers=headers)
            assert reply.status == 401 and reply.headers["www-authenticate"] == "Bearer"
            assert reply.json["error"]["type"] == "authentication_error"
    assert guarded.get("/healthz").status == guarded.get("/readyz").status == 200
    assert guarded.get("/").status == 404  # --no-page
    assert not any("wrong-key-1" in line for line in guarded.lines)


def asked_without_body(server: ServerProcess, *headers: str) -> bytes:
    """Return the head of the response to a request whose body is announced and does not come."""
    head = ["POST /v1/generate HTTP/1.1", "Host: localhost", "Content-Type: application/json", "Content-Length: 1900"]
    with socket.create_connection(("127.0.0.1", server.port), timeout=25) as connection:  # a body has 30 s
        connection.sendall("\r\n".join([*head, *headers, "", ""]).encode())
        return connection.recv(4096)


def test_whoever_may_not_ask_is_told_before_the_body_is_read(guarded: ServerProcess) -> None:
    assert asked_without_body(guarded).startswith(b"HTTP/1.1 401")
    assert asked_without_body(guarded, "Authorization: Bearer wrong-key-0").startswith(b"HTTP/1.1 401")
    assert guarded.post("/v1/generate", b"no JSON").status == 401
    assert guarded.post("/v1/generate", b"no JSON", headers=authorised("key-of-alice")).status == 422


def test_the_log_names_the_client_and_texts_only_where_asked_for(guarded: ServerProcess) -> None:
    headers = authorised("key-of-alice", **{"X-Request-Id": "alice-1"})
    assert guarded.post("/v1/generate", {"text": "told", "max_new_tokens": 2}, headers=headers).status == 200
    assert guarded.wait_for(lambda: any(entry.get("request_id") == "alice-1" for entry in guarded.log))
    (entry,) = [entry for entry in guarded.log if entry.get("request_id") == "alice-1"]
    assert entry["client"] == "alice" and entry["texts"] == ["told"]
    assert not any("key-of-alice" in line for line in guarded.lines)


def test_rates_and_sizes_are_refused_with_a_time_to_come_back(guarded: ServerProcess) -> None:
    headers = authorised("key-of-nobody")
    statuses = [
        guarded.post("/v1/generate", {"text": "a", "max_new_tokens": 1}, headers=headers).status for _ in range(4)
    ]
    assert statuses == [200, 200, 200, 429]
    refused = guarded.post("/v1/generate", {"text": "a"}, headers=headers)
    assert 1 <= int(refused.headers["retry-after"]) <= 60 and refused.json["error"]["code"] == "overloaded"
    assert asked_without_body(guarded, "Authorization: Bearer key-of-nobody").startswith(b"HTTP/1.1 429")
    assert guarded.get("/v1/models", headers=headers).status == 200  # only work is counted
    large = guarded.post("/v1/generate", {"text": "a" * 3000}, headers=headers)
    assert large.status == 413 and "2,000 bytes" in large.json["error"]["message"]


def test_wrong_keys_end_in_429_and_known_clients_go_on(guarded: ServerProcess) -> None:
    known = authorised("key-of-alice")
    assert guarded.get("/v1/models", headers=known).status == 200
    for number in range(200):
        refused = guarded.get("/v1/models", headers=authorised(f"wrong-key-{number}"))
        if refused.status == 429:
            break
        assert refused.status == 401
    assert refused.status == 429 and number >= 10
    assert 1 <= int(refused.headers["retry-after"]) <= 60 and "wrong API keys" in refused.json["error"]["message"]
    assert guarded.get("/v1/models", headers=known).status == 200
    assert guarded.get("/v1/models").status == 401  # to send none is no guess


def test_only_the_origins_named_may_call_from_a_browser(guarded: ServerProcess) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    allowed = guarded.request("OPTIONS", "/v1/generate", headers={"Origin": "https://pages.example", **asked})
    assert allowed.headers["access-control-allow-origin"] == "https://pages.example"
    refused = guarded.request("OPTIONS", "/v1/generate", headers={"Origin": "https://other.example", **asked})
    assert "access-control-allow-origin" not in refused.headers


def test_tls_files_make_it_https(folder: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    try:
        made = subprocess.run(
            [*command, "-keyout", str(key), "-out", str(certificate), "-addext", "subjectAltName=IP:127.0.0.1"],
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("openssl is not installed, so there is no certificate")
    assert made.returncode == 0, made.stderr
    arguments = ["-m", f"tiny={folder}", "--threads", "1", "--tls-cert", str(certificate), "--tls-key", str(key)]
    with ServerProcess(arguments) as running:
        context = ssl.create_default_context(cafile=str(certificate))
        with urllib.request.urlopen(f"https://127.0.0.1:{running.port}/healthz", context=context) as reply:
            assert reply.status == 200
