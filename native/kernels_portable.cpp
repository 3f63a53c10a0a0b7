// Any processor: four lanes of the compiler's own vectors, which become SSE2, NEON or scalars.
#include "kernels.h"

namespace t5kit {
namespace {

struct V {
    static constexpr int kWidth = 4;
    static constexpr int kRegisters = 16;
    typedef float F __attribute__((vector_size(16)));
    typedef int32_t I __attribute__((vector_size(16)));
    typedef uint32_t W __attribute__((vector_size(16)));

    static F load(const float* at) {
        F x;
        __builtin_memcpy(&x, at, sizeof x);
        return x;
    }
    static void store(float* at, F x) { __builtin_memcpy(at, &x, sizeof x); }
    static F set1(float x) { return F{x, x, x, x}; }
    static F add(F a, F b) { return a + b; }
    static F sub(F a, F b) { return a - b; }
    static F mul(F a, F b) { return a * b; }
    static F div(F a, F b) { return a / b; }
    static F fma(F a, F b, F c) { return a * b + c; }  // rounded twice: a true one would be a library call
    static F max(F a, F b) { return a > b ? a : b; }
    static F min(F a, F b) { return a < b ? a : b; }

    static W words(const uint32_t* at) {
        W w;
        __builtin_memcpy(&w, at, sizeof w);
        return w;
    }
    static F low_half(W w) { return reinterpret_cast<F>(w << 16); }
    static F high_half(W w) { return reinterpret_cast<F>(w & 0xffff0000u); }

    // Eight bytes hold four 16-bit activations in the order 0 2 1 3, as in the AVX2 set.
    struct X {
        int16_t value[4];
    };
    using Prepared = W;
    static constexpr bool kHasByteDots = false;
    static constexpr int kInt8Rows = 3;
    using Sum = I;
    static X load_quad(const uint8_t* group, int quad) {
        const uint8_t* at = group + 8 * quad;
        X x;
        __builtin_memcpy(&x, at, sizeof x);
        return x;
    }
    static Prepared prepare(W w) { return w; }
    static Sum zero_sum() { return I{0, 0, 0, 0}; }
    static Sum dot(Sum sum, Prepared w, X x) {
        sum += reinterpret_cast<I>(w & 0xff) * x.value[0];
        sum += reinterpret_cast<I>((w >> 8) & 0xff) * x.value[2];
        sum += reinterpret_cast<I>((w >> 16) & 0xff) * x.value[1];
        sum += reinterpret_cast<I>(w >> 24) * x.value[3];
        return sum;
    }
    static F finish(Sum sum, int correction) { return __builtin_convertvector(sum - correction, F); }
    static int32_t write_quads(F x, uint8_t* at) {
        const F whole = round(x);
        int16_t integers[4];
        for (int i = 0; i < 4; ++i) integers[i] = static_cast<int16_t>(whole[i]);
        const int16_t ordered[4] = {integers[0], integers[2], integers[1], integers[3]};
        __builtin_memcpy(at, ordered, sizeof ordered);
        return integers[0] + integers[1] + integers[2] + integers[3];
    }

    static F keep_first(F x, int count, float fill) {
        const I lane{0, 1, 2, 3};
        return lane < I{count, count, count, count} ? x : set1(fill);
    }
    // To the nearest integer, ties to even, for |x| < 2^22: beyond 1.5 * 2^23 a float32 has no fraction.
    static F round(F x) { return (x + 12582912.0f) - 12582912.0f; }
    static F power_of_two(F n) {
        const F safe = n == n ? n : set1(0.0f);  // a NaN has no integer
        return reinterpret_cast<F>((__builtin_convertvector(safe, I) + 127) << 23);
    }
    static F zero_below(F value, F x, float limit) { return x < set1(limit) ? set1(0.0f) : value; }
    static bool all_finite(F x) {
        const F rest = x - x;
        return rest[0] == 0 && rest[1] == 0 && rest[2] == 0 && rest[3] == 0;
    }
    static float reduce_max(F x) {
        float best = x[0];
        for (int i = 1; i < 4; ++i) best = x[i] > best ? x[i] : best;
        return best;
    }
    static float reduce_add(F x) { return (x[0] + x[2]) + (x[1] + x[3]); }
    static uint32_t at_least(F x, float threshold) {
        uint32_t mask = 0;
        for (int i = 0; i < 4; ++i) mask |= static_cast<uint32_t>(x[i] >= threshold) << i;
        return mask;
    }
};

#include "kernel_body.h"

}  // namespace

extern const Kernels kernels_portable;
const Kernels kernels_portable = table("portable");

}  // namespace t5kit
