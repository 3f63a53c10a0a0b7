"""The encoder stack of the torch runtime: ragged texts laid end to end, so that nothing is computed for padding.

Dimension letters: N tokens of all texts of a run, P computed rows (N and some that fill the products up), n texts of
one length, S their length, D d_model, I all heads' width, H heads, E head width.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t5kit.config import T5Config
from t5kit.runtime.torch_attention import attend
from t5kit.runtime.torch_linear import as_dtype
from t5kit.runtime.torch_position import position_biases
from t5kit.runtime.torch_weights import EncoderWeights

_MAX_BIAS_ELEMENTS = 1 << 22
# 16 MB of float32: 836 tokens at 6 heads. A text's bias beyond it is made for a block of queries at a time.
_MAX_RUN_TOKENS = {"cpu": 1024, "cuda": 16384}
# Speed: on a CPU, products of 128 rows reach the speed of 1,024, and few tokens keep what lies between them in cache.


class Encoder:
    """The stack, ready to run."""

    def __init__(
        self, config: T5Config, embedding: Tensor, weights: EncoderWeights, *, attention_dtype: torch.dtype
    ) -> None:
        self._config, self._embedding, self._weights = config, embedding, weights
        self._attention_dtype = attention_dtype
        self._biases = position_biases(
            config, weights.position_tables, is_bidirectional=True, dtype=attention_dtype, device=embedding.device
        )
        self._prompt_rows = embedding.new_zeros((0, config.d_model), dtype=torch.float32)
        self._max_run_tokens = _MAX_RUN_TOKENS["cpu" if embedding.device.type == "cpu" else "cuda"]

    @property
    def num_prompt_rows(self) -> int:
        """How many ids behind the vocabulary stand for prompts' vectors."""
        return len(self._prompt_rows)

    def add_prompt_rows(self, rows: np.ndarray) -> None:
        """Let the next ids behind the vocabulary stand for these vectors, [P, D] float32."""
        new = torch.from_numpy(rows.copy()).to(self._prompt_rows.device)
        self._prompt_rows = torch.cat([self._prompt_rows, new])

    def _embedded(self, ids_N: Tensor) -> Tensor:
        """Return what stands for ids, [N, D] float32. T5: no sqrt(d_model) on the way in."""
        if not len(self._prompt_rows):
            return self._embedding[ids_N].float()
        num_ids = self._config.vocab_size
        x_ND = self._embedding[ids_N.clamp(max=num_ids - 1)].float()
        is_prompt = ids_N >= num_ids
        x_ND[is_prompt] = self._prompt_rows[ids_N[is_prompt] - num_ids]
        return x_ND

    def runs(self, sequences: Sequence[np.ndarray]) -> Iterator[tuple[list[int], list[int], Tensor]]:
        """Encode texts, each [S_i] int, and yield (their numbers, their lengths, final states [N, D] float32) in runs.

        A run's states lie end to end in the order of its numbers; runs come in any order.
        """
        for numbers in _runs([len(ids) for ids in sequences], self._max_run_tokens):
            ids_N = torch.from_numpy(np.concatenate([sequences[i] for i in numbers]).astype(np.int64))
            lengths = [len(sequences[i]) for i in numbers]
            with torch.autocast(self._embedding.device.type, enabled=False):
                yield numbers, lengths, self._run(ids_N.to(self._embedding.device), lengths)

    def _run(self, ids_N: Tensor, lengths: Sequence[int]) -> Tensor:
        """Return final states [N, D] of texts laid end to end, equal lengths side by side."""
        counts = {length: lengths.count(length) for length in lengths}
        num_tokens = len(ids_N)
        padded = self._weights.layers[0].qkv.padded_rows(num_tokens)
        # Rows behind the tokens are zero and stay so: they only fill the products up.
        x_PD = F.pad(self._embedded(ids_N), (0, 0, 0, padded - num_tokens))
        outputs_PI = x_PD.new_zeros(padded, self._config.inner_width, dtype=self._attention_dtype)
        biases: dict[int, Tensor] = {}
        for i, layer in enumerate(self._weights.layers):
            if self._config.has_bias_per_layer:
                biases.clear()
            qkv = as_dtype(layer.qkv(layer.attention_norm(x_PD)), self._attention_dtype)
            start = 0
            for length, count in counts.items():
                here = slice(start, start + count * length)
                outputs_PI[here] = self._attend(i, qkv[here].view(count, length, 3, self._config.num_heads, -1), biases)
                start += count * length
            x_PD.add_(layer.o(outputs_PI))
            x_PD.add_(layer.feed_forward(layer.feed_forward_norm(x_PD)))
        return self._weights.final_norm(x_PD[:num_tokens])

    def _attend(self, layer: int, qkv_nS3HE: Tensor, biases: dict[int, Tensor]) -> Tensor:
        """Return attention's output [n * S, I] of n texts of one length; biases keep those that fit for later
        layers."""
        num_texts, length, _, num_heads, _ = qkv_nS3HE.shape
        q, k, v = qkv_nS3HE.permute(2, 0, 3, 1, 4).unbind(0)
        position_bias = self._biases[layer if self._config.has_bias_per_layer else 0]
        block = max(64, _MAX_BIAS_ELEMENTS // (num_heads * length))
        if length <= block:
            if length not in biases:
                biases[length] = position_bias.band(0, length, length)
            o_nHSE = attend(q, k, v, biases[length])
        else:
            parts = []
            for first in range(0, length, block):
                q_block = q[:, :, first : first + block]
                parts.append(attend(q_block, k, v, position_bias.band(first, q_block.shape[2], length)))
            o_nHSE = torch.cat(parts, dim=2)
        return o_nHSE.transpose(1, 2).reshape(num_texts * length, -1)


def _runs(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Return the texts' numbers in runs of at most max_tokens tokens (or one text), equal lengths side by side."""
    runs: list[list[int]] = []
    num_tokens = 0
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        num_tokens += lengths[i]
        if runs and num_tokens <= max_tokens:
            runs[-1].append(i)
        else:
            runs.append([i])
            num_tokens = lengths[i]
    return runs
