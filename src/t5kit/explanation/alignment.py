"""Where the decoder looks while it writes: cross-attention of given output tokens, over any runtime."""

import numpy as np
import numpy.typing as npt

from t5kit.runtime.opened import encoded, opened
from t5kit.runtime.protocol import Need, Runtime, StepInput


def cross_attention(
    runtime: Runtime, encoder_input_ids: npt.NDArray[np.int32], target_ids: npt.NDArray[np.int32]
) -> npt.NDArray[np.float32]:
    """Return the cross-attention weights [L, H, T, S] while each target token is predicted; rows sum to one.

    Shapes: encoder_input_ids [S], target_ids [T] with EOS and without the start token. Row t is the step whose output
    is token t, the one that reads the token before it.
    Raises: RequestError and EngineError as the runtime does.
    """
    start = np.array([runtime.config.decoder_start_id], np.int32)
    tokens = np.concatenate([start, target_ids[:-1]]).astype(np.int32)
    with encoded(runtime, [encoder_input_ids]) as handles, opened(runtime, handles) as slots:
        out = runtime.step(
            StepInput(
                slots=slots,
                tokens=tokens,
                lengths=np.array([len(tokens)], np.int32),
                need=Need(all_positions=True, cross_attention=True),
            )
        )
    assert out.cross_attention is not None, "it was asked for"
    return out.cross_attention[0]
