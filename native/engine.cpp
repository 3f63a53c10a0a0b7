// Engine: whole passes.
#include "engine.h"

#include <algorithm>
#include <numeric>

#include "check.h"

namespace t5kit {
namespace {

// Tokens that go through the encoder or the decoder together: enough for the matrix kernels, few enough for the caches.
constexpr int kChunkTokens = 1024;

}  // namespace

void Engine::check_ids(const int32_t* ids, size_t count, const char* what) const {
    for (size_t i = 0; i < count; ++i)
        T5KIT_CHECK(ids[i] >= 0 && ids[i] < config_.vocab_size, what << ": id " << ids[i] << " is outside [0, " << config_.vocab_size << ").");
}

template <class Use>
void Engine::run_encoder(const int32_t* ids, const std::vector<int>& lengths, const std::vector<int>& adapters, Use use) {
    T5KIT_CHECK(adapters.empty() || adapters.size() == lengths.size(),
                "Got " << adapters.size() << " adapters for " << lengths.size() << " sequences; expected one for each.");
    for (int name : adapters) adapter(name);
    for (int length : lengths) T5KIT_CHECK(length >= 1, "An encoder input has " << length << " tokens, expected at least 1.");
    check_ids(ids, std::accumulate(lengths.begin(), lengths.end(), size_t{0}), "encoder input");
    std::vector<Span> spans;
    int num_rows = 0, longest = 0;
    const auto flush = [&] {
        if (spans.empty()) return;
        // Numerics: encoders hold most of a batch's work, and with int8 weights they lose no text that could be measured by
        // coarser activations (302 of 320 texts came out as in float32, 304 before); in decoders too it was 299.
        shape_buffers(num_rows, longest, format_ != Format::int8);
        note_adapters(spans, num_rows);
        for (PositionBias& bias : encoder_bias_) bias.reach(longest);
        const std::function<void(int)> work = [&](int thread) { encoder_pass(thread, ids, spans, num_rows); };
        pool_.run(work);
        use(spans, num_rows);
        ids += num_rows;
        spans.clear();
        num_rows = longest = 0;
    };
    for (size_t i = 0; i < lengths.size(); ++i) {
        const int length = lengths[i];
        if (num_rows && num_rows + length > kChunkTokens) flush();
        spans.push_back({num_rows, length, 0, nullptr, nullptr, nullptr, adapters.empty() ? nullptr : adapter(adapters[i]).get()});
        num_rows += length;
        longest = std::max(longest, length);
    }
    flush();
}

// Leaves the final states in normed_ (float32, and their 16-bit form for int8 weights).
void Engine::encoder_pass(int thread, const int32_t* ids, const std::vector<Span>& spans, int num_rows) {
    embed(ids, num_rows);
    for (size_t layer = 0; layer < encoder_.size(); ++layer) {
        const EncoderLayer& weights = encoder_[layer];
        apply(weights.qkv, normed(thread, stream_, num_rows, weights.attention_norm), num_rows, projected_.data(), 3 * head_stride(), false);
        attend_in_encoder(thread, spans, static_cast<int>(layer));
        apply(weights.attention_out, attended(thread, num_rows), num_rows, stream_.data(), model_stride(), true);
        feed_forward(thread, weights.mlp_norm, weights.mlp_in, weights.mlp_out, num_rows);
    }
    pool_.for_each(num_rows, 8, [&](int m) {
        kernels_.rms_norm(stream_.data() + static_cast<size_t>(m) * model_stride(), encoder_norm_, config_.d_model,
                          config_.layer_norm_epsilon, normed_.row(m));
        if (is_int8()) normed_.quantize(kernels_, m);
    });
}

void Engine::encoder_states(const int32_t* ids, const std::vector<int>& lengths, const std::vector<int>& adapters, float* out) {
    run_encoder(ids, lengths, adapters, [&](const std::vector<Span>&, int num_rows) {
        for (int m = 0; m < num_rows; ++m, out += config_.d_model) std::copy_n(normed_.row(m), config_.d_model, out);
    });
}

std::vector<int> Engine::encode(const int32_t* ids, const std::vector<int>& lengths, const std::vector<int>& adapters) {
    T5KIT_CHECK(config_.num_decoder_layers, "This model has no decoder and cannot generate; use encoder states.");
    std::vector<int> handles;
    try {
        run_encoder(ids, lengths, adapters, [&](std::vector<Span>& spans, int num_rows) {
            const size_t first = handles.size();
            for (const Span& span : spans) {
                handles.push_back(sequences_.add_prompt(span.num_rows));
                if (!adapters.empty()) sequences_.prompt(handles.back()).adapter = adapter(adapters[handles.size() - 1]);
            }
            for (size_t i = 0; i < spans.size(); ++i) spans[i].prompt = &sequences_.prompt(handles[first + i]);
            const std::function<void(int)> work = [&](int thread) {
                for (size_t layer = 0; layer < decoder_.size(); ++layer) {
                    apply(decoder_[layer].cross_kv, normed_.rows(), num_rows, projected_.data(), 2 * head_stride(), false);
                    store_cross(thread, spans, static_cast<int>(layer));
                }
            };
            pool_.run(work);
        });
    } catch (...) {
        sequences_.release(handles);
        throw;
    }
    return handles;
}

// Leaves the residual stream in stream_, before the final norm.
void Engine::decoder_pass(int thread, const int32_t* ids, const std::vector<Span>& spans, const std::vector<Readers>& readers, int num_rows) {
    embed(ids, num_rows);
    for (size_t i = 0; i < decoder_.size(); ++i) {
        const DecoderLayer& weights = decoder_[i];
        const int layer = static_cast<int>(i);
        apply(weights.self_qkv, normed(thread, stream_, num_rows, weights.self_norm), num_rows, projected_.data(), 3 * head_stride(), false);
        attend_to_self(thread, spans, layer);
        apply(weights.self_out, attended(thread, num_rows), num_rows, stream_.data(), model_stride(), true);
        apply(weights.cross_q, normed(thread, stream_, num_rows, weights.cross_norm), num_rows, projected_.data(), head_stride(), false);
        attend_across(thread, spans, readers, layer);
        apply(weights.cross_out, attended(thread, num_rows), num_rows, stream_.data(), model_stride(), true);
        feed_forward(thread, weights.mlp_norm, weights.mlp_in, weights.mlp_out, num_rows);
    }
}

StepResult Engine::step(const StepRequest& request) {
    T5KIT_CHECK(!request.slots.empty() && request.slots.size() == request.lengths.size(),
                "A step needs one length for each of at least one slot; got " << request.slots.size() << " and " << request.lengths.size() << ".");
    T5KIT_CHECK(request.top_k >= 1, "top_k = " << request.top_k << " must be at least 1.");
    std::vector<int> sorted = request.slots;
    std::sort(sorted.begin(), sorted.end());
    T5KIT_CHECK(std::adjacent_find(sorted.begin(), sorted.end()) == sorted.end(), "A slot stands twice in one step.");

    const int layers = config_.num_decoder_layers, H = config_.num_heads;
    StepResult result;
    std::vector<Span> spans;
    std::vector<int> out_rows;
    int num_rows = 0, longest = 0;
    for (size_t i = 0; i < request.slots.size(); ++i) {
        Slot& slot = sequences_.slot(request.slots[i]);
        Prompt& prompt = sequences_.prompt(slot.handle);
        const int count = request.lengths[i];
        T5KIT_CHECK(count >= 1, "A row of a step has " << count << " tokens, expected at least 1.");
        spans.push_back({num_rows, count, slot.length, &slot, &prompt, nullptr, prompt.adapter.get()});
        for (int t = request.wants_all_positions ? 0 : count - 1; t < count; ++t) out_rows.push_back(num_rows + t);
        num_rows += count;
        longest = std::max({longest, slot.length + count, prompt.length});
    }
    check_ids(request.tokens, num_rows, "decoder tokens");
    check_edits(request, static_cast<int>(out_rows.size()));
    if (request.wants_cross_attention) {
        result.cross_attention.resize(spans.size());
        for (size_t i = 0; i < spans.size(); ++i) {
            result.cross_attention[i].resize(static_cast<size_t>(layers) * H * spans[i].num_rows * spans[i].prompt->length);
            result.prompt_lengths.push_back(spans[i].prompt->length);
            spans[i].cross_weights = result.cross_attention[i].data();
        }
    }
    shape_buffers(num_rows, longest, true);
    note_adapters(spans, num_rows);
    for (PositionBias& bias : decoder_bias_) bias.reach(longest);
    for (const Span& span : spans) sequences_.reserve(*span.slot, span.num_rows);

    const std::vector<Readers> readers = readers_of(spans);
    const std::function<void(int)> work = [&](int thread) { decoder_pass(thread, request.tokens, spans, readers, num_rows); };
    pool_.run(work);
    run_head(request, out_rows, result);
    for (const Span& span : spans) span.slot->length += span.num_rows;
    return result;
}

void Engine::score(const std::vector<int>& handles, const int32_t* targets, const std::vector<int>& lengths, float* out) {
    T5KIT_CHECK(handles.size() == lengths.size(), "Got " << handles.size() << " handles and " << lengths.size() << " targets.");
    for (int length : lengths) T5KIT_CHECK(length >= 1, "A target has " << length << " tokens, expected at least 1.");
    check_ids(targets, std::accumulate(lengths.begin(), lengths.end(), size_t{0}), "target");
    for (size_t first = 0, last; first < handles.size(); first = last) {
        StepRequest request;
        std::vector<int32_t> tokens;
        std::vector<RowEdits> forced;
        for (last = first; last < handles.size() && (last == first || tokens.size() + lengths[last] <= kChunkTokens); ++last) {
            tokens.push_back(config_.decoder_start_id);
            tokens.insert(tokens.end(), targets, targets + lengths[last] - 1);
            for (int t = 0; t < lengths[last]; ++t) {
                forced.emplace_back();
                forced.back().forced_id = targets[t];
            }
            targets += lengths[last];
        }
        for (const RowEdits& edits : forced) request.edits.push_back(&edits);
        request.lengths.assign(lengths.begin() + first, lengths.begin() + last);
        request.tokens = tokens.data();
        request.wants_all_positions = true;
        request.slots = sequences_.open_slots({handles.begin() + first, handles.begin() + last});
        try {
            const StepResult result = step(request);
            for (size_t i = 0; i < tokens.size(); ++i) *out++ = result.top_logits[i] - result.log_sum_exp[i];
        } catch (...) {
            sequences_.close_slots(request.slots);
            throw;
        }
        sequences_.close_slots(request.slots);
    }
}

}  // namespace t5kit
