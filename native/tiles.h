// Tile registers: AMX's own, and the same as plain C++, which says what they do. Included inside an anonymous namespace by
// kernels_avx512.cpp.
//
// There are eight registers of at most 16 rows of 64 bytes; a configuration says how many of each are used. A product adds
// A [rows][words] times B [words][lanes] to C [rows][lanes], where a word is 32 bits: four bytes or two bfloat16.
// Source: Intel SDM volume 1, chapter 18, and volume 2, LDTILECFG, TDPBSUD, TDPBF16PS.

constexpr int kTiles = 8;
constexpr int kTileRows = 16;
constexpr int kTileBytes = 64;  // of a row
constexpr int kTileWords = kTileBytes / 4;

struct alignas(64) TileConfig {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

// The instructions as assembly, which needs no flags of the compiler. Every one that reads or writes memory says so: GCC 12's
// own intrinsics do not, and at -O2 it drops the stores to a configuration, which ends in an illegal instruction.
class HardwareTiles {
public:
    HardwareTiles() = default;
    HardwareTiles(const HardwareTiles&) = delete;
    HardwareTiles& operator=(const HardwareTiles&) = delete;
    // A thread that holds no tiles costs the operating system nothing, and leaves none of ours to other libraries.
    ~HardwareTiles() { __asm__ volatile("tilerelease" ::: "memory"); }

    // Of this thread alone; clears all tiles.
    void configure(const TileConfig& config) { __asm__ volatile("ldtilecfg %0" ::"m"(config) : "memory"); }
    template <int Tile>
    void zero() {
        __asm__ volatile("tilezero %%tmm%c0" ::"i"(Tile));
    }
    template <int Tile>
    void load(const void* at, size_t stride) {
        __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(at), "r"(stride), "i"(Tile) : "memory");
    }
    template <int Tile>
    void store(void* at, size_t stride) {
        __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(at), "r"(stride), "i"(Tile) : "memory");
    }
    // Signed bytes of A, unsigned ones of B, 32-bit integers in C.
    template <int C, int A, int B>
    void dot_bytes() {
        __asm__ volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
    }
    // bfloat16 in A and B, float32 in C.
    template <int C, int A, int B>
    void dot_bfloat16() {
        __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(C), "i"(A), "i"(B));
    }
};

// What would be a fault of the processor ends the program here too.
class EmulatedTiles {
public:
    void configure(const TileConfig& config) {
        uint8_t bytes[sizeof config];
        __builtin_memcpy(bytes, &config, sizeof config);
        check(bytes[0] == 1);
        for (int i = 1; i < 16; ++i) check(bytes[i] == 0);
        for (int tile = 0; tile < kTiles; ++tile) {
            row_bytes_[tile] = bytes[16 + 2 * tile] | bytes[17 + 2 * tile] << 8;
            rows_[tile] = bytes[48 + tile];
            check(row_bytes_[tile] <= kTileBytes && rows_[tile] <= kTileRows && !row_bytes_[tile] == !rows_[tile]);
        }
        __builtin_memset(data_, 0, sizeof data_);
    }
    template <int Tile>
    void zero() {
        check(rows_[Tile] > 0);
        __builtin_memset(data_[Tile], 0, sizeof data_[Tile]);
    }
    template <int Tile>
    void load(const void* at, size_t stride) {
        zero<Tile>();
        for (int m = 0; m < rows_[Tile]; ++m)
            __builtin_memcpy(data_[Tile][m], static_cast<const uint8_t*>(at) + m * stride, row_bytes_[Tile]);
    }
    template <int Tile>
    void store(void* at, size_t stride) {
        check(rows_[Tile] > 0);
        for (int m = 0; m < rows_[Tile]; ++m)
            __builtin_memcpy(static_cast<uint8_t*>(at) + m * stride, data_[Tile][m], row_bytes_[Tile]);
    }
    template <int C, int A, int B>
    void dot_bytes() {
        check_shapes(C, A, B);
        for (int m = 0; m < rows_[C]; ++m)
            for (int lane = 0; lane < row_bytes_[C] / 4; ++lane) {
                uint32_t sum = word(C, m, lane);
                for (int k = 0; k < rows_[B]; ++k)
                    for (int i = 0; i < 4; ++i) {
                        const int a = static_cast<int8_t>(data_[A][m][4 * k + i]), b = data_[B][k][4 * lane + i];
                        sum += static_cast<uint32_t>(a * b);
                    }
                set_word(C, m, lane, sum);
            }
    }
    // Even and odd inputs are summed apart, each product and sum rounded once; the two sums are added, then added to C.
    // Numbers below the normal range count as zero everywhere.
    template <int C, int A, int B>
    void dot_bfloat16() {
        check_shapes(C, A, B);
        for (int m = 0; m < rows_[C]; ++m)
            for (int lane = 0; lane < row_bytes_[C] / 4; ++lane) {
                float even = 0, odd = 0;
                for (int k = 0; k < rows_[B]; ++k) {
                    const uint32_t a = word(A, m, k), b = word(B, k, lane);
                    even = normal(__builtin_fmaf(normal(value(a << 16)), normal(value(b << 16)), even));
                    odd = normal(__builtin_fmaf(normal(value(a & 0xffff0000u)), normal(value(b & 0xffff0000u)), odd));
                }
                const float sum = normal(normal(value(word(C, m, lane))) + normal(even + odd));
                uint32_t bits;
                __builtin_memcpy(&bits, &sum, sizeof bits);
                set_word(C, m, lane, bits);
            }
    }

private:
    static void check(bool is_true) {
        if (!is_true) __builtin_trap();
    }
    void check_shapes(int c, int a, int b) const {
        check(rows_[c] > 0 && rows_[c] == rows_[a] && row_bytes_[c] == row_bytes_[b] && row_bytes_[a] == 4 * rows_[b]);
    }
    static float value(uint32_t bits) {
        float x;
        __builtin_memcpy(&x, &bits, sizeof x);
        return x;
    }
    static float normal(float x) { return __builtin_fabsf(x) < __FLT_MIN__ ? __builtin_copysignf(0.0f, x) : x; }
    uint32_t word(int tile, int row, int at) const {
        uint32_t bits;
        __builtin_memcpy(&bits, data_[tile][row] + 4 * at, sizeof bits);
        return bits;
    }
    void set_word(int tile, int row, int at, uint32_t bits) { __builtin_memcpy(data_[tile][row] + 4 * at, &bits, sizeof bits); }

    int rows_[kTiles] = {}, row_bytes_[kTiles] = {};
    uint8_t data_[kTiles][kTileRows][kTileBytes] = {};
};
