#include "position_bias.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "kernels.h"

namespace t5kit {

PositionBias::PositionBias(std::vector<float> table, int num_heads, int num_buckets, int max_distance, bool is_bidirectional)
    : table_(std::move(table)),
      num_heads_(num_heads),
      num_buckets_(num_buckets),
      max_distance_(max_distance),
      is_bidirectional_(is_bidirectional) {}

int PositionBias::bucket(int relative_position) const {
    const int buckets = is_bidirectional_ ? num_buckets_ / 2 : num_buckets_;
    const int first = is_bidirectional_ && relative_position > 0 ? buckets : 0;
    const int distance = is_bidirectional_ ? std::abs(relative_position) : std::max(-relative_position, 0);
    const int num_exact = buckets / 2;
    if (distance < num_exact) return first + distance;
    const float whole = static_cast<float>(std::log(static_cast<double>(max_distance_) / num_exact));
    const float growth = std::log(static_cast<float>(distance) / static_cast<float>(num_exact)) / whole;
    return first + std::min(buckets - 1, num_exact + static_cast<int>(growth * static_cast<float>(buckets - num_exact)));
}

void PositionBias::reach(int length) {
    if (length <= reach_) return;
    const int wanted = std::max(length, 2 * reach_);
    const size_t stride = round_up(2 * wanted + kLanes, kLanes);
    reach_ = 0;  // should there be no memory, the next call begins anew
    rows_.grow(stride * num_heads_);
    reach_ = wanted;
    stride_ = stride;
    for (int relative = -reach_; relative < reach_; ++relative) {
        const int from = bucket(relative);
        for (int head = 0; head < num_heads_; ++head) rows_[head * stride_ + reach_ + relative] = table_[from * num_heads_ + head];
    }
}

}  // namespace t5kit
