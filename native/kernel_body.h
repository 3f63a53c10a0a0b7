// The kernels, written once over a vector type V and compiled once for every instruction set.
//
// Included inside an anonymous namespace by kernels_*.cpp, which define V. Nothing here may call an inline function of the
// standard library: the linker would keep one copy of it for the whole program, perhaps the one of the widest set.
//
// V has: kWidth lanes; F floats; W 32-bit words; load store set1 add sub mul div fma max min; words, low_half and high_half
// (bfloat16 pairs); X, load_quad, Prepared, prepare, Sum, zero_sum, dot, finish (four 8-bit weights against four 16-bit
// integers in each lane); kInt8Rows; write_quads (rounds kWidth values to such integers and returns their sum); kHasByteDots
// and, where it is true, what kernels_avx512.cpp says of it in their place (a set with fine activations alone: kernels_neon.cpp); keep_first, round,
// power_of_two, zero_below, all_finite, reduce_max, reduce_add, at_least (a bit mask). max(a, b) and min(a, b) give b where
// either is NaN.

constexpr int kMaxRows = 6;  // rows of one tile

// Vectors of one tile of `rows` rows: what fits the registers.
constexpr int tile_vectors(int rows) {
    if (V::kRegisters >= 32) return 4;
    return rows == 1 ? 8 : rows <= 3 ? 4 : 2;
}
constexpr int int8_tile_vectors(int rows) {
    if (V::kRegisters >= 32) return 4;
    return rows == 1 ? 4 : 2;
}
// y[m][v] (+)= sum over steps of x[m] * w[v]: the sums stay in registers, one lane an output.
template <int MR, int NV, bool IsBfloat16>
inline void tile(const float* x, size_t x_stride, const uint32_t* const* w, size_t w_stride, int steps, float* y, size_t y_stride,
                 bool adds, bool continues) {
    typename V::F sum[MR][NV];
    for (int m = 0; m < MR; ++m)
        for (int v = 0; v < NV; ++v) sum[m][v] = continues ? V::load(y + m * y_stride + v * V::kWidth) : V::set1(0.0f);
    for (int s = 0; s < steps; ++s) {
        constexpr int kHalves = IsBfloat16 ? 2 : 1;
        for (int half = 0; half < kHalves; ++half) {
            typename V::F weight[NV];
            for (int v = 0; v < NV; ++v) {
                const uint32_t* at = w[v] + s * w_stride;
                if constexpr (IsBfloat16) {
                    weight[v] = half ? V::high_half(V::words(at)) : V::low_half(V::words(at));
                } else {
                    weight[v] = V::load(reinterpret_cast<const float*>(at));
                }
            }
            for (int m = 0; m < MR; ++m) {
                const typename V::F value = V::set1(x[m * x_stride + s * kHalves + half]);
                for (int v = 0; v < NV; ++v) sum[m][v] = V::fma(weight[v], value, sum[m][v]);
            }
        }
    }
    for (int m = 0; m < MR; ++m)
        for (int v = 0; v < NV; ++v) {
            float* at = y + m * y_stride + v * V::kWidth;
            V::store(at, adds ? V::add(V::load(at), sum[m][v]) : sum[m][v]);
        }
}

// One float tile over 64 lanes (or a page's 16), cut into as many vectors as fit the registers.
template <int MR, bool IsBfloat16>
inline void tile_lanes(const float* x, size_t x_stride, const uint32_t* w, size_t w_stride, int lanes, int steps, float* y,
                       size_t y_stride, bool adds, bool continues) {
    constexpr int NV = tile_vectors(MR);
    constexpr int kSmall = kPageTokens / V::kWidth < NV ? kPageTokens / V::kWidth : NV;
    int lane = 0;
    for (; lane + NV * V::kWidth <= lanes; lane += NV * V::kWidth) {
        const uint32_t* at[NV];
        for (int v = 0; v < NV; ++v) at[v] = w + lane + v * V::kWidth;
        tile<MR, NV, IsBfloat16>(x, x_stride, at, w_stride, steps, y + lane, y_stride, adds, continues);
    }
    for (; lane < lanes; lane += kSmall * V::kWidth) {
        const uint32_t* at[kSmall];
        for (int v = 0; v < kSmall; ++v) at[v] = w + lane + v * V::kWidth;
        tile<MR, kSmall, IsBfloat16>(x, x_stride, at, w_stride, steps, y + lane, y_stride, adds, continues);
    }
}

// Calls body(rows as a compile-time number, first row) for groups of at most Most rows, as equal in size as they can be.
template <int Most, class Body>
inline void for_row_groups(int count, Body body) {
    const int groups = (count + Most - 1) / Most;
    int first = 0;
    for (int g = 0; g < groups; ++g) {
        const int rows = (count - first + groups - g - 1) / (groups - g);
        body(rows, first);
        first += rows;
    }
}

template <bool IsBfloat16>
inline void float_tiles(int rows, const float* x, size_t x_stride, const uint32_t* w, size_t w_stride, int lanes, int steps, float* y,
                        size_t y_stride, bool adds, bool continues) {
    switch (rows) {
        case 1: return tile_lanes<1, IsBfloat16>(x, x_stride, w, w_stride, lanes, steps, y, y_stride, adds, continues);
        case 2: return tile_lanes<2, IsBfloat16>(x, x_stride, w, w_stride, lanes, steps, y, y_stride, adds, continues);
        case 3: return tile_lanes<3, IsBfloat16>(x, x_stride, w, w_stride, lanes, steps, y, y_stride, adds, continues);
        case 4: return tile_lanes<4, IsBfloat16>(x, x_stride, w, w_stride, lanes, steps, y, y_stride, adds, continues);
        case 5: return tile_lanes<5, IsBfloat16>(x, x_stride, w, w_stride, lanes, steps, y, y_stride, adds, continues);
        default: return tile_lanes<6, IsBfloat16>(x, x_stride, w, w_stride, lanes, steps, y, y_stride, adds, continues);
    }
}

// What one group of 64 inputs gives to MR x NV vectors of outputs, without scales: value[m][v], the correction taken off.
// K is V: as a parameter of the template, so that a set needs only the functions of its own way.
template <int MR, int NV, bool IsFine, class K = V>
inline void int8_group(const uint32_t* w, const uint8_t* const* quads, const int* corrections, typename V::F (&value)[MR][NV]) {
    constexpr int kSteps = kGroup / 4;
    if constexpr (K::kHasByteDots) {
        // High bytes, all or those of the few quads that have any; then times 256 and all low bytes.
        typename K::W dots[MR][NV];
        const auto add_all = [&](int first_byte) {
            for (int s = 0; s < kSteps; ++s) {
                typename K::W weight[NV];
                for (int v = 0; v < NV; ++v) weight[v] = V::words(w + s * kLanes + v * V::kWidth);
                for (int m = 0; m < MR; ++m) {
                    const typename K::W x = K::set_bytes(quads[m] + first_byte + 4 * s);
                    for (int v = 0; v < NV; ++v) dots[m][v] = K::dot_bytes(dots[m][v], weight[v], x);
                }
            }
        };
        for (int m = 0; m < MR; ++m)
            for (int v = 0; v < NV; ++v) dots[m][v] = K::zero_bytes();
        if constexpr (IsFine) add_all(kGroup);
#pragma GCC unroll 8
        for (int m = 0; m < MR; ++m) {
            if constexpr (!IsFine) {
#pragma GCC unroll 8
                for (int i = 0; i < K::kWideQuads; ++i) {
                    typename K::Wide wide;
                    __builtin_memcpy(&wide, quads[m] + kGroup + i * sizeof wide, sizeof wide);
                    const typename K::W x = K::set_bytes(quads[m] + kGroup + i * sizeof wide);
                    for (int v = 0; v < NV; ++v) dots[m][v] = K::dot_bytes(dots[m][v], V::words(w + wide.word + v * V::kWidth), x);
                }
            }
            for (int v = 0; v < NV; ++v) dots[m][v] = K::shift_bytes(dots[m][v]);
        }
        add_all(0);
        for (int m = 0; m < MR; ++m)
            for (int v = 0; v < NV; ++v) value[m][v] = K::finish_bytes(dots[m][v], corrections[m]);
    } else {
        typename K::Sum dots[MR][NV];
        for (int m = 0; m < MR; ++m)
            for (int v = 0; v < NV; ++v) dots[m][v] = K::zero_sum();
        for (int s = 0; s < kSteps; ++s) {
            typename K::Prepared prepared[NV];
            for (int v = 0; v < NV; ++v) prepared[v] = K::prepare(V::words(w + s * kLanes + v * V::kWidth));
            for (int m = 0; m < MR; ++m) {
                const typename K::X x = K::load_quad(quads[m], s);
                for (int v = 0; v < NV; ++v) dots[m][v] = K::dot(dots[m][v], prepared[v], x);
            }
        }
        for (int m = 0; m < MR; ++m)
            for (int v = 0; v < NV; ++v) value[m][v] = K::finish(dots[m][v], corrections[m]);
    }
}

// Numerics: inside a group of 64 inputs all is integer and exact (|sum| < 2^30), so its order is free; groups are added in
// float32 from front to back. The weights are stored as w + 128, which is taken back with the sum of the inputs.
template <int MR, bool IsFine>
inline void int8_tile(const Panels& weights, int block, const Rows& x, int first, float* y, size_t y_stride, bool adds) {
    constexpr int NV = int8_tile_vectors(MR);
    for (int lane = 0; lane < kLanes; lane += NV * V::kWidth) {
        alignas(64) float sum[MR][NV * V::kWidth];
        for (int m = 0; m < MR; ++m)
            for (int v = 0; v < NV; ++v) V::store(sum[m] + v * V::kWidth, V::set1(0.0f));
        for (int g = 0; g < weights.groups; ++g) {
            const size_t step = static_cast<size_t>(block) * weights.steps + g * (kGroup / 4);
            const float* scale = weights.scales + (static_cast<size_t>(block) * weights.groups + g) * kLanes + lane;
            const uint8_t* quads[MR];
            int corrections[MR];
            for (int m = 0; m < MR; ++m) {
                const size_t at = static_cast<size_t>(first + m) * x.groups + g;
                quads[m] = x.quads + at * 2 * kGroup;
                corrections[m] = 128 * x.sums[at];
            }
            typename V::F value[MR][NV];
            int8_group<MR, NV, IsFine>(weights.words + step * kLanes + lane, quads, corrections, value);
            for (int m = 0; m < MR; ++m) {
                const typename V::F x_scale = V::set1(x.scales[static_cast<size_t>(first + m) * x.groups + g]);
                for (int v = 0; v < NV; ++v) {
                    float* s = sum[m] + v * V::kWidth;
                    V::store(s, V::fma(value[m][v], V::mul(V::load(scale + v * V::kWidth), x_scale), V::load(s)));
                }
            }
        }
        for (int m = 0; m < MR; ++m)
            for (int v = 0; v < NV; ++v) {
                float* at = y + m * y_stride + lane + v * V::kWidth;
                const typename V::F value = V::load(sum[m] + v * V::kWidth);
                V::store(at, adds ? V::add(V::load(at), value) : value);
            }
    }
}

#include "kernel_int4.h"

template <bool IsFine>
inline void int8_tiles(const Panels& weights, int block, const Rows& x, int first, int count, float* y, size_t y_stride, bool adds) {
    for_row_groups<V::kInt8Rows>(count, [&](int rows, int from) {
        float* to = y + from * y_stride;
        const int row = first + from;
        if constexpr (V::kInt8Rows > 3) {
            if (rows == 4) return int8_tile<4, IsFine>(weights, block, x, row, to, y_stride, adds);
            if (rows == 5) return int8_tile<5, IsFine>(weights, block, x, row, to, y_stride, adds);
            if (rows == 6) return int8_tile<6, IsFine>(weights, block, x, row, to, y_stride, adds);
        }
        if (rows == 1) return int8_tile<1, IsFine>(weights, block, x, row, to, y_stride, adds);
        if (rows == 2) return int8_tile<2, IsFine>(weights, block, x, row, to, y_stride, adds);
        return int8_tile<3, IsFine>(weights, block, x, row, to, y_stride, adds);
    });
}

template <bool IsAlwaysFine>
void linear(const Panels& weights, int block, const Rows& x, int first, int count, float* y, size_t y_stride, bool adds) {
    y += first * y_stride;
    if (weights.format == Format::int8) {
        // Sets that do not multiply bytes know one form of activations.
        if constexpr (V::kHasByteDots && IsAlwaysFine) {
            return int8_tiles<true>(weights, block, x, first, count, y, y_stride, adds);
        } else {
            if (V::kHasByteDots && x.is_fine) return int8_tiles<V::kHasByteDots>(weights, block, x, first, count, y, y_stride, adds);
            return int8_tiles<false>(weights, block, x, first, count, y, y_stride, adds);
        }
    }
    if (weights.format == Format::int4) {
        for_row_groups<kInt4Rows>(count, [&](int rows, int from) {
            float* to = y + from * y_stride;
            const int row = first + from;
            if (rows == 1) return int4_tile<1>(weights, block, x, row, to, y_stride, adds);
            if (rows == 2) return int4_tile<2>(weights, block, x, row, to, y_stride, adds);
            return int4_tile<3>(weights, block, x, row, to, y_stride, adds);
        });
        return;
    }
    const uint32_t* words = weights.words + static_cast<size_t>(block) * weights.steps * kLanes;
    for_row_groups<kMaxRows>(count, [&](int rows, int from) {
        const float* values = x.values + (first + from) * x.stride;
        float* to = y + from * y_stride;
        if (weights.format == Format::bfloat16) {
            float_tiles<true>(rows, values, x.stride, words, kLanes, kLanes, weights.steps, to, y_stride, adds, false);
        } else {
            float_tiles<false>(rows, values, x.stride, words, kLanes, kLanes, weights.steps, to, y_stride, adds, false);
        }
    });
}

template <int MR>
inline void bfloat16_dots_tile(const uint32_t* row, int words, const float* x, size_t x_stride, float* out, size_t out_stride) {
    constexpr int kSums = 4;  // side by side, they hide the latency of each
    const int odd = (words + kPageTokens - 1) / kPageTokens * kPageTokens;
    typename V::F sum[MR][kSums];
    for (int m = 0; m < MR; ++m)
        for (int i = 0; i < kSums; ++i) sum[m][i] = V::set1(0.0f);
    const auto add = [&](typename V::W pairs, int at, int i) {
        const typename V::F even = V::low_half(pairs), high = V::high_half(pairs);
        for (int m = 0; m < MR; ++m) {
            sum[m][i] = V::fma(even, V::load(x + m * x_stride + at), sum[m][i]);
            sum[m][i + 1] = V::fma(high, V::load(x + m * x_stride + odd + at), sum[m][i + 1]);
        }
    };
    int at = 0;
    for (; at + kSums / 2 * V::kWidth <= words; at += kSums / 2 * V::kWidth)
        for (int i = 0; i < kSums; i += 2) add(V::words(row + at + i / 2 * V::kWidth), at + i / 2 * V::kWidth, i);
    for (; at < words; at += V::kWidth) {
        alignas(64) uint32_t rest[V::kWidth] = {};
        for (int i = 0; i < V::kWidth && at + i < words; ++i) rest[i] = row[at + i];
        add(V::words(rest), at, 0);
    }
    for (int m = 0; m < MR; ++m) {
        typename V::F total = V::add(sum[m][0], sum[m][1]);
        for (int i = 2; i < kSums; i += 2) total = V::add(total, V::add(sum[m][i], sum[m][i + 1]));
        out[m * out_stride] = V::reduce_add(total);
    }
}

void bfloat16_dots(const uint32_t* row, int words, const float* x, size_t x_stride, int num_rows, float* out, size_t out_stride) {
    for_row_groups<4>(num_rows, [&](int rows, int first) {
        const float* from = x + first * x_stride;
        float* to = out + first * out_stride;
        if (rows == 1) return bfloat16_dots_tile<1>(row, words, from, x_stride, to, out_stride);
        if (rows == 2) return bfloat16_dots_tile<2>(row, words, from, x_stride, to, out_stride);
        if (rows == 3) return bfloat16_dots_tile<3>(row, words, from, x_stride, to, out_stride);
        return bfloat16_dots_tile<4>(row, words, from, x_stride, to, out_stride);
    });
}

// Four pages side by side hide the latency of a single query's sums.
template <int MR>
inline void score_tile(const float* q, size_t q_stride, const float* const* pages, int num_pages, int width, float* scores,
                       size_t score_stride) {
    constexpr int kPerPage = kPageTokens / V::kWidth;
    constexpr int NV = tile_vectors(MR) < kPerPage ? kPerPage : tile_vectors(MR);
    constexpr int kPages = NV / kPerPage;
    int page = 0;
    for (; page + kPages <= num_pages; page += kPages) {
        const uint32_t* at[NV];
        for (int v = 0; v < NV; ++v)
            at[v] = reinterpret_cast<const uint32_t*>(pages[page + v / kPerPage]) + v % kPerPage * V::kWidth;
        tile<MR, NV, false>(q, q_stride, at, kPageTokens, width, scores + page * kPageTokens, score_stride, false, false);
    }
    for (; page < num_pages; ++page) {
        const uint32_t* at[kPerPage];
        for (int v = 0; v < kPerPage; ++v) at[v] = reinterpret_cast<const uint32_t*>(pages[page]) + v * V::kWidth;
        tile<MR, kPerPage, false>(q, q_stride, at, kPageTokens, width, scores + page * kPageTokens, score_stride, false, false);
    }
}

void attention_scores(const float* q, size_t q_stride, int num_rows, const float* const* pages, int num_pages, int width,
                      float* scores, size_t score_stride) {
    for_row_groups<kMaxRows>(num_rows, [&](int rows, int first) {
        const float* from = q + first * q_stride;
        float* to = scores + first * score_stride;
        switch (rows) {
            case 1: return score_tile<1>(from, q_stride, pages, num_pages, width, to, score_stride);
            case 2: return score_tile<2>(from, q_stride, pages, num_pages, width, to, score_stride);
            case 3: return score_tile<3>(from, q_stride, pages, num_pages, width, to, score_stride);
            case 4: return score_tile<4>(from, q_stride, pages, num_pages, width, to, score_stride);
            case 5: return score_tile<5>(from, q_stride, pages, num_pages, width, to, score_stride);
            default: return score_tile<6>(from, q_stride, pages, num_pages, width, to, score_stride);
        }
    });
}

void attention_mix(const float* p, size_t p_stride, int num_rows, const float* values, int num_keys, int lanes, float* out,
                   size_t out_stride, bool adds) {
    // `continues`, not `adds`: a sum cut at a page's end goes on in the same order as if it were one.
    for_row_groups<kMaxRows>(num_rows, [&](int rows, int first) {
        float_tiles<false>(rows, p + first * p_stride, p_stride, reinterpret_cast<const uint32_t*>(values), lanes, lanes, num_keys,
                           out + first * out_stride, out_stride, false, adds);
    });
}

// Relative error below 2e-7; 0 below -87.3, NaN stays NaN. Source of the reduction: Cody and Waite 1980, chapter 6; the
// polynomial is the Taylor series, whose rest on [-ln 2 / 2, ln 2 / 2] is under 1e-8.
inline typename V::F exp_vector(typename V::F x) {
    using F = typename V::F;
    constexpr float kLowest = -87.3f;
    const F bounded = V::min(V::set1(88.0f), V::max(V::set1(kLowest), x));
    const F n = V::round(V::mul(bounded, V::set1(1.44269504088896341f)));
    F r = V::fma(n, V::set1(-0.693359375f), bounded);
    r = V::fma(n, V::set1(2.12194440e-4f), r);
    F poly = V::set1(1.0f / 5040);
    poly = V::fma(poly, r, V::set1(1.0f / 720));
    poly = V::fma(poly, r, V::set1(1.0f / 120));
    poly = V::fma(poly, r, V::set1(1.0f / 24));
    poly = V::fma(poly, r, V::set1(1.0f / 6));
    poly = V::fma(poly, r, V::set1(0.5f));
    poly = V::fma(poly, r, V::set1(1.0f));
    poly = V::fma(poly, r, V::set1(1.0f));
    return V::zero_below(V::mul(poly, V::power_of_two(n)), x, kLowest);
}

void softmax(float* scores, const float* bias, int n, int padded) {
    using F = typename V::F;
    const float lowest = -__builtin_inff();
    F largest = V::set1(lowest);
    for (int i = 0; i < n; i += V::kWidth) {
        F x = V::load(scores + i);
        if (bias) x = V::add(x, V::load(bias + i));
        x = V::keep_first(x, n - i, lowest);
        V::store(scores + i, x);
        largest = V::max(x, largest);
    }
    const F top = V::set1(V::reduce_max(largest));
    F total = V::set1(0.0f);
    for (int i = 0; i < n; i += V::kWidth) {
        const F e = exp_vector(V::sub(V::load(scores + i), top));
        V::store(scores + i, e);
        total = V::add(total, e);
    }
    const F inverse = V::set1(1.0f / V::reduce_add(total));
    int i = 0;
    for (; i < n; i += V::kWidth) V::store(scores + i, V::mul(V::load(scores + i), inverse));
    for (; i < padded; ++i) scores[i] = 0.0f;
}

void rms_norm(const float* x, const float* weight, int n, float epsilon, float* out) {
    using F = typename V::F;
    F total = V::set1(0.0f);
    for (int i = 0; i < n; i += V::kWidth) {
        const F value = V::keep_first(V::load(x + i), n - i, 0.0f);
        total = V::fma(value, value, total);
    }
    const F factor = V::set1(1.0f / __builtin_sqrtf(V::reduce_add(total) / static_cast<float>(n) + epsilon));
    int i = 0;
    for (; i < n; i += V::kWidth) {
        const F value = V::mul(V::mul(V::load(x + i), factor), V::load(weight + i));
        V::store(out + i, V::keep_first(value, n - i, 0.0f));
    }
    for (; i < (n + kGroup - 1) / kGroup * kGroup; i += V::kWidth) V::store(out + i, V::set1(0.0f));
}

// One group as 16-bit integers: writes them and their unit and returns their sum, unless x is not finite.
template <class K = V>
inline int32_t quantize_group(const float* x, [[maybe_unused]] bool is_fine, uint8_t* quads, float* unit, bool* is_finite) {
    if constexpr (K::kHasByteDots) {
        return K::quantize_group(x, is_fine, quads, unit, is_finite);
    } else {
        typename V::F largest = V::set1(0.0f);
        *is_finite = true;
        for (int i = 0; i < kGroup; i += V::kWidth) {
            const typename V::F value = V::load(x + i);
            largest = V::max(V::max(value, V::sub(V::set1(0.0f), value)), largest);
            *is_finite = *is_finite && V::all_finite(value);
        }
        if (!*is_finite) return 0;
        // Numerics: below 1e-30 the inverse would overflow; such a group is zero beside anything a norm lets through.
        const float top = V::reduce_max(largest);
        const float factor = top > 1e-30f ? static_cast<float>(kMaxInt16) / top : 0.0f;
        *unit = top > 1e-30f ? top / static_cast<float>(kMaxInt16) : 0.0f;
        int32_t sum = 0;
        for (int i = 0; i < kGroup; i += V::kWidth) sum += K::write_quads(V::mul(V::load(x + i), V::set1(factor)), quads + 2 * i);
        return sum;
    }
}

template <bool IsAlwaysFine>
void quantize(const float* x, int groups, bool is_fine, uint8_t* quads, float* scales, int32_t* sums) {
    for (int g = 0; g < groups; ++g, x += kGroup, quads += 2 * kGroup) {
        bool is_finite;
        sums[g] = quantize_group(x, IsAlwaysFine || is_fine, quads, scales + g, &is_finite);
        if (is_finite) continue;
        // An infinity or NaN must stay visible in every output.
        for (int i = 0; i < 2 * kGroup; ++i) quads[i] = 0;
        scales[g] = __builtin_nanf("");
    }
}

inline typename V::F sigmoid(typename V::F x) {
    const typename V::F one = V::set1(1.0f);
    return V::div(one, V::add(one, exp_vector(V::sub(V::set1(0.0f), x))));
}

void activate(Activation activation, const float* x, const float* gate, int n, float* out) {
    using F = typename V::F;
    for (int i = 0; i < n; i += V::kWidth) {
        F value = V::load(x + i);
        switch (activation) {
            case Activation::relu: value = V::max(V::set1(0.0f), value); break;
            case Activation::silu: value = V::mul(value, sigmoid(value)); break;
            case Activation::gelu_tanh: {
                // 0.5 x (1 + tanh(u)) is x sigmoid(2 u).
                const F cube = V::mul(V::mul(value, value), value);
                const F inner = V::mul(V::fma(V::set1(0.044715f), cube, value), V::set1(2 * 0.79788456080286536f));
                value = V::mul(value, sigmoid(inner));
                break;
            }
            case Activation::gelu: {
                alignas(64) float lanes[V::kWidth];
                V::store(lanes, value);
                for (float& lane : lanes) lane = 0.5f * lane * (1.0f + __builtin_erff(lane * 0.70710678118654752f));
                value = V::load(lanes);
                break;
            }
        }
        V::store(out + i, gate ? V::mul(value, V::load(gate + i)) : value);
    }
}

void scale(const float* x, float factor, int n, float* out) {
    for (int i = 0; i < n; i += V::kWidth) V::store(out + i, V::mul(V::load(x + i), V::set1(factor)));
}

inline typename V::F bounded_value(const float* x, const float* e, float factor, int i) {
    const typename V::F value = V::load(x + i);
    return e ? V::fma(V::load(e + i), V::set1(factor), value) : value;
}

float largest(const float* x, const float* e, float factor, int n) {
    const float lowest = -__builtin_inff();
    typename V::F best = V::set1(lowest);
    for (int i = 0; i < n; i += V::kWidth) best = V::max(V::keep_first(bounded_value(x, e, factor, i), n - i, lowest), best);
    return V::reduce_max(best);
}

float sum_exp(const float* x, float offset, int n) {
    typename V::F total = V::set1(0.0f);
    for (int i = 0; i < n; i += V::kWidth) {
        const typename V::F value = V::sub(V::load(x + i), V::set1(offset));
        total = V::add(total, V::keep_first(exp_vector(value), n - i, 0.0f));
    }
    return V::reduce_add(total);
}

int collect(const float* x, const float* e, float factor, int n, float threshold, int first_id, int32_t* ids) {
    int count = 0;
    for (int i = 0; i < n; i += V::kWidth) {
        uint32_t mask = V::at_least(bounded_value(x, e, factor, i), threshold);
        if (n - i < V::kWidth) mask &= (1u << (n - i)) - 1;
        for (; mask; mask &= mask - 1) ids[count++] = first_id + i + __builtin_ctz(mask);
    }
    return count;
}

template <bool IsAlwaysFine = false>
constexpr Kernels table(const char* name) {
    return Kernels{name,     linear<IsAlwaysFine>, bfloat16_dots, attention_scores, attention_mix, softmax, rms_norm,
                   quantize<IsAlwaysFine>, activate, scale,            largest,       sum_exp, collect};
}
