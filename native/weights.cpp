#include "weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "check.h"

namespace t5kit {
namespace {

size_t item_bytes(Dtype dtype) {
    switch (dtype) {
        case Dtype::float32: return 4;
        case Dtype::bfloat16: return 2;
        case Dtype::float16: return 2;
        case Dtype::int8: return 1;
    }
    return 0;
}

const char* word_of(Dtype dtype) {
    switch (dtype) {
        case Dtype::float32: return "F32";
        case Dtype::bfloat16: return "BF16";
        case Dtype::float16: return "F16";
        case Dtype::int8: return "I8";
    }
    return "";
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

// Lets go of the pages of rows that have been read, so that a mapped file never stands in memory as a whole. Whatever reads
// them again gets them back from the file.
void forget_rows(const Tensor& tensor, int first_row, int num_rows) {
    if (!tensor.is_file || tensor.shape.size() != 2 || first_row >= tensor.shape[0]) return;
    const size_t row_bytes = static_cast<size_t>(tensor.shape[1]) * item_bytes(tensor.dtype);
    forget_pages(tensor.data + first_row * row_bytes, std::min<int64_t>(num_rows, tensor.shape[0] - first_row) * row_bytes);
}

// Symmetric, to nearest with ties to even: values [count] -> integers in [-most, most], zero from count to size; returns the
// scale. Where a value is no finite number the scale is NaN, which stays visible in every output.
float quantize_group(const float* values, int count, float most, int size, int8_t* integers) {
    float largest = 0.0f, rest = 0.0f;
    for (int i = 0; i < count; ++i) {
        largest = std::max(largest, std::fabs(values[i]));
        rest += values[i] - values[i];  // 0, or NaN for infinities and NaN
    }
    std::memset(integers, 0, size);
    if (rest != 0.0f) return from_bits(0x7fc00000);
    const float scale = largest / most;
    for (int i = 0; i < count; ++i) {
        const float ratio = scale > 0.0f ? values[i] / scale : 0.0f;
        // Numerics: beyond 1.5 * 2^23 a float32 has no fraction, so the addition rounds to the nearest, ties to even.
        integers[i] = static_cast<int8_t>((std::min(most, std::max(-most, ratio)) + 12582912.0f) - 12582912.0f);
    }
    return scale;
}

// Whether stored integers and their scale are what quantize_group() can give.
bool is_group(const int8_t* integers, float scale) {
    if (!(scale >= 0.0f && scale < from_bits(0x7f800000))) return false;
    int largest = 0;
    for (int i = 0; i < kGroup; ++i) largest = std::max(largest, std::abs(static_cast<int>(integers[i])));
    return largest <= 127 && (scale > 0.0f || largest == 0);
}

// Row `row` as integers [64 * groups] and scales [groups], as they are stored or rounded from `values`, which is scratch.
// Returns whether what is stored makes sense.
bool read_int8_row(const Tensor& tensor, int64_t row, int inputs, int groups, float* values, int8_t* integers, float* scales) {
    bool is_good = true;
    if (tensor.dtype != Dtype::int8) read_row(tensor, row, inputs, values);
    for (int g = 0; g < groups; ++g) {
        const int count = std::min(kGroup, inputs - g * kGroup);
        int8_t* group = integers + g * kGroup;
        if (tensor.dtype != Dtype::int8) {
            scales[g] = quantize_group(values + g * kGroup, count, 127.0f, kGroup, group);
            continue;
        }
        std::memset(group, 0, kGroup);
        std::memcpy(group, tensor.data + static_cast<size_t>(row) * inputs + g * kGroup, count);
        std::memcpy(scales + g, tensor.scale->data + (static_cast<size_t>(row) * groups + g) * sizeof(float), sizeof(float));
        is_good = is_good && is_group(group, scales[g]);
    }
    return is_good;
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

void pack_int8_row(const int8_t* integers, const float* row_scales, int groups, uint32_t* words, float* scales, int lane) {
    for (int g = 0; g < groups; ++g) {
        scales[g * kLanes + lane] = row_scales[g];
        for (int s = 0; s < kGroup / 4; ++s) {
            uint32_t word;
            std::memcpy(&word, integers + g * kGroup + 4 * s, sizeof word);
            words[static_cast<size_t>(g * kGroup / 4 + s) * kLanes + lane] = word ^ 0x80808080u;  // w + 128 in every byte
        }
    }
}

// Groups of 32; see kernel_int4.h for the order of the nibbles. `values` [inputs].
void pack_int4_row(const float* values, int inputs, int groups, uint32_t* words, float* scales, int lane) {
    for (int h = 0; h < 2 * groups; ++h) {
        int8_t integers[kInt4Group];
        const int first = h * kInt4Group, count = std::max(0, std::min(kInt4Group, inputs - first));
        scales[h * kLanes + lane] = quantize_group(values + first, count, 7.0f, kInt4Group, integers);
        for (int s = 0; s < kInt4Group / 8; ++s) {
            uint32_t word = 0;
            for (int i = 0; i < 4; ++i) {
                word |= static_cast<uint32_t>(integers[8 * s + i] + 8) << (8 * i);
                word |= static_cast<uint32_t>(integers[8 * s + 4 + i] + 8) << (8 * i + 4);
            }
            words[static_cast<size_t>(h * kInt4Group / 8 + s) * kLanes + lane] = word;
        }
    }
}

// What one thread needs to read rows.
struct RowScratch {
    std::vector<float> values, scales;
    std::vector<int8_t> integers;

    RowScratch(int inputs, int groups)
        : values(round_up(inputs, kGroup)), scales(groups), integers(static_cast<size_t>(groups) * kGroup) {}
};

// Calls body(block, scratch) on all threads; the pages of what was read are let go on the way.
template <class Body>
void for_each_block(const std::vector<BlockSource>& blocks, int inputs, ThreadPool& pool, Body body) {
    constexpr size_t kBatchBytes = size_t{8} << 20;
    const int batch = static_cast<int>(std::max<size_t>(1, kBatchBytes / (sizeof(float) * kLanes * inputs)));
    std::vector<RowScratch> scratch(pool.size(), RowScratch(inputs, round_up(inputs, kGroup) / kGroup));
    for (int first = 0; first < static_cast<int>(blocks.size()); first += batch) {
        const int count = std::min(batch, static_cast<int>(blocks.size()) - first);
        pool.run([&](int thread) { pool.for_each(count, 1, [&](int i) { body(first + i, scratch[thread]); }); });
        for (int i = first; i < first + count; ++i) {
            const Tensor& source = *blocks[i].source;
            forget_rows(source, blocks[i].first_row, kLanes);
            if (source.exact) forget_rows(*source.exact, blocks[i].first_row, kLanes);
        }
    }
}

void check_scales(bool is_good, const std::vector<BlockSource>& blocks) {
    if (is_good) return;
    std::string names;
    const Tensor* last = nullptr;
    for (const BlockSource& block : blocks) {
        if (block.source != last && names.size() < 300) names += (names.empty() ? "" : ", ") + block.source->name;
        last = block.source;
    }
    throw EngineFailure("A stored int8 weight is -128, or a scale is negative, infinite, not a number, or zero beside weights that are not, in: " +
                        names + ". The file is damaged: save the model again.");
}

}  // namespace

Dtype dtype_named(const std::string& word, const std::string& tensor) {
    for (Dtype dtype : {Dtype::float32, Dtype::bfloat16, Dtype::float16, Dtype::int8})
        if (word == word_of(dtype)) return dtype;
    throw EngineFailure("Tensor '" + tensor + "' has the dtype " + word + "; the native engine reads F32, BF16, F16 and I8 with scales.");
}

void TensorMap::add(Tensor tensor) {
    size_t expected = item_bytes(tensor.dtype);
    for (int64_t size : tensor.shape) {
        T5KIT_CHECK(size >= 0 && size <= (int64_t{1} << 48) && (size == 0 || expected <= (size_t{1} << 62) / static_cast<size_t>(size)),
                    "Tensor '" << tensor.name << "' has the impossible shape " << shape_text(tensor.shape) << ".");
        expected *= static_cast<size_t>(size);
    }
    T5KIT_CHECK(tensor.size_bytes == expected, "Tensor '" << tensor.name << "' of shape " << shape_text(tensor.shape) << " and dtype "
                                                          << word_of(tensor.dtype) << " takes " << expected << " bytes, got " << tensor.size_bytes << ".");
    const std::string name = tensor.name;
    T5KIT_CHECK(tensors_.emplace(name, std::move(tensor)).second, "Tensor '" << name << "' was given twice.");
}

void TensorMap::join_scales() {
    for (auto& [name, tensor] : tensors_) {
        if (tensor.dtype != Dtype::int8) continue;
        T5KIT_CHECK(tensor.shape.size() == 2, "Tensor '" << name << "' is int8 and has the shape " << shape_text(tensor.shape)
                                                         << "; only matrices [out, in] are quantised.");
        tensor.scale = &get(name + ".scale", {tensor.shape[0], (tensor.shape[1] + kGroup - 1) / kGroup});
        T5KIT_CHECK(tensor.scale->dtype == Dtype::float32, "Tensor '" << name << ".scale' has the dtype " << word_of(tensor.scale->dtype) << ", expected F32.");
        const auto copy = tensors_.find(name + ".exact");
        if (copy == tensors_.end()) continue;
        tensor.exact = &get(name + ".exact", tensor.shape);
        T5KIT_CHECK(tensor.exact->dtype == Dtype::bfloat16, "Tensor '" << name << ".exact' has the dtype " << word_of(tensor.exact->dtype) << ", expected BF16.");
    }
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
    if (tensor.exact) return read_row(*tensor.exact, row, columns, out);
    const uint8_t* at = tensor.data + static_cast<size_t>(row) * columns * item_bytes(tensor.dtype);
    switch (tensor.dtype) {
        case Dtype::float32: std::memcpy(out, at, columns * sizeof(float)); return;
        case Dtype::bfloat16:
        case Dtype::float16:
            for (int64_t i = 0; i < columns; ++i) {
                uint16_t bits;
                std::memcpy(&bits, at + 2 * i, sizeof bits);
                out[i] = tensor.dtype == Dtype::bfloat16 ? from_bfloat16(bits) : from_float16(bits);
            }
            return;
        case Dtype::int8: {
            const uint8_t* scales = tensor.scale->data + static_cast<size_t>(row) * ((columns + kGroup - 1) / kGroup) * sizeof(float);
            for (int64_t i = 0; i < columns; ++i) {
                float scale;
                std::memcpy(&scale, scales + i / kGroup * sizeof scale, sizeof scale);
                out[i] = static_cast<float>(static_cast<int8_t>(at[i])) * scale;
            }
        }
    }
}

const float* read_vector(const Tensor& tensor, size_t count, Arena& arena) {
    T5KIT_CHECK(tensor.dtype != Dtype::int8, "Tensor '" << tensor.name << "' is int8; norms and position tables are stored as floats.");
    float* values = arena.take<float>((count + 63) / 64 * 64);
    if (arena.is_filling()) read_row(tensor, 0, static_cast<int64_t>(count), values);
    return values;
}

const float* read_matrix(const Tensor& tensor, int rows, int columns, Arena& arena, ThreadPool& pool) {
    float* values = arena.take<float>(static_cast<size_t>(rows) * columns);
    if (!arena.is_filling()) return values;
    std::vector<BlockSource> blocks;
    append_blocks(tensor, blocks);
    for_each_block(blocks, columns, pool, [&](int block, RowScratch&) {
        for (int row = block * kLanes; row < std::min(rows, (block + 1) * kLanes); ++row)
            read_row(tensor, row, columns, values + static_cast<size_t>(row) * columns);
    });
    return values;
}

const uint16_t* read_matrix_bfloat16(const Tensor& tensor, int rows, int columns, Arena& arena, ThreadPool& pool) {
    uint16_t* values = arena.take<uint16_t>(static_cast<size_t>(rows) * columns);
    if (!arena.is_filling()) return values;
    std::vector<BlockSource> blocks;
    append_blocks(tensor, blocks);
    for_each_block(blocks, columns, pool, [&](int block, RowScratch& scratch) {
        for (int row = block * kLanes; row < std::min(rows, (block + 1) * kLanes); ++row) {
            read_row(tensor, row, columns, scratch.values.data());
            uint16_t* to = values + static_cast<size_t>(row) * columns;
            for (int i = 0; i < columns; ++i) to[i] = to_bfloat16(scratch.values[i]);
        }
    });
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
    panels.groups = takes_integers(format) ? round_up(inputs, kGroup) / kGroup : 0;
    switch (format) {
        case Format::float32: panels.steps = inputs; break;
        case Format::bfloat16: panels.steps = (inputs + 1) / 2; break;
        case Format::int8: panels.steps = 16 * panels.groups; break;
        case Format::int4: panels.steps = 8 * panels.groups; break;
    }
    const size_t block_scales = static_cast<size_t>(format == Format::int4 ? 2 : 1) * panels.groups * kLanes;
    const size_t block_words = static_cast<size_t>(panels.steps) * kLanes;
    uint32_t* words = arena.take<uint32_t>(block_words * blocks.size());
    float* scales = panels.groups ? arena.take<float>(blocks.size() * block_scales) : nullptr;
    panels.words = words;
    panels.scales = scales;
    if (!arena.is_filling()) return linear;
    std::atomic<bool> is_good{true};
    for_each_block(blocks, inputs, pool, [&](int block, RowScratch& scratch) {
        const Tensor& source = *blocks[block].source;
        for (int lane = 0; lane < kLanes && blocks[block].first_row + lane < source.shape[0]; ++lane) {
            const int row = blocks[block].first_row + lane;
            uint32_t* to = words + block * block_words;
            // Stored integers are checked whatever they become.
            if (format == Format::int8 || source.dtype == Dtype::int8) {
                const int groups = static_cast<int>(scratch.scales.size());
                if (!read_int8_row(source, row, inputs, groups, scratch.values.data(), scratch.integers.data(), scratch.scales.data()))
                    is_good = false;
            }
            if (format == Format::int8) {
                pack_int8_row(scratch.integers.data(), scratch.scales.data(), panels.groups, to,
                              scales + block * block_scales, lane);
            } else if (format == Format::int4) {
                read_row(source, row, inputs, scratch.values.data());
                pack_int4_row(scratch.values.data(), inputs, panels.groups, to, scales + block * block_scales, lane);
            } else {
                read_row(source, row, inputs, scratch.values.data());
                pack_float_row(scratch.values.data(), inputs, panels.steps, format == Format::bfloat16, to, lane);
            }
        }
    });
    check_scales(is_good, blocks);
    return linear;
}

Head pack_head(const Tensor& source, int vocab_size, int inputs, Format format, bool has_rows, const uint16_t* rows, Arena& arena,
               ThreadPool& pool) {
    std::vector<BlockSource> blocks;
    append_blocks(source, blocks);
    Head head;
    head.screen = pack_linear(blocks, inputs, format, arena, pool);
    if (format != Format::int8) return head;
    head.exact_words = (inputs + 1) / 2;
    const bool are_pairs = has_rows && inputs % 2 == 0;  // rows of odd length do not begin with a pair
    uint32_t* exact = are_pairs ? nullptr : arena.take<uint32_t>(static_cast<size_t>(vocab_size) * head.exact_words);
    float* norms = arena.take<float>(round_up(vocab_size, kLanes));
    head.exact = are_pairs ? reinterpret_cast<const uint32_t*>(rows) : exact;
    head.error_norms = norms;
    if (!arena.is_filling()) return head;
    const int groups = head.screen.panels.groups;
    for_each_block(blocks, inputs, pool, [&](int block, RowScratch& scratch) {
        for (int id = block * kLanes; id < std::min(vocab_size, (block + 1) * kLanes); ++id) {
            const int8_t* integers = scratch.integers.data();
            read_int8_row(source, id, inputs, groups, scratch.values.data(), scratch.integers.data(), scratch.scales.data());
            if (source.dtype == Dtype::int8) read_row(source, id, inputs, scratch.values.data());
            const float* row = scratch.values.data();
            double error = 0, length = 0;
            for (int i = 0; i < inputs; ++i) {
                const double kept = from_bfloat16(to_bfloat16(row[i]));
                const double difference = kept - static_cast<double>(scratch.scales[i / kGroup]) * integers[i];
                error += difference * difference;
                length += kept * kept;
            }
            if (source.exact && !std::isfinite(length))
                throw EngineFailure("The exact copy of '" + source.name + "' holds what is not a finite number. The file is damaged: save the model again.");
            // Numerics: 2e-4 covers the 16-bit activations (8 / 65278 of the vector at most) and float32 rounding.
            norms[id] = static_cast<float>(std::sqrt(error) + 2e-4 * std::sqrt(length));
            for (int s = 0; exact && s < head.exact_words; ++s) {
                uint32_t word = to_bfloat16(row[2 * s]);
                if (2 * s + 1 < inputs) word |= static_cast<uint32_t>(to_bfloat16(row[2 * s + 1])) << 16;
                exact[static_cast<size_t>(id) * head.exact_words + s] = word;
            }
        }
    });
    return head;
}

}  // namespace t5kit
