// T5's relative position bias, looked up by bucket once per distance and head instead of once per pair of tokens.
#pragma once

#include <vector>

#include "memory.h"

namespace t5kit {

class PositionBias {
public:
    // table [num_buckets][num_heads].
    PositionBias(std::vector<float> table, int num_heads, int num_buckets, int max_distance, bool is_bidirectional);

    // Makes rows reach `length` positions in both directions.
    void reach(int length);

    // Pointer whose element j is the bias of the key at position j for a query at `position`; j < what reach() was told.
    const float* row(int head, int position) const { return rows_.data() + head * stride_ + reach_ - position; }

    // Source: mesh transformer_layers.py; float32 logarithm and truncation as in the reference runtime.
    int bucket(int relative_position) const;

private:
    std::vector<float> table_;
    int num_heads_;
    int num_buckets_;
    int max_distance_;
    bool is_bidirectional_;
    int reach_ = 0;
    size_t stride_ = 0;
    Buffer<float> rows_;  // [head][distance + reach], and a little more, since kernels read whole vectors
};

}  // namespace t5kit
