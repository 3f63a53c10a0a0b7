// One kernel set against the portable one and against itself in other company, without Python: for processors that are
// emulated. scripts/check_kernels.py builds and runs it. "amx" is held to its twin in plain C++ too, bit for bit.
//
//   kernel_driver SET      prints how many checks held, or the first that did not, and ends with 1
#include <termios.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "kernels.h"
#include "memory.h"
#include "thread_pool.h"
#include "weights.h"

using namespace t5kit;

namespace {

constexpr int kSizes[] = {1, 2, 3, 7, 15, 16, 17, 63, 64, 65, 127, 130, 200, 520};
std::mt19937 random_bits(7);
long num_checks = 0;

std::vector<float> normal(size_t count, float scale = 1.0f) {
    std::normal_distribution<float> distribution(0.0f, scale);
    std::vector<float> values(count);
    for (float& value : values) value = distribution(random_bits);
    return values;
}

void expect(bool is_true, const std::string& what) {
    ++num_checks;
    if (is_true) return;
    std::printf("FAILED: %s\n", what.c_str());
    std::exit(1);
}

void expect_close(float actual, float expected, float tolerance, const std::string& what) {
    const bool is_close = std::fabs(actual - expected) <= tolerance || (actual != actual && expected != expected) || actual == expected;
    expect(is_close, what + ": " + std::to_string(actual) + " for " + std::to_string(expected) + ", tolerance " + std::to_string(tolerance));
}

// x [rows][inputs] through weight [outputs][inputs]; [rows][outputs].
std::vector<float> linear(const Kernels& kernels, Format format, const std::vector<float>& weight, int outputs, int inputs,
                          const std::vector<float>& x, int first_row, int rows) {
    ThreadPool pool(1);
    Arena arena;
    const Tensor tensor{"weight", Dtype::float32, {outputs, inputs}, reinterpret_cast<const uint8_t*>(weight.data()), weight.size() * sizeof(float)};
    std::vector<BlockSource> blocks;
    append_blocks(tensor, blocks);
    pack_linear(blocks, inputs, format, arena, pool);  // measures
    arena.allocate();
    const Linear packed = pack_linear(blocks, inputs, format, arena, pool);
    const int stride = round_up(inputs, kGroup), groups = stride / kGroup;
    std::vector<float> values(static_cast<size_t>(rows) * stride), scales(static_cast<size_t>(rows) * groups);
    std::vector<uint8_t> quads(static_cast<size_t>(rows) * groups * 2 * kGroup);
    std::vector<int32_t> sums(static_cast<size_t>(rows) * groups);
    for (int m = 0; m < rows; ++m) {
        std::memcpy(values.data() + static_cast<size_t>(m) * stride, x.data() + static_cast<size_t>(first_row + m) * inputs, inputs * sizeof(float));
        const size_t at = static_cast<size_t>(m) * groups;
        if (takes_integers(format))
            kernels.quantize(values.data() + static_cast<size_t>(m) * stride, groups, true, quads.data() + at * 2 * kGroup, scales.data() + at, sums.data() + at);
    }
    const Rows in{values.data(), static_cast<size_t>(stride), quads.data(), scales.data(), sums.data(), groups, true};
    const size_t y_stride = static_cast<size_t>(packed.num_blocks) * kLanes;
    std::vector<float> y(rows * y_stride, 1.0f), out;
    for (int block = 0; block < packed.num_blocks; ++block) {
        // The first row alone and overwriting, the others together and added to what is there.
        kernels.linear(packed.panels, block, in, 0, 1, y.data() + block * kLanes, y_stride, false);
        if (rows > 1) kernels.linear(packed.panels, block, in, 1, rows - 1, y.data() + block * kLanes, y_stride, true);
    }
    for (int m = 0; m < rows; ++m)
        for (int n = 0; n < outputs; ++n) out.push_back(y[m * y_stride + n] - (m ? 1.0f : 0.0f));
    return out;
}

void check_linear(const Kernels& kernels, const Kernels& portable, Format format, const char* word) {
    for (int outputs : kSizes)
        for (int inputs : kSizes) {
            const int rows = 1 + static_cast<int>(random_bits() % 19);
            const std::vector<float> weight = normal(static_cast<size_t>(outputs) * inputs);
            std::vector<float> x = normal(static_cast<size_t>(rows) * inputs);
            x[random_bits() % x.size()] *= 1e3f;
            std::fill_n(x.begin() + static_cast<size_t>(random_bits() % rows) * inputs, inputs, 0.0f);
            const std::vector<float> actual = linear(kernels, format, weight, outputs, inputs, x, 0, rows);
            const std::vector<float> expected = linear(portable, format, weight, outputs, inputs, x, 0, rows);
            const int row = static_cast<int>(random_bits() % rows);
            const std::vector<float> alone = linear(kernels, format, weight, outputs, inputs, x, row, 1);
            for (int m = 0; m < rows; ++m)
                for (int n = 0; n < outputs; ++n) {
                    double size = 1;
                    for (int i = 0; i < inputs; ++i) size += std::fabs(x[static_cast<size_t>(m) * inputs + i] * weight[static_cast<size_t>(n) * inputs + i]);
                    const std::string what = std::string(kernels.name) + " linear " + word + " " + std::to_string(outputs) + " x " + std::to_string(inputs);
                    // bfloat16 activations of the tiles are within 2^-16.
                    const float tolerance = static_cast<float>(size) * (format == Format::bfloat16 ? 2e-5f : 3e-6f);
                    expect_close(actual[static_cast<size_t>(m) * outputs + n], expected[static_cast<size_t>(m) * outputs + n], tolerance, what);
                    if (m == row && row == 0) expect(actual[n] == alone[n], what + " in company");
                    if (m == row && row > 0) expect(actual[static_cast<size_t>(m) * outputs + n] == (1.0f + alone[n]) - 1.0f, what + " in company");
                }
        }
    // What is not finite stays visible, and what is tiny is no trouble.
    for (float bad : {std::nanf(""), INFINITY, -INFINITY}) {
        std::vector<float> x(2 * 70, 1.0f);
        x[66] = bad;
        const std::vector<float> y = linear(kernels, format, std::vector<float>(3 * 70, 0.5f), 3, 70, x, 0, 2);
        for (int n = 0; n < 3; ++n) expect(!std::isfinite(y[n]) && std::fabs(y[3 + n] - 35) < 0.1f, std::string(word) + " of what is not finite");
    }
    const std::vector<float> tiny = linear(kernels, format, std::vector<float>(3 * 70, 0.5f), 3, 70, std::vector<float>(70, 1e-38f), 0, 1);
    for (float value : tiny) expect(std::fabs(value) < 1e-35f, std::string(word) + " of what is tiny");
}

// Both are given the same rows: what the hardware computes is what the manual says.
void check_twin(const Kernels& kernels, const Kernels& twin, Format format, const char* word) {
    for (int outputs : kSizes)
        for (int inputs : kSizes)
            for (int rows : {1, 4, 17, 33}) {
                const std::vector<float> weight = normal(static_cast<size_t>(outputs) * inputs), x = normal(static_cast<size_t>(rows) * inputs);
                const std::string what = std::string(kernels.name) + " " + word + " beside " + twin.name;
                expect(linear(kernels, format, weight, outputs, inputs, x, 0, rows) == linear(twin, format, weight, outputs, inputs, x, 0, rows), what);
            }
}

void check_vectors(const Kernels& kernels, const Kernels& portable) {
    for (int n : kSizes) {
        const int padded = round_up(n, kLanes);
        std::vector<float> x = normal(padded, 5.0f), e = normal(padded);
        const std::string size = std::to_string(n);
        std::vector<float> a = x, b = x;
        kernels.softmax(a.data(), e.data(), n, round_up(n, kPageTokens));
        portable.softmax(b.data(), e.data(), n, round_up(n, kPageTokens));
        for (int i = 0; i < round_up(n, kPageTokens); ++i) expect_close(a[i], b[i], 2e-6f * (b[i] + 1e-6f), "softmax " + size);
        kernels.rms_norm(x.data(), e.data(), n, 1e-6f, a.data());
        portable.rms_norm(x.data(), e.data(), n, 1e-6f, b.data());
        for (int i = 0; i < padded; ++i) expect_close(a[i], b[i], 3e-6f * std::fabs(b[i]), "rms_norm " + size);
        for (Activation activation : {Activation::relu, Activation::gelu_tanh, Activation::gelu, Activation::silu}) {
            kernels.activate(activation, x.data(), e.data(), round_up(n, kPageTokens), a.data());
            portable.activate(activation, x.data(), e.data(), round_up(n, kPageTokens), b.data());
            for (int i = 0; i < round_up(n, kPageTokens); ++i) expect_close(a[i], b[i], 4e-6f * (1 + std::fabs(x[i] * e[i])), "activate " + size);
        }
        kernels.scale(x.data(), 0.3f, round_up(n, kPageTokens), a.data());
        for (int i = 0; i < n; ++i) expect(a[i] == x[i] * 0.3f, "scale " + size);
        x[n / 2] = NAN;
        const float largest = kernels.largest(x.data(), e.data(), 0.5f, n);
        expect_close(largest, portable.largest(x.data(), e.data(), 0.5f, n), 1e-5f, "largest " + size);
        std::vector<int32_t> ids(n + kLanes), others(n + kLanes);
        const float threshold = n > 1 ? largest - 3.0001f : -1e30f;
        const int count = kernels.collect(x.data(), e.data(), 0.5f, n, threshold, 100, ids.data());
        expect(count == portable.collect(x.data(), e.data(), 0.5f, n, threshold, 100, others.data()), "collect " + size);
        ids.resize(count);
        others.resize(count);
        expect(ids == others, "collected ids " + size);
        x[n / 2] = 0.0f;
        const float total = portable.sum_exp(x.data(), 2.0f, n);
        expect_close(kernels.sum_exp(x.data(), 2.0f, n), total, 3e-6f * total, "sum_exp " + size);
    }
}

void check_attention(const Kernels& kernels, const Kernels& portable) {
    for (int width : {3, 16, 37, 64})
        for (int num_keys : {1, 16, 17, 50, 130}) {
            const int rows = 1 + static_cast<int>(random_bits() % 8), num_pages = (num_keys + kPageTokens - 1) / kPageTokens, lanes = round_up(width, kPageTokens);
            const size_t padded = static_cast<size_t>(num_pages) * kPageTokens;
            const std::vector<float> q = normal(static_cast<size_t>(rows) * width), keys = normal(padded * width), values = normal(padded * lanes);
            std::vector<const float*> pages;
            for (int page = 0; page < num_pages; ++page) pages.push_back(keys.data() + static_cast<size_t>(page) * width * kPageTokens);
            std::vector<float> a(rows * padded), b(rows * padded), alone(padded), mixed(static_cast<size_t>(rows) * lanes), other(mixed.size());
            kernels.attention_scores(q.data(), width, rows, pages.data(), num_pages, width, a.data(), padded);
            portable.attention_scores(q.data(), width, rows, pages.data(), num_pages, width, b.data(), padded);
            for (size_t i = 0; i < a.size(); ++i) expect_close(a[i], b[i], 1e-4f, "attention_scores");
            kernels.attention_scores(q.data() + (rows - 1) * width, width, 1, pages.data(), num_pages, width, alone.data(), padded);
            for (size_t i = 0; i < padded; ++i) expect(alone[i] == a[(rows - 1) * padded + i], "attention_scores in company");
            kernels.attention_mix(b.data(), padded, rows, values.data(), num_keys, lanes, mixed.data(), lanes, false);
            portable.attention_mix(b.data(), padded, rows, values.data(), num_keys, lanes, other.data(), lanes, false);
            for (size_t i = 0; i < mixed.size(); ++i) expect_close(mixed[i], other[i], 1e-3f, "attention_mix");
        }
    for (int words : {1, 5, 16, 33, 100}) {
        const int stride = 2 * round_up(words, kPageTokens), rows = 6;
        std::vector<uint32_t> row(words);
        for (uint32_t& word : row) word = to_bfloat16(normal(1)[0]) | static_cast<uint32_t>(to_bfloat16(normal(1)[0])) << 16;
        std::vector<float> x(static_cast<size_t>(rows) * stride), a(rows), b(rows);
        for (int m = 0; m < rows; ++m)
            for (int half = 0; half < 2; ++half)
                for (int i = 0; i < words; ++i) x[static_cast<size_t>(m) * stride + half * stride / 2 + i] = normal(1)[0];
        kernels.bfloat16_dots(row.data(), words, x.data(), stride, rows, a.data(), 1);
        portable.bfloat16_dots(row.data(), words, x.data(), stride, rows, b.data(), 1);
        for (int m = 0; m < rows; ++m) expect_close(a[m], b[m], 1e-4f, "bfloat16_dots");
    }
}

}  // namespace

int main(int count, char** words) {
    // As the first program of a machine its end is the machine's, and that must have said everything.
    std::atexit([] {
        std::fflush(stdout);
        tcdrain(1);
    });
    try {
        const Kernels& kernels = choose_kernels(count > 1 ? words[1] : "");
        const Kernels& portable = choose_kernels("portable");
        check_linear(kernels, portable, Format::float32, "float32");
        check_linear(kernels, portable, Format::bfloat16, "bfloat16");
        check_linear(kernels, portable, Format::int8, "int8");
        check_linear(kernels, portable, Format::int4, "int4");
        if (std::string(kernels.name) == "amx") {
            const Kernels& twin = choose_kernels("amx_emulated");
            check_twin(kernels, twin, Format::bfloat16, "bfloat16");
            check_twin(kernels, twin, Format::int8, "int8");
        }
        check_vectors(kernels, portable);
        check_attention(kernels, portable);
        std::printf("%s: %ld checks held\n", kernels.name, num_checks);
    } catch (const std::exception& error) {
        std::printf("FAILED: %s\n", error.what());
        return 1;
    }
    return 0;
}
