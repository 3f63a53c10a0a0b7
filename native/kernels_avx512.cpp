// AVX-512 with VNNI: 16 lanes, 32 registers, four 8-bit products a lane and instruction.
#include <immintrin.h>

#include "kernels.h"

namespace t5kit {
namespace {

struct V {
    static constexpr int kWidth = 16;
    static constexpr int kRegisters = 32;
    using F = __m512;
    using W = __m512i;

    static F load(const float* at) { return _mm512_loadu_ps(at); }
    static void store(float* at, F x) { _mm512_storeu_ps(at, x); }
    static F set1(float x) { return _mm512_set1_ps(x); }
    static F add(F a, F b) { return _mm512_add_ps(a, b); }
    static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static F div(F a, F b) { return _mm512_div_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static F max(F a, F b) { return _mm512_max_ps(a, b); }
    static F min(F a, F b) { return _mm512_min_ps(a, b); }

    static W words(const uint32_t* at) { return _mm512_loadu_si512(at); }
    static F low_half(W w) { return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)); }
    static F high_half(W w) {
        return _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
    }

    // A 16-bit activation is 256 * high + low, both signed bytes, so that it meets the unsigned weights in VPDPBUSD. Eight
    // bytes hold four activations: their high bytes, then their low bytes.
    struct X {
        __m512i high, low;
    };
    using Prepared = W;
    struct Sum {
        __m512i high, low;
    };
    static X load_x(const uint8_t* at) {
        int high, low;
        __builtin_memcpy(&high, at, 4);
        __builtin_memcpy(&low, at + 4, 4);
        return {_mm512_set1_epi32(high), _mm512_set1_epi32(low)};
    }
    static Prepared prepare(W w) { return w; }
    static Sum zero_sum() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
    // Speed: written as assembly, because GCC 12 copies the sum before and after every intrinsic of this kind.
    static Sum dot(Sum sum, Prepared w, X x) {
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum.high) : "v"(w), "v"(x.high));
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum.low) : "v"(w), "v"(x.low));
        return sum;
    }
    static F finish(Sum sum, int correction) {
        return finish_bytes(_mm512_add_epi32(_mm512_slli_epi32(sum.high, 8), sum.low), correction);
    }

    // The same in two passes over a group's weights, high bytes and then low ones into one register: twice as many rows
    // fit, and less is left to do at the group's end.
    static constexpr bool kSplitsBytes = true;
    static constexpr int kInt8Rows = 6;
    static W load_bytes(const uint8_t* at, bool is_low) {
        int bytes;
        __builtin_memcpy(&bytes, at + (is_low ? 4 : 0), 4);
        return _mm512_set1_epi32(bytes);
    }
    static W zero_bytes() { return _mm512_setzero_si512(); }
    static W dot_bytes(W sum, W w, W x) {
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
        return sum;
    }
    static W shift_bytes(W sum) { return _mm512_slli_epi32(sum, 8); }
    static F finish_bytes(W sum, int correction) {
        return _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, _mm512_set1_epi32(correction)));
    }

    static int32_t write_quads(F x, uint8_t* at) {
        const __m512i integers = _mm512_cvtps_epi32(x);
        const __m512i low = _mm512_srai_epi32(_mm512_slli_epi32(integers, 24), 24);
        const __m512i high = _mm512_srai_epi32(_mm512_sub_epi32(integers, low), 8);
        const __m128i low_bytes = _mm512_cvtepi32_epi8(low), high_bytes = _mm512_cvtepi32_epi8(high);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(at), _mm_unpacklo_epi32(high_bytes, low_bytes));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(at + 16), _mm_unpackhi_epi32(high_bytes, low_bytes));
        return _mm512_reduce_add_epi32(integers);
    }

    static F keep_first(F x, int count, float fill) {
        if (count >= kWidth) return x;
        return _mm512_mask_blend_ps(static_cast<__mmask16>((1u << count) - 1), _mm512_set1_ps(fill), x);
    }
    static F round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
    static F power_of_two(F n) {
        const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
        return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
    }
    static F zero_below(F value, F x, float limit) {
        return _mm512_mask_mov_ps(value, _mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_LT_OQ), _mm512_setzero_ps());
    }
    static bool all_finite(F x) {
        return _mm512_cmp_ps_mask(_mm512_sub_ps(x, x), _mm512_setzero_ps(), _CMP_EQ_OQ) == 0xffff;
    }
    static float reduce_max(F x) { return _mm512_reduce_max_ps(x); }
    static float reduce_add(F x) { return _mm512_reduce_add_ps(x); }
    static uint32_t at_least(F x, float threshold) { return _mm512_cmp_ps_mask(x, _mm512_set1_ps(threshold), _CMP_GE_OQ); }
};

#include "kernel_body.h"

}  // namespace

extern const Kernels kernels_avx512;
const Kernels kernels_avx512 = table("avx512");

}  // namespace t5kit
