import dataclasses

import pytest
import torch

from t5kit.config import Head, T5Config
from t5kit.errors import ConfigError, RequestError
from t5kit.model.heads import (
    SequenceClassifier,
    TokenClassifier,
    resolve_problem_type,
    sequence_classification_loss,
    token_classification_loss,
)
from t5kit.model.loading import load_model
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors

SEQUENCE = dataclasses.replace(TINY_CONFIGS["t5_v1_1"], head=Head.SEQUENCE_CLASSIFICATION, num_labels=3)
TOKENS = dataclasses.replace(TINY_CONFIGS["umt5"], head=Head.TOKEN_CLASSIFICATION, num_labels=5)


def loaded(config: T5Config) -> SequenceClassifier | TokenClassifier:
    model = load_model(config, random_tensors(config))
    assert isinstance(model, SequenceClassifier | TokenClassifier)
    return model


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    # Numerics: float32 sums in another order; ten times its 24 bits' rounding, amplified by a few layers.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * max(1.0, expected.abs().max().item()))


def test_sequence_logits_come_from_the_last_eos_of_each_row() -> None:
    """Rows with different numbers of EOS, padded to one length: each as it is alone."""
    model = loaded(SEQUENCE)
    rows = [[7, 8, 1], [7, 1, 9, 8, 1], [1], [5, 6, 1, 1]]
    ids = torch.tensor([row + [1] * (5 - len(row)) for row in rows])
    segments = torch.tensor([[1] * len(row) + [0] * (5 - len(row)) for row in rows])
    together = model(encoder_input_ids=ids, encoder_segment_ids=segments)
    assert together.shape == (4, 3)
    for row, logits in zip(rows, together, strict=True):
        assert_same(model(encoder_input_ids=torch.tensor([row]))[0], logits)


def test_sequence_logits_are_the_same_with_padding_on_the_left() -> None:
    model = loaded(SEQUENCE)
    alone = model(encoder_input_ids=torch.tensor([[7, 8, 1]]))
    padded = model(
        encoder_input_ids=torch.tensor([[44, 33, 7, 8, 1]]), encoder_segment_ids=torch.tensor([[0, 0, 1, 1, 1]])
    )
    assert_same(padded, alone)


def test_row_without_eos_is_judged_at_its_last_real_token() -> None:
    model = loaded(SEQUENCE)
    decoded = []
    model.transformer.decoder.register_forward_hook(lambda _module, _inputs, output: decoded.append(output))
    logits = model(encoder_input_ids=torch.tensor([[7, 8, 9, 0]]), encoder_segment_ids=torch.tensor([[1, 1, 1, 0]]))
    torch.testing.assert_close(model.classification_head(decoded[0][:, 2]), logits)


def test_token_logits_of_packed_texts_are_those_of_each_alone() -> None:
    model = loaded(TOKENS)
    packed = model(
        encoder_input_ids=torch.tensor([[7, 8, 1, 9, 1, 0]]),
        encoder_segment_ids=torch.tensor([[1, 1, 1, 2, 2, 0]]),
    )
    assert packed.shape == (1, 6, 5)
    first, second = model(encoder_input_ids=torch.tensor([[7, 8, 1]])), model(encoder_input_ids=torch.tensor([[9, 1]]))
    assert_same(packed[:, :3], first)
    assert_same(packed[:, 3:5], second)


def test_head_dropout_acts_in_training_mode() -> None:
    for config in (SEQUENCE, TOKENS):
        model = loaded(dataclasses.replace(config, classifier_dropout=0.5)).train()
        ids = torch.tensor([[7, 8, 1]])
        torch.manual_seed(0)
        assert not torch.allclose(model(encoder_input_ids=ids), model(encoder_input_ids=ids))


def test_single_label_loss_is_the_mean_cross_entropy() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([0, 2, 1, 1])
    total, count = sequence_classification_loss(logits, labels, "single_label")
    by_hand = -logits.log_softmax(-1)[torch.arange(4), labels].mean()
    torch.testing.assert_close(total / count, by_hand)


def test_multi_label_loss_is_the_mean_over_labels_of_the_binary_cross_entropy() -> None:
    logits, labels = torch.randn(4, 3), torch.tensor([[0, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0]])
    total, count = sequence_classification_loss(logits, labels, "multi_label")
    p = logits.sigmoid()
    torch.testing.assert_close(total / count, -(labels * p.log() + (1 - labels) * (1 - p).log()).mean())


def test_regression_loss_is_the_mean_squared_error_and_takes_a_vector_for_one_output() -> None:
    logits, labels = torch.randn(4, 1), torch.randn(4)
    total, count = sequence_classification_loss(logits, labels, "regression")
    torch.testing.assert_close(total / count, (logits[:, 0] - labels).square().mean())
    assert count == 4


def test_token_loss_counts_the_labels_that_are_not_ignored() -> None:
    logits, labels = torch.randn(2, 3, 5), torch.tensor([[0, -100, 4], [-100, -100, 2]])
    total, count = token_classification_loss(logits, labels)
    real = labels != -100
    by_hand = -logits.log_softmax(-1)[real].gather(1, labels[real][:, None]).mean()
    assert count == 3
    torch.testing.assert_close(total / count, by_hand)


def test_token_loss_of_padding_alone_is_zero_of_zero() -> None:
    total, count = token_classification_loss(torch.randn(1, 2, 5), torch.tensor([[-100, -100]]))
    assert total == 0 and count == 0


def test_problem_type_is_the_configs_or_follows_the_labels() -> None:
    integers, numbers = torch.tensor([1]), torch.tensor([0.5])
    assert resolve_problem_type(dataclasses.replace(SEQUENCE, problem_type="multi_label"), integers) == "multi_label"
    assert resolve_problem_type(SEQUENCE, integers) == "single_label"
    assert resolve_problem_type(SEQUENCE, numbers) == "multi_label"
    assert resolve_problem_type(dataclasses.replace(SEQUENCE, num_labels=1), numbers) == "regression"


def test_losses_refuse_labels_that_do_not_fit() -> None:
    logits = torch.zeros(4, 3)
    with pytest.raises(RequestError, match=r"integers of shape \[4\]; got torch.float32 \[4\]"):
        sequence_classification_loss(logits, torch.zeros(4), "single_label")
    with pytest.raises(RequestError, match=r"numbers of shape \[4, 3\]; got"):
        sequence_classification_loss(logits, torch.zeros(4), "multi_label")
    with pytest.raises(RequestError, match=r"integers of shape \[2, 3\]"):
        token_classification_loss(torch.zeros(2, 3, 5), torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(ConfigError, match="single_label, multi_label, regression"):
        sequence_classification_loss(logits, torch.zeros(4), "labels")


def test_class_and_head_must_agree() -> None:
    with pytest.raises(ConfigError, match="Use build_model"):
        TokenClassifier(SEQUENCE)
