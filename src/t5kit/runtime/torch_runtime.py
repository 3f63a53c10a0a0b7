"""The torch runtime: the `Runtime` protocol in PyTorch, on a processor or a GPU.

Nothing is padded and nothing is moved that need not be: the encoder computes ragged texts end to end, keys and values
lie in arenas that attention reads in place, and a step's plan is kept while the same slots step.

Numerics: weights, and what is multiplied by them, are in the chosen dtype; the residual stream, norms, softmax, and the
head with its logits are float32 in every dtype. In float16 `wo` is float32 too, where T5 overflows.

Dimension letters: N tokens, Q output rows, S encoder length, D d_model, V vocabulary.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from t5kit.checkpoint.adapters import SoftPrompt, check_soft_prompt
from t5kit.checkpoint.tensors import TensorView
from t5kit.config import T5Config
from t5kit.errors import EngineError, RequestError
from t5kit.runtime.protocol import RuntimeDescription, StepInput, StepOutput
from t5kit.runtime.torch_cache import CacheEntry, CacheShape, KeyValuePool, power_of_two_class, quarter_class
from t5kit.runtime.torch_decoder import Decoder, DecoderPlan, NewTokens
from t5kit.runtime.torch_encoder import Encoder
from t5kit.runtime.torch_output import OutputHead
from t5kit.runtime.torch_store import TensorStore, prevailing_dtype
from t5kit.runtime.torch_weights import Weights, build_weights
from t5kit.runtime.validation import (
    CLOSED,
    check_distinct,
    check_encoder_sequences,
    check_slots_with,
    check_step,
    check_targets,
)

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_WORDS = {dtype: word for word, dtype in _DTYPES.items()}

_MAX_PIECE_TOKENS = 512
_MAX_PASS_SCORES = 1 << 24
# Many new tokens are fed a piece at a time and some slots at a time, so that the biases and scores of a pass stay below
# 64 MB of float32 each.
_MAX_CROSS_ELEMENTS = 1 << 24
# Cross-attention keys and values are projected for so many elements at a time.
_MAX_SCORING_BYTES = 1 << 28
# Targets are scored so many at a time that their self-attention caches stay below it.


class LiveModule(Protocol):
    """A T5 module of t5kit.model: its parameters have the home layout's names."""

    config: T5Config

    def state_dict(self) -> Mapping[str, Tensor]:
        """Return name -> tensor."""
        ...


@dataclasses.dataclass(slots=True, eq=False)
class _Prompt:
    cache: CacheEntry
    num_references: int = 1


@dataclasses.dataclass(slots=True, eq=False)
class _Slot:
    handle: int
    prompt: _Prompt
    cache: CacheEntry


@dataclasses.dataclass(frozen=True, eq=False)
class _Model:
    """What is computed with; dropped by `close`."""

    encoder: Encoder
    decoder: Decoder | None
    head: OutputHead | None
    weights: Weights


class TorchRuntime:
    """The `Runtime` protocol in PyTorch.

    weights: "auto" is the folder's own dtype, except float16 on a processor, which is computed in float32 (half
    arithmetic is slow there). device: "auto" is CUDA where there is one. threads: processor threads, None for PyTorch's
    choice; they are set for the whole process.

    Raises: RequestError for unknown words, EngineError if the device is missing, the architecture cannot be run
    (LongT5), or a tensor is missing or misshapen.
    """

    def __init__(
        self,
        config: T5Config,
        tensors: Iterable[TensorView],
        *,
        weights: str = "auto",
        device: str = "auto",
        threads: int | None = None,
    ) -> None:
        _check_architecture(config)
        if weights != "auto" and weights not in _DTYPES:
            raise RequestError(f"weights = {weights!r} must be one of: auto, {', '.join(_DTYPES)}.")
        views = {view.name: view for view in tensors}
        where = _device(device)
        if threads is not None:
            if not isinstance(threads, int) or not 1 <= threads <= 1024:
                raise RequestError(f"threads = {threads!r} must be an integer from 1 to 1024.")
            torch.set_num_threads(threads)
        dtype = _DTYPES[weights] if weights != "auto" else prevailing_dtype(views.values())
        if weights == "auto" and dtype is torch.float16 and where.type == "cpu":
            dtype = torch.float32
        self._build(config, TensorStore(config, views, dtype=dtype, device=where))

    @classmethod
    def from_module(cls, module: LiveModule) -> "TorchRuntime":
        """Return a runtime with the parameters that `module` has now, in their dtype and on their device.

        The weights are copied: later training steps do not change this runtime, and its use does not disturb training.
        """
        _check_architecture(module.config)
        state = module.state_dict()
        embedding = state["transformer.shared.weight" if module.config.is_classifier else "shared.weight"]
        if embedding.dtype not in _WORDS:
            raise EngineError(
                f"The module is in {embedding.dtype}; the torch runtime computes in: {', '.join(_DTYPES)}."
            )
        runtime = cls.__new__(cls)
        with torch.inference_mode():
            runtime._build(
                module.config, TensorStore(module.config, state, dtype=embedding.dtype, device=embedding.device)
            )
        return runtime

    @torch.inference_mode()
    def _build(self, config: T5Config, store: TensorStore) -> None:
        self.config = config
        weights = build_weights(config, store)
        device = weights.device
        self._device = device
        # Speed: on a processor keys and values are float32 in every dtype: bfloat16 products of one row are no faster,
        # and its scores would be rounded before the softmax.
        self._attention_dtype = torch.float32 if device.type == "cpu" else weights.dtype
        self.description = RuntimeDescription(
            engine="torch",
            weights=_WORDS[weights.dtype],
            threads=torch.get_num_threads() if device.type == "cpu" else 0,
        )
        decoder = head = None
        if weights.decoder is not None:
            decoder = Decoder(config, weights.embedding, weights.decoder, attention_dtype=self._attention_dtype)
            scale = config.d_model**-0.5 if config.scales_logits else 1.0
            head = OutputHead(weights.decoder.head, vocab_size=config.vocab_size, scale=scale)
        encoder = Encoder(config, weights.embedding, weights.encoder, attention_dtype=self._attention_dtype)
        self._open_model: _Model | None = _Model(encoder, decoder, head, weights)
        shape = CacheShape(config.num_decoder_layers, config.num_heads, config.d_kv, self._attention_dtype, device)
        self._own_pool = KeyValuePool(shape, power_of_two_class)
        self._cross_pool = KeyValuePool(shape, quarter_class)
        self._prompts: dict[int, _Prompt] = {}
        self._slots: dict[int, _Slot] = {}
        self._names = itertools.count(1)
        self._plan: tuple[tuple[bytes, int, int], DecoderPlan] | None = None
        """The last step's plan and what it depends on: slots, and the pools' versions."""

    # Encoding

    def add_prompt(self, prompt: SoftPrompt) -> np.ndarray:
        self._check_open()
        check_soft_prompt(prompt, self.config)
        first = self.config.vocab_size + self._model.encoder.num_prompt_rows
        self._model.encoder.add_prompt_rows(prompt.rows)
        return np.arange(first, first + len(prompt.rows), dtype=np.int32)

    @torch.inference_mode()
    def encoder_states(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        self._check_open()
        check_encoder_sequences(sequences, self.config, num_extra=self._model.encoder.num_prompt_rows)
        states = [np.empty(0, np.float32)] * len(sequences)
        for numbers, lengths, states_ND in self._model.encoder.runs(sequences):
            for i, states_SD in zip(numbers, states_ND.split(lengths), strict=True):
                states[i] = states_SD.cpu().numpy().copy()
        return states

    @torch.inference_mode()
    def encode(self, sequences: Sequence[np.ndarray]) -> list[int]:
        self._check_open()
        check_encoder_sequences(sequences, self.config, num_extra=self._model.encoder.num_prompt_rows)
        decoder = self._decoder
        entries = self._cross_pool.open([len(ids) for ids in sequences])
        try:
            for numbers, lengths, states_ND in self._model.encoder.runs(sequences):
                self._project_states(decoder, [entries[i] for i in numbers], lengths, states_ND)
        except BaseException:
            self._cross_pool.close(entries)
            raise
        handles = []
        for entry in entries:
            handle = next(self._names)
            self._prompts[handle] = _Prompt(entry)
            handles.append(handle)
        return handles

    def _project_states(
        self, decoder: Decoder, entries: Sequence[CacheEntry], lengths: Sequence[int], states_ND: Tensor
    ) -> None:
        """Fill the entries with the cross-attention keys and values of texts laid end to end."""
        c = self.config
        ends = np.cumsum(lengths)
        block = max(1, _MAX_CROSS_ELEMENTS // (c.num_decoder_layers * 2 * c.inner_width))
        for first in range(0, len(states_ND), block):
            kv = decoder.cross_keys_values(states_ND[first : first + block])
            for entry, end, length in zip(entries, ends, lengths, strict=True):
                begin, stop = max(end - length, first), min(end, first + len(kv))
                if begin < stop:
                    within = slice(begin - (end - length), stop - (end - length))
                    part = kv[begin - first : stop - first].permute(1, 2, 3, 0, 4)
                    entry.arena.kv[:, :, entry.row, :, within] = part

    def retain(self, handles: Sequence[int]) -> None:
        self._check_open()
        for prompt in [self._prompt(handle) for handle in handles]:
            prompt.num_references += 1

    @torch.inference_mode()
    def release(self, handles: Sequence[int]) -> None:
        self._check_open()
        for handle, count in collections.Counter(handles).items():
            if count > self._prompt(handle).num_references:
                raise EngineError(f"Handle {handle} is released more often than it is held.")
        closed = []
        for handle in handles:
            prompt = self._prompt(handle)
            prompt.num_references -= 1
            if prompt.num_references == 0:
                del self._prompts[handle]
                closed.append(prompt.cache)
        if closed:
            self._cross_pool.close(closed)

    # Slots

    @torch.inference_mode()
    def open_slots(self, handles: Sequence[int]) -> np.ndarray:
        self._check_open()
        self.retain(handles)
        slots = []
        for handle, cache in zip(handles, self._own_pool.open([0] * len(handles)), strict=True):
            slot = next(self._names)
            self._slots[slot] = _Slot(handle, self._prompt(handle), cache)
            slots.append(slot)
        return np.array(slots, np.int32)

    @torch.inference_mode()
    def close_slots(self, slots: np.ndarray) -> None:
        self._check_open()
        check_distinct(slots)
        closed = [self._slot(slot) for slot in slots]
        for slot in slots.tolist():
            del self._slots[slot]
        self._own_pool.close([slot.cache for slot in closed])
        self.release([slot.handle for slot in closed])

    @torch.inference_mode()
    def fork_slots(self, slots: np.ndarray) -> np.ndarray:
        self._check_open()
        parents = [self._slot(slot) for slot in slots]
        forks = self.open_slots([parent.handle for parent in parents])
        if parents:
            children = [self._slot(fork) for fork in forks]
            self._own_pool.copy([parent.cache for parent in parents], [child.cache for child in children])
        return forks

    @torch.inference_mode()
    def reorder_slots(self, slots: np.ndarray, parents: np.ndarray) -> None:
        self._check_open()
        check_slots_with(slots, parents, "parents")
        targets, sources = [self._slot(slot) for slot in slots], [self._slot(parent) for parent in parents]
        for name, target, source in zip(slots, targets, sources, strict=True):
            if target.handle != source.handle:
                raise EngineError(f"Slot {name} cannot continue a slot that stands on another prompt.")
        moving = [
            (source.cache, target.cache)
            for source, target in zip(sources, targets, strict=True)
            if source is not target
        ]
        if moving:
            self._own_pool.copy([source for source, _ in moving], [target for _, target in moving])

    def rollback_slots(self, slots: np.ndarray, lengths: np.ndarray) -> None:
        self._check_open()
        check_slots_with(slots, lengths, "lengths")
        states = [self._slot(slot) for slot in slots]
        for name, state, length in zip(slots, states, lengths, strict=True):
            if not 0 <= length <= state.cache.num_tokens:
                raise EngineError(f"Slot {name} holds {state.cache.num_tokens} tokens and cannot be cut to {length}.")
        for state, length in zip(states, lengths, strict=True):
            state.cache.num_tokens = int(length)

    def slot_lengths(self, slots: np.ndarray) -> np.ndarray:
        self._check_open()
        return np.array([self._slot(slot).cache.num_tokens for slot in slots], np.int32)

    # Decoding

    @torch.inference_mode()
    def step(self, step: StepInput) -> StepOutput:
        self._check_open()
        check_step(step, self.config)
        hidden_ND, attentions = self._feed(
            step.slots, step.tokens, step.lengths, keeps_weights=step.need.cross_attention
        )
        if not step.need.all_positions and len(hidden_ND) > len(step.slots):
            hidden_ND = hidden_ND[torch.from_numpy(np.cumsum(step.lengths) - 1).to(self._device)]
        results = self._head.results(hidden_ND, step.edits, step.need)
        return StepOutput(
            top_ids=results.top_ids,
            top_logits=results.top_logits,
            log_sum_exp=results.log_sum_exp,
            logits=results.logits,
            cross_attention=attentions,
            hidden=hidden_ND.cpu().numpy() if step.need.hidden else None,
        )

    @torch.inference_mode()
    def score(self, handles: Sequence[int], targets: Sequence[np.ndarray]) -> list[np.ndarray]:
        self._check_open()
        check_targets(handles, targets, self.config)
        for handle in handles:
            self._prompt(handle)
        scores: list[np.ndarray] = []
        for first, last in self._scoring_chunks(targets):
            slots = self.open_slots(handles[first:last])
            try:
                scores.extend(self._score_chunk(slots, targets[first:last]))
            finally:
                self.close_slots(slots)
        return scores

    def _score_chunk(self, slots: np.ndarray, targets: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        start = np.array([self.config.decoder_start_id])
        inputs = np.concatenate([part for target in targets for part in (start, target[:-1])])
        lengths = np.array([len(target) for target in targets])
        hidden_ND, _ = self._feed(slots, inputs, lengths)
        ids_N = torch.from_numpy(np.concatenate(targets).astype(np.int64)).to(self._device)
        return iter(np.split(self._head.token_log_probs(hidden_ND, ids_N), np.cumsum(lengths)[:-1]))

    def _scoring_chunks(self, targets: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
        """Yield (first, last + 1) of targets whose caches fit into the bound together."""
        c = self.config
        max_tokens = _MAX_SCORING_BYTES // (c.num_decoder_layers * 2 * c.inner_width * self._attention_dtype.itemsize)
        first = num_tokens = 0
        for i, target in enumerate(targets):
            num_tokens += power_of_two_class(len(target))
            if i > first and num_tokens > max_tokens:
                yield first, i
                first, num_tokens = i, power_of_two_class(len(target))
        if first < len(targets):
            yield first, len(targets)

    def close(self) -> None:
        self._prompts.clear()
        self._slots.clear()
        self._own_pool.clear()
        self._cross_pool.clear()
        self._plan = None
        self._open_model = None

    # Passes of the decoder

    def _feed(
        self, slots: np.ndarray, tokens: np.ndarray, lengths: np.ndarray, *, keeps_weights: bool = False
    ) -> tuple[Tensor, tuple[np.ndarray, ...] | None]:
        """Feed tokens [N] to slots [R]; return states [N, D] float32 and, if kept, each slot's cross-attention.

        If anything fails, the slots stand where they stood.
        """
        tokens_N = torch.from_numpy(tokens.astype(np.int64)).to(self._device)
        if len(tokens) == len(slots):
            plan = self._plan_for_one_token_each(slots)
            hidden_ND = self._decoder.run(plan, tokens_N, keeps_weights=keeps_weights)
            return hidden_ND, tuple(plan.cross_weights()) if keeps_weights else None
        states = [self._slot(slot) for slot in slots]
        before = [state.cache.num_tokens for state in states]
        try:
            return self._feed_many(states, tokens_N, lengths, keeps_weights=keeps_weights)
        except BaseException:
            for state, num_tokens in zip(states, before, strict=True):
                state.cache.num_tokens = num_tokens
            raise

    def _plan_for_one_token_each(self, slots: np.ndarray) -> DecoderPlan:
        """Return the plan for the usual step: the last one's, if the same slots step and none has moved."""
        key = (slots.tobytes(), self._own_pool.version, self._cross_pool.version)
        if self._plan is None or self._plan[0] != key or not self._plan[1].has_room():
            states = [self._slot(slot) for slot in slots]
            lengths = np.ones(len(states), np.int64)
            self._make_room(states, lengths)
            key = (slots.tobytes(), self._own_pool.version, self._cross_pool.version)
            self._plan = (key, self._decoder.plan(_new_tokens(states, lengths)))
        return self._plan[1]

    def _feed_many(
        self, states: Sequence[_Slot], tokens_N: Tensor, lengths: np.ndarray, *, keeps_weights: bool
    ) -> tuple[Tensor, tuple[np.ndarray, ...] | None]:
        """Feed more than one token to some slots, in as many passes as their size asks for."""
        self._make_room(states, lengths)
        starts = np.cumsum(lengths) - lengths
        hidden_ND = torch.empty(len(tokens_N), self.config.d_model, device=self._device)
        weights: list[list[np.ndarray]] = [[] for _ in states]
        for rows, counts, offset in self._passes(states, lengths):
            plan = self._decoder.plan(_new_tokens([states[row] for row in rows], counts))
            where = np.concatenate(
                [starts[row] + offset + np.arange(count) for row, count in zip(rows, counts, strict=True)]
            )
            index = torch.from_numpy(where).to(self._device)
            hidden_ND[index] = self._decoder.run(plan, tokens_N[index], keeps_weights=keeps_weights)
            if keeps_weights:
                for row, row_weights in zip(rows, plan.cross_weights(), strict=True):
                    weights[row].append(row_weights)
        return hidden_ND, tuple(np.concatenate(parts, axis=2) for parts in weights) if keeps_weights else None

    def _passes(self, states: Sequence[_Slot], lengths: np.ndarray) -> Iterator[tuple[list[int], np.ndarray, int]]:
        """Yield (rows, their counts of new tokens, offset of those within each row's new tokens), causally in order."""
        for offset in range(0, int(lengths.max()), _MAX_PIECE_TOKENS):
            rows: list[int] = []
            most_queries = most_keys = 0
            for row in np.flatnonzero(lengths > offset).tolist():
                queries = min(_MAX_PIECE_TOKENS, int(lengths[row]) - offset)
                keys = max(states[row].cache.num_tokens + queries, states[row].prompt.cache.num_tokens)
                most_queries, most_keys = max(most_queries, queries), max(most_keys, keys)
                if rows and (len(rows) + 1) * self.config.num_heads * most_queries * most_keys > _MAX_PASS_SCORES:
                    yield rows, np.minimum(lengths[rows] - offset, _MAX_PIECE_TOKENS), offset
                    rows, most_queries, most_keys = [], queries, keys
                rows.append(row)
            yield rows, np.minimum(lengths[rows] - offset, _MAX_PIECE_TOKENS), offset

    def _make_room(self, states: Sequence[_Slot], lengths: np.ndarray) -> None:
        """Move slots that outgrow their arena to one with room for their new tokens."""
        moving: dict[int, list[CacheEntry]] = {}
        for state, length in zip(states, lengths.tolist(), strict=True):
            num_tokens = state.cache.num_tokens + length
            if num_tokens > state.cache.arena.capacity:
                moving.setdefault(power_of_two_class(num_tokens), []).append(state.cache)
        for capacity, entries in moving.items():
            self._own_pool.move(entries, capacity)

    # What is open

    def _check_open(self) -> None:
        if self._open_model is None:
            raise EngineError(CLOSED)

    @property
    def _model(self) -> _Model:
        if self._open_model is None:
            raise EngineError(CLOSED)
        return self._open_model

    @property
    def _decoder(self) -> Decoder:
        decoder = self._model.decoder
        if decoder is None:
            raise EngineError(f"A model with the head {self.config.head.value!r} cannot generate; use encoder states.")
        return decoder

    @property
    def _head(self) -> OutputHead:
        head = self._model.head
        assert head is not None  # whoever has a slot has a decoder
        return head

    def _prompt(self, handle: int) -> _Prompt:
        prompt = self._prompts.get(handle)
        if prompt is None:
            raise EngineError(f"Handle {handle} is not open in this runtime.")
        return prompt

    def _slot(self, slot: int) -> _Slot:
        state = self._slots.get(int(slot))
        if state is None:
            raise EngineError(f"Slot {slot} is not open in this runtime.")
        return state


def _check_architecture(config: T5Config) -> None:
    if config.encoder_attention != "full":
        raise EngineError(
            f"The encoder attends {config.encoder_attention!r} (LongT5); t5kit reads and writes such folders, but runs "
            "full attention only."
        )


def _new_tokens(states: Sequence[_Slot], lengths: np.ndarray) -> NewTokens:
    return NewTokens([state.cache for state in states], [state.prompt.cache for state in states], lengths)


def _device(word: str) -> torch.device:
    """Return the device that `word` names: cpu, cuda, cuda:N or auto."""
    if word == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(word)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise RequestError(f"device = {word!r} must be one of: cpu, cuda, cuda:N, auto.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EngineError(f"device = {word!r}, but this PyTorch sees no CUDA device. Use device='cpu'.")
    return device
