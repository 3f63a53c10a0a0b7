"""What `t5kit inspect` prints: everything known about a folder, each fact with its reason."""

import dataclasses
from collections.abc import Iterable

from t5kit.checkpoint.folder import CheckpointFolder, Inference
from t5kit.checkpoint.quantized import all_parts, is_matrix
from t5kit.checkpoint.tensors import FLOAT_WORDS, INT8_GROUP
from t5kit.config import PRESETS, Head, T5Config
from t5kit.errors import CheckpointError


@dataclasses.dataclass(frozen=True)
class FileSize:
    """One file of the folder."""

    name: str
    """Its name."""
    size_bytes: int
    """Its size on disk."""


@dataclasses.dataclass(frozen=True)
class FolderDescription:
    """Everything `t5kit inspect` tells about a folder; facts carry their reasons, numbers are exact or say "about"."""

    path: str
    """The folder."""
    facts: tuple[Inference, ...]
    """Family, tied, scaled, gated ... and why."""
    config: T5Config
    """The architecture."""
    labels: tuple[str, ...]
    """A classifier's label names."""
    prefixes: dict[str, str]
    """Task -> beginning of its prompts."""
    generation: dict[str, object]
    """Generation defaults of the folder."""
    num_tensors: int
    """Tensors in the home layout."""
    num_parameters: int
    """Parameters, the tied head counted once."""
    dtype_bytes: dict[str, int]
    """dtype word -> bytes of tensors stored so."""
    files: tuple[FileSize, ...]
    """Every file of the folder, by name."""
    weights_memory_bytes: dict[str, int]
    """weights= word -> bytes the weights take in memory: exact for float32 and bfloat16, about for int8."""
    self_attention_cache_bytes: int
    """float32 bytes of keys and values a generated token adds in each sequence; 0 without a decoder."""
    cross_attention_cache_bytes: int
    """float32 bytes of keys and values an input token takes, once an input; 0 without a decoder."""

    @property
    def size_bytes(self) -> int:
        """Bytes of all files on disk."""
        return sum(file.size_bytes for file in self.files)

    def to_dict(self) -> dict[str, object]:
        """Return the description as plain data for `--json`."""
        return {**dataclasses.asdict(self), "size_bytes": self.size_bytes}

    def to_text(self) -> str:
        """Return the description as aligned lines for a terminal."""
        c = self.config
        layers = f"{c.num_encoder_layers} encoder" + (f" + {c.num_decoder_layers} decoder" if c.has_decoder else "")
        buckets = f"{c.relative_attention_num_buckets} buckets up to distance {c.relative_attention_max_distance}"
        rows = [("folder", self.path, "")]
        rows += [(fact.fact, fact.value, fact.reason) for fact in self.facts]
        rows += [
            ("layers", layers, ""),
            ("d_model", str(c.d_model), ""),
            ("d_ff", str(c.d_ff), ""),
            ("heads", f"{c.num_heads} of width {c.d_kv}", f"inner width {c.inner_width}"),
            ("vocabulary", str(c.vocab_size), f"pad {c.pad_id}, eos {c.eos_id}, decoder start {c.decoder_start_id}"),
            ("positions", buckets, ""),
        ]
        if self.labels:
            shown = ", ".join(_printable(label) for label in self.labels[:8]) + (" ..." if len(self.labels) > 8 else "")
            rows.append(("label names", shown, ""))
        rows += [(f"task {_printable(task)}", f'"{_printable(prefix)}"', "") for task, prefix in self.prefixes.items()]
        rows += [(f"generation {key}", str(value), "") for key, value in self.generation.items()]
        rows.append(("parameters", f"{self.num_parameters:,}", f"{self.num_tensors} tensors"))
        for word, size in self.dtype_bytes.items():
            rows.append((f"stored as {word}", _megabytes(size), ""))
        for word, size in self.weights_memory_bytes.items():
            rows.append((f"memory as {word}", _megabytes(size), "about" if word == "int8" else ""))
        if c.has_decoder:
            rows.append(("cache, generated token", f"{self.self_attention_cache_bytes:,} bytes", "float32, a sequence"))
            rows.append(("cache, input token", f"{self.cross_attention_cache_bytes:,} bytes", "float32, once an input"))
        rows += [(f"file {_printable(file.name)}", _megabytes(file.size_bytes), "") for file in self.files]
        return _aligned(rows)


def describe(folder: CheckpointFolder) -> FolderDescription:
    """Return everything known about an opened folder; reads no tensor. Raises: CheckpointError if a file vanished."""
    config = folder.config
    dtype_bytes: dict[str, int] = {}
    word_of = {stored: word for word, stored in FLOAT_WORDS.items()}
    for view in all_parts(folder.tensors()):
        word = word_of.get(view.dtype, "int8")
        dtype_bytes[word] = dtype_bytes.get(word, 0) + view.size_bytes
    num_parameters = sum(view.num_elements for view in folder.tensors())
    matrices = sum(view.num_elements for view in folder.tensors() if is_matrix(view.name, view.shape))
    cache = 2 * 4 * config.inner_width * config.num_decoder_layers if config.has_decoder else 0
    return FolderDescription(
        path=str(folder.path),
        facts=(_family(folder), *folder.inferences),
        config=config,
        labels=folder.labels,
        prefixes=dict(folder.prefixes),
        generation=dict(folder.generation),
        num_tensors=len(folder.names()),
        num_parameters=num_parameters,
        dtype_bytes=dtype_bytes,
        files=_files(folder),
        weights_memory_bytes={
            "float32": 4 * num_parameters,
            "bfloat16": 2 * num_parameters,
            "int8": matrices + 4 * matrices // INT8_GROUP + 4 * (num_parameters - matrices),
        },
        self_attention_cache_bytes=cache,
        cross_attention_cache_bytes=cache,
    )


def _family(folder: CheckpointFolder) -> Inference:
    """Guess the family from what sets each apart; v1.1, LM-adapted and FLAN are one architecture."""
    config, model_type = folder.config, folder.raw_config.get("model_type")
    same = [name for name, preset in PRESETS.items() if _sizes(preset) == _sizes(config)]
    sizes = f"; sizes of {', '.join(same)}" if same else "; sizes of no published model"
    if config.encoder_attention != "full":
        return Inference("family", "LongT5", f"its encoder attends {config.encoder_attention}")
    if config.has_bias_per_layer:
        return Inference("family", "umT5", "every block has its own position table" + sizes)
    if not config.uses_gated_mlp:
        return Inference("family", "T5 v1.0", "the feed-forward layer is not gated" + sizes)
    if config.vocab_size in (384, 259):
        return Inference("family", "ByT5", f"a vocabulary of {config.vocab_size} is bytes" + sizes)
    if config.vocab_size == 256000:
        return Inference("family", "MADLAD-400", "its vocabulary of 256000" + sizes)
    if model_type == "mt5" or config.vocab_size == 250112:
        return Inference("family", "mT5", f"model_type {model_type}, a vocabulary of {config.vocab_size}" + sizes)
    if config.activation == "silu":
        return Inference("family", "UL2", "gated SiLU, otherwise T5 v1.1" + sizes)
    reason = "the feed-forward layer is gated; these three share one architecture"
    return Inference("family", "T5 v1.1, LM-adapted or FLAN", reason + sizes)


def _sizes(config: T5Config) -> tuple[object, ...]:
    decoder_layers = config.num_decoder_layers if config.head is Head.LANGUAGE_MODEL else None
    return (
        config.vocab_size,
        config.d_model,
        config.d_ff,
        config.d_kv,
        config.num_heads,
        config.num_encoder_layers,
        decoder_layers,
        config.uses_gated_mlp,
        config.has_bias_per_layer,
    )


def _files(folder: CheckpointFolder) -> tuple[FileSize, ...]:
    try:
        entries = sorted(entry for entry in folder.path.iterdir() if entry.is_file())
        return tuple(FileSize(entry.name, entry.stat().st_size) for entry in entries)
    except OSError as error:
        raise CheckpointError(f"{folder.path} changed while it was inspected: {error}.") from error


def _printable(text: str) -> str:
    """Return `text` without the control characters by which a hostile file could write over a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _megabytes(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.1f} MB" if size_bytes >= 1e5 else f"{size_bytes:,} bytes"


def _aligned(rows: Iterable[tuple[str, str, str]]) -> str:
    rows = list(rows)
    first = max(len(row[0]) for row in rows)
    second = min(40, max(len(row[1]) for row in rows))
    return "\n".join(f"{fact:<{first}}  {value:<{second}}  {reason}".rstrip() for fact, value, reason in rows)
