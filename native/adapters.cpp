#include "adapters.h"

#include <algorithm>

namespace t5kit {

LowRank make_low_rank(const LowRankSource& source) {
    LowRank made;
    made.rank = source.rank;
    made.inputs = source.inputs;
    made.output_stride = round_up(source.outputs, kLanes);
    made.a.grow(static_cast<size_t>(source.rank) * made.input_stride());
    made.b.grow(static_cast<size_t>(source.rank) * made.output_stride);
    for (int r = 0; r < source.rank; ++r) {
        std::copy_n(source.a + static_cast<size_t>(r) * source.inputs, source.inputs, made.a.data() + static_cast<size_t>(r) * made.input_stride());
        float* row = made.b.data() + static_cast<size_t>(r) * made.output_stride;
        for (int o = 0; o < source.outputs; ++o) row[o] = source.b[static_cast<size_t>(o) * source.rank + r];
    }
    return made;
}

// Numerics: a row's sums run in the same order whatever rows stand beside it, in sixteen lanes from front to back.
void LowRank::lower(const float* x, float* out) const {
    constexpr int kSums = 16;
    for (int r = 0; r < rank; ++r) {
        const float* row = a.data() + static_cast<size_t>(r) * input_stride();
        float sums[kSums] = {};
        int i = 0;
        for (; i + kSums <= inputs; i += kSums)
            for (int lane = 0; lane < kSums; ++lane) sums[lane] += x[i + lane] * row[i + lane];
        for (int lane = 0; i + lane < inputs; ++lane) sums[lane] += x[i + lane] * row[i + lane];
        for (int half = kSums / 2; half; half /= 2)
            for (int lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
        out[r] = sums[0];
    }
}

void LowRank::raise(const float* low, int block, float* y) const {
    float sums[kLanes] = {};
    for (int r = 0; r < rank; ++r) {
        const float* row = b.data() + static_cast<size_t>(r) * output_stride + static_cast<size_t>(block) * kLanes;
        for (int lane = 0; lane < kLanes; ++lane) sums[lane] += low[r] * row[lane];
    }
    for (int lane = 0; lane < kLanes; ++lane) y[lane] += sums[lane];
}

}  // namespace t5kit
