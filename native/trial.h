// Whether a kernel set may be trusted on this very processor.
#pragma once

#include "kernels.h"

namespace t5kit {

enum class Verdict {
    right,
    wrong,      // or it faulted
    not_tried,  // the system gave no process for it
};

// Whether the candidate's linear maps, run here and now, give what they must: with 8-bit weights the bits of `vectors`; with
// bfloat16 what float32 gives, within what two bfloat16 leave of an activation; and each row the same bits alone as among
// others. They run in a process of their own, so that an instruction that faults ends that and nothing else. Takes some
// milliseconds.
Verdict tried(const Kernels& candidate, const Kernels& vectors);

}  // namespace t5kit
