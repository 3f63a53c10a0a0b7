// Engine: the parts of a pass. Every function here is entered by all threads of the pool together.
#include <algorithm>
#include <cstring>

#include "engine.h"

namespace t5kit {
namespace {

// Up to so many rows a thread normalises all of them for itself, which is cheaper than waiting for the others.
constexpr int kSmallRows = 2;
// Rows of one task of a matrix product: its inputs stay in the second-level cache while the weights stream by.
constexpr int kTaskRows = 96;
}  // namespace

void Activations::shape(int num_rows, int width, bool is_quantized) {
    stride = round_up(width, kGroup);
    groups = stride / kGroup;
    values.grow(static_cast<size_t>(num_rows) * stride);
    if (!is_quantized) return;
    quads.grow(static_cast<size_t>(num_rows) * groups * 2 * kGroup);
    scales.grow(static_cast<size_t>(num_rows) * groups);
    sums.grow(static_cast<size_t>(num_rows) * groups);
}

void Activations::quantize(const Kernels& kernels, int m) {
    const size_t at = static_cast<size_t>(m) * groups;
    kernels.quantize(row(m), groups, is_fine, quads.data() + at * 2 * kGroup, scales.data() + at, sums.data() + at);
}

void Activations::quantize_group(const Kernels& kernels, int m, int group) {
    const size_t at = static_cast<size_t>(m) * groups + group;
    kernels.quantize(row(m) + group * kGroup, 1, is_fine, quads.data() + at * 2 * kGroup, scales.data() + at, sums.data() + at);
}

void Engine::shape_buffers(int num_rows, int longest, bool is_fine) {
    for (Activations* each : {&normed_, &attended_, &inner_}) each->is_fine = is_fine;
    stream_.grow(static_cast<size_t>(num_rows) * model_stride());
    projected_.grow(static_cast<size_t>(num_rows) * 3 * head_stride());
    normed_.shape(num_rows, config_.d_model, is_int8());
    attended_.shape(num_rows, config_.num_heads * config_.d_kv, is_int8());
    inner_.shape(num_rows, config_.d_ff, is_int8());
    const int lanes = sequences_.shape().value_lanes();
    const size_t padded = round_up(longest, kPageTokens);
    for (Scratch& scratch : scratch_) {
        scratch.scores.grow(kQueryRows * padded);
        scratch.mixed.grow(static_cast<size_t>(kQueryRows) * lanes);
        scratch.keys.grow(padded * config_.d_kv);
        scratch.values.grow(padded * lanes);
        scratch.pair.grow(2 * kTaskRows * kLanes);
        scratch.pages.reserve(padded / kPageTokens);
        scratch.small.is_fine = is_fine;
        scratch.small.shape(kSmallRows, std::max(config_.d_model, config_.num_heads * config_.d_kv), is_int8());
    }
}

void Engine::embed(const int32_t* ids, int num_rows) {
    const int D = config_.d_model;
    pool_.for_each(num_rows, 16, [&](int m) {
        float* to = stream_.data() + static_cast<size_t>(m) * model_stride();
        const size_t from = static_cast<size_t>(ids[m]) * D;
        if (embedding_) {
            std::memcpy(to, embedding_ + from, D * sizeof(float));
        } else {
            for (int i = 0; i < D; ++i) to[i] = from_bfloat16(embedding_bfloat16_[from + i]);
        }
    });
}

Rows Engine::normed(int thread, const Buffer<float>& source, int num_rows, const float* weight) {
    Activations& mine = num_rows <= kSmallRows ? scratch_[thread].small : normed_;
    if (num_rows <= kSmallRows) mine.shape(num_rows, config_.d_model, is_int8());
    const auto norm = [&](int m) {
        kernels_.rms_norm(source.data() + static_cast<size_t>(m) * model_stride(), weight, config_.d_model, config_.layer_norm_epsilon,
                          mine.row(m));
        if (is_int8()) mine.quantize(kernels_, m);
    };
    if (num_rows <= kSmallRows) {
        for (int m = 0; m < num_rows; ++m) norm(m);
    } else {
        pool_.for_each(num_rows, 8, norm);
    }
    return mine.rows();
}

// Rows [rows][E] of one head, which stand in attended_ from `first_row` on, as the integers that its output projection reads.
// Speed: where heads fill whole groups, the thread that made them does it, and all threads need not meet once more for it.
void Engine::quantize_head(int first_row, int rows, int head) {
    if (!is_int8() || !heads_fill_groups()) return;
    const int groups = config_.d_kv / kGroup;
    for (int m = first_row; m < first_row + rows; ++m)
        for (int group = head * groups; group < (head + 1) * groups; ++group) attended_.quantize_group(kernels_, m, group);
}

// What the attention left in attended_, ready for its output projection.
Rows Engine::attended(int thread, int num_rows) {
    if (!is_int8() || heads_fill_groups()) return attended_.rows();
    if (num_rows > kSmallRows) {
        pool_.for_each(num_rows, 8, [&](int m) { attended_.quantize(kernels_, m); });
        return attended_.rows();
    }
    Activations& mine = scratch_[thread].small;
    mine.shape(num_rows, config_.num_heads * config_.d_kv, true);
    for (int m = 0; m < num_rows; ++m) {
        std::memcpy(mine.row(m), attended_.row(m), attended_.stride * sizeof(float));
        mine.quantize(kernels_, m);
    }
    return mine.rows();
}

void Engine::apply(const Linear& linear, const Rows& x, int num_rows, float* y, size_t y_stride, bool adds) {
    const int chunks = (num_rows + kTaskRows - 1) / kTaskRows, blocks = linear.num_blocks / linear.num_maps;
    const bool is_adapted = lower(linear, x, num_rows);
    pool_.for_each(chunks * linear.num_blocks, 1, [&](int task) {
        const int block = task % linear.num_blocks, first = task / linear.num_blocks * kTaskRows, count = std::min(kTaskRows, num_rows - first);
        kernels_.linear(linear.panels, block, x, first, count, y + block * kLanes, y_stride, adds);
        if (is_adapted) raise(linear, block / blocks, block % blocks, first, count, y + block * kLanes, y_stride);
    });
}

void Engine::feed_forward(int thread, const float* norm, const Linear& in, const Linear& out, int num_rows) {
    const Rows x = normed(thread, stream_, num_rows, norm);
    const int maps = config_.uses_gated_mlp ? 2 : 1;
    const int blocks = in.num_blocks / maps, chunks = (num_rows + kTaskRows - 1) / kTaskRows;
    float* pair = scratch_[thread].pair.data();
    const bool is_adapted = lower(in, x, num_rows);
    pool_.for_each(chunks * blocks, 1, [&](int task) {
        const int block = task % blocks, first = task / blocks * kTaskRows, count = std::min(kTaskRows, num_rows - first);
        for (int map = 0; map < maps; ++map) {
            // The kernel counts y from row 0 of x; the pair holds rows from `first` on.
            float* y = pair + map * kTaskRows * kLanes - static_cast<ptrdiff_t>(first) * kLanes;
            kernels_.linear(in.panels, block * maps + map, x, first, count, y, kLanes, false);
            if (is_adapted) raise(in, map, block, first, count, y, kLanes);
        }
        for (int m = 0; m < count; ++m) {
            const float* activated = pair + m * kLanes;
            const float* gate = maps == 2 ? activated + kTaskRows * kLanes : nullptr;
            kernels_.activate(config_.activation, activated, gate, kLanes, inner_.row(first + m) + block * kLanes);
            if (is_int8()) inner_.quantize_group(kernels_, first + m, block);
        }
    });
    apply(out, inner_.rows(), num_rows, stream_.data(), model_stride(), true);
}

// scores [rows][padded keys] in scratch and values [num_keys][lanes] -> one head's rows of attended_, from `first_row` on.
void Engine::mix_rows(Scratch& scratch, int first_row, int rows, int head, int num_keys, const float* values) {
    const int lanes = sequences_.shape().value_lanes(), padded = round_up(num_keys, kPageTokens);
    const MixTarget to = mix_target(scratch, first_row, head);
    kernels_.attention_mix(scratch.scores.data(), padded, rows, values, num_keys, lanes, to.at, to.stride, false);
    keep_mixed(to, first_row, rows, head);
}

// Where attention writes a head's rows: at once into attended_, if whole vectors of values are no wider than the head.
Engine::MixTarget Engine::mix_target(Scratch& scratch, int first_row, int head) {
    const int lanes = sequences_.shape().value_lanes();
    if (lanes == config_.d_kv) return {attended_.row(first_row) + head * config_.d_kv, static_cast<size_t>(attended_.stride), true};
    return {scratch.mixed.data(), static_cast<size_t>(lanes), false};
}

void Engine::keep_mixed(const MixTarget& from, int first_row, int rows, int head) {
    const int E = config_.d_kv;
    for (int r = 0; r < rows && !from.is_final; ++r)
        std::memcpy(attended_.row(first_row + r) + head * E, from.at + r * from.stride, E * sizeof(float));
    quantize_head(first_row, rows, head);
}

void Engine::attend_in_encoder(int thread, const std::vector<Span>& spans, int layer) {
    const int E = config_.d_kv, H = config_.num_heads, lanes = sequences_.shape().value_lanes();
    const size_t stride = 3 * head_stride();
    Scratch& scratch = scratch_[thread];
    pool_.for_each(static_cast<int>(spans.size()) * H, 1, [&](int task) {
        const Span& span = spans[task / H];
        const int head = task % H, S = span.num_rows, num_pages = (S + kPageTokens - 1) / kPageTokens, padded = num_pages * kPageTokens;
        const float* q = projected_.data() + span.first_row * stride + head * E;
        const float* k = q + head_stride();
        const float* v = k + head_stride();
        float* keys = scratch.keys.data();
        float* values = scratch.values.data();
        scratch.pages.clear();
        for (int page = 0; page < num_pages; ++page) scratch.pages.push_back(keys + static_cast<size_t>(page) * E * kPageTokens);
        for (int s = 0; s < padded; ++s) {
            float* column = keys + static_cast<size_t>(s / kPageTokens) * E * kPageTokens + s % kPageTokens;
            for (int e = 0; e < E; ++e) column[e * kPageTokens] = s < S ? k[s * stride + e] : 0.0f;
        }
        for (int s = 0; s < S; ++s) {
            std::memcpy(values + static_cast<size_t>(s) * lanes, v + s * stride, E * sizeof(float));
            std::fill(values + static_cast<size_t>(s) * lanes + E, values + static_cast<size_t>(s + 1) * lanes, 0.0f);
        }
        for (int first = 0; first < S; first += kQueryRows) {
            const int rows = std::min(kQueryRows, S - first);
            float* scores = scratch.scores.data();
            kernels_.attention_scores(q + first * stride, stride, rows, scratch.pages.data(), num_pages, E, scores, padded);
            for (int r = 0; r < rows; ++r)
                kernels_.softmax(scores + r * padded, bias(encoder_bias_, layer).row(head, first + r), S, padded);
            mix_rows(scratch, span.first_row + first, rows, head, S, values);
        }
    });
}

void Engine::attend_to_self(int thread, const std::vector<Span>& spans, int layer) {
    const CacheShape& shape = sequences_.shape();
    const int E = config_.d_kv, H = config_.num_heads, lanes = shape.value_lanes();
    const size_t stride = 3 * head_stride();
    Scratch& scratch = scratch_[thread];
    pool_.for_each(static_cast<int>(spans.size()) * H, 1, [&](int task) {
        const Span& span = spans[task / H];
        const int head = task % H;
        const float* q = projected_.data() + span.first_row * stride + head * E;
        for (int t = 0; t < span.num_rows; ++t) {
            const int at = span.past + t;
            Page* page = span.slot->pages[at / kPageTokens];
            const float* k = q + t * stride + head_stride();
            float* column = page->keys(shape, layer, head) + at % kPageTokens;
            for (int e = 0; e < E; ++e) column[e * kPageTokens] = k[e];
            std::memcpy(page->values(shape, layer, head) + at % kPageTokens * lanes, k + head_stride(), E * sizeof(float));
        }
        scratch.pages.clear();
        for (Page* page : span.slot->pages) scratch.pages.push_back(page->keys(shape, layer, head));
        for (int first = 0; first < span.num_rows; first += kQueryRows) {
            const int rows = std::min(kQueryRows, span.num_rows - first);
            const int num_keys = span.past + first + rows;  // of the last of these queries
            const int num_pages = (num_keys + kPageTokens - 1) / kPageTokens, padded = num_pages * kPageTokens;
            float* scores = scratch.scores.data();
            kernels_.attention_scores(q + first * stride, stride, rows, scratch.pages.data(), num_pages, E, scores, padded);
            for (int r = 0; r < rows; ++r) {
                const int position = span.past + first + r;
                kernels_.softmax(scores + r * padded, bias(decoder_bias_, layer).row(head, position), position + 1, padded);
            }
            const MixTarget to = mix_target(scratch, span.first_row + first, head);
            for (int page = 0; page < num_pages; ++page) {
                kernels_.attention_mix(scores + page * kPageTokens, padded, rows, span.slot->pages[page]->values(shape, layer, head),
                                       std::min(kPageTokens, num_keys - page * kPageTokens), lanes, to.at, to.stride, page > 0);
            }
            keep_mixed(to, span.first_row + first, rows, head);
        }
    });
}

// Speed: a prompt's beams go through its keys and values together, so that those are read once for all of them: 3 % of all
// processor time with 4 beams and 512 tokens, under 1 % at 82.
void Engine::attend_across(int thread, const std::vector<Span>& spans, const std::vector<Readers>& readers, int layer) {
    const CacheShape& shape = sequences_.shape();
    const int E = config_.d_kv, H = config_.num_heads;
    Scratch& scratch = scratch_[thread];
    pool_.for_each(static_cast<int>(readers.size()) * H, 1, [&](int task) {
        const Readers& group = readers[task / H];
        Prompt& prompt = *group.prompt;
        const int head = task % H, S = prompt.length, num_pages = prompt.num_pages(), padded = num_pages * kPageTokens;
        const float* q = projected_.data() + static_cast<size_t>(group.first_row) * head_stride() + head * E;
        const float* keys = prompt.keys(shape, layer, head);
        scratch.pages.clear();
        for (int page = 0; page < num_pages; ++page) scratch.pages.push_back(keys + shape.key_floats(page));
        int number = group.first_span;
        for (int first = 0; first < group.num_rows; first += kQueryRows) {
            const int rows = std::min(kQueryRows, group.num_rows - first);
            float* scores = scratch.scores.data();
            kernels_.attention_scores(q + static_cast<size_t>(first) * head_stride(), head_stride(), rows, scratch.pages.data(), num_pages, E,
                                      scores, padded);
            for (int r = 0; r < rows; ++r) {
                kernels_.softmax(scores + r * padded, nullptr, S, padded);  // T5: no bias across stacks
                const int row = group.first_row + first + r;
                while (row >= spans[number].first_row + spans[number].num_rows) ++number;
                const Span& span = spans[number];
                if (!span.cross_weights) continue;
                const size_t at = (static_cast<size_t>(layer) * H + head) * span.num_rows + row - span.first_row;
                std::memcpy(span.cross_weights + at * S, scores + r * padded, S * sizeof(float));
            }
            mix_rows(scratch, group.first_row + first, rows, head, S, prompt.values(shape, layer, head));
        }
    });
}

// Neighbouring spans of one prompt, as many as attention takes together; a longer span stands alone.
std::vector<Engine::Readers> Engine::readers_of(const std::vector<Span>& spans) {
    std::vector<Readers> readers;
    for (size_t i = 0; i < spans.size(); ++i) {
        const Span& span = spans[i];
        if (!readers.empty() && readers.back().prompt == span.prompt && readers.back().num_rows + span.num_rows <= kQueryRows) {
            readers.back().num_rows += span.num_rows;
        } else {
            readers.push_back({span.prompt, static_cast<int>(i), span.first_row, span.num_rows});
        }
    }
    return readers;
}

// Puts a layer's cross-attention keys and values, in projected_ [N][2 * head_stride], where the prompts keep them.
void Engine::store_cross(int, const std::vector<Span>& spans, int layer) {
    const CacheShape& shape = sequences_.shape();
    const int E = config_.d_kv, H = config_.num_heads, lanes = shape.value_lanes();
    const size_t stride = 2 * head_stride();
    pool_.for_each(static_cast<int>(spans.size()) * H, 1, [&](int task) {
        const Span& span = spans[task / H];
        const int head = task % H;
        float* keys = span.prompt->keys(shape, layer, head);
        float* values = span.prompt->values(shape, layer, head);
        for (int s = 0; s < span.num_rows; ++s) {
            const float* k = projected_.data() + (span.first_row + s) * stride + head * E;
            float* column = keys + shape.key_floats(s / kPageTokens) + s % kPageTokens;
            for (int e = 0; e < E; ++e) column[e * kPageTokens] = k[e];
            std::memcpy(values + static_cast<size_t>(s) * lanes, k + head_stride(), E * sizeof(float));
        }
    });
}

}  // namespace t5kit
