"""Names become folders: paths, the Hub (a small server on this machine), its cache, and every way of failing."""

import dataclasses
import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

import t5kit.checkpoint.hub
from t5kit.checkpoint import open_folder, resolve
from t5kit.checkpoint.hub import id_of, wanted_files
from t5kit.errors import ModelNotFoundError

COMMITS = {"main": "1" * 40, "v2": "2" * 40}


class Hub(http.server.ThreadingHTTPServer):
    """Enough of the Hub's protocol for models of small files."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.models: dict[str, dict[str, bytes]] = {}
        self.gated: set[str] = set()
        self.is_broken = False
        self.served: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Answer(http.server.BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if self.server.is_broken:
            return self.answer(500)
        is_api = path.startswith("/api/models/")
        owner, name, *rest = path.removeprefix("/api/models/" if is_api else "/").split("/")
        files = self.server.models.get(f"{owner}/{name}")
        if files is None:
            return self.answer(401, {"X-Error-Code": "RepoNotFound"})
        revision = rest[1] if len(rest) > 1 else "main"
        commit = COMMITS.get(revision, revision)
        if commit not in COMMITS.values():
            return self.answer(404, {"X-Error-Code": "RevisionNotFound"})
        if is_api and rest[:1] == ["tree"]:
            entries = [
                {"type": "file", "path": file, "size": len(raw), "oid": _digest(raw)} for file, raw in files.items()
            ]
            return self.answer(200, body=json.dumps(entries).encode())
        if is_api:
            siblings = [{"rfilename": file} for file in files]
            return self.answer(
                200, body=json.dumps({"id": f"{owner}/{name}", "sha": commit, "siblings": siblings}).encode()
            )
        if name == "forbidden":
            return self.answer(403)
        if f"{owner}/{name}" in self.server.gated:
            return self.answer(403, {"X-Error-Code": "GatedRepo"})
        raw = files["/".join(rest[2:])]
        if self.command == "GET":
            self.server.served.append("/".join(rest[2:]))
        return self.answer(200, {"ETag": f'"{_digest(raw)}"', "X-Repo-Commit": commit}, raw)

    def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def _digest(raw: bytes) -> str:
    return hashlib.sha1(raw, usedforsecurity=False).hexdigest()


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one `resolve` in another process gave: a folder, or an error; and what it warned."""

    path: Path | None
    error: str
    warning: str


@dataclasses.dataclass(frozen=True)
class Client:
    """A user's process: huggingface_hub reads HF_ENDPOINT when it is imported, so it needs one of its own."""

    endpoint: str
    cache: Path

    def ask(self, *calls: dict[str, object], **environment: str) -> list[Answer]:
        code = (
            "import json, sys, warnings\n"
            "from t5kit.checkpoint import resolve\n"
            "from t5kit.errors import ModelNotFoundError\n"
            "for call in json.loads(sys.argv[1]):\n"
            "    with warnings.catch_warnings(record=True) as caught:\n"
            "        warnings.simplefilter('always', UserWarning)\n"
            "        try: answer = [str(resolve(**call)), '']\n"
            "        except ModelNotFoundError as error: answer = [None, str(error)]\n"
            "    print(json.dumps([*answer, ' '.join(str(w.message) for w in caught)]))\n"
        )
        usual = {key: value for key, value in os.environ.items() if not key.upper().endswith("_PROXY")}
        usual |= {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(self.cache), "HF_HUB_OFFLINE": "0", "NO_PROXY": "*"}
        usual |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_TOKEN": ""} | environment
        done = subprocess.run(
            [sys.executable, "-c", code, json.dumps(calls)], capture_output=True, text=True, env=usual, timeout=60
        )
        assert done.returncode == 0, done.stderr
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        return [Answer(Path(path) if path else None, error, warning) for path, error, warning in answers]


@pytest.fixture
def client(hub: Hub, tmp_path: Path) -> Client:
    return Client(hub.url, tmp_path / "cache")


@pytest.fixture
def files(saved: Path) -> dict[str, bytes]:
    """A model's files as they lie in a repository, with others that must not be fetched."""
    others = {"README.md": b"#", "tf_model.h5": b"x", "onnx/model.safetensors": b"x", "pytorch_model.bin": b"x"}
    others |= {"spiece.model": b"s", "tokenizer.json": b"{}", "model.fp16.safetensors": b"x", ".gitattributes": b""}
    return {path.name: path.read_bytes() for path in saved.iterdir()} | others


WANTED = {"config.json", "generation_config.json", "model.safetensors", "spiece.model", "tokenizer.json"}


def test_a_hub_id_is_fetched_once_and_then_comes_from_the_cache(
    hub: Hub, client: Client, files: dict[str, bytes], saved: Path
) -> None:
    hub.models["some/model"] = files
    call = {"name": "some/model"}
    first, second, offline = client.ask(call, call, {**call, "offline": True})
    assert first.path == second.path == offline.path
    assert first.path.name == COMMITS["main"]
    assert sorted(hub.served) == sorted(WANTED)
    assert {path.name for path in first.path.iterdir()} == WANTED
    ours, fetched = open_folder(saved), open_folder(first.path)
    assert fetched.config == ours.config
    assert [view.data for view in fetched.tensors()] == [view.data for view in ours.tensors()]

    # Offline by environment, and a Hub that is down: the cache serves, the latter with a warning.
    assert client.ask(call, HF_HUB_OFFLINE="1")[0] == first
    hub.is_broken = True
    (broken,) = client.ask(call)
    assert broken.path == first.path
    assert "cannot be used" in broken.warning
    assert len(hub.served) == len(WANTED)


def test_revisions_are_kept_apart(hub: Hub, client: Client, files: dict[str, bytes]) -> None:
    hub.models["some/model"] = files
    name = "some/model"
    answers = client.ask(
        {"name": name, "revision": "v2"},
        {"name": name, "revision": COMMITS["v2"]},
        {"name": name, "revision": "v9"},
        {"name": name, "revision": "main", "offline": True},
        {"name": name, "revision": "v2", "offline": True},
        {"name": name, "revision": "../v2"},
    )
    assert [answer.path.name if answer.path else None for answer in answers] == [
        COMMITS["v2"], COMMITS["v2"], None, None, COMMITS["v2"], None,
    ]  # fmt: skip
    assert "no revision 'v9'" in answers[2].error
    assert "at revision main is not in the Hugging Face cache" in answers[3].error
    assert "no possible revision" in answers[5].error


def test_every_failure_has_its_sentence(hub: Hub, client: Client, files: dict[str, bytes], saved: Path) -> None:
    hub.models |= {
        "some/gated": files,
        "some/empty": {"README.md": b""},
        "some/flax": {"config.json": b"{}", "flax.msgpack": b""},
    }
    hub.models["some/forbidden"] = files
    hub.gated.add("some/gated")
    names = ("some/absent", "some/gated", "some/forbidden", "some/empty", "some/flax")
    absent, gated, forbidden, empty, flax, offline = client.ask(
        *({"name": name} for name in names), {"name": "some/model", "offline": True}
    )
    assert "the Hub shows no model of this name" in absent.error
    assert "is gated" in gated.error
    assert "403" in forbidden.error
    assert "Log in" in forbidden.error
    assert "has no config.json" in empty.error
    assert "no weights that t5kit reads" in flax.error
    assert "offline mode forbids" in offline.error
    hub.is_broken = True
    (broken,) = client.ask({"name": "some/model"})
    assert f"could not be fetched from {hub.url}" in broken.error
    assert "500" in broken.error


def test_a_refused_connection_is_said_at_once(tmp_path: Path) -> None:
    (answer,) = Client("http://127.0.0.1:9", tmp_path).ask({"name": "some/model"})
    assert "could not be fetched from http://127.0.0.1:9 and is not cached" in answer.error
    assert "refused" in answer.error


def test_a_cache_that_is_not_whole_does_not_count(hub: Hub, client: Client, files: dict[str, bytes]) -> None:
    hub.models["some/model"] = files
    (fetched,) = client.ask({"name": "some/model"})
    (fetched.path / "model.safetensors").unlink()
    answer, again = client.ask({"name": "some/model", "offline": True}, {"name": "some/model"})
    assert "or not whole" in answer.error
    open_folder(again.path)


# Which files


def test_bin_files_are_fetched_only_where_there_are_no_safetensors() -> None:
    files = ["config.json", "pytorch_model.bin", "model.safetensors", "spiece.model"]
    assert set(wanted_files("x", files)) == {"config.json", "model.safetensors", "spiece.model"}
    assert set(wanted_files("x", [*files[:2], *files[3:]])) == {"config.json", "pytorch_model.bin", "spiece.model"}


@pytest.mark.parametrize(
    ("single", "stem"),
    [("model.safetensors", "model"), ("pytorch_model.bin", "pytorch_model"), ("t5kit-int8.safetensors", "t5kit-int8")],
)
def test_shards_come_with_their_index(single: str, stem: str) -> None:
    ending = single.rpartition(".")[2]
    shards = [f"{stem}-0000{i}-of-00002.{ending}" for i in (1, 2)]
    files = ["config.json", f"{single}.index.json", *shards, f"other.{ending}", f"sub/{shards[0]}"]
    assert set(wanted_files("x", files)) == {"config.json", f"{single}.index.json", *shards}


def test_names_that_would_be_patterns_are_not_fetched() -> None:
    files = ["config.json", "model.safetensors", "*", "[a].model", "../x.model", "-x.model"]
    assert wanted_files("x", files) == ["config.json", "model.safetensors"]


# Paths


def test_a_folder_stays_itself(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(saved.parent)
    monkeypatch.setenv("HOME", str(saved.parent))
    assert resolve(str(saved)) == saved
    for name in ("saved", "./saved", "saved/", "../" + saved.parent.name + "/saved", "~/saved"):
        assert resolve(name).resolve() == saved.resolve()


def test_mini_is_the_built_in_model_and_a_folder_of_that_name_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mini").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve("mini").parent.name == "t5kit"
    assert resolve("./mini") == Path("mini")
    with pytest.raises(ModelNotFoundError, match=r"no revision .main."):
        resolve("mini", revision="main")


def test_an_installation_without_the_built_in_model_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(t5kit.checkpoint.hub, "_BUILT_IN_FOLDER", tmp_path / "mini")
    with pytest.raises(ModelNotFoundError, match=r"lacks the built-in model.*mini"):
        resolve("mini")


@pytest.mark.parametrize(
    "name", ["./absent", "/absent", "a/b/c", "absent/", "C:\\models\\t5", "..", "~nobody/x", "a\\b"]
)
def test_what_looks_like_a_path_is_never_asked_of_the_hub(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    if name == "..":
        assert resolve(name) == Path("..")
        return
    with pytest.raises(ModelNotFoundError, match=r"no folder|cannot be opened"):
        resolve(name)


@pytest.mark.parametrize(
    "name", ["a b", "ä/b", "a--b", "a..b/c", "x" * 97, "x" * 5000, "a\0b", "a\n", "model.git", "#", ""]
)
def test_malformed_names_are_refused_without_asking_anybody(name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"possible Hub id|is empty|cannot be opened") as caught:
        resolve(name)
    assert str(caught.value).isprintable()


def test_a_file_is_no_folder(saved: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="is a file"):
        resolve(str(saved / "config.json"))


def test_a_folder_of_the_hub_s_cache_tells_its_id() -> None:
    cached = Path("/cache/hub/models--google--flan-t5-small/snapshots/0fc9ddf")
    assert id_of(cached) == "google/flan-t5-small"
    assert id_of(Path("/models/flan-t5-small")) is None
    assert id_of(resolve("mini")) == "mini"
