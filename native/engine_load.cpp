// Engine: from named tensors to packed layers. load() runs twice: to measure, and to fill or find (native/memory.h).
#include <algorithm>

#include "check.h"
#include "digest.h"
#include "engine.h"

namespace t5kit {

Engine::Engine(const ModelConfig& config, const TensorMap& tensors, Format format, int threads, const Kernels& kernels,
               const PackedBytes& packed)
    : config_(config),
      format_(format),
      kernels_(kernels),
      pool_(threads),
      sequences_(CacheShape{config.num_decoder_layers, config.num_heads, config.d_kv}),
      scratch_(threads) {
    load(tensors);  // measures
    if (packed.data) {
        T5KIT_CHECK(packed.size_bytes == arena_.size_bytes(),
                    "The packed weights have " << packed.size_bytes << " bytes; this model has " << arena_.size_bytes() << ".");
        T5KIT_CHECK(reinterpret_cast<uintptr_t>(packed.data) % 64 == 0, "The packed weights do not start at a multiple of 64 bytes.");
        T5KIT_CHECK(digest(packed.data, packed.size_bytes, packed.is_file, pool_) == packed.digest, "The packed weights are not those that were saved.");
        packed_owner_ = packed.owner;
        arena_.adopt(packed.data);
    } else {
        arena_.allocate();
    }
    load(tensors);
}

uint64_t Engine::packed_digest() { return digest(arena_.data(), arena_.size_bytes(), false, pool_); }

void Engine::load(const TensorMap& tensors) {
    const int D = config_.d_model, inner = config_.num_heads * config_.d_kv, F = config_.d_ff;
    const Tensor& shared = tensors.get("shared.weight", {config_.vocab_size, D});
    places_.clear();
    encoder_.clear();
    decoder_.clear();
    encoder_bias_.clear();
    decoder_bias_.clear();
    if (format_ == Format::float32) {
        embedding_ = read_matrix(shared, config_.vocab_size, D, arena_, pool_);
    } else {
        embedding_bfloat16_ = read_matrix_bfloat16(shared, config_.vocab_size, D, arena_, pool_);
    }
    for (int i = 0; i < config_.num_encoder_layers; ++i) {
        const std::string block = "encoder.block." + std::to_string(i), attention = block + ".layer.0.SelfAttention.";
        encoder_.push_back({
            load_norm(tensors, block + ".layer.0.layer_norm"),
            load_linear(tensors, {attention + "q", attention + "k", attention + "v"}, inner, D),
            load_linear(tensors, {attention + "o"}, D, inner),
            load_norm(tensors, block + ".layer.1.layer_norm"),
            load_mlp_in(tensors, block + ".layer.1.DenseReluDense."),
            load_linear(tensors, {block + ".layer.1.DenseReluDense.wo"}, D, F),
        });
    }
    encoder_norm_ = load_norm(tensors, "encoder.final_layer_norm");
    load_position_bias(tensors, "encoder", config_.num_encoder_layers, encoder_bias_);
    if (!config_.num_decoder_layers) return;

    for (int i = 0; i < config_.num_decoder_layers; ++i) {
        const std::string block = "decoder.block." + std::to_string(i);
        const std::string self = block + ".layer.0.SelfAttention.", cross = block + ".layer.1.EncDecAttention.";
        decoder_.push_back({
            load_norm(tensors, block + ".layer.0.layer_norm"),
            load_linear(tensors, {self + "q", self + "k", self + "v"}, inner, D),
            load_linear(tensors, {self + "o"}, D, inner),
            load_norm(tensors, block + ".layer.1.layer_norm"),
            load_linear(tensors, {cross + "q"}, inner, D),
            load_linear(tensors, {cross + "k", cross + "v"}, inner, D),
            load_linear(tensors, {cross + "o"}, D, inner),
            load_norm(tensors, block + ".layer.2.layer_norm"),
            load_mlp_in(tensors, block + ".layer.2.DenseReluDense."),
            load_linear(tensors, {block + ".layer.2.DenseReluDense.wo"}, D, F),
        });
    }
    decoder_norm_ = load_norm(tensors, "decoder.final_layer_norm");
    load_position_bias(tensors, "decoder", config_.num_decoder_layers, decoder_bias_);
    const Tensor& head = config_.is_tied ? shared : tensors.get("lm_head.weight", {config_.vocab_size, D});
    // Numerics: the head screens in int8 beside int4 layers too: its candidates are scored exactly, so nothing hangs on it.
    const Format head_format = format_ == Format::int4 ? Format::int8 : format_;
    head_ = pack_head(head, config_.vocab_size, D, head_format, config_.is_tied, embedding_bfloat16_, arena_, pool_);
}

Linear Engine::load_linear(const TensorMap& tensors, const std::vector<std::string>& names, int rows, int inputs) {
    std::vector<BlockSource> blocks;
    for (const std::string& name : names) append_blocks(tensors.get(name + ".weight", {rows, inputs}), blocks);
    return placed(pack_linear(blocks, inputs, format_, arena_, pool_), names, rows);
}

Linear Engine::placed(Linear linear, const std::vector<std::string>& names, int outputs) {
    linear.number = static_cast<int>(places_.size());
    linear.num_maps = static_cast<int>(names.size());
    places_.push_back({names, outputs, linear.inputs});
    return linear;
}

// T5: gated models multiply act(wi_0 x) by wi_1 x; the blocks of the two alternate, so that one task makes both.
Linear Engine::load_mlp_in(const TensorMap& tensors, const std::string& name) {
    if (!config_.uses_gated_mlp) return load_linear(tensors, {name + "wi"}, config_.d_ff, config_.d_model);
    const Tensor& activated = tensors.get(name + "wi_0.weight", {config_.d_ff, config_.d_model});
    const Tensor& gate = tensors.get(name + "wi_1.weight", {config_.d_ff, config_.d_model});
    std::vector<BlockSource> blocks;
    for (int row = 0; row < config_.d_ff; row += kLanes) {
        blocks.push_back({&activated, row});
        blocks.push_back({&gate, row});
    }
    return placed(pack_linear(blocks, config_.d_model, format_, arena_, pool_), {name + "wi_0", name + "wi_1"}, config_.d_ff);
}

const float* Engine::load_norm(const TensorMap& tensors, const std::string& name) {
    return read_vector(tensors.get(name + ".weight", {config_.d_model}), config_.d_model, arena_);
}

void Engine::load_position_bias(const TensorMap& tensors, const std::string& stack, int num_layers, std::vector<PositionBias>& biases) {
    for (int i = 0; i < (config_.has_bias_per_layer ? num_layers : 1); ++i) {
        const std::string name = stack + ".block." + std::to_string(i) + ".layer.0.SelfAttention.relative_attention_bias.weight";
        const Tensor& source = tensors.get(name, {config_.num_buckets, config_.num_heads});
        std::vector<float> table(static_cast<size_t>(config_.num_buckets) * config_.num_heads);
        const float* values = read_vector(source, table.size(), arena_);
        if (values) std::copy_n(values, table.size(), table.begin());
        biases.emplace_back(std::move(table), config_.num_heads, config_.num_buckets, config_.max_distance, stack == "encoder");
    }
}

}  // namespace t5kit
