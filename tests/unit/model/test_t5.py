import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from t5kit.config import Head, T5Config, preset, tensor_shapes
from t5kit.errors import ConfigError, EngineError, RequestError
from t5kit.model.loading import build_model, load_model
from t5kit.model.t5 import T5, T5Encoder
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

V1_1 = TINY_CONFIGS["t5_v1_1"]


def tiny(config: T5Config = V1_1, **options: object) -> T5:
    model = load_model(config, random_tensors(config), **options)
    assert isinstance(model, T5)
    return model


def assert_same(found: Tensor, expected: Tensor) -> None:
    # Numerics: float32 sums in another order; ten times its 24 bits' rounding, amplified by a few layers.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * max(1.0, expected.abs().max().item()))


def random_ids(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(2, 96, shape, generator=torch.Generator().manual_seed(seed))


def test_parameters_have_the_names_shapes_and_order_of_the_home_layout(config_of_each_head: T5Config) -> None:
    with torch.device("meta"):
        model = build_model(config_of_each_head)
    state = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert list(state.items()) == list(tensor_shapes(config_of_each_head).items())


@pytest.mark.parametrize("name", ["t5_11b", "t5_v1_1_xxl", "mt5_xl", "umt5_xxl", "byt5_large", "madlad400_10b"])
def test_published_architectures_can_be_built(name: str) -> None:
    with torch.device("meta"):
        model = build_model(preset(name))
    assert sum(parameter.numel() for parameter in model.parameters()) == preset(name).num_parameters


def test_padding_with_real_looking_ids_changes_nothing(config: T5Config) -> None:
    model = tiny(config)
    encoder_ids, decoder_ids = random_ids(1, 6), random_ids(1, 5, seed=1)
    alone = model(encoder_input_ids=encoder_ids, decoder_input_ids=decoder_ids)
    padded = model(
        encoder_input_ids=torch.cat([encoder_ids, random_ids(1, 4, seed=2)], 1),
        encoder_segment_ids=torch.arange(10)[None] < 6,
        decoder_input_ids=torch.cat([decoder_ids, random_ids(1, 2, seed=3)], 1),
    )
    assert_same(padded[:, :5], alone)


def test_real_tokens_with_the_padding_id_are_seen() -> None:
    model = tiny()
    with_zero = torch.tensor([[5, 0, 9, 1]])
    assert not torch.allclose(model.encode(with_zero)[:, 0], model.encode(torch.tensor([[5, 9, 1]]))[:, 0], atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_row_that_is_all_padding_gives_numbers_and_disturbs_nobody(config: T5Config, dtype: torch.dtype) -> None:
    model = tiny(config, dtype=dtype)
    encoder_ids, decoder_ids = random_ids(2, 6), random_ids(2, 5)
    segments = torch.tensor([[1] * 6, [0] * 6])
    both_rows = model(
        encoder_input_ids=encoder_ids,
        encoder_segment_ids=segments,
        decoder_input_ids=decoder_ids,
        decoder_segment_ids=segments[:, :5],
    )
    assert both_rows.isfinite().all()
    alone = model(encoder_input_ids=encoder_ids[:1], decoder_input_ids=decoder_ids[:1])
    if dtype == torch.float32:
        assert_same(both_rows[:1], alone)


def test_gradients_are_finite_with_a_row_that_is_all_padding() -> None:
    model = tiny()
    segments = torch.tensor([[1, 1, 1], [0, 0, 0]])
    logits = model(
        encoder_input_ids=random_ids(2, 3),
        encoder_segment_ids=segments,
        decoder_input_ids=random_ids(2, 3),
        decoder_segment_ids=segments,
    )
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("with_heads", [False, True])
def test_attention_masks_say_who_sees_whom_in_all_three_attentions(with_heads: bool) -> None:
    """Masks that express padding, a window and a hidden source token are the same as not having the hidden tokens."""
    model = tiny()
    encoder_ids, decoder_ids = random_ids(1, 6), random_ids(1, 4, seed=1)

    def pairs(mask: Tensor) -> Tensor:
        return mask[:, None].expand(-1, V1_1.num_heads, -1, -1) if with_heads else mask

    visible = torch.ones(1, 6, 6, dtype=torch.bool)
    visible[:, :, 4:] = False
    hidden = model.encode(encoder_ids, encoder_attention_mask=pairs(visible))
    assert_same(hidden[:, :4], model.encode(encoder_ids[:, :4]))

    cross = torch.ones(1, 4, 6, dtype=torch.bool)
    cross[:, :, 4:] = False
    decoded = model.decode(decoder_ids, hidden, cross_attention_mask=pairs(cross))
    assert_same(decoded, model.decode(decoder_ids, hidden[:, :4]))

    itself = torch.eye(4, dtype=torch.bool)[None]
    apart = model.decode(decoder_ids, hidden, decoder_attention_mask=pairs(itself))
    for t in range(4):
        alone = model.decode(decoder_ids[:, t : t + 1], hidden)
        assert_same(apart[:, t : t + 1], alone)


def test_attention_mask_and_segments_both_have_to_allow_a_key() -> None:
    model = tiny()
    ids = random_ids(1, 6)
    visible = (torch.arange(6) != 2).expand(1, 6, 6)
    found = model.encode(ids, encoder_segment_ids=torch.arange(6)[None] < 4, encoder_attention_mask=visible)
    both = visible & (torch.arange(6) < 4)
    assert_same(found, model.encode(ids, encoder_attention_mask=both))


def test_decode_cannot_see_the_future_whatever_the_mask_says() -> None:
    model = tiny()
    hidden = model.encode(random_ids(1, 6))
    ids = random_ids(1, 5)
    everything = torch.ones(1, 5, 5, dtype=torch.bool)
    decoded = model.decode(ids, hidden, decoder_attention_mask=everything)
    assert_same(decoded, model.decode(ids, hidden))


def test_cached_decoding_takes_masks_for_both_attentions() -> None:
    model = tiny()
    hidden, ids = model.encode(random_ids(2, 6)), random_ids(2, 5)
    generator = torch.Generator().manual_seed(0)
    visible = torch.rand(2, 5, 5, generator=generator) < 0.6
    cross = torch.rand(2, 5, 6, generator=generator) < 0.6
    whole = model.decode(ids, hidden, decoder_attention_mask=visible, cross_attention_mask=cross)
    cache = model.start_cache(hidden, capacity=5)
    for start, end in ((0, 3), (3, 5)):
        part = model.decode_next(
            ids[:, start:end],
            cache,
            decoder_attention_mask=visible[:, start:end, :end],
            cross_attention_mask=cross[:, start:end],
        )
        assert_same(part, whole[:, start:end])


def test_logits_of_a_scaled_head_are_smaller_by_the_root_of_the_width_and_of_a_tied_one_are_the_embedding() -> None:
    hidden = torch.randn(3, 32)
    plain = tiny(TINY_CONFIGS["tied_unscaled"])
    scaled = tiny(dataclasses.replace(TINY_CONFIGS["tied_unscaled"], scales_logits=True))
    torch.testing.assert_close(plain.logits(hidden), hidden @ plain.shared.weight.T)
    torch.testing.assert_close(scaled.logits(hidden) * 32**0.5, plain.logits(hidden))


def test_gradient_of_a_tied_embedding_holds_the_heads_part() -> None:
    model = tiny(TINY_CONFIGS["t5"])
    model(encoder_input_ids=torch.tensor([[5, 1]]), decoder_input_ids=torch.tensor([[0]])).square().sum().backward()
    gradient = model.shared.weight.grad
    assert gradient is not None and (gradient.abs().sum(1) > 0).all()


def test_dropout_acts_in_training_mode_only() -> None:
    config = dataclasses.replace(V1_1, dropout_rate=0.3)
    ids = {"encoder_input_ids": random_ids(1, 6), "decoder_input_ids": random_ids(1, 5)}
    for broadcast in ("none", "length"):
        model = load_model(config, random_tensors(config), dropout_broadcast=broadcast)
        torch.testing.assert_close(model(**ids), tiny()(**ids))
        model.train()
        torch.manual_seed(0)
        assert not torch.allclose(model(**ids), model(**ids), atol=1e-2)


def test_forward_compiles_as_one_graph() -> None:
    model = tiny()
    ids = {"encoder_input_ids": random_ids(2, 6), "decoder_input_ids": random_ids(2, 5)}
    segments = {
        "encoder_segment_ids": torch.tensor([[1, 1, 2, 2, 2, 0]] * 2),
        "decoder_segment_ids": torch.tensor([[1, 2, 2, 2, 0]] * 2),
    }
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_same(compiled(**ids, **segments), model(**ids, **segments))


def test_autocast_computes_near_the_full_precision() -> None:
    model = tiny()
    ids = {"encoder_input_ids": random_ids(2, 9), "decoder_input_ids": random_ids(2, 5)}
    segments = torch.ones(2, 9, dtype=torch.bool)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(**ids, encoder_segment_ids=segments)
    expected = model(**ids)
    assert logits.dtype == torch.bfloat16
    # Numerics: bfloat16 has 8 bits; a few dozen roundings at the scale of the largest logit.
    torch.testing.assert_close(logits.float(), expected, rtol=0, atol=0.06 * expected.abs().max().item())


def test_float16_survives_a_residual_stream_beyond_its_range(config: T5Config) -> None:
    """Feed-forward outputs of some 10^5 a layer: naive float16 gives inf or NaN, ours what float32 gives."""
    views = random_tensors(config)
    model = load_model(config, views)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "DenseReluDense" in name:
                parameter *= 200
            parameter.copy_(parameter.half())
    narrow = load_model(config, views, dtype=torch.float16)
    narrow.load_state_dict(model.state_dict())
    ids = {"encoder_input_ids": random_ids(2, 9), "decoder_input_ids": random_ids(2, 5)}
    largest = []
    hook = model.encoder.block[-1].register_forward_hook(lambda _m, _i, out: largest.append(out[0].abs().max().item()))
    with torch.no_grad():
        expected, found = model(**ids), narrow(**ids)
    hook.remove()
    assert largest[0] > 65504, "the example must overflow"
    assert found.dtype == torch.float16
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=0.03 * expected.abs().max().item())


def refusals() -> list[tuple[Callable[[T5], object], str]]:
    ids, hidden = random_ids(2, 5), torch.zeros(2, 6, 32)
    mask = torch.ones(2, 5, 5, dtype=torch.bool)
    return [
        (lambda m: m.encode(ids[0]), "encoder_input_ids must be integers"),
        (lambda m: m.encode(ids.float()), "encoder_input_ids must be integers"),
        (lambda m: m.encode(ids[:, :0]), "encoder_input_ids must be integers"),
        (lambda m: m.encode(ids, encoder_segment_ids=ids[:, :4]), r"encoder_segment_ids must be .* \[2, 5\]"),
        (lambda m: m.encode(ids, encoder_segment_ids=mask[0].float()), "encoder_segment_ids must be"),
        (lambda m: m.encode(ids, encoder_attention_mask=mask[0]), "encoder_attention_mask must be boolean"),
        (lambda m: m.encode(ids, encoder_attention_mask=mask.long()), "encoder_attention_mask must be boolean"),
        (lambda m: m.encode(ids, encoder_attention_mask=mask[:, :, :3]), r"\[2, 5, 5\] or with heads"),
        (lambda m: m.decode(ids, hidden[:1]), r"encoder_hidden must be \[2, S, 32\]; got \[1, 6, 32\]"),
        (lambda m: m.decode(ids, hidden[..., :5]), "encoder_hidden must be"),
        (lambda m: m.decode(ids, hidden, cross_attention_mask=mask), r"cross_attention_mask must .* \[2, 5, 6\]"),
        (lambda m: m.start_cache(hidden, capacity=0), "capacity = 0 must be at least 1"),
        (lambda m: m.decode_next(ids, m.start_cache(hidden, capacity=4)), "larger capacity"),
        (lambda m: m.decode_next(ids[:1], m.start_cache(hidden, capacity=8)), "do not fit a cache of 2 rows"),
    ]


@pytest.mark.parametrize(("call", "message"), refusals())
def test_misshapen_arguments_are_refused_with_what_was_expected(call: Callable[[T5], object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        call(tiny())


def test_long_t5_is_refused() -> None:
    with pytest.raises(EngineError, match=r"LongT5.*only 'full'"):
        T5Encoder(dataclasses.replace(V1_1, encoder_attention="local"))


def test_class_and_head_must_agree() -> None:
    with pytest.raises(ConfigError, match="Use build_model"):
        T5(dataclasses.replace(V1_1, head=Head.ENCODER))
