// From named tensors as they lie in a checkpoint to the layouts that the kernels read.
//
// Every function that takes an Arena may be called while it measures or after it was filled; then it only takes.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "kernels.h"
#include "memory.h"
#include "thread_pool.h"

namespace t5kit {

enum class Dtype { float32, bfloat16, float16, int8 };

// One tensor of a checkpoint: bytes that someone else owns, little-endian, C order.
struct Tensor {
    std::string name;
    Dtype dtype = Dtype::float32;
    std::vector<int64_t> shape;
    const uint8_t* data = nullptr;
    size_t size_bytes = 0;
    bool is_file = false;  // the bytes are a mapped file's, whose pages may be let go and come back
    // An int8 matrix [out, in] of a saved folder: float32 [out, ceil(in / 64)], and where there is one its bfloat16 copy.
    const Tensor* scale = nullptr;
    const Tensor* exact = nullptr;
};

// safetensors' word -> dtype. Raises: EngineFailure for one that the engine does not read.
Dtype dtype_named(const std::string& word, const std::string& tensor);

class TensorMap {
public:
    // Raises: EngineFailure if a name comes twice or the bytes are not those of the shape.
    void add(Tensor tensor);
    // Finds the scales (NAME.scale) and copies (NAME.exact) of int8 matrices, once all tensors are there.
    // Raises: EngineFailure if scales are missing or misshapen, or belong to nothing.
    void join_scales();
    // Raises: EngineFailure if there is no such tensor or its shape is another.
    const Tensor& get(const std::string& name, const std::vector<int64_t>& shape) const;

private:
    std::unordered_map<std::string, Tensor> tensors_;
};

uint16_t to_bfloat16(float value);  // to nearest, ties to even
float from_bfloat16(uint16_t bits);

// Row `row` of a tensor [rows, columns] as float32; of an int8 matrix its copy where it has one, else integers times scales.
void read_row(const Tensor& tensor, int64_t row, int64_t columns, float* out);

// A whole float tensor as float32, padded with zeros to a multiple of 64 elements.
const float* read_vector(const Tensor& tensor, size_t count, Arena& arena);

// The embedding [rows, columns]: float32, or bfloat16.
const float* read_matrix(const Tensor& tensor, int rows, int columns, Arena& arena, ThreadPool& pool);
const uint16_t* read_matrix_bfloat16(const Tensor& tensor, int rows, int columns, Arena& arena, ThreadPool& pool);

// A linear map of packed blocks, or several that have the same input.
struct Linear {
    Panels panels;
    int inputs = 0;
    int num_blocks = 0;
    // Of one engine's linear maps, in the order of loading; and how many maps stand in it.
    int number = 0;
    int num_maps = 1;
};

// 64 rows of `source` from `first_row` on; rows past its end are zero.
struct BlockSource {
    const Tensor* source;
    int first_row;
};

// Appends the blocks of a tensor [rows, in].
void append_blocks(const Tensor& source, std::vector<BlockSource>& blocks);

// Raises: EngineFailure if stored int8 weights or scales are none that quantising gives.
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

// has_rows: `source` stands in the arena already, in bfloat16 [vocabulary][inputs] at `rows` (a tied embedding).
Head pack_head(const Tensor& source, int vocab_size, int inputs, Format format, bool has_rows, const uint16_t* rows, Arena& arena,
               ThreadPool& pool);

}  // namespace t5kit
