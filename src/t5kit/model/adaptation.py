"""Models of which a part is trained: LoRA beside linear maps, vectors before the input, the head alone.

What is not trained has `requires_grad` False, so that optimizer and checkpoints leave it out. The names of the other
parameters stay those of the home layout; the added ones are called as peft calls them: `<map>.lora_A.weight`.
"""

import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Self, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t5kit.checkpoint.adapters import linear_map_shapes
from t5kit.checkpoint.tensors import TensorView
from t5kit.errors import ConfigError
from t5kit.model.config import AdaptationConfig
from t5kit.model.embedding import Embedding, widely_summed
from t5kit.model.t5 import T5


class LoraLinear(nn.Linear):
    """A frozen linear map with a trained low-rank addition: y = W x + scale * B A x.

    Shapes: x [..., in] -> [..., out]; lora_A [r, in], lora_B [out, r]. B begins as zeros, so that training begins at
    the model as it is. Source: Hu et al. 2021.
    """

    def __init__(self, linear: nn.Linear, *, rank: int, scale: float, dropout: float) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features, bias=False)
        self.weight = linear.weight
        self.lora_A = nn.Linear(linear.in_features, rank, bias=False, device=linear.weight.device)
        self.lora_B = nn.Linear(rank, linear.out_features, bias=False, device=linear.weight.device)
        self.scale = scale
        self.dropout_rate = dropout

    def forward(self, input: Tensor) -> Tensor:
        dropped = F.dropout(input, self.dropout_rate, self.training) if self.dropout_rate else input
        return super().forward(input) + self.lora_B(self.lora_A(dropped)) * self.scale

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """Return W + scale * B A, [out, in]. Numerics: the sum is float64, rounded once."""
        product = self.lora_B.weight.double() @ self.lora_A.weight.double()
        return (self.weight.double() + self.scale * product).to(self.weight.dtype)


class PromptedEmbedding(Embedding):
    """A frozen embedding with trained rows behind it: the ids V to V + P - 1 are the prompt's vectors.

    Only the encoder's inputs hold such ids; a head tied to `weight` does not see them.
    """

    prompt: nn.Parameter
    """[P, D]"""

    @classmethod
    def around(cls, embedding: Embedding, rows: Tensor) -> Self:
        """Return the embedding with these rows [P, D] behind it."""
        made = cls(1, embedding.embedding_dim, device="meta")
        made.num_embeddings = embedding.num_embeddings
        made.weight = embedding.weight
        made.prompt = nn.Parameter(rows)
        return made

    def forward(self, input: Tensor) -> Tensor:
        is_prompt = input >= self.num_embeddings
        rows = F.embedding(torch.where(is_prompt, 0, input), self.weight)
        prompt = widely_summed(self.prompt, torch.where(is_prompt, input - self.num_embeddings, 0))
        return torch.where(is_prompt[..., None], prompt, rows)


def adapt(model: T5, config: AdaptationConfig, *, seed: int) -> None:
    """Freeze a model and add what the config trains, in place; drawn by the seed, module by module in their order.

    Raises: ConfigError if the model has none of the maps that are to be adapted, or a head that is not its own.
    """
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    match config.method:
        case "lora":
            names = [name for name in linear_map_shapes(model.config) if name.rpartition(".")[2] in config.targets]
            if not names:
                raise ConfigError(f"adaptation.targets: this model has none of: {', '.join(config.targets)}.")
            for name in names:
                owner, _, leaf = name.rpartition(".")
                linear = cast(nn.Linear, model.get_submodule(name))
                lora = LoraLinear(linear, rank=config.rank, scale=config.alpha / config.rank, dropout=config.dropout)
                bound = 1 / math.sqrt(linear.in_features)  # peft: kaiming_uniform(a=sqrt(5))
                drawn = torch.empty(lora.lora_A.weight.shape).uniform_(-bound, bound, generator=generator)
                with torch.no_grad():
                    lora.lora_A.weight.copy_(drawn)
                    lora.lora_B.weight.zero_()
                setattr(model.get_submodule(owner), leaf, lora)
        case "prompt":
            # Lester et al. 2021, section 3.2: rows of the vocabulary, of its commonest pieces, begin better than noise.
            num_pieces = min(5000, model.config.vocab_size)
            ids = torch.randint(
                3 if num_pieces > 3 else 0, num_pieces, (config.num_prompt_tokens,), generator=generator
            )
            rows = model.shared.weight.detach()[ids.to(model.shared.weight.device)].clone()
            model.shared = PromptedEmbedding.around(model.shared, rows)
        case "head":
            if model.config.is_tied:
                raise ConfigError("adaptation.method = 'head' needs a head of its own; this one is the embedding.")
            model.lm_head.weight.requires_grad_(True)


def is_adapted(model: nn.Module) -> bool:
    """Say whether a part of the model is not trained."""
    return not all(parameter.requires_grad for parameter in model.parameters())


def num_encoder_ids(model: T5) -> int:
    """Return how many ids the encoder's input may hold: the vocabulary's, and those of a prompt."""
    extra = len(model.shared.prompt) if isinstance(model.shared, PromptedEmbedding) else 0
    return model.config.vocab_size + extra


def draws_freely(model: nn.Module) -> bool:
    """Say whether a module draws dropout from PyTorch's generator, and not from seeds that it is given."""
    return any(isinstance(module, LoraLinear) and module.dropout_rate for module in model.modules())


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the trained parameters by name: all of them where nothing is frozen. They are the live tensors."""
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name in trained}


def frozen_checksum(model: nn.Module) -> int:
    """Return a CRC-32 of all weights that are not trained, 0 where all are: a resumed run must find the same ones."""
    checksum = 0
    for parameter in model.parameters():
        if not parameter.requires_grad:
            data = parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
            checksum = zlib.crc32(data, checksum)
    return checksum


def plain_state(model: nn.Module) -> Mapping[str, Tensor]:
    """Return name -> tensor of the model as a folder holds it: additions merged, a prompt's vectors left out."""
    state = {
        name: tensor.detach()
        for name, tensor in model.state_dict().items()
        if ".lora_A." not in name and ".lora_B." not in name and name != "shared.prompt"
    }
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            state[f"{name}.weight"] = module.merged_weight()
    return state


def plain_tensors(model: nn.Module) -> Iterator[TensorView]:
    """Yield what `plain_state` gives, for a folder."""
    for name, tensor in plain_state(model).items():
        yield TensorView.from_array(name, tensor.float().cpu().numpy())


def lora_parts(model: nn.Module) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return name of a linear map -> its A [r, in] and B [out, r], float32, the scale not multiplied in."""
    return {
        name: (module.lora_A.weight.detach().cpu().numpy(), module.lora_B.weight.detach().cpu().numpy())
        for name, module in model.named_modules()
        if isinstance(module, LoraLinear)
    }


def soft_prompt(model: T5) -> np.ndarray | None:
    """Return the trained vectors before the input, [P, D] float32; None without such."""
    return model.shared.prompt.detach().cpu().numpy() if isinstance(model.shared, PromptedEmbedding) else None
