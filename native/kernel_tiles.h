// The linear map over tile registers (tiles.h), for 8-bit and bfloat16 weights. Included by kernels_avx512.cpp.
//
// Packed weights are tiles as they lie in memory: 16 steps of a block are the rows of B, 64 bytes of a step its lanes.

// Fewer rows than this are left to the vectors, with 8-bit weights. Not measured on hardware.
constexpr int kFewestTileRows = 4;

// A and C with `rows` rows, B with all: tiles 0 to 3 are C, 4 and 5 A, 6 and 7 B.
inline TileConfig tile_config(int rows) {
    TileConfig config;
    for (int tile = 0; tile < kTiles; ++tile) {
        config.row_bytes[tile] = kTileBytes;
        config.rows[tile] = static_cast<uint8_t>(tile < 6 ? rows : kTileRows);
    }
    return config;
}

// Calls body(tiles, rows, first row) for groups of at most 16 rows.
template <class Tiles, class Body>
inline void for_tile_rows(int count, Body body) {
    Tiles tiles;
    int configured = 0;
    for_row_groups<kTileRows>(count, [&](int rows, int first) {
        if (rows != configured) tiles.configure(tile_config(rows));
        configured = rows;
        body(tiles, rows, first);
    });
}

// High and low byte products of one group of 64 inputs with tile `v` of a block's outputs; its inputs are in tiles 4 and 5.
template <int v, class Tiles>
inline void int8_tile_products(Tiles& tiles, const uint32_t* w, uint32_t* high, uint32_t* low) {
    constexpr int kHigh = v % 2 * 2, kLow = kHigh + 1, kWeights = 6 + v % 2;  // not the ones before: they may still be at work
    tiles.template load<kWeights>(w + v * kTileWords, kLanes * sizeof(uint32_t));
    tiles.template zero<kHigh>();
    tiles.template dot_bytes<kHigh, 4, kWeights>();
    tiles.template store<kHigh>(high + v * kTileWords, kLanes * sizeof(uint32_t));
    tiles.template zero<kLow>();
    tiles.template dot_bytes<kLow, 5, kWeights>();
    tiles.template store<kLow>(low + v * kTileWords, kLanes * sizeof(uint32_t));
}

// Numerics: the integers are exact and the rest is int8_tile's, operation by operation, so that bits are those of the vectors.
template <class Tiles>
inline void int8_tile_rows(Tiles& tiles, const Panels& weights, int block, const Rows& x, int first, int rows, float* y, size_t y_stride,
                           bool adds) {
    alignas(64) uint32_t high[kTileRows * kLanes], low[kTileRows * kLanes];
    alignas(64) float sum[kTileRows * kLanes];
    for (int i = 0; i < rows * kLanes; i += V::kWidth) V::store(sum + i, V::set1(0.0f));
    const size_t stride = static_cast<size_t>(x.groups) * 2 * kGroup;
    for (int g = 0; g < weights.groups; ++g) {
        const uint8_t* quads = x.quads + first * stride + static_cast<size_t>(g) * 2 * kGroup;
        const uint32_t* w = weights.words + (static_cast<size_t>(block) * weights.steps + g * (kGroup / 4)) * kLanes;
        const float* scales = weights.scales + (static_cast<size_t>(block) * weights.groups + g) * kLanes;
        tiles.template load<4>(quads + kGroup, stride);
        tiles.template load<5>(quads, stride);
        int8_tile_products<0>(tiles, w, high, low);
        int8_tile_products<1>(tiles, w, high, low);
        int8_tile_products<2>(tiles, w, high, low);
        int8_tile_products<3>(tiles, w, high, low);
        for (int m = 0; m < rows; ++m) {
            const size_t at = static_cast<size_t>(first + m) * x.groups + g;
            const int correction = 128 * x.sums[at];
            const V::F x_scale = V::set1(x.scales[at]);
            for (int lane = 0; lane < kLanes; lane += V::kWidth) {
                const int i = m * kLanes + lane;
                const V::F value = V::finish({V::words(high + i), V::words(low + i)}, correction);
                V::store(sum + i, V::fma(value, V::mul(V::load(scales + lane), x_scale), V::load(sum + i)));
            }
        }
    }
    for (int m = 0; m < rows; ++m)
        for (int lane = 0; lane < kLanes; lane += V::kWidth) {
            float* at = y + m * y_stride + lane;
            const V::F value = V::load(sum + m * kLanes + lane);
            V::store(at, adds ? V::add(V::load(at), value) : value);
        }
}

// 32 inputs as two bfloat16 each: the upper half of x, and what is left of it, rounded.
// Numerics: together they are within 2^-16 of x, as fine as the 16-bit integers of 8-bit weights are for a group's largest.
inline void split_bfloat16(const float* x, uint16_t* high, uint16_t* low) {
    const __m512i is_upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    const __m512i uppers = _mm512_setr_epi32(0x00030001, 0x00070005, 0x000b0009, 0x000f000d, 0x00130011, 0x00170015, 0x001b0019,
                                             0x001f001d, 0x00230021, 0x00270025, 0x002b0029, 0x002f002d, 0x00330031, 0x00370035,
                                             0x003b0039, 0x003f003d);
    __m512i bits[2], rest[2];
    for (int i = 0; i < 2; ++i) {
        const __m512 values = _mm512_loadu_ps(x + i * V::kWidth);
        bits[i] = _mm512_castps_si512(values);
        const __m512 left = _mm512_sub_ps(values, _mm512_castsi512_ps(_mm512_and_si512(bits[i], is_upper)));
        rest[i] = _mm512_add_epi32(_mm512_castps_si512(left), _mm512_set1_epi32(0x8000));
    }
    _mm512_store_si512(high, _mm512_permutex2var_epi16(bits[0], uppers, bits[1]));
    _mm512_store_si512(low, _mm512_permutex2var_epi16(rest[0], uppers, rest[1]));
}

// Sums stay in tiles 0 to 3 from the first input to the last: for every 32 of them the high halves, then the low ones.
template <class Tiles>
inline void bfloat16_tile_rows(Tiles& tiles, const Panels& weights, int block, const Rows& x, int first, int rows, float* y,
                               size_t y_stride, bool adds) {
    constexpr int kInputs = 2 * kTileWords;
    alignas(64) uint16_t high[kTileRows][kInputs], low[kTileRows][kInputs];
    alignas(64) uint32_t rest[kTileRows * kLanes];
    alignas(64) float sum[kTileRows * kLanes];
    tiles.template zero<0>();
    tiles.template zero<1>();
    tiles.template zero<2>();
    tiles.template zero<3>();
    for (int s = 0; s < weights.steps; s += kTileRows) {
        for (int m = 0; m < rows; ++m) split_bfloat16(x.values + (first + m) * x.stride + 2 * s, high[m], low[m]);
        const uint32_t* w = weights.words + (static_cast<size_t>(block) * weights.steps + s) * kLanes;
        if (weights.steps - s < kTileRows) {  // what follows is another block's, or nobody's
            const size_t num_words = static_cast<size_t>(weights.steps - s) * kLanes;
            __builtin_memcpy(rest, w, num_words * sizeof *w);
            __builtin_memset(rest + num_words, 0, sizeof rest - num_words * sizeof *w);
            w = rest;
        }
        constexpr size_t kStride = kLanes * sizeof(uint32_t);
        tiles.template load<4>(high, sizeof high[0]);
        tiles.template load<5>(low, sizeof low[0]);
        tiles.template load<6>(w, kStride);
        tiles.template dot_bfloat16<0, 4, 6>();
        tiles.template dot_bfloat16<0, 5, 6>();
        tiles.template load<7>(w + kTileWords, kStride);
        tiles.template dot_bfloat16<1, 4, 7>();
        tiles.template dot_bfloat16<1, 5, 7>();
        tiles.template load<6>(w + 2 * kTileWords, kStride);
        tiles.template dot_bfloat16<2, 4, 6>();
        tiles.template dot_bfloat16<2, 5, 6>();
        tiles.template load<7>(w + 3 * kTileWords, kStride);
        tiles.template dot_bfloat16<3, 4, 7>();
        tiles.template dot_bfloat16<3, 5, 7>();
    }
    constexpr size_t kStride = kLanes * sizeof(float);
    tiles.template store<0>(sum, kStride);
    tiles.template store<1>(sum + kTileWords, kStride);
    tiles.template store<2>(sum + 2 * kTileWords, kStride);
    tiles.template store<3>(sum + 3 * kTileWords, kStride);
    for (int m = 0; m < rows; ++m)
        for (int lane = 0; lane < kLanes; lane += V::kWidth) {
            float* at = y + m * y_stride + lane;
            const V::F value = V::load(sum + m * kLanes + lane);
            V::store(at, adds ? V::add(V::load(at), value) : value);
        }
}

// Activations are fine (as in the set avx512_fine): a tile multiplies whole groups, so leaving out quads would save nothing.
// Weights in bfloat16 meet tiles whatever the number of rows, since vectors would add in another order.
template <class Tiles>
void tile_linear(const Panels& weights, int block, const Rows& x, int first, int count, float* y, size_t y_stride, bool adds) {
    const bool is_int8 = weights.format == Format::int8 && count >= kFewestTileRows;
    if (!is_int8 && weights.format != Format::bfloat16) return linear<true>(weights, block, x, first, count, y, y_stride, adds);
    y += first * y_stride;
    for_tile_rows<Tiles>(count, [&](Tiles& tiles, int rows, int from) {
        float* to = y + from * y_stride;
        if (is_int8) return int8_tile_rows(tiles, weights, block, x, first + from, rows, to, y_stride, adds);
        bfloat16_tile_rows(tiles, weights, block, x, first + from, rows, to, y_stride, adds);
    });
}

template <class Tiles>
constexpr Kernels tile_table(const char* name) {
    Kernels kernels = table<true>(name);
    kernels.linear = tile_linear<Tiles>;
    return kernels;
}
