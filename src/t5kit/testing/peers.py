"""Engines that answer ids with ids, ours and others', as plain functions: what `t5kit bench` compares.

Each opener takes a model folder and returns a function from prompts and a search to answers, EOS included
where it was reached. They differ in nothing a caller can see, so that whatever they give can be compared id by id.
This module imports none of them, nor what ours needs, so that the process of one engine holds nothing of another's.
Libraries that are not installed are a DependencyError; a model that one cannot read is an error of its own kind.
"""

import concurrent.futures
import dataclasses
import importlib
import importlib.util
import json
import multiprocessing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from t5kit.errors import DependencyError, EngineError, RequestError

if TYPE_CHECKING:
    from t5kit.api.engines import Engine, Weights
    from t5kit.decoding.options import Speculate

Ids = list[int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How answers are looked for, the same for every engine."""

    num_beams: int = 1
    early_stopping: bool = False
    """Beams stop once as many answers as beams are finished. CTranslate2 has no other rule; False has the others go on
    for a better answer, which is more work."""


Answer = Callable[[Sequence[Ids], Search], list[Ids]]
"""Prompts asked for together and the search -> their answers."""

CTRANSLATE2_WEIGHTS = ("int8", "int8_float32", "int16", "bfloat16", "float32")
WEIGHTS_OF: dict[str, tuple[str, ...]] = {
    "native": ("int8", "int4", "bfloat16", "float32"),
    "torch": ("auto", "float32", "bfloat16", "float16"),
    "reference": ("float32",),
    "ctranslate2": CTRANSLATE2_WEIGHTS,
    "ctranslate2_workers": CTRANSLATE2_WEIGHTS,
    "transformers": ("float32", "bfloat16", "float16"),
}
"""Engine -> the words for its weights, the default first.

ctranslate2 has one worker of all threads, ctranslate2_workers a worker of one thread for each (inter_threads), to which
texts asked for together are dealt.
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class EngineName:
    """An engine and its weights, written "native:int8"."""

    engine: str
    weights: str

    def __str__(self) -> str:
        return f"{self.engine}:{self.weights}"

    @property
    def is_ctranslate2(self) -> bool:
        """With all threads in one worker, or a worker for each."""
        return self.engine in ("ctranslate2", "ctranslate2_workers")

    @classmethod
    def parse(cls, word: str) -> "EngineName":
        """Return what "native" or "native:int8" names. Raises: RequestError with the words that exist."""
        engine, _, weights = word.strip().partition(":")
        if engine not in WEIGHTS_OF:
            raise RequestError(f"The engine {engine!r} must be one of: {', '.join(WEIGHTS_OF)}.")
        if weights and weights not in WEIGHTS_OF[engine]:
            raise RequestError(
                f"{engine} has no weights {weights!r} here; it takes one of: {', '.join(WEIGHTS_OF[engine])}."
            )
        return cls(engine=engine, weights=weights or WEIGHTS_OF[engine][0])


def prepare_engine(name: EngineName, folder: Path, *, scratch: Path) -> None:
    """Convert a model folder into `scratch` for an engine that needs that; a second call finds it done.

    In a process of its own, so that the memory it takes is not counted as the engine's.
    """
    if not name.is_ctranslate2 or converted_folder(name, scratch).exists():
        return
    _need("ctranslate2")
    _need("transformers")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        pool.submit(_convert_for_ctranslate2, folder, name.weights, converted_folder(name, scratch)).result()


def converted_folder(name: EngineName, scratch: Path) -> Path:
    """Return where CTranslate2's form of a model is, in the weights that it is to have in memory.

    One in float32 would be quantised at every start, which takes time and twice the memory.
    """
    return scratch / f"ctranslate2-{name.weights}"


def import_engine(name: EngineName) -> None:
    """Import what an engine needs, so that `open_engine` opens a model and does nothing else."""
    match name.engine:
        case "ctranslate2" | "ctranslate2_workers":
            libraries = ["ctranslate2"]
        case "transformers":
            libraries = ["torch", "transformers"]
        case "torch":
            libraries = ["torch", "t5kit.api.engines", "t5kit.scheduling", "t5kit.runtime.torch_runtime"]
        case _:
            libraries = ["t5kit.api.engines", "t5kit.scheduling"]
    for library in libraries:
        _need(library)
        importlib.import_module(library)


def open_engine(name: EngineName, folder: Path, *, threads: int, max_new_tokens: int, scratch: Path) -> Answer:
    """Return the engine `name` over a model folder; scratch is what `prepare_engine` was given.

    Raises: DependencyError, EngineError, CheckpointError, and whatever a peer raises for a model that it cannot take.
    """
    match name.engine:
        case "ctranslate2":
            return _open_ctranslate2(name, 1, threads, max_new_tokens, scratch)
        case "ctranslate2_workers":
            return _open_ctranslate2(name, threads, 1, max_new_tokens, scratch)
        case "transformers":
            return _open_transformers(folder, name.weights, threads, max_new_tokens)
        case _:
            return _open_ours(folder, name, threads, max_new_tokens)


def _open_ours(folder: Path, name: EngineName, threads: int, max_new_tokens: int) -> Answer:
    import numpy as np

    from t5kit.api.engines import open_runtime
    from t5kit.checkpoint import open_folder
    from t5kit.decoding import DecodingOptions
    from t5kit.scheduling import ContinuousScheduler, GenerationRequest, RequestFailed, RequestFinished

    engine: Engine = name.engine  # type: ignore[assignment]  # EngineName.parse saw to it
    weights: Weights = name.weights  # type: ignore[assignment]
    runtime = open_runtime(
        open_folder(folder),
        engine=engine,
        weights=weights,
        threads=None if engine == "reference" else threads,
        device="cpu",
    )
    speculate: Speculate = "auto" if engine == "native" else 0  # as Model.generate does

    def answer(prompts: Sequence[Ids], search: Search) -> list[Ids]:
        options = DecodingOptions(
            max_new_tokens=max_new_tokens,
            num_beams=search.num_beams,
            early_stopping=search.early_stopping,
            speculate=speculate,
        )
        scheduler = ContinuousScheduler(runtime)
        scheduler.submit(
            [
                GenerationRequest(request_id=number, encoder_input_ids=np.array(ids, np.int32), options=options)
                for number, ids in enumerate(prompts)
            ]
        )
        found: dict[int, Ids] = {}
        while scheduler.has_work:
            for event in scheduler.step():
                if isinstance(event, RequestFailed):
                    raise EngineError(event.error)
                if isinstance(event, RequestFinished):
                    found[event.request_id] = event.hypotheses[0].token_ids.tolist()
        return [found[number] for number in range(len(prompts))]

    return answer


def _open_ctranslate2(
    name: EngineName, num_workers: int, threads_each: int, max_new_tokens: int, scratch: Path
) -> Answer:
    _need("ctranslate2")
    import ctranslate2

    converted = converted_folder(name, scratch)
    vocabulary = json.loads((converted / "shared_vocabulary.json").read_text(encoding="utf-8"))
    ids_of = {piece: number for number, piece in enumerate(vocabulary)}
    translator = ctranslate2.Translator(
        str(converted), device="cpu", compute_type=name.weights, intra_threads=threads_each, inter_threads=num_workers
    )

    def answer(prompts: Sequence[Ids], search: Search) -> list[Ids]:
        made = translator.translate_batch(
            [[vocabulary[token] for token in ids] for ids in prompts],
            beam_size=search.num_beams,
            max_decoding_length=max_new_tokens,
            max_input_length=0,
            max_batch_size=-(-len(prompts) // num_workers),
            return_end_token=True,
        )
        return [[ids_of[piece] for piece in each.hypotheses[0]] for each in made]

    return answer


def _convert_for_ctranslate2(folder: Path, weights: str, converted: Path) -> None:
    """Write CTranslate2's form of a model folder."""
    from ctranslate2.converters import TransformersConverter

    from t5kit.checkpoint import open_folder

    spec = TransformersConverter(str(folder))._load()
    if not open_folder(folder).config.scales_logits:
        # Beside transformers 5 the converter takes untied models for tied ones and scales their logits; this is what
        # it writes itself for a model that does not scale.
        spec.decoder.scale_outputs = "__optional"
    spec.validate()
    spec.optimize(quantization=weights)
    converted.mkdir(parents=True)
    spec.save(str(converted))


def _open_transformers(folder: Path, weights: str, threads: int, max_new_tokens: int) -> Answer:
    _need("transformers")
    _need("torch")
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=getattr(torch, weights)).eval()
    # The folder's own defaults (beams, penalties) must not move what is compared.
    eos, pad = model.config.eos_token_id, model.config.pad_token_id
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=eos, pad_token_id=pad, decoder_start_token_id=model.config.decoder_start_token_id
    )

    @torch.inference_mode()
    def answer(prompts: Sequence[Ids], search: Search) -> list[Ids]:
        longest = max(map(len, prompts))
        ids = torch.full((len(prompts), longest), pad, dtype=torch.int64)
        mask = torch.zeros(len(prompts), longest, dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt)
            mask[row, : len(prompt)] = 1
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            num_beams=search.num_beams,
            early_stopping=search.early_stopping,
            max_new_tokens=max_new_tokens,
        )
        return [row[: row.index(eos) + 1] if eos in row else row for row in made[:, 1:].tolist()]

    return answer


def _need(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        raise DependencyError(f"{library} is not installed; `pip install {library}` to compare with it.")
