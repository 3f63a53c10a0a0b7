"""Types of the C++ core; the functions are bound in native/bindings.cpp."""

from collections.abc import Mapping, Sequence

import numpy as np

def cpu_features() -> frozenset[str]:
    """Return the instruction sets this process may use, in the spelling of /proc/cpuinfo.

    A name such as "avx512_vnni" or "asimddp" is there only if the processor and the operating system allow its use.
    On a processor with AMX the first call asks the operating system for the tile registers, for the whole process.
    """

def available_kernels() -> list[str]:
    """Return the names of the kernel sets that run on this processor, the one that is chosen by itself first."""

def cgroup_threads(groups: str, root: str) -> int:
    """Return how many threads the quotas of a cgroup file's groups allow below a root; 0 where there is none."""

def default_threads() -> int:
    """Return how many processors this process may use: its affinity, cut to the cgroup's quota."""

def passes_trial(kernels: str) -> bool:
    """Return whether a set's products are right on this processor (native/trial.h), for tests; where it has AVX-512."""

# Single kernels of any set, for tests: x, scores and weight are float32, computed as `weights` or `activation` says.
def linear(kernels: str, weights: str, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Shapes: weight [out, in], x [M, in] -> x @ weight.T [M, out]."""

def softmax(kernels: str, scores: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Shapes: scores and bias [N] -> softmax(scores + bias) [N]."""

def rms_norm(kernels: str, x: np.ndarray, weight: np.ndarray, epsilon: float) -> np.ndarray:
    """Shapes: x and weight [N] -> [N]."""

def activate(kernels: str, activation: str, x: np.ndarray, gate: np.ndarray | None) -> np.ndarray:
    """Shapes: x and gate [N] -> activation(x) * gate [N]."""

def scale(kernels: str, x: np.ndarray, factor: float) -> np.ndarray:
    """Shapes: x [N] -> x * factor [N]."""

def bfloat16_dots(kernels: str, row: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Shapes: row [in], rounded to bfloat16, x [M, in] -> x @ row [M]."""

def attention_scores(kernels: str, q: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Shapes: q [M, width], keys [K, width] -> q @ keys.T [M, K]."""

def attention_mix(kernels: str, p: np.ndarray, values: np.ndarray, added: np.ndarray | None) -> np.ndarray:
    """Shapes: p [M, K], values [K, width], added [M, width] -> p @ values + added [M, width]."""

def largest(kernels: str, x: np.ndarray, edits: np.ndarray | None, factor: float) -> float:
    """Shapes: x and edits [N] -> the largest of x + factor * edits, where NaN counts as -inf."""

def sum_exp(kernels: str, x: np.ndarray, offset: float) -> float:
    """Shapes: x [N] -> the sum of exp(x - offset)."""

def collect(
    kernels: str, x: np.ndarray, edits: np.ndarray | None, factor: float, threshold: float, first_id: int
) -> list[int]:
    """Shapes: x and edits [N] -> first_id + i for every x[i] + factor * edits[i] >= threshold."""

def xxh64(data: memoryview | bytes, seed: int) -> int:
    """Return the XXH64 hash of the bytes, of which packed digests are made."""

def reading_rate(size_bytes: int, threads: int) -> float:
    """Return the bytes a second at which `threads` threads read memory of that size, best of five rounds."""

class Engine:
    """A loaded T5. One caller at a time; every method that computes releases the GIL.

    Raises, in every method: t5kit.errors.EngineError for names that are not open and sizes that do not fit.
    """

    def __init__(
        self,
        config: Mapping[str, int | float | bool | str],
        tensors: Sequence[tuple[str, str, tuple[int, ...], memoryview, bool]],
        weights: str,
        threads: int,
        kernels: str,
        packed: tuple[memoryview, int, bool] | None,
    ) -> None:
        """tensors: (name, dtype word, shape, bytes, whether they are a mapped file's, whose pages may be let go).

        threads 0: all there are. kernels "": the best that runs here. packed: what `packed()` and `packed_digest()` of
        an engine gave, and whether it is a mapped file's; the tensors' bytes are not read then.
        Raises: EngineError if they are not exactly that.
        """

    @property
    def kernels(self) -> str: ...
    @property
    def threads(self) -> int: ...
    @property
    def weight_bytes(self) -> int: ...
    @property
    def spare_cache_bytes(self) -> int: ...
    @property
    def cache_bytes(self) -> int:
        """Bytes of the encoded prompts and of the pages of keys and values that open slots stand on."""

    def packed(self) -> np.ndarray:
        """Return a view [weight_bytes] uint8 on all packed weights; it keeps the engine alive."""

    def packed_digest(self) -> int:
        """Return a 64-bit digest of `packed()`."""

    def add_adapter(self, maps: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> int:
        """maps: (name of a linear map, A [r, in], B [out, r]) float32, copied -> the adapter's name, at least 1."""

    def remove_adapter(self, name: int) -> None:
        """Forget an adapter; handles that were encoded with it keep it."""

    def encode(self, ids: np.ndarray, lengths: np.ndarray, adapters: Sequence[int]) -> list[int]:
        """Shapes: ids [N] int32, one sequence after another; lengths [B] int32 -> B handles.

        adapters: one name for each, 0 for none; empty for none at all.
        """

    def encoder_states(self, ids: np.ndarray, lengths: np.ndarray, adapters: Sequence[int]) -> np.ndarray:
        """Shapes: as encode -> [N, D] float32."""

    def retain(self, handles: Sequence[int]) -> None: ...
    def release(self, handles: Sequence[int]) -> None: ...
    def open_slots(self, handles: Sequence[int]) -> np.ndarray: ...
    def close_slots(self, slots: np.ndarray) -> None: ...
    def fork_slots(self, slots: np.ndarray) -> np.ndarray: ...
    def reorder_slots(self, slots: np.ndarray, parents: np.ndarray) -> None: ...
    def rollback_slots(self, slots: np.ndarray, lengths: np.ndarray) -> None: ...
    def slot_lengths(self, slots: np.ndarray) -> np.ndarray: ...
    def step(
        self,
        slots: np.ndarray,
        tokens: np.ndarray,
        lengths: np.ndarray,
        top_k: int,
        logits: bool,
        all_positions: bool,
        cross_attention: bool,
        hidden: bool,
        edits: Sequence[tuple[object, ...]],
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None, tuple[np.ndarray, ...] | None, np.ndarray | None]:
        """Return top ids, top logits, log-sum-exp, logits, cross-attention, hidden (t5kit.runtime.protocol.StepOutput).

        edits: (output row, penalty ids, penalty, penalises log probs, delta ids, deltas, suppressed ids, allowed ids or
        None, forced id or -1).
        """

    def score(self, handles: Sequence[int], targets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Shapes: targets [N] int32, lengths [B] int32 -> natural log-probabilities [N] float32."""
