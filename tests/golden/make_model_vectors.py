"""Remake tests/golden/models: one tiny random checkpoint a family, and what Hugging Face transformers computes with it.

Run by hand, never by a test:  python tests/golden/make_model_vectors.py        (transformers 5.23.0, torch, CPU)

Weights are random, then trained for some steps on a random walk (`_walk`): untrained ones fall into loops and never
end. So outputs differ between inputs, some end in EOS, some do not, and the next token is rarely certain. The first
seed that passes `_behaviour_faults` is taken; the same libraries on the same kind of machine give the same files.
Everything is float32, eager attention, one text at a time (no padding anywhere), and every decoded sequence must be
the same in float64, so that no vector hangs on a rounding.
"""

import copy
import dataclasses
import itertools
import json
import math
import pathlib
import warnings

import numpy as np
import torch
import transformers
from torch import nn

warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
torch.set_num_threads(1)

OUT = pathlib.Path(__file__).parent / "models"
MAX_NEW_TOKENS = 24
NUM_BEAMS = 4
ENCODER_LENGTHS = (1, 2, 3, 7, 12, 19, 33, 40)
LABEL_LENGTHS = (1, 4, 12, 2, 9, 6, 12, 3)
LENGTH_PENALTIES = (0.6, 1.0, 2.0)
EARLY_STOPPING = {"false": False, "true": True, "never": "never"}
IGNORED_LABEL = -100
NUM_TRAINING_STEPS = 240
LEARNING_RATE = 3e-3


@dataclasses.dataclass(frozen=True)
class Family:
    """One architecture to freeze; `is_tied` says whether lm_head is the embedding."""

    model: type[transformers.PreTrainedModel]
    config: transformers.PreTrainedConfig
    is_tied: bool


def _families() -> dict[str, Family]:
    sizes = dict(d_model=32, d_kv=8, d_ff=64, num_layers=2, num_decoder_layers=2, dropout_rate=0.0)
    sizes |= dict(decoder_start_token_id=0, initializer_factor=1.0)
    t5, t5_config = transformers.T5ForConditionalGeneration, transformers.T5Config
    gated = dict(feed_forward_proj="gated-gelu")
    byt5_sizes = sizes | gated | dict(num_layers=3, num_decoder_layers=1)
    umt5_config = transformers.UMT5Config(vocab_size=96, num_heads=5, **sizes, **gated)
    mt5_config = transformers.MT5Config(vocab_size=112, num_heads=6, **sizes, **gated)
    # tie_word_embeddings=False is how transformers 5 is told not to scale; it saves it as scale_decoder_outputs=false.
    v1_1_config = t5_config(vocab_size=96, num_heads=6, tie_word_embeddings=False, **sizes, **gated)
    byt5_config = t5_config(vocab_size=128, num_heads=4, tie_word_embeddings=False, **byt5_sizes)
    return {
        "t5_v1_0": Family(t5, t5_config(vocab_size=128, num_heads=4, **sizes), True),
        "t5_v1_1": Family(t5, v1_1_config, False),
        "mt5": Family(transformers.MT5ForConditionalGeneration, mt5_config, False),
        "umt5": Family(transformers.UMT5ForConditionalGeneration, umt5_config, False),
        "byt5": Family(t5, byt5_config, False),
    }


def _build(family: Family, seed: int) -> transformers.PreTrainedModel:
    """Return the family's model with seeded weights, truly untied where the family is."""
    model = family.model(copy.deepcopy(family.config))
    model.set_attn_implementation("eager")
    if not family.is_tied:
        # transformers 5 ties every fresh T5; official untied folders hold both tensors, and so do these.
        model.lm_head.weight = nn.Parameter(torch.empty_like(model.shared.weight))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        value = torch.randn(parameter.shape, generator=generator)
        parameter.data = value * _scale(name, family) + (1.0 if "layer_norm" in name else 0.0)
    return model


def _scale(name: str, family: Family) -> float:
    """Return the standard deviation of one tensor's weights; norms vary around 1."""
    width, inner, feed_forward = family.config.d_model, family.config.num_heads * family.config.d_kv, family.config.d_ff
    if "layer_norm" in name:
        return 0.1
    if "relative_attention_bias" in name or name == "shared.weight":
        return 1.0
    if name.endswith(".q.weight"):
        return 2.0 * (width * family.config.d_kv) ** -0.5
    if name.endswith(".o.weight"):
        return 2.0 * inner**-0.5
    if name.endswith(".wo.weight"):
        return 2.0 * feed_forward**-0.5
    return width**-0.5


def _walk(first: int, vocab_size: int, seed: int, jumps: np.random.Generator | None) -> list[int]:
    """Return a walk through one of two seeded permutations, chosen by the input's first token and begun there.

    It ends in EOS after a token divisible by 16, or without EOS at MAX_NEW_TOKENS. With `jumps`, one step in eight goes
    to a random token.
    """
    steps = np.random.Generator(np.random.Philox(seed)).permuted(np.tile(np.arange(2, vocab_size), (2, 1)), axis=1)
    token, walk = max(first, 2), []
    while len(walk) < MAX_NEW_TOKENS:
        jumps_now = jumps is not None and jumps.random() < 1 / 8
        token = int(jumps.integers(2, vocab_size) if jumps_now else steps[first % 2, token - 2])
        walk.append(token)
        if token % 16 == 0:
            return [*walk, 1][:MAX_NEW_TOKENS]
    return walk


def _train(model: transformers.PreTrainedModel, seed: int) -> None:
    """Train the model on noisy walks from the frozen inputs, one input a step in turn, without reaching certainty."""
    rng, vocab_size = np.random.Generator(np.random.Philox(1000 + seed)), model.config.vocab_size
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    for step in range(NUM_TRAINING_STEPS):
        source = _encoder_inputs(vocab_size)[step % len(ENCODER_LENGTHS)]
        labels = _padded([_walk(source[0], vocab_size, seed, rng) for _ in range(8)], MAX_NEW_TOKENS, IGNORED_LABEL)
        loss = model(input_ids=torch.tensor([source] * 8), labels=torch.tensor(labels, dtype=torch.long)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()


def _encoder_inputs(vocab_size: int) -> list[list[int]]:
    """Return inputs of ENCODER_LENGTHS, each ending in EOS; the fifth has the padding id 0 in its middle."""
    rng = np.random.Generator(np.random.Philox(20_240_501))
    inputs = [[*rng.integers(2, vocab_size, n - 1).tolist(), 1] for n in ENCODER_LENGTHS]
    inputs[4][5] = 0
    return inputs


def _labels(vocab_size: int) -> list[list[int]]:
    rng = np.random.Generator(np.random.Philox(20_240_502))
    return [[*rng.integers(2, vocab_size, n - 1).tolist(), 1] for n in LABEL_LENGTHS]


def _cut(ids: list[int]) -> list[int]:
    """Return the tokens up to and with the first EOS."""
    return ids[: ids.index(1) + 1] if 1 in ids else ids


def _greedy(model: transformers.PreTrainedModel, ids: list[int]) -> list[int]:
    out = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=MAX_NEW_TOKENS,
        num_beams=1, do_sample=False,
    )  # fmt: skip
    return _cut(out[0, 1:].tolist())


def _beams(model: transformers.PreTrainedModel, ids: list[int], length_penalty: float, early_stopping: bool | str):
    out = model.generate(
        torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=MAX_NEW_TOKENS,
        num_beams=NUM_BEAMS, num_return_sequences=NUM_BEAMS, do_sample=False, length_penalty=length_penalty,
        early_stopping=early_stopping, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    return [_cut(row[1:].tolist()) for row in out.sequences], out.sequences_scores.tolist()


def _behaviour_faults(outputs: list[list[int]]) -> str:
    """Return why the greedy outputs are degenerate, or an empty string."""
    ended = sum(out[-1] == 1 for out in outputs)
    if not 3 <= ended < len(outputs):
        return f"{ended} outputs end"
    if any(len(out) < 2 for out in outputs) or len({len(out) for out in outputs if out[-1] == 1}) < 3:
        return "too short, or all of one length"
    if len({tuple(out) for out in outputs}) < len(outputs) - 1:
        return "outputs repeat each other"
    if any(len(set(out)) < 0.4 * len(out) for out in outputs) or len(set(itertools.chain(*outputs))) < 25:
        return "few distinct tokens"
    return ""


def _teacher_forced(model: transformers.PreTrainedModel, inputs: list[list[int]], labels: list[list[int]]) -> dict:
    """Return hidden states, logits, the mean loss over all label tokens, and gradients; one text at a time."""
    width, vocab_size = model.config.d_model, model.config.vocab_size
    num, most_in, most_out = len(inputs), max(ENCODER_LENGTHS), max(LABEL_LENGTHS)
    encoder_hidden, decoder_hidden = np.zeros((num, most_in, width), "f4"), np.zeros((num, most_out, width), "f4")
    logits = np.zeros((num, most_out, vocab_size), "f4")
    total = torch.zeros(())
    for i, (source, target) in enumerate(zip(inputs, labels, strict=True)):
        out = model(input_ids=torch.tensor([source]), labels=torch.tensor([target]), output_hidden_states=True)
        total = total + nn.functional.cross_entropy(out.logits[0], torch.tensor(target), reduction="sum")
        encoder_hidden[i, : len(source)] = out.encoder_last_hidden_state[0].detach().numpy()
        decoder_hidden[i, : len(target)] = out.decoder_hidden_states[-1][0].detach().numpy()
        logits[i, : len(target)] = out.logits[0].detach().numpy()
    loss = total / sum(LABEL_LENGTHS)
    loss.backward()
    made = dict(encoder_hidden=encoder_hidden, decoder_hidden=decoder_hidden, logits=logits, loss=loss.detach().numpy())
    for name, parameter in model.named_parameters():
        if (
            name in _GRADIENTS
            or name == f"decoder.block.{model.config.num_decoder_layers - 1}.layer.1.EncDecAttention.k.weight"
        ):
            made[f"gradient/{name}"] = parameter.grad.numpy()
    return made


_GRADIENTS = {
    "shared.weight",
    "lm_head.weight",
    "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",
    "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
    "encoder.block.1.layer.0.SelfAttention.q.weight",
    "encoder.block.0.layer.1.layer_norm.weight",
    "encoder.block.0.layer.1.DenseReluDense.wo.weight",
    "encoder.final_layer_norm.weight",
    "decoder.block.0.layer.0.SelfAttention.o.weight",
    "decoder.block.0.layer.2.DenseReluDense.wi.weight",
    "decoder.block.0.layer.2.DenseReluDense.wi_0.weight",
    "decoder.final_layer_norm.weight",
}


def _padded(rows: list[list[int]], width: int, filler: int) -> np.ndarray:
    return np.array([row + [filler] * (width - len(row)) for row in rows], dtype=np.int32)


def _decoded(model: transformers.PreTrainedModel, inputs: list[list[int]]) -> dict | None:
    """Return greedy and beam outputs, or None where float64 would decode something else or scores nearly tie."""
    greedy = [_greedy(model, ids) for ids in inputs]
    made = {
        "greedy_ids": _padded(greedy, MAX_NEW_TOKENS, -1),
        "greedy_lengths": np.array([len(row) for row in greedy], np.int32),
    }
    beams = {}
    for (label, early), penalty in itertools.product(EARLY_STOPPING.items(), LENGTH_PENALTIES):
        beams[f"beam/{penalty}/{label}"] = [_beams(model, ids, penalty, early) for ids in inputs]
    exact = model.double()
    same = greedy == [_greedy(exact, ids) for ids in inputs]
    for (label, early), penalty in itertools.product(EARLY_STOPPING.items(), LENGTH_PENALTIES):
        found = beams[f"beam/{penalty}/{label}"]
        wanted = [_beams(exact, ids, penalty, early) for ids in inputs]
        same = same and [ids for ids, _ in found] == [ids for ids, _ in wanted]
        same = same and all(min(-np.diff(scores)) > 1e-4 for _, scores in found)
    model.float()
    if not same:
        return None
    for key, found in beams.items():
        made[f"{key}/ids"] = np.stack([_padded(ids, MAX_NEW_TOKENS, -1) for ids, _ in found])
        made[f"{key}/lengths"] = np.array([[len(row) for row in ids] for ids, _ in found], np.int32)
        made[f"{key}/scores"] = np.array([scores for _, scores in found], "f4")
    return made


def _unscale_umt5(model: transformers.PreTrainedModel) -> None:
    """Apply umT5's head unscaled, as the published models need.

    transformers 5.23 multiplies umT5's logits by d_model^-0.5 whatever the folder says (t5x's scalable_t5 gins have
    logits_via_embedding=False). The flag is read at every call, and nothing else reads it after construction.
    """
    if model.config.model_type == "umt5":
        model.config.tie_word_embeddings = False


def _freeze(name: str, family: Family) -> None:
    inputs, labels = _encoder_inputs(family.config.vocab_size), _labels(family.config.vocab_size)
    for seed in range(2000):
        if _behaviour_faults([_walk(ids[0], family.config.vocab_size, seed, None) for ids in inputs]):
            continue
        model = _build(family, seed)
        written_config = copy.deepcopy(model.config)
        _unscale_umt5(model)
        _train(model, seed)
        fault = _behaviour_faults([_greedy(model, ids) for ids in inputs])
        decoded = None if fault else _decoded(model, inputs)
        if decoded is not None:
            break
        print(name, "seed", seed, "refused:", fault or "near ties")
    else:
        raise SystemExit(f"{name}: no seed gives usable vectors")
    folder = OUT / name
    model.config = written_config
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    _unscale_umt5(model)
    decoder_inputs = [[0, *row[:-1]] for row in labels]
    vectors = {
        "encoder_input_ids": _padded(inputs, max(ENCODER_LENGTHS), 0),
        "encoder_lengths": np.array(ENCODER_LENGTHS, np.int32),
        "decoder_input_ids": _padded(decoder_inputs, max(LABEL_LENGTHS), 0),
        "labels": _padded(labels, max(LABEL_LENGTHS), IGNORED_LABEL),
        "label_lengths": np.array(LABEL_LENGTHS, np.int32),
        **_teacher_forced(model, inputs, labels),
        **decoded,
    }
    np.savez_compressed(folder / "vectors.npz", **vectors)
    _check_saved(folder, family, vectors)
    for row, n in zip(decoded["greedy_ids"], decoded["greedy_lengths"], strict=True):
        print("   ", row[:n].tolist())
    print(name, "seed", seed, "loss", float(vectors["loss"]), "ln V", math.log(family.config.vocab_size))


def _check_saved(folder: pathlib.Path, family: Family, vectors: dict) -> None:
    """Fail unless the folder loads in transformers to the same logits and holds a head of its own where untied."""
    loaded = family.model.from_pretrained(folder, attn_implementation="eager")
    _unscale_umt5(loaded)
    assert (loaded.lm_head.weight is loaded.shared.weight) == family.is_tied
    n, t = vectors["encoder_lengths"][6], vectors["label_lengths"][6]
    with torch.no_grad():
        logits = loaded(
            input_ids=torch.tensor(vectors["encoder_input_ids"][6:7, :n], dtype=torch.long),
            decoder_input_ids=torch.tensor(vectors["decoder_input_ids"][6:7, :t], dtype=torch.long),
        ).logits[0]
    assert np.array_equal(logits.numpy(), vectors["logits"][6, :t])
    flags = json.loads((folder / "config.json").read_text())
    print(folder.name, {k: flags.get(k) for k in ("model_type", "tie_word_embeddings", "scale_decoder_outputs")})


if __name__ == "__main__":
    for _name, _family in _families().items():
        _freeze(_name, _family)
