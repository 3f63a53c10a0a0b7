"""Make synopsis64.json: 64 real texts with the answers that Hugging Face transformers gives them.

    python tests/golden/make_synopsis64.py INPUTS.tsv[.gz] MODEL_DIR

INPUTS has an input and a target on each line, with a tab between; the first 64 inputs are taken. MODEL_DIR is
FLAN-T5-small as `make weights` converts it. Each prompt is computed alone, in float32, with transformers' defaults (no
early stopping, length penalty 1). Made with transformers 5.23 and torch 2.13.
"""

import gzip
import json
import sys
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from tokenizers import Tokenizer

NUM_TEXTS = 64
MAX_INPUT_TOKENS = 128
MAX_NEW_TOKENS = 32
NUM_BEAMS = 4
LICENCE = (
    "The inputs are descriptions of packages from the Debian archive, each under its package's own free licence; the "
    "answers were computed from them."
)


def load_model(folder: Path) -> transformers.T5ForConditionalGeneration:
    """Return the model in float32, having made sure that its head and embedding are the file's own two tensors."""
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    # transformers 5 leaves the embedding random if tie_word_embeddings=False is passed, and ties in silence elsewhere.
    state = model.state_dict()
    with safe_open(folder / "model.safetensors", "pt") as stored:
        for name in ("shared.weight", "lm_head.weight"):
            if not torch.equal(state[name], stored.get_tensor(name)):
                sys.exit(f"transformers did not load {name} as it is in {folder}; its answers would be wrong.")
    return model


def read_texts(path: Path) -> list[str]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        return [line.split("\t")[0] for line, _ in zip(lines, range(NUM_TEXTS), strict=False)]


def encode(texts: list[str], tokenizer_file: Path) -> list[list[int]]:
    """Return ids that end in EOS, at most MAX_INPUT_TOKENS of them."""
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    sequences = []
    for text in texts:
        ids = tokenizer.encode(text).ids
        assert ids[-1] == 1
        sequences.append(ids if len(ids) <= MAX_INPUT_TOKENS else [*ids[: MAX_INPUT_TOKENS - 1], 1])
    return sequences


@torch.inference_mode()
def answer(model: transformers.T5ForConditionalGeneration, ids: list[int], num_beams: int) -> tuple[list[int], float]:
    """Return the answer's ids without the start token, and its score (0 for greedy search, which has none)."""
    made = model.generate(
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        num_beams=num_beams,
        max_new_tokens=MAX_NEW_TOKENS,
        return_dict_in_generate=True,
        output_scores=True,
    )
    score = float(made.sequences_scores[0]) if num_beams > 1 else 0.0
    return made.sequences[0, 1:].tolist(), score


def main() -> None:
    inputs, folder = Path(sys.argv[1]), Path(sys.argv[2])
    texts = read_texts(inputs)
    model = load_model(folder)
    rows = []
    for text, ids in zip(texts, encode(texts, folder / "tokenizer.json"), strict=True):
        greedy, _ = answer(model, ids, 1)
        beam, score = answer(model, ids, NUM_BEAMS)
        rows.append({"text": text, "encoder_ids": ids, "greedy_ids": greedy, "beam4_ids": beam, "beam4_score": score})
        print(f"{len(rows)} of {len(texts)}", file=sys.stderr)
    head = {
        "licence": LICENCE,
        "made_by": f"make_synopsis64.py with transformers {transformers.__version__}, torch {torch.__version__}",
        "max_new_tokens": MAX_NEW_TOKENS,
    }
    out = Path(__file__).with_name("synopsis64.json")
    body = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    out.write_text(json.dumps(head, indent=1)[:-2] + f',\n "rows": [\n{body}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
