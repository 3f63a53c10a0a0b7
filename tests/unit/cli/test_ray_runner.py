"""What `--runner ray` decides before and around Ray; no cluster is needed here."""

import builtins
import dataclasses
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from t5kit.cli.answering import AnswerForm, RepeatCounts, good_texts, pass_over
from t5kit.cli.main import main
from t5kit.cli.ray_runner import ActorPlan, RayJob, _Actor, _read, plan_actors, ray_cluster
from t5kit.errors import DependencyError, EngineError, RequestError
from t5kit.testing.folders import write_tiny_folder
from t5kit.text import ByteTokenizer

EIGHT = {"CPU": 8.0, "memory": 1e9}


@pytest.mark.parametrize(
    ("nodes", "num_actors", "threads", "plan"),
    [
        ([EIGHT, EIGHT], None, None, ActorPlan(2, 8)),  # one a node, all of its processors
        ([EIGHT, {"CPU": 4.0}], None, None, ActorPlan(3, 4)),  # the smallest node's, and two on the larger
        ([{"memory": 1e9}, EIGHT], None, None, ActorPlan(1, 8)),  # a head node without processors holds none
        ([EIGHT, EIGHT], None, 2, ActorPlan(8, 2)),
        ([EIGHT, EIGHT], 4, None, ActorPlan(4, 4)),
        ([EIGHT, EIGHT], 3, None, ActorPlan(3, 4)),  # 5 threads would leave room for two
        ([EIGHT], 1, 3, ActorPlan(1, 3)),
    ],
)
def test_as_many_actors_as_fit(
    nodes: Sequence[dict[str, float]], num_actors: int | None, threads: int | None, plan: ActorPlan
) -> None:
    assert plan_actors(nodes, num_actors=num_actors, threads=threads, uses_gpu=False) == plan


def test_an_actor_on_a_gpu_takes_one_and_its_share_of_the_processors() -> None:
    nodes = [{"CPU": 16.0, "GPU": 4.0}, EIGHT]
    assert plan_actors(nodes, num_actors=None, threads=None, uses_gpu=True) == ActorPlan(4, 4)
    with pytest.raises(RequestError, match="room for 4"):
        plan_actors(nodes, num_actors=5, threads=1, uses_gpu=True)
    with pytest.raises(EngineError, match="no node with a CPU and a GPU"):
        plan_actors([EIGHT], num_actors=None, threads=None, uses_gpu=True)


@pytest.mark.parametrize(("num_actors", "threads"), [(3, 8), (17, None), (None, 9)])
def test_what_does_not_fit_is_refused_and_not_waited_for(num_actors: int | None, threads: int | None) -> None:
    with pytest.raises(RequestError, match=r"were asked for, and the Ray cluster has room for \d+"):
        plan_actors([EIGHT, EIGHT], num_actors=num_actors, threads=threads, uses_gpu=False)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_ray(name: str, *words: object, **more: object) -> object:
        if name.split(".")[0] == "ray":
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
        return real(name, *words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_ray)
    with (
        pytest.raises(DependencyError, match=r"--runner ray needs .*'ray'.* pip install 't5kit\[ray\]'"),
        ray_cluster("local"),
    ):
        pass


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--runner", "dask", "a"], "--runner 'dask' must be one of: local, ray."),
        (["--runner", "ray", "a"], "--runner ray answers the texts of a file"),
        (["--runner", "ray", "-i", "-"], "--runner ray answers the texts of a file"),
        (["--num-actors", "2", "a"], "are for --runner ray"),
        (["--runner", "ray", "-i", "FILE", "--num-beams", "0"], "num_beams = 0"),
        (["--runner", "ray", "-i", "FILE", "--ray-address", "ray://head:10001"], "Run the command on a node"),
        (["--runner", "ray", "-i", "missing.txt"], "missing.txt: cannot be read"),
    ],
)
def test_misuse_is_one_sentence_before_a_cluster_is_asked(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "texts.txt").write_text("a\n")
    folder = write_tiny_folder(tmp_path / "tiny")
    words = [str(tmp_path / "texts.txt") if word == "FILE" else word for word in arguments]
    monkeypatch.setattr(sys, "argv", ["t5kit", "generate", "-m", str(folder), *words])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code in (1, 2)
    assert said in capsys.readouterr().err


def test_counts_go_on_in_another_process_as_if_it_had_read_the_file() -> None:
    texts = ["a", "b", "a", "a", "c", "b", "a"]

    def new() -> RepeatCounts:
        return RepeatCounts(ByteTokenizer(), max_input_tokens=10, truncate=False)

    reader = new()
    assert reader.add(texts[:3]) == [0, 0, 1]
    second = texts[3:]
    before = pickle.loads(pickle.dumps(reader.add(second)))
    actor = new()
    actor.start_at(second, before)
    whole = new()
    whole.add(texts[:3])
    assert {key: whole.counts[key] for key in actor.counts} == actor.counts


def test_passing_over_counts_and_tells_of_a_shorter_file() -> None:
    counts = RepeatCounts(ByteTokenizer(), max_input_tokens=10, truncate=False)
    items = iter([("f:1", "a"), ("f:2", "b"), ("f:3", "a"), ("f:4", "a")])
    pass_over(items, 3, counts, batch_size=2)
    assert counts.add(good_texts(list(items))) == [2]
    with pytest.raises(RequestError, match="There are 3 answers already, but 2 texts fewer"):
        pass_over(iter([("f:1", "a")]), 3, None, batch_size=2)


def test_what_a_process_of_the_cluster_cannot_do_comes_back_as_a_value(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "tiny")
    (tmp_path / "texts.txt").write_text("a\nb\na\n")
    words = {"engine": "reference", "weights": "auto", "device": "auto", "revision": None, "offline": None}
    job = RayJob(
        model=str(folder), model_words={**words, "max_input_tokens": 10, "max_cache_bytes": None},
        form=AnswerForm(arguments={"max_new_tokens": 2}, truncate=False, as_json=False, num_answers=1),
        input=Path("texts.txt"), folder=tmp_path, format=None, field=None, batch_size=2, num_done=0, does_sample=False,
    )  # fmt: skip
    first, second = _read({}, job)
    actor = _Actor(job)
    answered = [pickle.loads(actor({"chunk": each["chunk"]})["chunk"][0]) for each in (first, second)]
    assert [each.num_texts for each in answered] == [2, 1]
    (refused,) = _read({}, dataclasses.replace(job, num_done=4))
    assert "There are 4 answers already" in str(pickle.loads(actor(refused)["chunk"][0]))
    broken = _Actor(dataclasses.replace(job, model_words={**job.model_words, "engine": "quantum"}))
    assert isinstance(pickle.loads(broken(first)["chunk"][0]), RequestError)
