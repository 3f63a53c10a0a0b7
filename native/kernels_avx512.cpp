// AVX-512 with VNNI: 16 lanes, 32 registers, four 8-bit products a lane and instruction. And AMX, which is all of this with
// linear maps over tiles.
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

    // A 16-bit activation is 256 * high + low, both signed bytes, so that it meets the unsigned weights in VPDPBUSD. The scale
    // of a group that is not fine leaves high bytes to at most kWideQuads of its sixteen quads of inputs. A group's 128 bytes:
    // 64 low bytes; then 64 high bytes if it is fine, else four high bytes and their place for each wide quad (zeros where
    // there are fewer).
    static constexpr bool kHasByteDots = true;
    static constexpr int kInt8Rows = 6;
    static constexpr int kWideQuads = 4;
    struct Wide {
        uint32_t bytes;  // the four high bytes of the quad
        uint32_t word;   // where its weights stand, from the first of the group's
    };
    static_assert(kWideQuads <= 4 && sizeof(Wide) == 8);  // as write_group lays them out
    static constexpr int kLanesShift = 6;
    static_assert(kLanes == 1 << kLanesShift);

    static W zero_bytes() { return _mm512_setzero_si512(); }
    static W set_bytes(const uint8_t* at) {
        int bytes;
        __builtin_memcpy(&bytes, at, 4);
        return _mm512_set1_epi32(bytes);
    }
    // Speed: written as assembly, because GCC 12 copies the sum before and after every intrinsic of this kind.
    static W dot_bytes(W sum, W w, W x) {
        __asm__("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(w), "v"(x));
        return sum;
    }
    static W shift_bytes(W sum) { return _mm512_slli_epi32(sum, 8); }
    static F finish_bytes(W sum, int correction) {
        return _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, _mm512_set1_epi32(correction)));
    }

    // The same with high and low sums apart, of fine activations (for int4).
    struct X {
        W high, low;
    };
    using Prepared = W;
    using Sum = X;
    static X load_quad(const uint8_t* group, int quad) { return {set_bytes(group + kGroup + 4 * quad), set_bytes(group + 4 * quad)}; }
    static Prepared prepare(W w) { return w; }
    static Sum zero_sum() { return {zero_bytes(), zero_bytes()}; }
    static Sum dot(Sum sum, Prepared w, X x) { return {dot_bytes(sum.high, w, x.high), dot_bytes(sum.low, w, x.low)}; }
    static F finish(Sum sum, int correction) { return finish_bytes(_mm512_add_epi32(shift_bytes(sum.high), sum.low), correction); }

    // Rounds a group to 16-bit integers: writes them and their unit; returns their sum, or writes nothing and says so in
    // `is_finite`. A fine unit is as fine as 16 bits allow; another, as coarse as it takes for all quads but the kWideQuads
    // largest to be single bytes. Which those are, the upper halves of the magnitudes tell, which order as integers.
    static int32_t quantize_group(const float* x, bool is_fine, uint8_t* at, float* unit, bool* is_finite) {
        const __m256i quads = quad_largest(x);
        const float largest = rounded_up(65535 ^ lowest(_mm256_xor_si256(quads, _mm256_set1_epi16(-1))));
        *is_finite = largest < __builtin_inff();
        if (!*is_finite) return 0;
        const float limit = is_fine ? largest : rounded_up(largest_but(kWideQuads, quads));
        F bounded = _mm512_setzero_ps();
        for (int i = 0; i < kGroup; i += kWidth) {
            const F magnitude = _mm512_abs_ps(load(x + i));
            bounded = _mm512_mask_max_ps(bounded, _mm512_cmp_ps_mask(magnitude, _mm512_set1_ps(limit), _CMP_LE_OQ), bounded, magnitude);
        }
        float top = reduce_max(bounded);
        if (!is_fine) {
            const float coarse = top * (static_cast<float>(kMaxInt16) / 127);
            if (!(coarse < __builtin_inff())) {  // within a factor of 257 of the largest float32
                *unit = top / 127;
                return write_group(x, 127 / top, is_fine, at);
            }
            top = largest > coarse ? largest : coarse;
        }
        // Numerics: below 1e-30 the inverse would overflow; such a group is zero beside anything a norm lets through.
        *unit = top > 1e-30f ? top / static_cast<float>(kMaxInt16) : 0.0f;
        return write_group(x, top > 1e-30f ? static_cast<float>(kMaxInt16) / top : 0.0f, is_fine, at);
    }
    // The upper half of the largest magnitude of each quad, in no special order.
    static __m256i quad_largest(const float* x) {
        __m256i halves[2];
        for (int i = 0; i < 2; ++i) {
            const W first = _mm512_srli_epi32(_mm512_loadu_si512(x + 2 * i * kWidth), 16);
            const W second = _mm512_srli_epi32(_mm512_loadu_si512(x + (2 * i + 1) * kWidth), 16);
            W largest = _mm512_and_si512(_mm512_packus_epi32(first, second), _mm512_set1_epi16(0x7fff));
            largest = _mm512_max_epu16(largest, _mm512_rol_epi64(largest, 32));
            largest = _mm512_max_epu16(largest, _mm512_rol_epi32(largest, 16));
            halves[i] = _mm256_castsi128_si256(_mm512_cvtepi64_epi16(largest));
        }
        return _mm256_inserti128_si256(halves[0], _mm256_castsi256_si128(halves[1]), 1);
    }
    // The largest when the `count` largest are left out: the least of those that at most `count` exceed.
    static int largest_but(int count, __m256i values) {
        __m256i num_larger = _mm256_setzero_si256();
        __m256i from = _mm256_setr_epi16(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        for (int i = 1; i < 16; ++i) {
            from = _mm256_add_epi16(from, _mm256_set1_epi16(1));
            const __mmask16 is_larger = _mm256_cmpgt_epu16_mask(_mm256_permutexvar_epi16(from, values), values);
            num_larger = _mm256_mask_add_epi16(num_larger, is_larger, num_larger, _mm256_set1_epi16(1));
        }
        const __mmask16 is_left_out = _mm256_cmpgt_epu16_mask(num_larger, _mm256_set1_epi16(static_cast<short>(count)));
        return lowest(_mm256_mask_mov_epi16(values, is_left_out, _mm256_set1_epi16(-1)));
    }
    static int lowest(__m256i values) {
        const __m128i least = _mm_min_epu16(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
        return _mm_extract_epi16(_mm_minpos_epu16(least), 0);
    }
    // The largest float32 with this upper half; infinity for those that are not finite.
    static float rounded_up(int upper_half) {
        const uint32_t bits = upper_half < 0x7f80 ? static_cast<uint32_t>(upper_half) << 16 | 0xffff : 0x7f800000;
        float value;
        __builtin_memcpy(&value, &bits, sizeof value);
        return value;
    }
    static int32_t write_group(const float* x, float factor, bool is_fine, uint8_t* at) {
        W halves[2], high[2], sum = _mm512_setzero_si512();
        for (int i = 0; i < 2; ++i) {
            const W first = _mm512_cvtps_epi32(_mm512_mul_ps(load(x + 2 * i * kWidth), _mm512_set1_ps(factor)));
            const W second = _mm512_cvtps_epi32(_mm512_mul_ps(load(x + (2 * i + 1) * kWidth), _mm512_set1_ps(factor)));
            halves[i] = _mm512_packs_epi32(first, second);
            high[i] = _mm512_srai_epi16(_mm512_add_epi16(halves[i], _mm512_set1_epi16(128)), 8);
            sum = _mm512_add_epi32(sum, _mm512_madd_epi16(halves[i], _mm512_set1_epi16(1)));
        }
        // Packing works within 128 bits: quad 4 i + j stands at place 4 j + i.
        const W order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        const W is_low = _mm512_set1_epi16(0xff);
        const W low_bytes = _mm512_packus_epi16(_mm512_and_si512(halves[0], is_low), _mm512_and_si512(halves[1], is_low));
        _mm512_storeu_si512(at, _mm512_permutexvar_epi32(order, low_bytes));
        const W high_bytes = _mm512_packs_epi16(high[0], high[1]);
        if (is_fine) {
            _mm512_storeu_si512(at + kGroup, _mm512_permutexvar_epi32(order, high_bytes));
            return _mm512_reduce_add_epi32(sum);
        }
        const __mmask16 is_wide = _mm512_test_epi32_mask(high_bytes, high_bytes);
        const __m128i wide_bytes = _mm512_castsi512_si128(_mm512_maskz_compress_epi32(is_wide, high_bytes));
        const __m128i wide_words = _mm512_castsi512_si128(_mm512_maskz_compress_epi32(is_wide, _mm512_slli_epi32(order, kLanesShift)));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(at + kGroup), _mm_unpacklo_epi32(wide_bytes, wide_words));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(at + kGroup + 16), _mm_unpackhi_epi32(wide_bytes, wide_words));
        return _mm512_reduce_add_epi32(sum);
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
#include "tiles.h"
#include "kernel_tiles.h"

}  // namespace

extern const Kernels kernels_avx512;
const Kernels kernels_avx512 = table("avx512");

// The same with all activations fine.
extern const Kernels kernels_avx512_fine;
const Kernels kernels_avx512_fine = table<true>("avx512_fine");

#if defined(T5KIT_HAS_AMX)
extern const Kernels kernels_amx;
const Kernels kernels_amx = tile_table<HardwareTiles>("amx");
#endif

// For tests on processors without AMX.
extern const Kernels kernels_amx_emulated;
const Kernels kernels_amx_emulated = tile_table<EmulatedTiles>("amx_emulated");

}  // namespace t5kit
