// Engine: LoRA adapters, kept by name and added to the rows that have one.
#include <algorithm>

#include "check.h"
#include "engine.h"

namespace t5kit {

int Engine::add_adapter(const std::vector<LowRankSource>& sources) {
    auto adapter = std::make_shared<Adapter>();
    for (const LinearPlace& place : places_) adapter->maps.emplace_back(place.names.size());
    for (const LowRankSource& source : sources) {
        bool is_known = false;
        for (size_t number = 0; number < places_.size(); ++number) {
            const LinearPlace& place = places_[number];
            const auto found = std::find(place.names.begin(), place.names.end(), source.name);
            if (found == place.names.end()) continue;
            T5KIT_CHECK(source.rank >= 1 && source.inputs == place.inputs && source.outputs == place.outputs,
                        "The adapter of '" << source.name << "' is " << source.outputs << " x " << source.inputs << " of rank " << source.rank
                                           << "; the map is " << place.outputs << " x " << place.inputs << ".");
            LowRank& low_rank = adapter->maps[number][found - place.names.begin()];
            T5KIT_CHECK(!low_rank.is_there(), "The adapter names '" << source.name << "' twice.");
            low_rank = make_low_rank(source);
            adapter->largest_rank = std::max(adapter->largest_rank, source.rank);
            is_known = true;
        }
        T5KIT_CHECK(is_known, "The adapter names '" << source.name << "', which is no linear map of this model.");
    }
    adapters_[++last_adapter_] = std::move(adapter);
    return last_adapter_;
}

void Engine::remove_adapter(int name) {
    T5KIT_CHECK(adapters_.erase(name) == 1, "Adapter " << name << " is not one of this runtime's.");
}

std::shared_ptr<const Adapter> Engine::adapter(int name) const {
    if (name == 0) return nullptr;
    const auto found = adapters_.find(name);
    T5KIT_CHECK(found != adapters_.end(), "Adapter " << name << " is not one of this runtime's.");
    return found->second;
}

// Before a pass: which rows have which adapter.
void Engine::note_adapters(const std::vector<Span>& spans, int num_rows) {
    row_adapters_.clear();
    active_adapters_.clear();
    low_stride_ = 0;
    for (const Span& span : spans) {
        if (!span.adapter) continue;
        if (row_adapters_.empty()) row_adapters_.resize(num_rows, nullptr);
        std::fill_n(row_adapters_.begin() + span.first_row, span.num_rows, span.adapter);
        if (std::find(active_adapters_.begin(), active_adapters_.end(), span.adapter) == active_adapters_.end()) active_adapters_.push_back(span.adapter);
        low_stride_ = std::max(low_stride_, span.adapter->largest_rank);
    }
    low_.grow(static_cast<size_t>(num_rows) * kMostMaps * low_stride_);
}

// By every thread: A x of every adapted row, for all maps of `linear`. Returns whether there is anything to add.
bool Engine::lower(const Linear& linear, const Rows& x, int num_rows) {
    const auto adapts = [&](const Adapter* adapter) {
        const std::vector<LowRank>& maps = adapter->maps[linear.number];
        return std::any_of(maps.begin(), maps.end(), [](const LowRank& map) { return map.is_there(); });
    };
    if (std::none_of(active_adapters_.begin(), active_adapters_.end(), adapts)) return false;
    pool_.for_each(num_rows, 4, [&](int m) {
        if (!row_adapters_[m]) return;
        const std::vector<LowRank>& maps = row_adapters_[m]->maps[linear.number];
        for (size_t map = 0; map < maps.size(); ++map)
            if (maps[map].is_there()) maps[map].lower(x.values + m * x.stride, low_.data() + (static_cast<size_t>(m) * kMostMaps + map) * low_stride_);
    });
    return true;
}

// Adds B's part of one block of one map to rows first <= m < first + count of y, which counts from row 0.
void Engine::raise(const Linear& linear, int map, int block, int first, int count, float* y, size_t y_stride) {
    for (int m = first; m < first + count; ++m) {
        if (!row_adapters_[m]) continue;
        const LowRank& low_rank = row_adapters_[m]->maps[linear.number][map];
        if (low_rank.is_there()) low_rank.raise(low_.data() + (static_cast<size_t>(m) * kMostMaps + map) * low_stride_, block, y + m * y_stride);
    }
}

}  // namespace t5kit
