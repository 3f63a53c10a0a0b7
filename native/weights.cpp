#include "weights.h"

#include <algorithm>
#include <cmath>

#include "check.h"

namespace t5kit {
namespace {

size_t item_bytes(const std::string& dtype) {
    if (dtype == "F32") return 4;
    if (dtype == "BF16" || dtype == "F16") return 2;
    return 0;
}

std::string shape_text(const std::vector<int64_t>& shape) {
    std::string text = "[";
    for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
    return text + "]";
}

float from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

float from_float16(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    const int exponent = (half >> 10) & 31;
    const uint32_t fraction = half & 0x3ff;
    if (exponent == 31) return from_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent == 0) {
        const float magnitude = std::ldexp(static_cast<float>(fraction), -24);
        return sign ? -magnitude : magnitude;
    }
    return from_bits(sign | static_cast<uint32_t>(exponent + 112) << 23 | fraction << 13);
}

// Symmetric, to nearest with ties to even: values [count] -> integers in [-127, 127]; returns the scale.
float quantize_group(const float* values, int count, int* integers) {
    float largest = 0.0f;
    for (int i = 0; i < count; ++i) largest = std::max(largest, std::fabs(values[i]));
    const float scale = largest / 127.0f;
    for (int i = 0; i < count; ++i) {
        const float ratio = scale > 0.0f ? values[i] / scale : 0.0f;
        integers[i] = static_cast<int>(std::nearbyint(std::min(127.0f, std::max(-127.0f, ratio))));
    }
    return scale;
}

// One output's words: lane `lane` of a block.
void pack_float_row(const float* row, int inputs, int steps, bool is_bfloat16, uint32_t* words, int lane) {
    for (int s = 0; s < steps; ++s) {
        uint32_t word = 0;
        if (is_bfloat16) {
            word = to_bfloat16(row[2 * s]);
            if (2 * s + 1 < inputs) word |= static_cast<uint32_t>(to_bfloat16(row[2 * s + 1])) << 16;
        } else {
            std::memcpy(&word, row + s, sizeof word);
        }
        words[static_cast<size_t>(s) * kLanes + lane] = word;
    }
}

void pack_int8_row(const float* row, int inputs, int groups, uint32_t* words, float* scales, int lane) {
    for (int g = 0; g < groups; ++g) {
        int integers[kGroup] = {};
        const int count = std::min(kGroup, inputs - g * kGroup);
        scales[g * kLanes + lane] = quantize_group(row + g * kGroup, count, integers);
        for (int s = 0; s < kGroup / 4; ++s) {
            uint32_t word = 0;
            for (int i = 0; i < 4; ++i) word |= static_cast<uint32_t>(integers[4 * s + i] + 128) << (8 * i);
            words[static_cast<size_t>(g * kGroup / 4 + s) * kLanes + lane] = word;
        }
    }
}

// Calls body(block) on all threads, each with a row buffer of its own.
template <class Body>
void for_each_block(int count, int inputs, ThreadPool& pool, Body body) {
    std::vector<std::vector<float>> rows(pool.size(), std::vector<float>(round_up(inputs, kGroup)));
    pool.run([&](int thread) { pool.for_each(count, 1, [&](int block) { body(block, rows[thread].data()); }); });
}

}  // namespace

void TensorMap::add(Tensor tensor) {
    T5KIT_CHECK(item_bytes(tensor.dtype), "Tensor '" << tensor.name << "' has the dtype " << tensor.dtype
                                                     << "; the native engine reads F32, BF16 and F16.");
    size_t expected = item_bytes(tensor.dtype);
    for (int64_t size : tensor.shape) {
        T5KIT_CHECK(size >= 0 && (size == 0 || expected <= (size_t{1} << 62) / static_cast<size_t>(size)),
                    "Tensor '" << tensor.name << "' has the impossible shape " << shape_text(tensor.shape) << ".");
        expected *= static_cast<size_t>(size);
    }
    T5KIT_CHECK(tensor.size_bytes == expected, "Tensor '" << tensor.name << "' of shape " << shape_text(tensor.shape) << " and dtype "
                                                          << tensor.dtype << " takes " << expected << " bytes, got " << tensor.size_bytes << ".");
    const std::string name = tensor.name;
    T5KIT_CHECK(tensors_.emplace(name, std::move(tensor)).second, "Tensor '" << name << "' was given twice.");
}

const Tensor& TensorMap::get(const std::string& name, const std::vector<int64_t>& shape) const {
    const auto found = tensors_.find(name);
    T5KIT_CHECK(found != tensors_.end(), "The native engine was given no tensor '" << name << "'.");
    T5KIT_CHECK(found->second.shape == shape,
                "Tensor '" << name << "' has the shape " << shape_text(found->second.shape) << ", expected " << shape_text(shape) << ".");
    return found->second;
}

uint16_t to_bfloat16(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof bits);
    if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + (0x7fff + (bits >> 16 & 1))) >> 16);
}

float from_bfloat16(uint16_t bits) { return from_bits(static_cast<uint32_t>(bits) << 16); }

void read_row(const Tensor& tensor, int64_t row, int64_t columns, float* out) {
    const uint8_t* at = tensor.data + static_cast<size_t>(row) * columns * item_bytes(tensor.dtype);
    if (tensor.dtype == "F32") {
        std::memcpy(out, at, columns * sizeof(float));
        return;
    }
    const bool is_bfloat16 = tensor.dtype == "BF16";
    for (int64_t i = 0; i < columns; ++i) {
        uint16_t bits;
        std::memcpy(&bits, at + 2 * i, sizeof bits);
        out[i] = is_bfloat16 ? from_bfloat16(bits) : from_float16(bits);
    }
}

const float* read_vector(const Tensor& tensor, size_t count, Arena& arena) {
    float* values = arena.take<float>((count + 63) / 64 * 64);
    read_row(tensor, 0, static_cast<int64_t>(count), values);
    return values;
}

void append_blocks(const Tensor& source, std::vector<BlockSource>& blocks) {
    for (int row = 0; row < source.shape[0]; row += kLanes) blocks.push_back({&source, row});
}

Linear pack_linear(const std::vector<BlockSource>& blocks, int inputs, Format format, Arena& arena, ThreadPool& pool) {
    Linear linear;
    linear.inputs = inputs;
    linear.num_blocks = static_cast<int>(blocks.size());
    Panels& panels = linear.panels;
    panels.format = format;
    panels.groups = format == Format::int8 ? round_up(inputs, kGroup) / kGroup : 0;
    panels.steps = format == Format::int8 ? 16 * panels.groups : format == Format::bfloat16 ? (inputs + 1) / 2 : inputs;
    const size_t block_words = static_cast<size_t>(panels.steps) * kLanes;
    uint32_t* words = arena.take<uint32_t>(block_words * blocks.size());
    float* scales = format == Format::int8 ? arena.take<float>(blocks.size() * panels.groups * kLanes) : nullptr;
    panels.words = words;
    panels.scales = scales;
    for_each_block(linear.num_blocks, inputs, pool, [&](int block, float* row) {
        const Tensor& source = *blocks[block].source;
        for (int lane = 0; lane < kLanes && blocks[block].first_row + lane < source.shape[0]; ++lane) {
            read_row(source, blocks[block].first_row + lane, inputs, row);
            uint32_t* to = words + block * block_words;
            if (format == Format::int8) {
                pack_int8_row(row, inputs, panels.groups, to, scales + static_cast<size_t>(block) * panels.groups * kLanes, lane);
            } else {
                pack_float_row(row, inputs, panels.steps, format == Format::bfloat16, to, lane);
            }
        }
    });
    return linear;
}

Head pack_head(const Tensor& source, int vocab_size, int inputs, Format format, Arena& arena, ThreadPool& pool) {
    std::vector<BlockSource> blocks;
    append_blocks(source, blocks);
    Head head;
    head.screen = pack_linear(blocks, inputs, format, arena, pool);
    if (format != Format::int8) return head;
    head.exact_words = (inputs + 1) / 2;
    uint32_t* exact = arena.take<uint32_t>(static_cast<size_t>(vocab_size) * head.exact_words);
    float* norms = arena.take<float>(round_up(vocab_size, kLanes));
    head.exact = exact;
    head.error_norms = norms;
    for_each_block(head.screen.num_blocks, inputs, pool, [&](int block, float* row) {
        for (int id = block * kLanes; id < std::min(vocab_size, (block + 1) * kLanes); ++id) {
            read_row(source, id, inputs, row);
            double error = 0, length = 0;
            for (int g = 0; g < head.screen.panels.groups; ++g) {
                int integers[kGroup];
                const int count = std::min(kGroup, inputs - g * kGroup);
                const float scale = quantize_group(row + g * kGroup, count, integers);
                for (int i = 0; i < count; ++i) {
                    const double kept = from_bfloat16(to_bfloat16(row[g * kGroup + i]));
                    error += std::pow(kept - static_cast<double>(scale) * integers[i], 2);
                    length += kept * kept;
                }
            }
            // Numerics: 2e-4 covers the 16-bit activations (8 / 65278 of the vector at most) and float32 rounding.
            norms[id] = static_cast<float>(std::sqrt(error) + 2e-4 * std::sqrt(length));
            for (int s = 0; s < head.exact_words; ++s) {
                uint32_t word = to_bfloat16(row[2 * s]);
                if (2 * s + 1 < inputs) word |= static_cast<uint32_t>(to_bfloat16(row[2 * s + 1])) << 16;
                exact[static_cast<size_t>(id) * head.exact_words + s] = word;
            }
        }
    });
    return head;
}

}  // namespace t5kit
