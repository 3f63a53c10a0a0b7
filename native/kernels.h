// The innermost loops behind one table of function pointers, one table per instruction set.
//
// Packed weights: a linear map [out, in] is stored in blocks of 64 outputs; the outputs are the lanes of the vectors and a
// step holds one 32-bit word for each of them. A word is one float32 input, two bfloat16 inputs (the even one in the low
// half), four 8-bit inputs (w + 128, the first in the low byte) or eight 4-bit ones (w + 8; native/kernel_int4.h). So one output's sum always runs over `in` from front to
// back in one lane: its bits do not depend on how many rows are computed together, nor on the number of threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace t5kit {

constexpr int kLanes = 64;      // outputs in a block
constexpr int kGroup = 64;      // inputs that share one int8 scale
constexpr int kInt4Group = 32;  // inputs that share one int4 scale
constexpr int kPageTokens = 16; // keys in a page of a cache; lanes of the score kernel
constexpr int kMaxInt16 = 127 * 256 + 127;  // largest activation that splits into two signed bytes

enum class Format : int { float32, bfloat16, int8, int4 };
enum class Activation : int { relu, gelu_tanh, gelu, silu };

inline int round_up(int n, int unit) { return (n + unit - 1) / unit * unit; }

// A view on a packed linear map.
struct Panels {
    Format format = Format::float32;
    int steps = 0;                    // words a lane: in, ceil(in / 2), 16 * groups, or 8 * groups
    int groups = 0;                   // int8 and int4: ceil(in / 64)
    const uint32_t* words = nullptr;  // [blocks][steps][64], 64-byte aligned
    const float* scales = nullptr;    // int8: [blocks][groups][64]; int4: [blocks][2 * groups][64]
};

// Whether the rows that meet weights of this format must be 16-bit integers too.
inline bool takes_integers(Format format) { return format == Format::int8 || format == Format::int4; }

// A view on the rows that go into a linear map. Row buffers are padded with zeros to whole groups.
struct Rows {
    const float* values = nullptr;     // [M][stride], for float32 and bfloat16 weights
    size_t stride = 0;
    const uint8_t* quads = nullptr;    // int8 and int4 weights: [M][groups][128 bytes], 16-bit integers in the kernel set's own order
    const float* scales = nullptr;     // [M][groups]
    const int32_t* sums = nullptr;     // [M][groups], sum of the integers
    int groups = 0;
    bool is_fine = false;              // as `quantize` was told
};

struct Kernels {
    const char* name;

    // y[m][0..64) = sum over in of x[m] * W, or y += it, for one block of outputs and rows first <= m < first + count.
    void (*linear)(const Panels& weights, int block, const Rows& x, int first, int count, float* y, size_t y_stride, bool adds);

    // out[m] = x[m] . row, for bfloat16 pairs row [words]; x [num_rows][x_stride] holds the even inputs and then, from
    // round_up(words, 16) on, the odd ones, both padded with zeros to that.
    void (*bfloat16_dots)(const uint32_t* row, int words, const float* x, size_t x_stride, int num_rows, float* out, size_t out_stride);

    // scores[m][16 p + t] = q[m] . key t of page p; a page is [width][16 tokens].
    void (*attention_scores)(const float* q, size_t q_stride, int num_rows, const float* const* pages, int num_pages, int width,
                             float* scores, size_t score_stride);

    // out[m] (+)= sum over keys of p[m][key] * values[key]; values [num_keys][lanes], lanes a multiple of 16.
    void (*attention_mix)(const float* p, size_t p_stride, int num_rows, const float* values, int num_keys, int lanes, float* out,
                          size_t out_stride, bool adds);

    // scores[0..n) becomes softmax(scores + bias), scores[n..padded) zero. bias may be null; both readable to a multiple of 16.
    void (*softmax)(float* scores, const float* bias, int n, int padded);

    // out = x / sqrt(mean(x^2) + epsilon) * weight; x and weight readable to a multiple of 16; out is zero from n on, to a
    // multiple of 64.
    void (*rms_norm)(const float* x, const float* weight, int n, float epsilon, float* out);

    // The 16-bit integers of one row: x [64 * groups] -> quads [groups][128], scales and sums [groups].
    //
    // Numerics: a fine unit is 1/32639 of its group's largest. Else a set that multiplies bytes takes the finest unit at which
    // all but four of a group's sixteen quads of inputs are single bytes: 1/127 of the fifth largest quad, less exact by a
    // fifth than a group's weights are. All that follows is exact, so the choice is all that is lost.
    void (*quantize)(const float* x, int groups, bool is_fine, uint8_t* quads, float* scales, int32_t* sums);

    // out = activation(x) * gate, or activation(x) where gate is null; n a multiple of 16.
    void (*activate)(Activation activation, const float* x, const float* gate, int n, float* out);

    // out[i] = x[i] * factor; n a multiple of 16.
    void (*scale)(const float* x, float factor, int n, float* out);

    // Largest of x[i] + factor * e[i] over i in [0, n); NaN counts as -inf. e may be null.
    float (*largest)(const float* x, const float* e, float factor, int n);

    // Sum of exp(x[i] - offset) over i in [0, n).
    float (*sum_exp)(const float* x, float offset, int n);

    // Appends first_id + i for every x[i] + factor * e[i] >= threshold to ids; returns how many. e may be null.
    int (*collect)(const float* x, const float* e, float factor, int n, float threshold, int first_id, int32_t* ids);
};

// The best set this processor has, or the one called `name` ("portable", "avx2", "avx512", "avx512_fine", "amx", "neon"; for
// tests "amx_emulated"). "amx" runs only where it passes its trial (trial.h), once a process.
// Raises: EngineFailure for an unknown name or a set that this processor or this build lacks.
const Kernels& choose_kernels(const std::string& name);

// Names of the sets that run here, the best first.
std::vector<std::string> available_kernels();

// For tests: whether a set of this build passes the trial, whatever the processor is said to have; no set of 512-bit vectors
// may be tried where there are none. Raises: EngineFailure for an unknown name.
bool passes_trial(const std::string& name);

}  // namespace t5kit
