"""Models that give labels instead of text, and their losses."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from t5kit.config import Head, T5Config
from t5kit.config.architecture import PROBLEM_TYPES, ProblemType
from t5kit.errors import ConfigError, RequestError
from t5kit.model.dropout import Dropout, DropoutBroadcast
from t5kit.model.masks import check_segment_ids
from t5kit.model.t5 import T5Encoder, T5EncoderDecoder

IGNORED_LABEL = -100
"""A token's label that counts for nothing: padding, or a later piece of a word."""


class ClassificationHead(nn.Module):
    """Dropout, dense, tanh, dropout, projection: [B, D] -> [B, num_labels]."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.num_labels)
        self.dropout = Dropout(config.classifier_dropout)

    def forward(self, hidden_BD: Tensor) -> Tensor:
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(hidden_BD)))))


class SequenceClassifier(nn.Module):
    """Labels for a whole text, from the decoder's state at the text's last EOS.

    The decoder reads the encoder's text, moved right behind the start token, as in Hugging Face's
    T5ForSequenceClassification; unlike there, the rows of a batch may hold different numbers of EOS.
    """

    def __init__(self, config: T5Config, *, dropout_broadcast: DropoutBroadcast = "none") -> None:
        super().__init__()
        _check_head(config, Head.SEQUENCE_CLASSIFICATION)
        self.config = config
        self.transformer = T5EncoderDecoder(config, dropout_broadcast=dropout_broadcast)
        self.classification_head = ClassificationHead(config)

    def forward(self, *, encoder_input_ids: Tensor, encoder_segment_ids: Tensor | None = None) -> Tensor:
        """Return the logits [B, num_labels] of one text a row.

        Shapes: encoder_input_ids [B, S]; encoder_segment_ids [B, S], 0 or False at padding. A row without EOS is
        judged at its last real token. Raises: RequestError for other shapes or dtypes.
        """
        check_segment_ids("encoder_segment_ids", encoder_segment_ids, encoder_input_ids.shape)
        is_real = _is_real(encoder_input_ids, encoder_segment_ids)
        encoder_hidden = self.transformer.encode(encoder_input_ids, encoder_segment_ids=is_real)
        decoder_hidden = self.transformer.decode(
            _moved_right(encoder_input_ids, is_real, start_id=self.config.decoder_start_id),
            encoder_hidden,
            decoder_segment_ids=is_real,
            encoder_segment_ids=is_real,
        )
        last_B = _last_position(encoder_input_ids, is_real, eos_id=self.config.eos_id)
        rows_B = torch.arange(len(last_B), device=last_B.device)
        return self.classification_head(decoder_hidden[rows_B, last_B])


class TokenClassifier(nn.Module):
    """A label for every token, from the encoder alone."""

    def __init__(self, config: T5Config, *, dropout_broadcast: DropoutBroadcast = "none") -> None:
        super().__init__()
        _check_head(config, Head.TOKEN_CLASSIFICATION)
        self.config = config
        self.transformer = T5Encoder(config, dropout_broadcast=dropout_broadcast)
        self.dropout = Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.d_model, config.num_labels)

    def forward(self, *, encoder_input_ids: Tensor, encoder_segment_ids: Tensor | None = None) -> Tensor:
        """Return the logits [B, S, num_labels]; arguments as in `T5Encoder.encode`, packed rows included."""
        hidden_BSD = self.transformer.encode(encoder_input_ids, encoder_segment_ids=encoder_segment_ids)
        return self.classifier(self.dropout(hidden_BSD))


def resolve_problem_type(config: T5Config, labels: Tensor) -> ProblemType:
    """Return the config's problem type, or where it has none the one that fits, by the rule of Hugging Face.

    One label output means regression; several with integer labels a single label; several with others several labels.
    """
    if config.problem_type is not None:
        return config.problem_type
    if config.num_labels == 1:
        return "regression"
    return "multi_label" if labels.is_floating_point() or labels.dtype == torch.bool else "single_label"


def sequence_classification_loss(logits: Tensor, labels: Tensor, problem_type: ProblemType) -> tuple[Tensor, Tensor]:
    """Return the summed loss and what to divide it by, two float32 scalars.

    single_label: cross-entropy, labels [B] integers, divided by B. multi_label: binary cross-entropy on logits, labels
    [B, num_labels] of 0 and 1, divided by B * num_labels. regression: squared error, labels [B, num_labels] (or [B]
    where num_labels is 1), divided by B * num_labels. The quotient is Hugging Face's loss. Sums are float32.
    Raises: RequestError if the labels' shape does not fit, ConfigError for an unknown problem type.
    """
    if problem_type not in PROBLEM_TYPES:
        raise ConfigError(f"problem_type = {problem_type!r} must be one of: {', '.join(PROBLEM_TYPES)}.")
    logits = logits.float()
    batch_size, num_labels = logits.shape
    if problem_type == "single_label":
        _check_labels(labels, [batch_size], "integers", fits=not (labels.is_floating_point() or labels.is_complex()))
        loss_sum, count = F.cross_entropy(logits, labels.long(), reduction="sum"), batch_size
    else:
        if num_labels == 1 and labels.dim() == 1:
            labels = labels[:, None]
        _check_labels(labels, [batch_size, num_labels], "numbers", fits=not labels.is_complex())
        criterion = F.mse_loss if problem_type == "regression" else F.binary_cross_entropy_with_logits
        loss_sum, count = criterion(logits, labels.float(), reduction="sum"), labels.numel()
    return loss_sum, torch.tensor(float(count), device=logits.device)


def token_classification_loss(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the summed cross-entropy and the number of labels that count, two float32 scalars.

    Shapes: logits [B, S, num_labels], labels [B, S] integers with IGNORED_LABEL (-100) where there is none.
    Raises: RequestError if the labels' shape does not fit.
    """
    fits = not (labels.is_floating_point() or labels.is_complex())
    _check_labels(labels, list(logits.shape[:2]), "integers", fits=fits)
    loss_sum = F.cross_entropy(
        logits.float().flatten(0, 1), labels.long().flatten(), ignore_index=IGNORED_LABEL, reduction="sum"
    )
    return loss_sum, (labels != IGNORED_LABEL).sum().float()


def _is_real(ids: Tensor, segment_ids: Tensor | None) -> Tensor:
    return torch.ones_like(ids, dtype=torch.bool) if segment_ids is None else segment_ids != 0


def _moved_right(ids: Tensor, is_real: Tensor, *, start_id: int) -> Tensor:
    """Return [B, S]: every token's predecessor, the start token where that is none."""
    has_predecessor = F.pad(is_real[:, :-1], (1, 0))
    return torch.where(has_predecessor, F.pad(ids[:, :-1], (1, 0)), start_id)


def _last_position(ids: Tensor, is_real: Tensor, *, eos_id: int) -> Tensor:
    """Return [B]: the position of the last EOS, or of the last real token where there is no EOS."""
    positions = torch.arange(ids.shape[1], device=ids.device)
    last_eos = torch.where(is_real & (ids == eos_id), positions, -1).amax(1)
    last_real = torch.where(is_real, positions, 0).amax(1)
    return torch.where(last_eos >= 0, last_eos, last_real)


def _check_head(config: T5Config, head: Head) -> None:
    if config.head is not head:
        raise ConfigError(f"This model has the head {head.value!r}, the config {config.head.value!r}. Use build_model.")


def _check_labels(labels: Tensor, shape: list[int], kind: str, *, fits: bool) -> None:
    if not fits or list(labels.shape) != shape:
        raise RequestError(f"labels must be {kind} of shape {shape}; got {labels.dtype} {list(labels.shape)}.")
