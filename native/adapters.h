// LoRA: low-rank additions to linear maps, a different one for each row.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels.h"
#include "memory.h"

namespace t5kit {

// y += (x A^T) B^T for one linear map [out, in].
struct LowRank {
    int rank = 0, inputs = 0;
    Buffer<float> a;  // [rank][stride of in], rows padded with zeros to a multiple of 64
    Buffer<float> b;  // [rank][stride of out], likewise, so that a block of 64 outputs is whole in every row

    bool is_there() const { return rank > 0; }
    int input_stride() const { return round_up(inputs, kLanes); }
    int output_stride = 0;

    // out [rank] = A x.
    void lower(const float* x, float* out) const;
    // y [64] += B's outputs 64 * block ... of low [rank].
    void raise(const float* low, int block, float* y) const;
};

// As Python gives it: a [rank, in], b [out, rank], the scale in b.
struct LowRankSource {
    std::string name;  // of the linear map, without ".weight"
    int rank = 0, inputs = 0, outputs = 0;
    const float* a = nullptr;
    const float* b = nullptr;
};

LowRank make_low_rank(const LowRankSource& source);

// The additions to every linear map of a model: [Linear::number][map of it], absent where rank is 0.
struct Adapter {
    std::vector<std::vector<LowRank>> maps;
    int largest_rank = 0;
};

}  // namespace t5kit
