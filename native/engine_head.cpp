// Engine: from hidden states to the best candidates and the log-sum-exp, with edits.
//
// With int8 weights the packed head only screens. |screened - exact| <= error_norms[id] * |x| holds for every id (Cauchy and
// Schwarz). The k best by the screen are scored with the bfloat16 rows; the k-th of them is a bar that every id of the exact
// top k reaches, so those whose upper bound reaches it are scored too. What comes out is what the whole bfloat16 head would
// have given, bit for bit.
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
// What is left of a sum of float32 terms, the largest of them 1, when all that counts was taken from it again.
constexpr double kRestNoise = 1e-6;

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

// Edits the exact logits of a few ids [count], in ascending order, that the edits may name: what apply_edits does to a row.
void edit_named(const RowEdits& edits, const int32_t* ids, int count, float log_sum_exp, std::vector<char>& marks, float* logits) {
    const auto place_of = [&](int32_t id) {  // -1: not among them
        const int32_t* found = std::lower_bound(ids, ids + count, id);
        return found != ids + count && *found == id ? static_cast<int>(found - ids) : -1;
    };
    marks.assign(count, 0);
    for (int i = 0; i < edits.penalty_ids.count; ++i) {
        const int place = place_of(edits.penalty_ids.data[i]);
        if (place < 0 || marks[place]) continue;
        marks[place] = 1;
        logits[place] = penalised(logits[place], edits, log_sum_exp);
    }
    for (int i = 0; i < edits.delta_ids.count; ++i) {
        const int place = place_of(edits.delta_ids.data[i]);
        if (place >= 0) logits[place] += edits.deltas[i];
    }
    if (edits.forced_id >= 0) return;
    for (int i = 0; i < edits.suppressed_ids.count; ++i) {
        const int place = place_of(edits.suppressed_ids.data[i]);
        if (place >= 0) logits[place] = kLowest;
    }
}

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
    const int chunks = num_head_chunks();
    const size_t padded = static_cast<size_t>(head_.screen.num_blocks) * kLanes;
    result.num_rows = Q;
    result.top_ids.resize(static_cast<size_t>(Q) * k);
    result.top_logits.resize(static_cast<size_t>(Q) * k);
    result.log_sum_exp.resize(Q);
    if (request.wants_logits) result.logits.resize(static_cast<size_t>(Q) * V);
    if (request.wants_hidden) result.hidden.resize(static_cast<size_t>(Q) * D);
    const int most = std::min(Q, kGroupRows);
    head_input_.is_fine = true;  // error_norms were made for it
    head_input_.shape(most, D, is_int8());
    logits_.grow(most * padded);
    chunk_largest_.grow(static_cast<size_t>(most) * chunks);
    chunk_sums_.grow(static_cast<size_t>(most) * chunks);
    if (is_int8()) head_pairs_.grow(most * head_pair_stride());

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
                    exact_head_chunk(chunk, count);
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
                if (is_screened) {
                    pick_screened(scratch, r, edits, total, k, ids, values);
                    if (!edits) result.log_sum_exp[row] = std::max(total, values[0]);  // no logit is above the sum
                    return;
                }
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
    if (!is_int8()) return;
    head_input_.quantize(kernels_, group_row);
    float* even = head_pairs_.data() + group_row * head_pair_stride();
    float* odd = even + head_pair_stride() / 2;
    for (int i = 0; i < head_.exact_words; ++i) {
        even[i] = to[2 * i];
        odd[i] = to[2 * i + 1];
    }
}

int Engine::num_head_chunks() const { return (head_.screen.num_blocks + kChunkBlocks - 1) / kChunkBlocks; }

void Engine::head_chunk(int chunk, int num_rows) {
    const size_t padded = static_cast<size_t>(head_.screen.num_blocks) * kLanes;
    const int last = std::min((chunk + 1) * kChunkBlocks, head_.screen.num_blocks);
    for (int block = chunk * kChunkBlocks; block < last; ++block)
        kernels_.linear(head_.screen.panels, block, head_input_.rows(), 0, num_rows, logits_.data() + block * kLanes, padded, false);
}

// Dense exact logits from the row-by-row copy.
void Engine::exact_head_chunk(int chunk, int num_rows) {
    const size_t padded = static_cast<size_t>(head_.screen.num_blocks) * kLanes;
    const int words = head_.exact_words, last = std::min((chunk + 1) * kChunkBlocks * kLanes, config_.vocab_size);
    for (int id = chunk * kChunkBlocks * kLanes; id < last; ++id)
        kernels_.bfloat16_dots(head_.exact + static_cast<size_t>(id) * words, words, head_pairs_.data(), head_pair_stride(), num_rows,
                               logits_.data() + id, padded);
}

void Engine::summarise_chunk(int chunk, int num_rows) {
    const size_t padded = static_cast<size_t>(head_.screen.num_blocks) * kLanes;
    const int chunks = num_head_chunks();
    const int first = chunk * kChunkBlocks * kLanes, count = std::min(kChunkBlocks * kLanes, config_.vocab_size - first);
    for (int r = 0; r < num_rows; ++r) {
        const float* logits = logits_.data() + r * padded + first;
        const float largest = kernels_.largest(logits, nullptr, 0.0f, count);
        chunk_largest_[r * chunks + chunk] = largest;
        chunk_sums_[r * chunks + chunk] = kernels_.sum_exp(logits, largest, count);
    }
}

float Engine::log_sum_exp(int group_row) const {
    const int chunks = num_head_chunks();
    const float* largest = chunk_largest_.data() + static_cast<size_t>(group_row) * chunks;
    const float* sums = chunk_sums_.data() + static_cast<size_t>(group_row) * chunks;
    const float top = *std::max_element(largest, largest + chunks);
    double total = 0;
    for (int c = 0; c < chunks; ++c) total += static_cast<double>(sums[c]) * std::exp(static_cast<double>(largest[c] - top));
    return static_cast<float>(top + std::log(total));
}

// Exact logits of a few ids, by the same sums as the whole bfloat16 head.
void Engine::rescore(int group_row, const std::vector<int32_t>& ids, std::vector<float>& logits) {
    const int words = head_.exact_words;
    const float* pairs = head_pairs_.data() + group_row * head_pair_stride();
    logits.resize(ids.size());
    for (size_t i = 0; i < ids.size(); ++i)
        kernels_.bfloat16_dots(head_.exact + static_cast<size_t>(ids[i]) * words, words, pairs, 0, 1, logits.data() + i, 0);
}

// The sum over the screened logits, with the exact ones in the place of the largest.
float Engine::screened_log_sum_exp(Scratch& scratch, int group_row) {
    const int chunks = num_head_chunks(), chunk_size = kChunkBlocks * kLanes;
    const float* logits = logits_.data() + static_cast<size_t>(group_row) * head_.screen.num_blocks * kLanes;
    const float* largest = chunk_largest_.data() + static_cast<size_t>(group_row) * chunks;
    const float* sums = chunk_sums_.data() + static_cast<size_t>(group_row) * chunks;
    const float top = *std::max_element(largest, largest + chunks);
    scratch.ids.resize(config_.vocab_size);
    int count = 0;
    for (float within : kReplacedWithin) {
        count = 0;
        for (int chunk = 0; chunk < chunks; ++chunk) {
            if (largest[chunk] < top - within) continue;
            const int first = chunk * chunk_size, size = std::min(chunk_size, config_.vocab_size - first);
            count += kernels_.collect(logits + first, nullptr, 0.0f, size, top - within, first, scratch.ids.data() + count);
        }
        if (count <= kMostReplaced) break;
    }
    if (count == 0) return log_sum_exp(group_row);  // nothing but NaN
    scratch.ids.resize(std::min(count, kMostReplaced));
    rescore(group_row, scratch.ids, scratch.exact);
    // Numerics: each sum in units of its own largest term, so that nothing overflows or vanishes however far the screen was off.
    double rest = 0, exact = 0;
    for (int c = 0; c < chunks; ++c) rest += sums[c] * std::exp(static_cast<double>(largest[c]) - top);
    for (int32_t id : scratch.ids) rest -= std::exp(static_cast<double>(logits[id]) - top);
    const float unit = *std::max_element(scratch.exact.begin(), scratch.exact.end());
    for (float logit : scratch.exact) exact += std::exp(static_cast<double>(logit) - unit);
    const double of_exact = unit + std::log(exact);
    if (rest < kRestNoise) return static_cast<float>(of_exact);
    const double of_rest = top + std::log(rest), larger = std::max(of_exact, of_rest), smaller = std::min(of_exact, of_rest);
    return static_cast<float>(larger + std::log1p(std::exp(smaller - larger)));
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

// Candidates in scratch.ids, behind those that are there: all ids that may be of the exact top k.
void Engine::collect_best(Scratch& scratch, int group_row, bool is_edited, int top_k) {
    const int V = config_.vocab_size, chunks = num_head_chunks();
    const float* logits = logits_.data() + static_cast<size_t>(group_row) * head_.screen.num_blocks * kLanes;
    const float* largest = chunk_largest_.data() + static_cast<size_t>(group_row) * chunks;
    const size_t num_fixed = scratch.ids.size();

    // A value that at least k reach in the screen: the k-th largest of the chunks' largest, where no edit has changed them.
    float least = kFinite;
    if (is_edited || top_k > chunks) {
        least = threshold(kernels_, logits, nullptr, 0.0f, V, top_k, scratch.bounds);
    } else {
        scratch.bounds.assign(largest, largest + chunks);
        std::nth_element(scratch.bounds.begin(), scratch.bounds.begin() + (top_k - 1), scratch.bounds.end(), std::greater<float>());
        least = std::max(scratch.bounds[top_k - 1], kFinite);
    }
    scratch.screened_ids.resize(V);
    scratch.screened_ids.resize(kernels_.collect(logits, nullptr, 0.0f, V, least, 0, scratch.screened_ids.data()));
    rescore(group_row, scratch.screened_ids, scratch.bounds);
    float bar = kFinite;
    for (float& value : scratch.bounds)
        if (!(value > kLowest)) value = kLowest;
    if (static_cast<int>(scratch.bounds.size()) >= top_k) {
        std::nth_element(scratch.bounds.begin(), scratch.bounds.begin() + (top_k - 1), scratch.bounds.end(), std::greater<float>());
        bar = std::max(scratch.bounds[top_k - 1], kFinite);
    }

    const float* x = head_input_.row(group_row);
    double square = 0;
    for (int i = 0; i < config_.d_model; ++i) square += static_cast<double>(x[i]) * x[i];
    const float length = static_cast<float>(std::sqrt(square) * 1.0001);
    scratch.ids.resize(num_fixed + V);
    scratch.ids.resize(num_fixed + kernels_.collect(logits, head_.error_norms, length, V, bar, 0, scratch.ids.data() + num_fixed));
}

void Engine::pick_screened(Scratch& scratch, int group_row, const RowEdits* edits, float log_sum_exp, int top_k, int32_t* ids, float* values) {
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
        collect_best(scratch, group_row, edits != nullptr, top_k);
    }
    rescore(group_row, candidates, scratch.exact);
    if (num_fixed) edit_named(*edits, candidates.data(), num_fixed, log_sum_exp, scratch.marks, scratch.exact.data());
    write_best(candidates, scratch.exact, top_k, ids, values);
}

}  // namespace t5kit
