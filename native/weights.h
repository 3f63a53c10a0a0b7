// From named tensors as they lie in a checkpoint to the layouts that the kernels read.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "thread_pool.h"

namespace t5kit {

// One tensor of a checkpoint: bytes that someone else owns, little-endian, C order.
struct Tensor {
    std::string name;
    std::string dtype;  // F32, BF16 or F16
    std::vector<int64_t> shape;
    const uint8_t* data = nullptr;
    size_t size_bytes = 0;
};

class TensorMap {
public:
    // Raises: EngineFailure if a name comes twice, the dtype is unknown or the bytes are not those of the shape.
    void add(Tensor tensor);
    // Raises: EngineFailure if there is no such tensor or its shape is another.
    const Tensor& get(const std::string& name, const std::vector<int64_t>& shape) const;

private:
    std::unordered_map<std::string, Tensor> tensors_;
};

uint16_t to_bfloat16(float value);  // to nearest, ties to even
float from_bfloat16(uint16_t bits);

// Row `row` of a tensor [rows, columns] as float32.
void read_row(const Tensor& tensor, int64_t row, int64_t columns, float* out);

// A whole tensor as float32, padded with zeros to a multiple of 64 elements.
const float* read_vector(const Tensor& tensor, size_t count, Arena& arena);

// A linear map of packed blocks; `outputs` counts the lanes, padding included.
struct Linear {
    Panels panels;
    int inputs = 0;
    int num_blocks = 0;
};

// 64 rows of `source` from `first_row` on; rows past its end are zero.
struct BlockSource {
    const Tensor* source;
    int first_row;
};

// Appends the blocks of a tensor [rows, in].
void append_blocks(const Tensor& source, std::vector<BlockSource>& blocks);

Linear pack_linear(const std::vector<BlockSource>& blocks, int inputs, Format format, Arena& arena, ThreadPool& pool);

// The output head. Where its panels are int8 they only screen: `exact` rows re-score what they let through.
struct Head {
    Linear screen;
    // bfloat16 pairs [vocabulary][ceil(D / 2)] row by row; null where the panels are exact themselves.
    const uint32_t* exact = nullptr;
    int exact_words = 0;
    // |logit of the panels - exact logit| <= error_norms[id] * (length of the head's input vector).
    const float* error_norms = nullptr;
};

Head pack_head(const Tensor& source, int vocab_size, int inputs, Format format, Arena& arena, ThreadPool& pool);

}  // namespace t5kit
