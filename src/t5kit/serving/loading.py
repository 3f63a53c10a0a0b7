"""What an engine process does first: open the folder, the runtime and the adapters."""

import dataclasses

from t5kit.api.engines import open_runtime
from t5kit.checkpoint import open_folder
from t5kit.checkpoint.adapters import check_base, open_adapter
from t5kit.decoding import GrammarCompiler
from t5kit.runtime.adapters import adapting
from t5kit.scheduling.worker import LoadedEngine
from t5kit.serving.config import ModelSource
from t5kit.text import load_tokenizer


@dataclasses.dataclass(frozen=True, slots=True)
class FolderLoader:
    """The `EngineLoader` of a model folder."""

    source: ModelSource

    def __call__(self) -> LoadedEngine:
        """Raises: CheckpointError, TokenizerError, EngineError, DependencyError, RequestError."""
        source = self.source
        folder = open_folder(source.path)
        tokenizer = load_tokenizer(source.path)
        runtime = open_runtime(
            folder, engine=source.engine, weights=source.weights, threads=source.threads, device=source.device
        )
        for path in source.adapters.values():
            check_base(path, folder.tensors())
        adapters = {
            name: adapting(runtime).add_adapter(open_adapter(path, folder.config))
            for name, path in source.adapters.items()
        }
        return LoadedEngine(
            runtime=runtime,
            detokenizer_factory=tokenizer.detokenizer,
            constraint_factory=GrammarCompiler(tokenizer, vocab_size=folder.config.vocab_size),
            adapters=adapters,
        )
