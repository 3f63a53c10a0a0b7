// 64-bit ARM with dot products (ARMv8.2, every server and phone since about 2018): 4 lanes, 32 registers.
#include <arm_neon.h>

#include "kernels.h"

namespace t5kit {
namespace {

struct V {
    static constexpr int kWidth = 4;
    static constexpr int kRegisters = 32;
    using F = float32x4_t;
    using W = uint32x4_t;

    static F load(const float* at) { return vld1q_f32(at); }
    static void store(float* at, F x) { vst1q_f32(at, x); }
    static F set1(float x) { return vdupq_n_f32(x); }
    static F add(F a, F b) { return vaddq_f32(a, b); }
    static F sub(F a, F b) { return vsubq_f32(a, b); }
    static F mul(F a, F b) { return vmulq_f32(a, b); }
    static F div(F a, F b) { return vdivq_f32(a, b); }
    static F fma(F a, F b, F c) { return vfmaq_f32(c, a, b); }
    static F max(F a, F b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
    static F min(F a, F b) { return vbslq_f32(vcltq_f32(a, b), a, b); }

    static W words(const uint32_t* at) { return vld1q_u32(at); }
    static F low_half(W w) { return vreinterpretq_f32_u32(vshlq_n_u32(w, 16)); }
    static F high_half(W w) { return vreinterpretq_f32_u32(vandq_u32(w, vdupq_n_u32(0xffff0000u))); }

    // A 16-bit activation is 256 * high + low, both signed bytes. A group's 128 bytes: 64 low ones, 64 high ones (all of this
    // set's activations are fine). SDOT wants signed weights, so the 128 that packing added is taken off before, not after.
    static constexpr bool kHasByteDots = true;
    static constexpr int kInt8Rows = 6;
    static W zero_bytes() { return vdupq_n_u32(0); }
    static W set_bytes(const uint8_t* at) {
        uint32_t bytes;
        __builtin_memcpy(&bytes, at, 4);
        return vdupq_n_u32(bytes);
    }
    static W dot_signed(W sum, W w, W x) {
        return vreinterpretq_u32_s32(vdotq_s32(vreinterpretq_s32_u32(sum), vreinterpretq_s8_u32(w), vreinterpretq_s8_u32(x)));
    }
    static W dot_bytes(W sum, W w, W x) { return dot_signed(sum, veorq_u32(w, vdupq_n_u32(0x80808080u)), x); }
    static W shift_bytes(W sum) { return vshlq_n_u32(sum, 8); }
    static F finish_bytes(W sum, int) { return vcvtq_f32_s32(vreinterpretq_s32_u32(sum)); }

    // The same with high and low sums apart, for the weights of int4, which are never negative and below 128.
    struct X {
        W high, low;
    };
    using Prepared = W;
    using Sum = X;
    static X load_quad(const uint8_t* group, int quad) { return {set_bytes(group + kGroup + 4 * quad), set_bytes(group + 4 * quad)}; }
    static Prepared prepare(W w) { return w; }
    static Sum zero_sum() { return {zero_bytes(), zero_bytes()}; }
    static Sum dot(Sum sum, Prepared w, X x) { return {dot_signed(sum.high, w, x.high), dot_signed(sum.low, w, x.low)}; }
    static F finish(Sum sum, int correction) {
        return finish_bytes(vsubq_u32(vaddq_u32(shift_bytes(sum.high), sum.low), vdupq_n_u32(static_cast<uint32_t>(correction))), 0);
    }

    // Rounds a group to 16-bit integers: writes them and their unit; returns their sum, or writes nothing and says so in
    // `is_finite`.
    static int32_t quantize_group(const float* x, bool, uint8_t* at, float* unit, bool* is_finite) {
        F largest = set1(0.0f);
        *is_finite = true;
        for (int i = 0; i < kGroup; i += kWidth) {
            largest = max(vabsq_f32(load(x + i)), largest);
            *is_finite = *is_finite && all_finite(load(x + i));
        }
        if (!*is_finite) return 0;
        const float top = reduce_max(largest);
        // Numerics: below 1e-30 the inverse would overflow; such a group is zero beside anything a norm lets through.
        const F factor = set1(top > 1e-30f ? static_cast<float>(kMaxInt16) / top : 0.0f);
        *unit = top > 1e-30f ? top / static_cast<float>(kMaxInt16) : 0.0f;
        int32x4_t sum = vdupq_n_s32(0);
        for (int i = 0; i < kGroup; i += 2 * kWidth) {
            const int32x4_t first = vcvtnq_s32_f32(mul(load(x + i), factor)), second = vcvtnq_s32_f32(mul(load(x + i + kWidth), factor));
            const int16x8_t both = vcombine_s16(vmovn_s32(first), vmovn_s32(second));
            sum = vaddq_s32(sum, vaddq_s32(first, second));
            vst1_s8(reinterpret_cast<int8_t*>(at + i), vmovn_s16(both));
            vst1_s8(reinterpret_cast<int8_t*>(at + kGroup + i), vshrn_n_s16(vaddq_s16(both, vdupq_n_s16(128)), 8));
        }
        return vaddvq_s32(sum);
    }

    static F keep_first(F x, int count, float fill) {
        const int32_t lanes[kWidth] = {0, 1, 2, 3};
        return vbslq_f32(vcltq_s32(vld1q_s32(lanes), vdupq_n_s32(count)), x, set1(fill));
    }
    static F round(F x) { return vrndnq_f32(x); }
    static F power_of_two(F n) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23)); }
    static F zero_below(F value, F x, float limit) { return vbslq_f32(vcltq_f32(x, set1(limit)), set1(0.0f), value); }
    static bool all_finite(F x) { return vminvq_u32(vceqzq_f32(sub(x, x))) != 0; }
    static float reduce_max(F x) {
        float best = vgetq_lane_f32(x, 0);
        best = vgetq_lane_f32(x, 1) > best ? vgetq_lane_f32(x, 1) : best;
        best = vgetq_lane_f32(x, 2) > best ? vgetq_lane_f32(x, 2) : best;
        return vgetq_lane_f32(x, 3) > best ? vgetq_lane_f32(x, 3) : best;
    }
    static float reduce_add(F x) { return vaddvq_f32(x); }
    static uint32_t at_least(F x, float threshold) {
        const uint32_t bits[kWidth] = {1, 2, 4, 8};
        return vaddvq_u32(vandq_u32(vcgeq_f32(x, set1(threshold)), vld1q_u32(bits)));
    }
};

#include "kernel_body.h"

}  // namespace

extern const Kernels kernels_neon;
const Kernels kernels_neon = table<true>("neon");

}  // namespace t5kit
