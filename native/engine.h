// A whole T5: a whole encoder pass or a whole decoder step for ragged sequences in one call.
//
// Dimension letters: N tokens of all sequences one after another, S encoder length, Q output rows, D d_model, H heads,
// E head width, F d_ff, V vocabulary.
#pragma once

#include <unistd.h>

#include <atomic>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "adapters.h"
#include "check.h"
#include "kernels.h"
#include "memory.h"
#include "position_bias.h"
#include "sequences.h"
#include "thread_pool.h"
#include "weights.h"

namespace t5kit {

struct ModelConfig {
    int vocab_size = 0, d_model = 0, d_kv = 0, d_ff = 0, num_heads = 0;
    int num_encoder_layers = 0, num_decoder_layers = 0;  // no decoder: encoder states are all there is
    int num_buckets = 0, max_distance = 0;
    bool uses_gated_mlp = false, is_tied = false, scales_logits = false, has_bias_per_layer = false;
    Activation activation = Activation::relu;
    float layer_norm_epsilon = 1e-6f;
    int decoder_start_id = 0;
};

// Edits of one output row (t5kit.runtime.edits.LogitEdits); the arrays belong to the caller.
struct Ids {
    const int32_t* data = nullptr;
    int count = 0;
};
struct RowEdits {
    Ids penalty_ids, delta_ids, suppressed_ids, allowed_ids;
    const float* deltas = nullptr;
    float penalty = 1.0f;
    bool penalises_log_probs = false;
    bool has_allowed = false;
    int forced_id = -1;  // -1: none
};

struct StepRequest {
    std::vector<int> slots, lengths;
    const int32_t* tokens = nullptr;
    int top_k = 1;
    bool wants_logits = false, wants_all_positions = false, wants_cross_attention = false, wants_hidden = false;
    std::vector<const RowEdits*> edits;  // [Q], null where a row has none; or empty
};

struct StepResult {
    int num_rows = 0;
    std::vector<int32_t> top_ids;    // [Q, k]
    std::vector<float> top_logits;   // [Q, k]
    std::vector<float> log_sum_exp;  // [Q]
    std::vector<float> logits;       // [Q, V] or empty
    std::vector<float> hidden;       // [Q, D] or empty
    std::vector<std::vector<float>> cross_attention;  // of each slot [layers, H, n, S], or empty
    std::vector<int> prompt_lengths;                  // with cross_attention: S of each slot
};

// Rows on their way into a linear map: float32 values [M][stride], and for int8 weights their 16-bit form too.
struct Activations {
    Buffer<float> values;
    Buffer<uint8_t> quads;
    Buffer<float> scales;
    Buffer<int32_t> sums;
    int stride = 0, groups = 0;
    bool is_fine = false;  // see Kernels::quantize

    void shape(int num_rows, int width, bool is_quantized);
    float* row(int m) { return values.data() + static_cast<size_t>(m) * stride; }
    void quantize(const Kernels& kernels, int m);
    void quantize_group(const Kernels& kernels, int m, int group);
    Rows rows() const { return {values.data(), static_cast<size_t>(stride), quads.data(), scales.data(), sums.data(), groups, is_fine}; }
};

// All weights of an engine as an earlier one packed them (Engine::packed), 64-byte aligned and never written to.
struct PackedBytes {
    const uint8_t* data = nullptr;
    size_t size_bytes = 0;
    uint64_t digest = 0;
    bool is_file = false;  // mapped from one, read-only
    std::shared_ptr<const void> owner;  // keeps them where they are
};

class Engine {
public:
    // Copies and packs what it needs of the tensors, or takes it as it is in `packed`; the tensors' bytes are not read then.
    // Raises: EngineFailure for missing or misshapen tensors, or packed bytes of another size or digest.
    Engine(const ModelConfig& config, const TensorMap& tensors, Format format, int threads, const Kernels& kernels,
           const PackedBytes& packed = {});

    // One call at a time: whoever calls holds one of these, and a second thread gets an error instead of torn caches. So does a
    // forked process, in which a call that was at work then never ends.
    class Call {
    public:
        explicit Call(Engine& engine) : busy_(engine.busy_) {
            const long here = getpid();
            long caller = 0;
            if (busy_.compare_exchange_strong(caller, here, std::memory_order_acquire)) return;
            T5KIT_CHECK(caller == here,
                        "This model was at work in another thread when the process was forked, and is half done here. Load it again in the new "
                        "process.");
            T5KIT_CHECK(false, "This model is at work in another thread, and takes one call at a time. Put a lock around it, or load it twice.");
        }
        ~Call() { busy_.store(0, std::memory_order_release); }
        Call(const Call&) = delete;
        Call& operator=(const Call&) = delete;

    private:
        std::atomic<long>& busy_;
    };

    const ModelConfig& config() const { return config_; }
    const Kernels& kernels() const { return kernels_; }
    int num_threads() const { return pool_.size(); }
    size_t weight_bytes() const { return arena_.size_bytes(); }
    // weight_bytes() of them.
    const uint8_t* packed() const { return arena_.data(); }
    uint64_t packed_digest();
    Sequences& sequences() { return sequences_; }

    // Copies an adapter and returns its name, at least 1. Raises: EngineFailure for maps that this model does not have.
    int add_adapter(const std::vector<LowRankSource>& sources);
    // Prompts that were encoded with it keep it.
    void remove_adapter(int name);

    // ids [N] of all sequences, lengths of each, at least 1, and the adapter of each, 0 for none; empty for none at all.
    // Raises: EngineFailure for ids outside the vocabulary or unknown adapters.
    std::vector<int> encode(const int32_t* ids, const std::vector<int>& lengths, const std::vector<int>& adapters);
    // out [N, D].
    void encoder_states(const int32_t* ids, const std::vector<int>& lengths, const std::vector<int>& adapters, float* out);

    StepResult step(const StepRequest& request);

    // Natural log-probability of every target token, [N] into out; targets ragged like the ids of encode.
    void score(const std::vector<int>& handles, const int32_t* targets, const std::vector<int>& lengths, float* out);

private:
    struct EncoderLayer {
        const float* attention_norm;
        Linear qkv, attention_out;
        const float* mlp_norm;
        Linear mlp_in, mlp_out;
    };
    struct DecoderLayer {
        const float* self_norm;
        Linear self_qkv, self_out;
        const float* cross_norm;
        Linear cross_q, cross_kv, cross_out;
        const float* mlp_norm;
        Linear mlp_in, mlp_out;
    };
    // One sequence's part of the rows of a pass.
    struct Span {
        int first_row, num_rows;
        int past;        // decoder: tokens already in the cache
        Slot* slot;      // decoder
        Prompt* prompt;  // decoder: what it attends to; encode: where keys and values go
        float* cross_weights;
        const Adapter* adapter = nullptr;
    };
    // Neighbouring spans that attend to one prompt.
    struct Readers {
        Prompt* prompt;
        int first_span, first_row, num_rows;
    };
    static constexpr int kQueryRows = 6;  // queries that go through the attention kernels together
    struct MixTarget {
        float* at;
        size_t stride;
        bool is_final;  // in attended_
    };
    // Names of the maps in one Linear, and the size of each.
    struct LinearPlace {
        std::vector<std::string> names;
        int outputs, inputs;
    };
    static constexpr int kMostMaps = 3;  // in one Linear

    // What one thread needs for attention and the head.
    struct Scratch {
        Buffer<float> scores, mixed, keys, values, pair;
        std::vector<const float*> pages;
        std::vector<int32_t> ids, screened_ids;
        std::vector<float> bounds, exact;
        std::vector<char> marks;
        Activations small;
    };
    // Loading (engine_load.cpp)
    void load(const TensorMap& tensors);
    Linear load_linear(const TensorMap& tensors, const std::vector<std::string>& names, int rows, int inputs);
    Linear placed(Linear linear, const std::vector<std::string>& names, int outputs);
    Linear load_mlp_in(const TensorMap& tensors, const std::string& name);
    const float* load_norm(const TensorMap& tensors, const std::string& name);
    void load_position_bias(const TensorMap& tensors, const std::string& stack, int num_layers, std::vector<PositionBias>& biases);

    // Parts of a pass; all are called by every thread of the pool together (engine_layers.cpp)
    void embed(const int32_t* ids, int num_rows);
    Rows normed(int thread, const Buffer<float>& source, int num_rows, const float* weight);
    Rows attended(int thread, int num_rows);
    void apply(const Linear& linear, const Rows& x, int num_rows, float* y, size_t y_stride, bool adds);
    void feed_forward(int thread, const float* norm, const Linear& in, const Linear& out, int num_rows);
    void attend_to_self(int thread, const std::vector<Span>& spans, int layer);
    void attend_across(int thread, const std::vector<Span>& spans, const std::vector<Readers>& readers, int layer);
    void attend_in_encoder(int thread, const std::vector<Span>& spans, int layer);
    void mix_rows(Scratch& scratch, int first_row, int rows, int head, int num_keys, const float* values);
    MixTarget mix_target(Scratch& scratch, int first_row, int head);
    void keep_mixed(const MixTarget& from, int first_row, int rows, int head);
    void quantize_head(int first_row, int rows, int head);
    static std::vector<Readers> readers_of(const std::vector<Span>& spans);
    void store_cross(int thread, const std::vector<Span>& spans, int layer);
    const PositionBias& bias(const std::vector<PositionBias>& biases, int layer) const {
        return biases[config_.has_bias_per_layer ? layer : 0];
    }

    void check_ids(const int32_t* ids, size_t count, const char* what) const;
    // Runs chunks of whole sequences through the encoder and calls `use(spans)` with their final states in states_.
    template <class Use>
    void run_encoder(const int32_t* ids, const std::vector<int>& lengths, const std::vector<int>& adapters, Use use);
    void encoder_pass(int thread, const int32_t* ids, const std::vector<Span>& spans, int num_rows);
    void decoder_pass(int thread, const int32_t* ids, const std::vector<Span>& spans, const std::vector<Readers>& readers, int num_rows);
    void shape_buffers(int num_rows, int longest, bool is_fine);

    // Adapters (engine_adapters.cpp)
    std::shared_ptr<const Adapter> adapter(int name) const;
    void note_adapters(const std::vector<Span>& spans, int num_rows);
    bool lower(const Linear& linear, const Rows& x, int num_rows);
    void raise(const Linear& linear, int map, int block, int first, int count, float* y, size_t y_stride);

    // The head (engine_head.cpp)
    void run_head(const StepRequest& request, const std::vector<int>& rows, StepResult& result);
    void prepare_head_row(int row, int group_row, float* hidden);
    void head_chunk(int chunk, int num_rows);
    void exact_head_chunk(int chunk, int num_rows);
    void summarise_chunk(int chunk, int num_rows);
    float log_sum_exp(int group_row) const;
    void rescore(int group_row, const std::vector<int32_t>& ids, std::vector<float>& logits);
    void collect_best(Scratch& scratch, int group_row, bool is_edited, int top_k);
    int num_head_chunks() const;
    size_t head_pair_stride() const { return 2 * static_cast<size_t>(round_up(head_.exact_words, kPageTokens)); }
    float screened_log_sum_exp(Scratch& scratch, int group_row);
    void pick_exact(Scratch& scratch, int group_row, int top_k, int32_t* ids, float* values);
    void pick_screened(Scratch& scratch, int group_row, const RowEdits* edits, float log_sum_exp, int top_k, int32_t* ids, float* values);
    void check_edits(const StepRequest& request, int num_rows) const;

    int head_stride() const { return round_up(config_.num_heads * config_.d_kv, kLanes); }
    int model_stride() const { return round_up(config_.d_model, kLanes); }
    bool is_int8() const { return takes_integers(format_); }
    bool heads_fill_groups() const { return config_.d_kv % kGroup == 0; }

    const ModelConfig config_;
    const Format format_;
    const Kernels& kernels_;
    ThreadPool pool_;
    std::shared_ptr<const void> packed_owner_;
    Arena arena_;
    Sequences sequences_;

    const uint16_t* embedding_bfloat16_ = nullptr;  // [V, D], one of the two
    const float* embedding_ = nullptr;
    std::vector<EncoderLayer> encoder_;
    std::vector<DecoderLayer> decoder_;
    const float* encoder_norm_ = nullptr;
    const float* decoder_norm_ = nullptr;
    std::vector<PositionBias> encoder_bias_, decoder_bias_;
    Head head_;

    std::vector<LinearPlace> places_;  // [Linear::number]
    std::unordered_map<int, std::shared_ptr<const Adapter>> adapters_;
    int last_adapter_ = 0;
    // Of a pass: its rows' adapters (empty where none has one), each of them once, and A x [rows][kMostMaps][low_stride_].
    std::vector<const Adapter*> row_adapters_, active_adapters_;
    Buffer<float> low_;
    int low_stride_ = 0;

    Buffer<float> stream_;     // [N][model_stride], the residual
    Buffer<float> projected_;  // [N][3 * head_stride], queries, keys, values
    Activations normed_, attended_, inner_, head_input_;
    Buffer<float> head_pairs_; // int8: the head's input [rows of a group][head_pair_stride], even inputs and then odd ones
    Buffer<float> logits_;     // [rows of a group][padded vocabulary]
    Buffer<float> chunk_largest_, chunk_sums_;
    std::vector<Scratch> scratch_;
    std::atomic<long> busy_{0};  // the process whose call is at work
};

}  // namespace t5kit
