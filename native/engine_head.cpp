// Engine: from hidden states to the best candidates and the log-sum-exp, with edits.
//
// With int8 weights the packed head only screens. |screened - exact| <= error_norms[id] * |x| holds for every id (Cauchy and
// Schwarz), so the ids whose upper bound reaches the k-th largest lower bound contain the exact top k; they are scored again
// with the bfloat16 rows. What comes out is what the whole bfloat16 head would have given, bit for bit.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "check.h"
#include "engine.h"

namespace t5kit {
namespace {

constexpr int kGroupRows = 64;   // output rows whose logits are held at once
constexpr int kChunkBlocks = 8;  // blocks of a task; the sums over them are combined in this fixed order
constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr float kFinite = std::numeric_limits<float>::lowest();

// log_sum_exp with int8 weights: ids this close to the best (in nats) are scored exactly, fewer where they are too many.
constexpr float kReplacedWithin[] = {6.0f, 4.0f, 2.0f, 1.0f, 0.0f};
constexpr int kMostReplaced = 64;

float penalised(float value, const RowEdits& edits, float log_sum_exp) {
    const float zero = edits.penalises_log_probs ? log_sum_exp : 0.0f;
    const float x = value - zero;
    return (x < 0 ? x * edits.penalty : x / edits.penalty) + zero;
}

// t5kit.runtime.edits.apply_edits on one dense row, in place.
void apply_edits(float* logits, int vocab_size, const RowEdits& edits, float log_sum_exp, std::vector<float>& kept) {
    for (int i = 0; i < edits.penalty_ids.count; ++i) {
        float& value = logits[edits.penalty_ids.data[i]];
        value = penalised(value, edits, log_sum_exp);
    }
    for (int i = 0; i < edits.delta_ids.count; ++i) logits[edits.delta_ids.data[i]] += edits.deltas[i];
    const float forced = edits.forced_id >= 0 ? logits[edits.forced_id] : 0.0f;
    for (int i = 0; i < edits.suppressed_ids.count; ++i) logits[edits.suppressed_ids.data[i]] = kLowest;
    if (edits.has_allowed) {
        kept.clear();
        for (int i = 0; i < edits.allowed_ids.count; ++i) kept.push_back(logits[edits.allowed_ids.data[i]]);
        std::fill_n(logits, vocab_size, kLowest);
        for (int i = 0; i < edits.allowed_ids.count; ++i) logits[edits.allowed_ids.data[i]] = kept[i];
    }
    if (edits.forced_id >= 0) {
        std::fill_n(logits, vocab_size, kLowest);
        logits[edits.forced_id] = forced;
    }
}

bool contains(const Ids& ids, int32_t id) { return std::find(ids.data, ids.data + ids.count, id) != ids.data + ids.count; }

// The k best of (id, value) pairs, best first, the lower id first where values are equal; -1 and -inf fill the rest.
void write_best(std::vector<int32_t>& ids, std::vector<float>& values, int top_k, int32_t* top_ids, float* top_values) {
    std::vector<int> order;
    for (size_t i = 0; i < ids.size(); ++i)
        if (values[i] > kLowest) order.push_back(static_cast<int>(i));
    const int kept = std::min(top_k, static_cast<int>(order.size()));
    std::partial_sort(order.begin(), order.begin() + kept, order.end(), [&](int a, int b) {
        return values[a] != values[b] ? values[a] > values[b] : ids[a] < ids[b];
    });
    for (int i = 0; i < top_k; ++i) {
        top_ids[i] = i < kept ? ids[order[i]] : -1;
        top_values[i] = i < kept ? values[order[i]] : kLowest;
    }
}

// A value that at least k of x[i] + factor * e[i] reach, and few more; the lowest finite one where there are not k.
float threshold(const Kernels& kernels, const float* x, const float* e, float factor, int n, int k, std::vector<float>& bounds) {
    if (k == 1) return std::max(kernels.largest(x, e, factor, n), kFinite);
    // The k-th largest of the parts' largest: k parts have an element that reaches it.
    bounds.clear();
    if (n / kLanes >= k) {
        for (int i = 0; i < n; i += kLanes)
            bounds.push_back(kernels.largest(x + i, e ? e + i : nullptr, factor, std::min(kLanes, n - i)));
    } else {
        for (int i = 0; i < n; ++i) {
            const float value = e ? x[i] + factor * e[i] : x[i];
            bounds.push_back(value == value ? value : kLowest);
        }
    }
    if (k > static_cast<int>(bounds.size())) return kFinite;
    std::nth_element(bounds.begin(), bounds.begin() + (k - 1), bounds.end(), std::greater<float>());
    return std::max(bounds[k - 1], kFinite);
}

}  // namespace

void Engine::check_edits(const StepRequest& request, int num_rows) const {
    if (request.edits.empty()) return;
    T5KIT_CHECK(static_cast<int>(request.edits.size()) == num_rows, "Got edits for " << request.edits.size() << " of " << num_rows << " rows.");
    for (const RowEdits* edits : request.edits) {
        if (!edits) continue;
        for (const Ids& ids : {edits->penalty_ids, edits->delta_ids, edits->suppressed_ids, edits->allowed_ids})
            check_ids(ids.data, ids.count, "logit edits");
        T5KIT_CHECK(edits->forced_id < config_.vocab_size, "logit edits: forced id " << edits->forced_id << " is outside the vocabulary.");
    }
}

void Engine::run_head(const StepRequest& request, const std::vector<int>& rows, StepResult& result) {
    const int V = config_.vocab_size, D = config_.d_model, k = request.top_k, Q = static_cast<int>(rows.size());
    const int chunks = (head_.screen.num_blocks + kChunkBlocks - 1) / kChunkBlocks;
    const size_t padded = static_cast<size_t>(head_.screen.num_blocks) * kLanes;
    result.num_rows = Q;
    result.top_ids.resize(static_cast<size_t>(Q) * k);
    result.top_logits.resize(static_cast<size_t>(Q) * k);
    result.log_sum_exp.resize(Q);
    if (request.wants_logits) result.logits.resize(static_cast<size_t>(Q) * V);
    if (request.wants_hidden) result.hidden.resize(static_cast<size_t>(Q) * D);
    const int most = std::min(Q, kGroupRows);
    head_input_.shape(most, D, is_int8());
    logits_.grow(most * padded);
    chunk_largest_.grow(static_cast<size_t>(most) * chunks);
    chunk_sums_.grow(static_cast<size_t>(most) * chunks);
    if (is_int8())
        for (Scratch& scratch : scratch_) scratch.candidate_words.grow(static_cast<size_t>(head_.exact_words) * kLanes);

    const bool is_screened = is_int8() && !request.wants_logits;
    const std::function<void(int)> work = [&](int thread) {
        Scratch& scratch = scratch_[thread];
        for (int first = 0; first < Q; first += kGroupRows) {
            const int count = std::min(kGroupRows, Q - first);
            pool_.for_each(count, 4, [&](int r) {
                prepare_head_row(rows[first + r], r, request.wants_hidden ? result.hidden.data() + static_cast<size_t>(first + r) * D : nullptr);
            });
            pool_.for_each(chunks, 1, [&](int chunk) {
                if (is_int8() && !is_screened) {
                    exact_head_chunk(scratch, chunk, count);
                } else {
                    head_chunk(chunk, count);
                }
                summarise_chunk(chunk, count);
            });
            pool_.for_each(count, 1, [&](int r) {
                const int row = first + r;
                const RowEdits* edits = request.edits.empty() ? nullptr : request.edits[row];
                int32_t* ids = result.top_ids.data() + static_cast<size_t>(row) * k;
                float* values = result.top_logits.data() + static_cast<size_t>(row) * k;
                const float total = is_screened ? screened_log_sum_exp(scratch, r) : log_sum_exp(r);
                result.log_sum_exp[row] = total;
                if (is_screened) return pick_screened(scratch, r, edits, total, k, ids, values);
                float* logits = logits_.data() + r * padded;
                if (edits) apply_edits(logits, V, *edits, total, scratch.exact);
                pick_exact(scratch, r, k, ids, values);
                if (request.wants_logits) std::copy_n(logits, V, result.logits.data() + static_cast<size_t>(row) * V);
            });
        }
    };
    pool_.run(work);
}

void Engine::prepare_head_row(int row, int group_row, float* hidden) {
    float* to = head_input_.row(group_row);
    kernels_.rms_norm(stream_.data() + static_cast<size_t>(row) * model_stride(), decoder_norm_, config_.d_model, config_.layer_norm_epsilon, to);
    if (hidden) std::copy_n(to, config_.d_model, hidden);
    // T5: v1.0 multiplies the decoder output by d_model^-0.5 before its tied head.
    if (config_.scales_logits) kernels_.scale(to, 1.0f / std::sqrt(static_cast<float>(config_.d_model)), head_input_.stride, to);
    if (is_int8()) head_input_.quantize(kernels_, group_row);
}

void Engine::head_chunk(int chunk, int num_rows) {
    const size_t padded = static_cast<size_t>(head_.screen.num_blocks) * kLanes;
    const int last = std::min((chunk + 1) * kChunkBlocks, head_.screen.num_blocks);
    for (int block = chunk * kChunkBlocks; block < last; ++block)
        kernels_.linear(head_.screen.panels, block, head_input_.rows(), 0, num_rows, logits_.data() + block * kLanes, padded, false);
}

// Dense exact logits from the row-by-row copy, packed block by block on the way.
void Engine::exact_head_chunk(Scratch& scratch, int chunk, int num_rows) {
    const size_t padded = static_cast<size_t>(head_.screen.num_blocks) * kLanes;
    const int V = config_.vocab_size, words = head_.exact_words, last = std::min((chunk + 1) * kChunkBlocks, head_.screen.num_blocks);
    Panels panels;
    panels.format = Format::bfloat16;
    panels.steps = words;
    panels.words = scratch.candidate_words.data();
    for (int block = chunk * kChunkBlocks; block < last; ++block) {
        for (int lane = 0; lane < kLanes; ++lane) {
            const int id = std::min(block * kLanes + lane, V - 1);
            const uint32_t* from = head_.exact + static_cast<size_t>(id) * words;
            for (int s = 0; s < words; ++s) scratch.candidate_words[static_cast<size_t>(s) * kLanes + lane] = from[s];
        }
        kernels_.linear(panels, 0, head_input_.rows(), 0, num_rows, logits_.data() + block * kLanes, padded, false);
    }
}

void Engine::summarise_chunk(int chunk, int num_rows) {
    const size_t padded = static_cast<size_t>(head_.screen.num_blocks) * kLanes;
    const int chunks = (head_.screen.num_blocks + kChunkBlocks - 1) / kChunkBlocks;
    const int first = chunk * kChunkBlocks * kLanes, count = std::min(kChunkBlocks * kLanes, config_.vocab_size - first);
    for (int r = 0; r < num_rows; ++r) {
        const float* logits = logits_.data() + r * padded + first;
        const float largest = kernels_.largest(logits, nullptr, 0.0f, count);
        chunk_largest_[r * chunks + chunk] = largest;
        chunk_sums_[r * chunks + chunk] = kernels_.sum_exp(logits, largest, count);
    }
}

float Engine::log_sum_exp(int group_row) const {
    const int chunks = (head_.screen.num_blocks + kChunkBlocks - 1) / kChunkBlocks;
    const float* largest = chunk_largest_.data() + static_cast<size_t>(group_row) * chunks;
    const float* sums = chunk_sums_.data() + static_cast<size_t>(group_row) * chunks;
    const float top = *std::max_element(largest, largest + chunks);
    double total = 0;
    for (int c = 0; c < chunks; ++c) total += static_cast<double>(sums[c]) * std::exp(static_cast<double>(largest[c] - top));
    return static_cast<float>(top + std::log(total));
}

// Exact logits of a few ids, by the same sums as the whole bfloat16 head.
void Engine::rescore(Scratch& scratch, int group_row, const int32_t* ids, int count, float* logits) {
    const int words = head_.exact_words;
    Panels panels;
    panels.format = Format::bfloat16;
    panels.steps = words;
    panels.words = scratch.candidate_words.data();
    alignas(64) float exact[kLanes];
    for (int first = 0; first < count; first += kLanes) {
        const int lanes = std::min(kLanes, count - first);
        for (int lane = 0; lane < lanes; ++lane) {
            const uint32_t* from = head_.exact + static_cast<size_t>(ids[first + lane]) * words;
            for (int s = 0; s < words; ++s) scratch.candidate_words[static_cast<size_t>(s) * kLanes + lane] = from[s];
        }
        // The kernel counts y from row 0 of its input.
        kernels_.linear(panels, 0, head_input_.rows(), group_row, 1, exact - static_cast<ptrdiff_t>(group_row) * kLanes, kLanes, false);
        std::copy_n(exact, lanes, logits + first);
    }
}

// The sum over the screened logits, with the exact ones in the place of the largest.
float Engine::screened_log_sum_exp(Scratch& scratch, int group_row) {
    const int V = config_.vocab_size;
    const float* logits = logits_.data() + static_cast<size_t>(group_row) * head_.screen.num_blocks * kLanes;
    const float screened = log_sum_exp(group_row);
    const float top = kernels_.largest(logits, nullptr, 0.0f, V);
    scratch.ids.resize(V);
    int count = 0;
    for (float within : kReplacedWithin) {
        count = kernels_.collect(logits, nullptr, 0.0f, V, top - within, 0, scratch.ids.data());
        if (count <= kMostReplaced) break;
    }
    count = std::min(count, kMostReplaced);
    scratch.exact.resize(count);
    rescore(scratch, group_row, scratch.ids.data(), count, scratch.exact.data());
    double change = 0;
    for (int i = 0; i < count; ++i) {
        change += std::exp(static_cast<double>(scratch.exact[i]) - screened) - std::exp(static_cast<double>(logits[scratch.ids[i]]) - screened);
    }
    return screened + static_cast<float>(std::log1p(std::max(change, -0.999)));
}

void Engine::pick_exact(Scratch& scratch, int group_row, int top_k, int32_t* ids, float* values) {
    const int V = config_.vocab_size;
    const float* logits = logits_.data() + static_cast<size_t>(group_row) * head_.screen.num_blocks * kLanes;
    const float least = threshold(kernels_, logits, nullptr, 0.0f, V, top_k, scratch.bounds);
    scratch.ids.resize(V);
    scratch.ids.resize(kernels_.collect(logits, nullptr, 0.0f, V, least, 0, scratch.ids.data()));
    scratch.exact.clear();
    for (int32_t id : scratch.ids) scratch.exact.push_back(logits[id]);
    write_best(scratch.ids, scratch.exact, top_k, ids, values);
}

void Engine::pick_screened(Scratch& scratch, int group_row, const RowEdits* edits, float log_sum_exp, int top_k, int32_t* ids, float* values) {
    const int V = config_.vocab_size;
    float* logits = logits_.data() + static_cast<size_t>(group_row) * head_.screen.num_blocks * kLanes;
    std::vector<int32_t>& candidates = scratch.ids;
    int num_fixed = 0;  // candidates that the edits name, whatever their logits
    candidates.clear();
    if (edits) {
        if (edits->forced_id >= 0) {
            candidates = {edits->forced_id};
        } else if (edits->has_allowed) {
            candidates.assign(edits->allowed_ids.data, edits->allowed_ids.data + edits->allowed_ids.count);
        } else {
            for (const Ids& edited : {edits->penalty_ids, edits->delta_ids}) candidates.insert(candidates.end(), edited.data, edited.data + edited.count);
        }
        std::sort(candidates.begin(), candidates.end());
        candidates.erase(std::unique(candidates.begin(), candidates.end()), candidates.end());
        num_fixed = static_cast<int>(candidates.size());
    }
    if (!edits || (edits->forced_id < 0 && !edits->has_allowed)) {
        if (edits) {
            for (int32_t id : candidates) logits[id] = kLowest;
            for (int i = 0; i < edits->suppressed_ids.count; ++i) logits[edits->suppressed_ids.data[i]] = kLowest;
        }
        const float* x = head_input_.row(group_row);
        double square = 0;
        for (int i = 0; i < config_.d_model; ++i) square += static_cast<double>(x[i]) * x[i];
        const float length = static_cast<float>(std::sqrt(square) * 1.0001);
        const float least = threshold(kernels_, logits, head_.error_norms, -length, V, top_k, scratch.bounds);
        candidates.resize(num_fixed + V);
        candidates.resize(num_fixed + kernels_.collect(logits, head_.error_norms, length, V, least, 0, candidates.data() + num_fixed));
    }
    scratch.exact.resize(candidates.size());
    rescore(scratch, group_row, candidates.data(), static_cast<int>(candidates.size()), scratch.exact.data());
    for (int i = 0; i < num_fixed; ++i) {
        float& value = scratch.exact[i];
        if (contains(edits->penalty_ids, candidates[i])) value = penalised(value, *edits, log_sum_exp);
        for (int d = 0; d < edits->delta_ids.count; ++d)
            if (edits->delta_ids.data[d] == candidates[i]) value += edits->deltas[d];
        if (edits->forced_id < 0 && contains(edits->suppressed_ids, candidates[i])) value = kLowest;
    }
    write_best(candidates, scratch.exact, top_k, ids, values);
}

}  // namespace t5kit
