// AVX2 with FMA: 8 lanes, 16 registers; 8-bit weights are widened to 16 bits in place.
#include <immintrin.h>

#include "kernels.h"

namespace t5kit {
namespace {

struct V {
    static constexpr int kWidth = 8;
    static constexpr int kRegisters = 16;
    using F = __m256;
    using W = __m256i;

    static F load(const float* at) { return _mm256_loadu_ps(at); }
    static void store(float* at, F x) { _mm256_storeu_ps(at, x); }
    static F set1(float x) { return _mm256_set1_ps(x); }
    static F add(F a, F b) { return _mm256_add_ps(a, b); }
    static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
    static F div(F a, F b) { return _mm256_div_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
    static F max(F a, F b) { return _mm256_max_ps(a, b); }
    static F min(F a, F b) { return _mm256_min_ps(a, b); }

    static W words(const uint32_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
    static F low_half(W w) { return _mm256_castsi256_ps(_mm256_slli_epi32(w, 16)); }
    static F high_half(W w) {
        return _mm256_castsi256_ps(_mm256_and_si256(w, _mm256_set1_epi32(static_cast<int>(0xffff0000u))));
    }

    // Eight bytes hold four 16-bit activations in the order 0 2 1 3, to meet the even and the odd bytes of a word.
    struct X {
        __m256i even, odd;
    };
    struct Prepared {
        __m256i even, odd;
    };
    static constexpr bool kHasByteDots = false;
    static constexpr int kInt8Rows = 3;
    using Sum = __m256i;
    static X load_quad(const uint8_t* group, int quad) {
        const uint8_t* at = group + 8 * quad;
        int even, odd;
        __builtin_memcpy(&even, at, 4);
        __builtin_memcpy(&odd, at + 4, 4);
        return {_mm256_set1_epi32(even), _mm256_set1_epi32(odd)};
    }
    static Prepared prepare(W w) { return {_mm256_and_si256(w, _mm256_set1_epi32(0x00ff00ff)), _mm256_srli_epi16(w, 8)}; }
    static Sum zero_sum() { return _mm256_setzero_si256(); }
    static Sum dot(Sum sum, Prepared w, X x) {
        return _mm256_add_epi32(_mm256_add_epi32(sum, _mm256_madd_epi16(w.even, x.even)), _mm256_madd_epi16(w.odd, x.odd));
    }
    static F finish(Sum sum, int correction) {
        return _mm256_cvtepi32_ps(_mm256_sub_epi32(sum, _mm256_set1_epi32(correction)));
    }
    static int32_t write_quads(F x, uint8_t* at) {
        const __m256i integers = _mm256_cvtps_epi32(x);
        const __m256i ordered = _mm256_shuffle_epi32(integers, _MM_SHUFFLE(3, 1, 2, 0));
        const __m128i packed = _mm_packs_epi32(_mm256_castsi256_si128(ordered), _mm256_extracti128_si256(ordered, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(at), packed);
        __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(integers), _mm256_extracti128_si256(integers, 1));
        sum = _mm_add_epi32(sum, _mm_unpackhi_epi64(sum, sum));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 1));
        return _mm_cvtsi128_si32(sum);
    }

    static F keep_first(F x, int count, float fill) {
        if (count >= kWidth) return x;
        const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        const __m256i is_kept = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane);
        return _mm256_blendv_ps(_mm256_set1_ps(fill), x, _mm256_castsi256_ps(is_kept));
    }
    static F round(F x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static F power_of_two(F n) {
        const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
    }
    static F zero_below(F value, F x, float limit) {
        return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(limit), _CMP_LT_OQ), value);
    }
    static bool all_finite(F x) {
        return _mm256_movemask_ps(_mm256_cmp_ps(_mm256_sub_ps(x, x), _mm256_setzero_ps(), _CMP_EQ_OQ)) == 0xff;
    }
    static float reduce_max(F x) {
        __m128 half = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        half = _mm_max_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
    }
    static float reduce_add(F x) {
        __m128 half = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
        half = _mm_add_ps(half, _mm_movehl_ps(half, half));
        return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
    }
    static uint32_t at_least(F x, float threshold) {
        return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(x, _mm256_set1_ps(threshold), _CMP_GE_OQ)));
    }
};

#include "kernel_body.h"

}  // namespace

extern const Kernels kernels_avx2;
const Kernels kernels_avx2 = table("avx2");

}  // namespace t5kit
