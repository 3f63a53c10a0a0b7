// The 4-bit linear map, on the same integer products as the 8-bit one. Included by kernel_body.h.
//
// A word holds eight weights of one output, w + 8 in a nibble each: the low nibbles of its four bytes are inputs 0 to 3, the
// high ones inputs 4 to 7. 32 inputs share a scale, and 64 share the scale of their activations.

constexpr int kInt4Rows = 3;  // rows of one tile

// A vector of W as four 8-bit weights a lane: the nibbles at the bottom of every byte.
inline typename V::W bottom_nibbles(typename V::W w) {
    alignas(64) static constexpr uint32_t kMask[16] = {
        0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f,
        0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f, 0x0f0f0f0f};
    return w & V::words(kMask);
}

// Numerics: |sum of 32 products| <= 32 * 15 * 32639 < 2^24, so that it is exact in float32 too, and so is 8 times the sum of
// the activations, which is taken off it; halves are added in float32 from front to back.
template <int MR>
inline void int4_tile(const Panels& weights, int block, const Rows& x, int first, float* y, size_t y_stride, bool adds) {
    constexpr int NV = int8_tile_vectors(MR);
    constexpr int kWords = kInt4Group / 8;
    alignas(64) static constexpr uint32_t kOnes[16] = {
        0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101,
        0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101, 0x01010101};
    for (int lane = 0; lane < kLanes; lane += NV * V::kWidth) {
        alignas(64) float sum[MR][NV * V::kWidth];
        for (int m = 0; m < MR; ++m)
            for (int v = 0; v < NV; ++v) V::store(sum[m] + v * V::kWidth, V::set1(0.0f));
        for (int h = 0; h < 2 * weights.groups; ++h) {
            const uint32_t* words = weights.words + (static_cast<size_t>(block) * weights.steps + h * kWords) * kLanes + lane;
            const float* scale = weights.scales + (static_cast<size_t>(block) * 2 * weights.groups + h) * kLanes + lane;
            typename V::Sum dots[MR][NV], totals[MR];
            for (int m = 0; m < MR; ++m) {
                totals[m] = V::zero_sum();
                for (int v = 0; v < NV; ++v) dots[m][v] = V::zero_sum();
            }
            for (int s = 0; s < kWords; ++s) {
                for (int part = 0; part < 2; ++part) {
                    typename V::Prepared prepared[NV];
                    for (int v = 0; v < NV; ++v) {
                        const typename V::W w = V::words(words + s * kLanes + v * V::kWidth);
                        prepared[v] = V::prepare(bottom_nibbles(part ? w >> 4 : w));
                    }
                    const typename V::Prepared ones = V::prepare(V::words(kOnes));
                    for (int m = 0; m < MR; ++m) {
                        const uint8_t* group = x.quads + (static_cast<size_t>(first + m) * x.groups + h / 2) * 2 * kGroup;
                        const typename V::X inputs = V::load_quad(group, h % 2 * 2 * kWords + 2 * s + part);
                        totals[m] = V::dot(totals[m], ones, inputs);
                        for (int v = 0; v < NV; ++v) dots[m][v] = V::dot(dots[m][v], prepared[v], inputs);
                    }
                }
            }
            for (int m = 0; m < MR; ++m) {
                const typename V::F x_scale = V::set1(x.scales[static_cast<size_t>(first + m) * x.groups + h / 2]);
                const typename V::F offset = V::mul(V::set1(8.0f), V::finish(totals[m], 0));
                for (int v = 0; v < NV; ++v) {
                    float* s = sum[m] + v * V::kWidth;
                    const typename V::F value = V::sub(V::finish(dots[m][v], 0), offset);
                    V::store(s, V::fma(value, V::mul(V::load(scale + v * V::kWidth), x_scale), V::load(s)));
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
