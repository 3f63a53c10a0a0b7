"""Fine-tune a T5 folder by Hugging Face's Seq2SeqTrainer for so many seconds, and answer: bench/finetune.py's peer.

    python bench/huggingface_trainer.py SPEC.json

SPEC.json holds {"model", "scratch": folders, "train": [[input, target], …], "prompts": [input, …], "seconds", "lr",
"bf16", "max_new_tokens"}. One JSON object on standard output: {"predictions": [text, …], "num_steps", "num_epochs",
"seconds", "step_seconds", "losses"}; what libraries print goes to standard error.

The settings are those that T5 users are told to take: AdamW, batches of 8, padded to their longest, the learning rate
falling to 0 in a straight line, gradients clipped at 1, dropout as the folder says; the last weights answer, greedily.
For the fall to end when the time does, some steps are timed first, on a model that is thrown away and off the clock.
"""

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import safe_open

BATCH_SIZE = 8
MAX_INPUT, MAX_TARGET = 1024, 128
"""Tokens; what run_summarization.py of transformers cuts at."""
NUM_TIMED, NUM_WARMUP = 30, 3
"""Steps that are run to see how long one takes, and how many of them do not count."""


class Clock(transformers.TrainerCallback):
    """When every step ended; stops the training once its time is over."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = 0.0
        self.ends: list[float] = []
        """Seconds from the beginning of the training."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.ends.append(time.perf_counter() - self._began)
        if self.ends[-1] >= self._seconds:
            control.should_training_stop = True

    def step_seconds(self) -> float:
        """Return the mean time of a step after the first few."""
        first = min(NUM_WARMUP, len(self.ends) - 1)
        if first == 0:
            return self.ends[0]
        return (self.ends[-1] - self.ends[first - 1]) / (len(self.ends) - first)


def load_model(folder: Path) -> Any:
    """Return the folder's model in float32, its head as the file has it.

    transformers 5 has left the heads of untied folders tied or random; a wrong head would make this bench a lie.
    """
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        head = "lm_head.weight" if "lm_head.weight" in file.keys() else "shared.weight"  # noqa: SIM118
        assert torch.equal(model.lm_head.weight, file.get_tensor(head).float()), "the head is not the folder's"
    return model


def examples_of(tokenizer: Any, pairs: Sequence[Sequence[str]]) -> list[dict[str, list[int]]]:
    inputs = tokenizer([source for source, _ in pairs], max_length=MAX_INPUT, truncation=True)
    targets = tokenizer(text_target=[target for _, target in pairs], max_length=MAX_TARGET, truncation=True)
    return [
        {"input_ids": ids, "attention_mask": mask, "labels": labels}
        for ids, mask, labels in zip(inputs["input_ids"], inputs["attention_mask"], targets["input_ids"], strict=True)
    ]


def train(spec: dict[str, Any], tokenizer: Any, examples: list[Any], *, num_steps: int, seconds: float) -> Any:
    """Return the trained model, the clock and the losses that were logged."""
    model = load_model(Path(spec["model"]))
    clock = Clock(seconds)
    trainer = transformers.Seq2SeqTrainer(
        model=model,
        args=transformers.Seq2SeqTrainingArguments(
            output_dir=spec["scratch"],
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=spec["lr"],
            lr_scheduler_type="linear",
            max_steps=num_steps,
            bf16=spec["bf16"],
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_steps=max(1, num_steps // 20),
            report_to="none",
            disable_tqdm=True,
            seed=0,
        ),
        train_dataset=examples,
        data_collator=transformers.DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
        callbacks=[clock],
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return model, clock, losses


@torch.inference_mode()
def answers_of(model: Any, tokenizer: Any, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
    """Return the greedy answers, shortest prompts first for the sake of padding, given back in order."""
    model.eval()
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    for first in range(0, len(order), 32):
        places = order[first : first + 32]
        batch = tokenizer(
            [prompts[place] for place in places],
            max_length=MAX_INPUT, truncation=True, padding=True, return_tensors="pt",
        ).to(model.device)  # fmt: skip
        ids = model.generate(**batch, max_new_tokens=max_new_tokens, num_beams=1, do_sample=False)
        for place, text in zip(places, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
            answers[place] = text
    return answers


def main() -> None:
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    result_stream, sys.stdout = sys.stdout, sys.stderr  # the Trainer prints its logs
    transformers.set_seed(0)
    tokenizer = transformers.AutoTokenizer.from_pretrained(spec["model"])
    examples = examples_of(tokenizer, spec["train"])
    _, timed, _ = train(spec, tokenizer, examples, num_steps=NUM_TIMED, seconds=spec["seconds"])
    num_steps = max(1, int(spec["seconds"] / timed.step_seconds()))
    model, clock, losses = train(spec, tokenizer, examples, num_steps=num_steps, seconds=spec["seconds"])
    result = {
        "predictions": answers_of(model, tokenizer, spec["prompts"], spec["max_new_tokens"]),
        "num_steps": len(clock.ends),
        "num_steps_planned": num_steps,
        "num_epochs": len(clock.ends) * BATCH_SIZE / len(examples),
        "seconds": clock.ends[-1],
        "step_seconds": clock.step_seconds(),
        "losses": losses,
    }
    print(json.dumps(result), file=result_stream)


if __name__ == "__main__":
    main()
