// Single kernels as Python sees them, for tests. Signatures are repeated in src/t5kit/_native.pyi.
#include "kernel_bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <optional>
#include <vector>

#include "check.h"
#include "engine.h"
#include "formats.h"
#include "weights.h"

namespace nb = nanobind;

namespace t5kit {
namespace {

using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

nb::ndarray<nb::numpy, float> to_numpy(std::vector<float> values, std::initializer_list<size_t> shape) {
    auto* owned = new std::vector<float>(std::move(values));
    nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<float>*>(p); });
    return nb::ndarray<nb::numpy, float>(owned->data(), shape, owner);
}

// Kernels read and write whole vectors: a copy with room for them.
std::vector<float> padded(const float* data, size_t count) {
    std::vector<float> values(count + kLanes);
    std::copy_n(data, count, values.begin());
    return values;
}

auto linear(const std::string& kernels_name, const std::string& weights_name, const Matrix& weight, const Matrix& x) {
    const Kernels& kernels = choose_kernels(kernels_name);
    const Format format = format_named(weights_name);
    const int outputs = static_cast<int>(weight.shape(0)), inputs = static_cast<int>(weight.shape(1)), rows = static_cast<int>(x.shape(0));
    T5KIT_CHECK(static_cast<int>(x.shape(1)) == inputs, "x has " << x.shape(1) << " columns, expected " << inputs << ".");
    ThreadPool pool(1);
    Arena arena;
    const Tensor tensor{"weight", Dtype::float32, {outputs, inputs}, reinterpret_cast<const uint8_t*>(weight.data()), weight.size() * sizeof(float)};
    std::vector<BlockSource> blocks;
    append_blocks(tensor, blocks);
    pack_linear(blocks, inputs, format, arena, pool);  // measures
    arena.allocate();
    const Linear packed = pack_linear(blocks, inputs, format, arena, pool);
    Activations activations;
    activations.is_fine = format != Format::int8;
    activations.shape(rows, inputs, takes_integers(format));
    for (int m = 0; m < rows; ++m) {
        std::copy_n(x.data() + static_cast<size_t>(m) * inputs, inputs, activations.row(m));
        if (takes_integers(format)) activations.quantize(kernels, m);
    }
    std::vector<float> y(static_cast<size_t>(rows) * outputs), lanes(static_cast<size_t>(rows) * kLanes);
    for (int block = 0; block < packed.num_blocks; ++block) {
        kernels.linear(packed.panels, block, activations.rows(), 0, rows, lanes.data(), kLanes, false);
        for (int m = 0; m < rows; ++m)
            std::copy_n(lanes.data() + m * kLanes, std::min(kLanes, outputs - block * kLanes), y.data() + static_cast<size_t>(m) * outputs + block * kLanes);
    }
    return to_numpy(std::move(y), {static_cast<size_t>(rows), static_cast<size_t>(outputs)});
}

auto softmax(const std::string& kernels_name, const Vector& scores, const std::optional<Vector>& bias) {
    std::vector<float> values = padded(scores.data(), scores.size()), added;
    if (bias) {
        T5KIT_CHECK(bias->size() == scores.size(), "bias has " << bias->size() << " elements, expected " << scores.size() << ".");
        added = padded(bias->data(), bias->size());
    }
    const int n = static_cast<int>(scores.size());
    choose_kernels(kernels_name).softmax(values.data(), bias ? added.data() : nullptr, n, round_up(n, kPageTokens));
    values.resize(scores.size());
    return to_numpy(std::move(values), {scores.size()});
}

auto rms_norm(const std::string& kernels_name, const Vector& x, const Vector& weight, float epsilon) {
    T5KIT_CHECK(weight.size() == x.size(), "weight has " << weight.size() << " elements, expected " << x.size() << ".");
    std::vector<float> out(x.size() + kLanes);
    choose_kernels(kernels_name).rms_norm(padded(x.data(), x.size()).data(), padded(weight.data(), x.size()).data(), static_cast<int>(x.size()), epsilon, out.data());
    out.resize(x.size());
    return to_numpy(std::move(out), {x.size()});
}

auto activate(const std::string& kernels_name, const std::string& activation, const Vector& x, const std::optional<Vector>& gate) {
    std::vector<float> values = padded(x.data(), x.size()), factors;
    if (gate) {
        T5KIT_CHECK(gate->size() == x.size(), "gate has " << gate->size() << " elements, expected " << x.size() << ".");
        factors = padded(gate->data(), gate->size());
    }
    choose_kernels(kernels_name).activate(activation_named(activation), values.data(), gate ? factors.data() : nullptr, round_up(static_cast<int>(x.size()), kPageTokens), values.data());
    values.resize(x.size());
    return to_numpy(std::move(values), {x.size()});
}

auto scale(const std::string& kernels_name, const Vector& x, float factor) {
    std::vector<float> values = padded(x.data(), x.size());
    choose_kernels(kernels_name).scale(values.data(), factor, round_up(static_cast<int>(x.size()), kPageTokens), values.data());
    values.resize(x.size());
    return to_numpy(std::move(values), {x.size()});
}

// bfloat16 x [rows][inputs] . row [inputs], whose bits are the upper halves of float32.
auto bfloat16_dots(const std::string& kernels_name, const Vector& row, const Matrix& x) {
    const int inputs = static_cast<int>(row.size()), rows = static_cast<int>(x.shape(0)), words = (inputs + 1) / 2;
    T5KIT_CHECK(static_cast<int>(x.shape(1)) == inputs, "x has " << x.shape(1) << " columns, expected " << inputs << ".");
    const size_t half = round_up(words, kPageTokens);
    std::vector<uint32_t> pairs(words);
    std::vector<float> halves(2 * half * rows), out(rows);
    for (int i = 0; i < inputs; ++i) pairs[i / 2] |= static_cast<uint32_t>(to_bfloat16(row.data()[i])) << (i % 2 * 16);
    for (int m = 0; m < rows; ++m)
        for (int i = 0; i < inputs; ++i) halves[(2 * m + i % 2) * half + i / 2] = x.data()[static_cast<size_t>(m) * inputs + i];
    choose_kernels(kernels_name).bfloat16_dots(pairs.data(), words, halves.data(), 2 * half, rows, out.data(), 1);
    return to_numpy(std::move(out), {static_cast<size_t>(rows)});
}

// q [rows][width] . keys [num_keys][width], each 16 keys a page of its own as in the caches.
auto attention_scores(const std::string& kernels_name, const Matrix& q, const Matrix& keys) {
    const int rows = static_cast<int>(q.shape(0)), width = static_cast<int>(q.shape(1)), num_keys = static_cast<int>(keys.shape(0));
    T5KIT_CHECK(static_cast<int>(keys.shape(1)) == width, "keys have " << keys.shape(1) << " columns, expected " << width << ".");
    const int num_pages = (num_keys + kPageTokens - 1) / kPageTokens;
    const size_t stride = static_cast<size_t>(num_pages) * kPageTokens;
    std::vector<std::vector<float>> pages(num_pages, std::vector<float>(static_cast<size_t>(width) * kPageTokens));
    for (int key = 0; key < num_keys; ++key)
        for (int i = 0; i < width; ++i) pages[key / kPageTokens][i * kPageTokens + key % kPageTokens] = keys.data()[static_cast<size_t>(key) * width + i];
    std::vector<const float*> starts;
    for (const std::vector<float>& page : pages) starts.push_back(page.data());
    std::vector<float> scores(rows * stride), kept;
    choose_kernels(kernels_name).attention_scores(q.data(), width, rows, starts.data(), num_pages, width, scores.data(), stride);
    for (int m = 0; m < rows; ++m) kept.insert(kept.end(), scores.begin() + m * stride, scores.begin() + m * stride + num_keys);
    return to_numpy(std::move(kept), {static_cast<size_t>(rows), static_cast<size_t>(num_keys)});
}

// p [rows][num_keys] . values [num_keys][width], added to `added` [rows][width] where that is given.
auto attention_mix(const std::string& kernels_name, const Matrix& p, const Matrix& values, const std::optional<Matrix>& added) {
    const int rows = static_cast<int>(p.shape(0)), num_keys = static_cast<int>(p.shape(1)), width = static_cast<int>(values.shape(1));
    T5KIT_CHECK(static_cast<int>(values.shape(0)) == num_keys, "values have " << values.shape(0) << " rows, expected " << num_keys << ".");
    T5KIT_CHECK(!added || (static_cast<int>(added->shape(0)) == rows && static_cast<int>(added->shape(1)) == width), "added must be [rows, width].");
    const size_t lanes = round_up(width, kPageTokens);
    std::vector<float> padded_values(num_keys * lanes), out(rows * lanes), kept;
    for (int key = 0; key < num_keys; ++key) std::copy_n(values.data() + static_cast<size_t>(key) * width, width, padded_values.begin() + key * lanes);
    if (added)
        for (int m = 0; m < rows; ++m) std::copy_n(added->data() + static_cast<size_t>(m) * width, width, out.begin() + m * lanes);
    choose_kernels(kernels_name).attention_mix(p.data(), num_keys, rows, padded_values.data(), num_keys, static_cast<int>(lanes), out.data(), lanes, added.has_value());
    for (int m = 0; m < rows; ++m) kept.insert(kept.end(), out.begin() + m * lanes, out.begin() + m * lanes + width);
    return to_numpy(std::move(kept), {static_cast<size_t>(rows), static_cast<size_t>(width)});
}

// x and its edits with room for whole vectors, of which the edits may be missing.
struct EditedLogits {
    EditedLogits(const Vector& logits, const std::optional<Vector>& changes) : x(padded(logits.data(), logits.size())) {
        T5KIT_CHECK(!changes || changes->size() == logits.size(), "edits have " << changes->size() << " elements, expected " << logits.size() << ".");
        if (changes) edits = padded(changes->data(), changes->size());
    }
    const float* changes() const { return edits.empty() ? nullptr : edits.data(); }

    std::vector<float> x, edits;
};

float largest(const std::string& kernels_name, const Vector& x, const std::optional<Vector>& edits, float factor) {
    const EditedLogits logits(x, edits);
    return choose_kernels(kernels_name).largest(logits.x.data(), logits.changes(), factor, static_cast<int>(x.size()));
}

float sum_exp(const std::string& kernels_name, const Vector& x, float offset) {
    return choose_kernels(kernels_name).sum_exp(padded(x.data(), x.size()).data(), offset, static_cast<int>(x.size()));
}

std::vector<int32_t> collect(const std::string& kernels_name, const Vector& x, const std::optional<Vector>& edits, float factor, float threshold, int first_id) {
    const EditedLogits logits(x, edits);
    std::vector<int32_t> ids(x.size() + kLanes);
    ids.resize(choose_kernels(kernels_name).collect(logits.x.data(), logits.changes(), factor, static_cast<int>(x.size()), threshold, first_id, ids.data()));
    return ids;
}

// Bytes a second at which `threads` threads read memory of that size from front to back, best of five rounds.
double reading_rate(size_t size_bytes, int threads) {
    T5KIT_CHECK(size_bytes >= 4096 && size_bytes <= (size_t{1} << 36), "size_bytes = " << size_bytes << " must be in [4096, 2^36].");
    T5KIT_CHECK(threads >= 1 && threads <= 1024, "threads = " << threads << " must be in [1, 1024].");
    nb::gil_scoped_release unlocked;
    constexpr size_t kWords = 4096;
    const int num_parts = static_cast<int>(size_bytes / sizeof(uint64_t) / kWords) + 1;
    Arena arena;
    arena.take<uint64_t>(kWords * num_parts);  // measures
    arena.allocate();
    uint64_t* words = arena.take<uint64_t>(kWords * num_parts);
    std::fill_n(words, kWords * num_parts, 0);  // untouched pages would all be one page of zeros
    ThreadPool pool(threads);
    std::vector<uint64_t> sums(threads);
    double best = 0;
    for (int round = 0; round < 5; ++round) {
        const auto start = std::chrono::steady_clock::now();
        pool.run([&](int thread) {
            pool.for_each(num_parts, 8, [&](int part) {
                uint64_t sum = 0;
                for (size_t i = 0; i < kWords; ++i) sum ^= words[part * kWords + i];
                sums[thread] ^= sum;
            });
        });
        const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
        best = std::max(best, kWords * num_parts * sizeof(uint64_t) / elapsed.count());
    }
    return std::all_of(sums.begin(), sums.end(), [](uint64_t sum) { return sum == 0; }) ? best : 0;  // the sums must be used
}

}  // namespace

void bind_kernels(nb::module_& module) {
    module.def("passes_trial", [](const std::string& kernels) { return passes_trial(kernels); }, nb::arg("kernels"));
    module.def("linear", &linear, nb::arg("kernels"), nb::arg("weights"), nb::arg("weight"), nb::arg("x"));
    module.def("softmax", &softmax, nb::arg("kernels"), nb::arg("scores"), nb::arg("bias").none());
    module.def("rms_norm", &rms_norm, nb::arg("kernels"), nb::arg("x"), nb::arg("weight"), nb::arg("epsilon"));
    module.def("reading_rate", &reading_rate, nb::arg("size_bytes"), nb::arg("threads"));
    module.def("activate", &activate, nb::arg("kernels"), nb::arg("activation"), nb::arg("x"), nb::arg("gate").none());
    module.def("scale", &scale, nb::arg("kernels"), nb::arg("x"), nb::arg("factor"));
    module.def("bfloat16_dots", &bfloat16_dots, nb::arg("kernels"), nb::arg("row"), nb::arg("x"));
    module.def("attention_scores", &attention_scores, nb::arg("kernels"), nb::arg("q"), nb::arg("keys"));
    module.def("attention_mix", &attention_mix, nb::arg("kernels"), nb::arg("p"), nb::arg("values"), nb::arg("added").none());
    module.def("largest", &largest, nb::arg("kernels"), nb::arg("x"), nb::arg("edits").none(), nb::arg("factor"));
    module.def("sum_exp", &sum_exp, nb::arg("kernels"), nb::arg("x"), nb::arg("offset"));
    module.def("collect", &collect, nb::arg("kernels"), nb::arg("x"), nb::arg("edits").none(), nb::arg("factor"), nb::arg("threshold"), nb::arg("first_id"));
}

}  // namespace t5kit
