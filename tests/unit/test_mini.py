"""mini, the built-in model: the wheel carries the committed stage, quantised, and it answers without PyTorch."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import t5kit
from t5kit.checkpoint import open_folder, resolve, write_folder
from t5kit.text import load_tokenizer

ROOT = Path(__file__).parents[2]
STAGE = ROOT / "models" / "mini-3"
"""The last stage that is kept in bfloat16; what the wheel has is a mean of it and the fourth."""
MOST_BYTES = 25_000_000

ANSWERS = {
    "pronounce: superficial": "S UW P ER F IH SH AH L",
    "inflect noun plural: pedestal": "pedestals",
    "inflect verb past: rein": "reined",
    "spell: argumetns": "arguments",
}


@pytest.fixture(scope="module")
def mini() -> Iterator[t5kit.Model]:
    with t5kit.Model.from_pretrained("mini") as model:
        yield model


def test_the_wheel_carries_int8_that_stands_for_itself_in_the_shape_of_the_committed_stage(tmp_path: Path) -> None:
    stage, shipped = open_folder(STAGE), open_folder(resolve("mini"))
    assert shipped.config == stage.config and shipped.dtype == "int8"
    write_folder(tmp_path / "whole", shipped.config, shipped.tensors(), dtype="float32")
    whole = open_folder(tmp_path / "whole")
    write_folder(tmp_path / "int8", whole.config, whole.tensors(), weights="int8")
    again = open_folder(tmp_path / "int8")
    for name in shipped.names():
        np.testing.assert_array_equal(again.tensor(name).to_float32(), shipped.tensor(name).to_float32(), name)
    name = "encoder.block.0.layer.0.SelfAttention.q.weight"
    ours, theirs = whole.tensor(name).to_float32().ravel(), stage.tensor(name).to_float32().ravel()
    assert not np.array_equal(ours, theirs) and np.corrcoef(ours, theirs)[0, 1] > 0.9  # it began there
    assert shipped.prefixes == stage.prefixes
    assert load_tokenizer(resolve("mini")).character_rules == load_tokenizer(STAGE).character_rules


def test_it_fits_into_the_wheel() -> None:
    assert sum(path.stat().st_size for path in resolve("mini").iterdir()) <= MOST_BYTES


@pytest.mark.parametrize("prompt", ANSWERS)
def test_it_answers(mini: t5kit.Model, prompt: str) -> None:
    assert mini.generate(prompt) == ANSWERS[prompt]


def test_the_engines_give_the_same_texts(mini: t5kit.Model) -> None:
    with t5kit.Model.from_pretrained("mini", engine="torch") as torch_model:
        assert torch_model.generate(list(ANSWERS)) == list(ANSWERS.values())


def test_its_card_tells_every_task_that_the_folder_names(mini: t5kit.Model) -> None:
    card = (resolve("mini") / "README.md").read_text(encoding="utf-8")
    missing = [prefix for prefix in mini.folder.prefixes.values() if f"`{prefix}" not in card]
    assert mini.folder.prefixes and not missing


def test_a_command_without_a_model_asks_mini_without_network_or_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "sys.modules['torch'] = None  # importing it fails\n"
        "sys.argv = ['t5kit', 'generate', 'inflect noun plural: pedestal', '--json']\n"
        "from t5kit.cli.main import main\n"
        "main()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "T5KIT_MODEL"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "T5KIT_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["text"] == "pedestals"


def test_it_can_be_fine_tuned_and_an_adapter_of_it_names_it(tmp_path: Path) -> None:
    """Its weights are int8 in the wheel: training goes on from what they stand for, and keeps the letters of words."""
    records = [{"text": f"pronounce: word{'x' * n}", "label": "AH"} for n in range(12)]
    with t5kit.Model.from_pretrained("mini", engine="torch") as model:
        model.fit(records, input="text", target="label", method="lora", num_steps=2, run_folder=tmp_path / "run")
    stated = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert stated["base_model_name_or_path"] == "mini"
    trained = open_folder(tmp_path / "run" / "model")
    assert trained.dtype == "float32" and trained.prefixes["pronounce a word"] == "pronounce: "
    assert len(load_tokenizer(trained.path).encode("pronounce: abcdefgh")) > 10


def test_the_demo_answers_its_texts_without_pytorch() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "demo" / "run.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    texts = (ROOT / "demo" / "mini.jsonl").read_text(encoding="utf-8").splitlines()
    told = done.stdout.splitlines()[-1]
    assert told.startswith(f"{len(texts)} texts answered") and told.endswith("PyTorch was not loaded.")
    shown = [line.split("│")[1:-1] for line in done.stdout.splitlines() if line.startswith("│")]
    tasks = {json.loads(text)["task"] for text in texts}
    assert {row[0].strip() for row in shown} - {""} == tasks
    assert sum(bool(row[0].strip()) and bool(row[2].strip()) for row in shown) == len(texts), "a text has no answer"
