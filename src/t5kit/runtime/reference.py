"""The reference runtime: T5 in plain NumPy, one sequence at a time, written for the reader.

It is the specification of every other runtime, and it is what answers where nothing faster is installed. There is no
padding and no batching anywhere: a row is computed alone, so that company cannot change it.

Dimension letters: S encoder length, T new decoder tokens, K key length, D d_model, H heads, E head width, F d_ff,
V vocabulary, R buckets.
"""

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from t5kit.checkpoint.adapters import Adapter, LowRankMap, SoftPrompt, check_adapter, check_soft_prompt
from t5kit.checkpoint.tensors import TensorView
from t5kit.config import Head, T5Config, tensor_shapes
from t5kit.errors import EngineError
from t5kit.runtime.adapters import NO_ADAPTER, check_adapter_count
from t5kit.runtime.edits import LogitEdits, apply_edits
from t5kit.runtime.protocol import Need, RuntimeDescription, StepInput, StepOutput
from t5kit.runtime.validation import (
    CLOSED,
    check_distinct,
    check_encoder_sequences,
    check_slots_with,
    check_step,
    check_targets,
)


def relative_position_buckets(
    relative_position: np.ndarray, *, is_bidirectional: bool, num_buckets: int, max_distance: int
) -> np.ndarray:
    """Return the bias bucket of each key position minus query position, same shape, int32 in [0, num_buckets).

    T5: half of a direction's buckets are exact distances, the other half grow with the logarithm up to max_distance.
    Source: mesh transformer_layers.py; float32 logarithm and truncation as there.
    """
    buckets = np.zeros(relative_position.shape, np.int32)
    if is_bidirectional:
        num_buckets //= 2
        buckets += np.where(relative_position > 0, num_buckets, 0).astype(np.int32)
        distance = np.abs(relative_position)
    else:
        distance = np.maximum(-relative_position, 0)
    num_exact = num_buckets // 2
    growth = np.log(np.maximum(distance, 1).astype(np.float32) / np.float32(num_exact)) / np.float32(
        math.log(max_distance / num_exact)
    )
    far = np.minimum(num_exact + (growth * np.float32(num_buckets - num_exact)).astype(np.int32), num_buckets - 1)
    return buckets + np.where(distance < num_exact, distance, far).astype(np.int32)


def rms_norm(x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    """Return x / sqrt(mean(x^2) + epsilon) * weight over the last axis. T5: no mean is subtracted, no bias added."""
    return x / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.float32(epsilon)) * weight


def softmax(x: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def activate(x: np.ndarray, activation: str) -> np.ndarray:
    """Return the feed-forward non-linearity of x, same shape."""
    match activation:
        case "relu":
            return np.maximum(x, 0)
        case "gelu_tanh":
            return 0.5 * x * (1 + np.tanh(np.float32(math.sqrt(2 / math.pi)) * (x + np.float32(0.044715) * x**3)))
        case "gelu":
            return 0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float32])(x / np.float32(math.sqrt(2))))
        case "silu":
            return x / (1 + np.exp(-x))
    raise EngineError(f"The reference runtime has no activation {activation!r}.")


def attend(
    q_HTE: np.ndarray, k_HKE: np.ndarray, v_HKE: np.ndarray, bias_HTK: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return attention's output [T, H*E] and its weights [H, T, K]. T5: no 1/sqrt(E); the scale lives in q's init."""
    scores_HTK = q_HTE @ k_HKE.swapaxes(1, 2)
    weights_HTK = softmax(scores_HTK if bias_HTK is None else scores_HTK + bias_HTK)
    out_HTE = weights_HTK @ v_HKE
    return out_HTE.swapaxes(0, 1).reshape(out_HTE.shape[1], -1), weights_HTK


@dataclasses.dataclass
class _EncodedPrompt:
    keys_values: list[tuple[np.ndarray, np.ndarray]]
    """A decoder layer's cross-attention keys and values, each [H, S, E]."""
    adapter: Mapping[str, LowRankMap]
    """Linear map -> what it adds for this text; empty without an adapter."""
    num_references: int = 1


@dataclasses.dataclass
class _SlotState:
    handle: int
    keys_values: list[tuple[np.ndarray, np.ndarray]]
    """A decoder layer's self-attention keys and values, each [H, K, E]; never written in place, so forks may share."""
    num_tokens: int = 0


class ReferenceRuntime:
    """The `Runtime` protocol in NumPy.

    dtype: np.float32, or np.float64 to measure others by: on some processors NumPy's own products in float32 put the
    logits of tiny random models 2e-5 of the largest away from it, three times as far as the native engine's.
    Raises: EngineError if the architecture has parts that it cannot run (LongT5's local attention, classifier heads).
    """

    def __init__(
        self, config: T5Config, tensors: Iterable[TensorView], *, dtype: type[np.float32 | np.float64] = np.float32
    ) -> None:
        if config.encoder_attention != "full":
            raise EngineError(
                f"The encoder attends {config.encoder_attention!r} (LongT5); t5kit reads and writes such folders, "
                "but runs full attention only."
            )
        self.config = config
        self.description = RuntimeDescription(engine="reference", weights=dtype.__name__, threads=0)
        prefix = "transformer." if config.is_classifier else ""
        self._weights = {
            view.name.removeprefix(prefix): view.to_float32().astype(dtype, copy=False) for view in tensors
        }
        missing = {name.removeprefix(prefix) for name in tensor_shapes(config)} - self._weights.keys()
        if missing:
            raise EngineError(
                f"The reference runtime was given no tensor {sorted(missing)[0]!r} ({len(missing)} missing in all)."
            )
        self._has_decoder = config.head is Head.LANGUAGE_MODEL
        self._prompts: dict[int, _EncodedPrompt] = {}
        self._slots: dict[int, _SlotState] = {}
        self._adapters: dict[int, Mapping[str, LowRankMap]] = {NO_ADAPTER: {}}
        self._names = itertools.count(1)
        self._prompt_rows = np.zeros((0, config.d_model), np.float32)
        self._is_open = True

    # Adapters and prompts

    def add_prompt(self, prompt: SoftPrompt) -> np.ndarray:
        self._check_open()
        check_soft_prompt(prompt, self.config)
        first = self.config.vocab_size + len(self._prompt_rows)
        self._prompt_rows = np.concatenate([self._prompt_rows, prompt.rows])
        return np.arange(first, first + len(prompt.rows), dtype=np.int32)

    def add_adapter(self, adapter: Adapter) -> int:
        self._check_open()
        check_adapter(adapter, self.config)
        name = next(self._names)
        self._adapters[name] = dict(adapter.maps)
        return name

    def remove_adapter(self, name: int) -> None:
        self._check_open()
        if name == NO_ADAPTER:
            raise EngineError(f"Adapter {NO_ADAPTER} is the model itself and cannot be removed.")
        self._adapter(name)
        del self._adapters[name]

    # Encoding

    def encoder_states(
        self, sequences: Sequence[np.ndarray], adapters: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        self._check_open()
        check_encoder_sequences(sequences, self.config, num_extra=len(self._prompt_rows))
        chosen = [self._adapter(name) for name in check_adapter_count(len(sequences), adapters)]
        return [self._encode_one(ids, adapter) for ids, adapter in zip(sequences, chosen, strict=True)]

    def encoder_attention(self, ids: np.ndarray) -> list[np.ndarray]:
        """Return the encoder's self-attention weights over ids [S]: for each layer [H, S, S], queries before keys.

        Not of the protocol: no other runtime keeps them, for they are the square of the length.
        """
        self._check_open()
        check_encoder_sequences([ids], self.config)
        weights: list[np.ndarray] = []
        self._encode_one(ids, {}, weights)
        return weights

    def encode(self, sequences: Sequence[np.ndarray], adapters: Sequence[int] | None = None) -> list[int]:
        self._check_open()
        if not self._has_decoder:
            raise EngineError(f"A model with the head {self.config.head.value!r} cannot generate; use encoder states.")
        handles = []
        names = check_adapter_count(len(sequences), adapters)
        for states_SD, name in zip(self.encoder_states(sequences, names), names, strict=True):
            handle, adapter = next(self._names), self._adapter(name)
            self._prompts[handle] = _EncodedPrompt(
                [
                    (
                        self._split_heads(states_SD, f"{block}.EncDecAttention.k", adapter),
                        self._split_heads(states_SD, f"{block}.EncDecAttention.v", adapter),
                    )
                    for block in (f"decoder.block.{i}.layer.1" for i in range(self.config.num_decoder_layers))
                ],
                adapter,
            )
            handles.append(handle)
        return handles

    def retain(self, handles: Sequence[int]) -> None:
        self._check_open()
        for prompt in [self._prompt(handle) for handle in handles]:
            prompt.num_references += 1

    def release(self, handles: Sequence[int]) -> None:
        self._check_open()
        for handle, count in collections.Counter(handles).items():
            if count > self._prompt(handle).num_references:
                raise EngineError(f"Handle {handle} is released more often than it is held.")
        for handle in handles:
            prompt = self._prompt(handle)
            prompt.num_references -= 1
            if prompt.num_references == 0:
                del self._prompts[handle]

    # Slots

    def open_slots(self, handles: Sequence[int]) -> np.ndarray:
        c = self.config
        empty = np.zeros((c.num_heads, 0, c.d_kv), np.float32)
        self.retain(handles)
        slots = [next(self._names) for _ in handles]
        for slot, handle in zip(slots, handles, strict=True):
            self._slots[slot] = _SlotState(handle, [(empty, empty)] * c.num_decoder_layers)
        return np.array(slots, np.int32)

    def close_slots(self, slots: np.ndarray) -> None:
        self._check_open()
        check_distinct(slots)
        states = [self._slot(slot) for slot in slots]
        for slot, state in zip(slots, states, strict=True):
            del self._slots[int(slot)]
            self.release([state.handle])

    def fork_slots(self, slots: np.ndarray) -> np.ndarray:
        self._check_open()
        forks = self.open_slots([self._slot(slot).handle for slot in slots])
        for fork, slot in zip(forks, slots, strict=True):
            self._copy_past(self._slot(slot), self._slot(fork))
        return forks

    def reorder_slots(self, slots: np.ndarray, parents: np.ndarray) -> None:
        self._check_open()
        check_slots_with(slots, parents, "parents")
        states = [self._slot(slot) for slot in slots]
        pasts = [dataclasses.replace(self._slot(parent)) for parent in parents]
        for slot, state, past in zip(slots, states, pasts, strict=True):
            if state.handle != past.handle:
                raise EngineError(f"Slot {slot} cannot continue a slot that stands on another prompt.")
        for state, past in zip(states, pasts, strict=True):
            self._copy_past(past, state)

    def rollback_slots(self, slots: np.ndarray, lengths: np.ndarray) -> None:
        self._check_open()
        check_slots_with(slots, lengths, "lengths")
        states = [self._slot(slot) for slot in slots]
        for slot, state, length in zip(slots, states, lengths, strict=True):
            if not 0 <= length <= state.num_tokens:
                raise EngineError(f"Slot {slot} holds {state.num_tokens} tokens and cannot be cut to {length}.")
        for state, length in zip(states, lengths, strict=True):
            state.keys_values = [(k[:, :length], v[:, :length]) for k, v in state.keys_values]
            state.num_tokens = int(length)

    def slot_lengths(self, slots: np.ndarray) -> np.ndarray:
        self._check_open()
        return np.array([self._slot(slot).num_tokens for slot in slots], np.int32)

    # Decoding

    def step(self, step: StepInput) -> StepOutput:
        self._check_open()
        check_step(step, self.config)
        rows, attentions = [], []
        pieces = np.split(step.tokens, np.cumsum(step.lengths)[:-1])
        states = [dataclasses.replace(self._slot(slot)) for slot in step.slots]  # a step that fails moves no slot
        for state, tokens in zip(states, pieces, strict=True):
            hidden_TD, weights_LHTS = self._decode_one(state, tokens)
            rows.append(hidden_TD if step.need.all_positions else hidden_TD[-1:])
            attentions.append(weights_LHTS)
        hidden_QD = np.concatenate(rows)
        out = self._output(hidden_QD, step.edits, step.need, tuple(attentions))
        for slot, state in zip(step.slots, states, strict=True):
            self._copy_past(state, self._slot(slot))
        return out

    def score(self, handles: Sequence[int], targets: Sequence[np.ndarray]) -> list[np.ndarray]:
        self._check_open()
        check_targets(handles, targets, self.config)
        scores = []
        for handle, target in zip(handles, targets, strict=True):
            inputs = np.concatenate([[self.config.decoder_start_id], target[:-1]]).astype(np.int32)
            edits = {i: LogitEdits(forced_id=int(token)) for i, token in enumerate(target)}
            lengths, need = np.array([len(inputs)], np.int32), Need(all_positions=True)
            slots = self.open_slots([handle])
            try:
                out = self.step(StepInput(slots=slots, tokens=inputs, lengths=lengths, edits=edits, need=need))
            finally:
                self.close_slots(slots)
            scores.append(out.top_logits[:, 0] - out.log_sum_exp)
        return scores

    def close(self) -> None:
        self._is_open = False
        self._prompts.clear()
        self._slots.clear()
        self._adapters.clear()
        self._weights.clear()

    # The model

    def _encode_one(
        self, ids: np.ndarray, adapter: Mapping[str, LowRankMap], kept_weights: list[np.ndarray] | None = None
    ) -> np.ndarray:
        """Return the final states [S, D]; kept_weights collects each layer's attention weights [H, S, S]."""
        table_VD, num_ids = self._weights["shared.weight"], self.config.vocab_size
        x_SD = table_VD[np.minimum(ids, num_ids - 1)]  # T5: no sqrt(d_model) on the way in
        is_prompt = ids >= num_ids
        x_SD[is_prompt] = self._prompt_rows[ids[is_prompt] - num_ids]
        buckets_SS = self._buckets(is_bidirectional=True, num_queries=len(ids), num_keys=len(ids))
        for i in range(self.config.num_encoder_layers):
            block = f"encoder.block.{i}"
            bias_HSS = self._position_bias("encoder", i, buckets_SS)
            normed = self._norm(x_SD, f"{block}.layer.0.layer_norm")
            name = f"{block}.layer.0.SelfAttention"
            q, k, v = (self._split_heads(normed, f"{name}.{part}", adapter) for part in "qkv")
            out, weights_HSS = attend(q, k, v, bias_HSS)
            if kept_weights is not None:
                kept_weights.append(weights_HSS)
            x_SD = x_SD + self._linear(out, f"{name}.o", adapter)
            x_SD = self._feed_forward(x_SD, f"{block}.layer.1", adapter)
        return self._norm(x_SD, "encoder.final_layer_norm")

    def _decode_one(self, state: _SlotState, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Feed tokens [T] to a slot; return hidden [T, D] and cross-attention weights [layers, H, T, S]."""
        x_TD, prompt = self._weights["shared.weight"][tokens], self._prompt(state.handle)
        adapter = prompt.adapter
        num_keys = state.num_tokens + len(tokens)
        past, grown, cross_weights = state.keys_values, [], []
        buckets_TK = self._buckets(is_bidirectional=False, num_queries=len(tokens), num_keys=num_keys)
        for i in range(self.config.num_decoder_layers):
            block = f"decoder.block.{i}"
            name = f"{block}.layer.0.SelfAttention"
            normed = self._norm(x_TD, f"{block}.layer.0.layer_norm")
            q, k, v = (self._split_heads(normed, f"{name}.{part}", adapter) for part in "qkv")
            k, v = (np.concatenate([old, new], axis=1) for old, new in zip(past[i], (k, v), strict=True))
            grown.append((k, v))
            bias_HTK = self._position_bias("decoder", i, buckets_TK)
            x_TD = x_TD + self._linear(attend(q, k, v, bias_HTK)[0], f"{name}.o", adapter)

            name = f"{block}.layer.1.EncDecAttention"
            q = self._split_heads(self._norm(x_TD, f"{block}.layer.1.layer_norm"), f"{name}.q", adapter)
            out, weights = attend(q, *prompt.keys_values[i], None)  # T5: no bias across stacks
            cross_weights.append(weights)
            x_TD = x_TD + self._linear(out, f"{name}.o", adapter)
            x_TD = self._feed_forward(x_TD, f"{block}.layer.2", adapter)
        state.keys_values, state.num_tokens = grown, num_keys
        return self._norm(x_TD, "decoder.final_layer_norm"), np.stack(cross_weights)

    def _output(
        self, hidden_QD: np.ndarray, edits: Mapping[int, LogitEdits], need: Need, attentions: tuple[np.ndarray, ...]
    ) -> StepOutput:
        scale = np.float32(self.config.d_model**-0.5 if self.config.scales_logits else 1.0)
        head_VD = self._weights["shared.weight" if self.config.is_tied else "lm_head.weight"]
        logits_QV = np.stack(
            [head_VD @ hidden_D for hidden_D in hidden_QD * scale]
        )  # row by row: company changes no bit
        largest_Q = logits_QV.max(axis=-1)
        log_sum_exp_Q = largest_Q + np.log(np.exp(logits_QV - largest_Q[:, None]).sum(axis=-1))
        for row, row_edits in edits.items():
            logits_QV[row] = apply_edits(logits_QV[row], row_edits, log_sum_exp_Q[row])
        top_ids_QK, top_logits_QK = top_candidates(logits_QV, need.top_k)
        return StepOutput(
            top_ids=top_ids_QK,
            top_logits=top_logits_QK,
            log_sum_exp=log_sum_exp_Q,
            logits=logits_QV if need.logits else None,
            cross_attention=attentions if need.cross_attention else None,
            hidden=hidden_QD if need.hidden else None,
        )

    def _buckets(self, *, is_bidirectional: bool, num_queries: int, num_keys: int) -> np.ndarray:
        """Return the bias bucket [queries, keys] of the last `num_queries` positions; -1 where causality forbids."""
        query_positions = np.arange(num_keys - num_queries, num_keys)
        relative_TK = np.arange(num_keys)[None, :] - query_positions[:, None]
        buckets_TK = relative_position_buckets(
            relative_TK,
            is_bidirectional=is_bidirectional,
            num_buckets=self.config.relative_attention_num_buckets,
            max_distance=self.config.relative_attention_max_distance,
        )
        return buckets_TK if is_bidirectional else np.where(relative_TK > 0, -1, buckets_TK)

    def _position_bias(self, stack: str, layer: int, buckets_TK: np.ndarray) -> np.ndarray:
        """Return the additive bias [H, queries, keys] of one layer; -inf where the bucket is -1."""
        owner = layer if self.config.has_bias_per_layer else 0
        table_RH = self._weights[f"{stack}.block.{owner}.layer.0.SelfAttention.relative_attention_bias.weight"]
        return np.where(buckets_TK < 0, np.float32(-np.inf), table_RH[buckets_TK].transpose(2, 0, 1))

    def _feed_forward(self, x: np.ndarray, layer: str, adapter: Mapping[str, LowRankMap]) -> np.ndarray:
        normed, name, c = self._norm(x, f"{layer}.layer_norm"), f"{layer}.DenseReluDense", self.config
        if c.uses_gated_mlp:
            activated = activate(self._linear(normed, f"{name}.wi_0", adapter), c.activation)
            inner = activated * self._linear(normed, f"{name}.wi_1", adapter)
        else:
            inner = activate(self._linear(normed, f"{name}.wi", adapter), c.activation)
        return x + self._linear(inner, f"{name}.wo", adapter)

    def _linear(self, x: np.ndarray, name: str, adapter: Mapping[str, LowRankMap]) -> np.ndarray:
        y = x @ self._weights[f"{name}.weight"].T
        if name in adapter:
            y = y + (x @ adapter[name].a.T) @ adapter[name].b.T
        return y

    def _norm(self, x: np.ndarray, name: str) -> np.ndarray:
        return rms_norm(x, self._weights[f"{name}.weight"], self.config.layer_norm_epsilon)

    def _split_heads(self, x: np.ndarray, name: str, adapter: Mapping[str, LowRankMap]) -> np.ndarray:
        y = self._linear(x, name, adapter)
        return y.reshape(len(x), self.config.num_heads, self.config.d_kv).swapaxes(0, 1)

    # What is open

    def _check_open(self) -> None:
        if not self._is_open:
            raise EngineError(CLOSED)

    def _adapter(self, name: int) -> Mapping[str, LowRankMap]:
        if name not in self._adapters:
            raise EngineError(f"Adapter {name} is not one of this runtime's.")
        return self._adapters[name]

    def _prompt(self, handle: int) -> _EncodedPrompt:
        prompt = self._prompts.get(handle)
        if prompt is None:
            raise EngineError(f"Handle {handle} is not open in this runtime.")
        return prompt

    def _slot(self, slot: int) -> _SlotState:
        state = self._slots.get(int(slot))
        if state is None:
            raise EngineError(f"Slot {slot} is not open in this runtime.")
        return state

    @staticmethod
    def _copy_past(source: _SlotState, target: _SlotState) -> None:
        target.keys_values, target.num_tokens = source.keys_values, source.num_tokens


def top_candidates(logits_QV: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best ids [Q, k] int32 and their logits, the lower id first where logits are equal.

    Where fewer than k are above -inf the rest is id -1 with -inf; k may exceed the vocabulary.

    >>> top_candidates(np.float32([[3, 5, 5, -np.inf]]), 4)[0]
    array([[ 1,  2,  0, -1]], dtype=int32)
    """
    ids_QK = np.full((len(logits_QV), k), -1, np.int32)
    values_QK = np.full((len(logits_QV), k), -np.inf, np.float32)
    for row, logits_V in enumerate(logits_QV):
        if k < len(logits_V):
            # Speed: only what reaches the k-th largest value is sorted, ties at the border included.
            candidates = np.flatnonzero(logits_V >= np.partition(logits_V, -k)[-k])
        else:
            candidates = np.arange(len(logits_V))
        best = candidates[np.argsort(-logits_V[candidates], kind="stable")[:k]]
        best = best[logits_V[best] > -np.inf]
        ids_QK[row, : len(best)] = best
        values_QK[row, : len(best)] = logits_V[best]
    return ids_QK, values_QK
