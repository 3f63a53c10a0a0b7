// The engine as Python sees it. Signatures are repeated in src/t5kit/_native.pyi.
#include "engine_bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <numeric>
#include <optional>

#include "check.h"
#include "digest.h"
#include "engine.h"
#include "formats.h"

namespace nb = nanobind;

namespace t5kit {
namespace {

using IdArray = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatArray = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ByteArray = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T>
nb::ndarray<nb::numpy, T> to_numpy(std::vector<T>&& values, std::initializer_list<size_t> shape) {
    auto* owned = new std::vector<T>(std::move(values));
    nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return nb::ndarray<nb::numpy, T>(owned->data(), shape, owner);
}

std::vector<int> to_ints(const IdArray& array) { return {array.data(), array.data() + array.size()}; }
Ids to_ids(const IdArray& array) { return {array.data(), static_cast<int>(array.size())}; }

// Sizes above this are no T5's, and their products could overflow.
constexpr int kLargestSize = 1 << 24;

ModelConfig config_from(const nb::dict& values) {
    const auto size = [&](const char* name, int least) {
        const int value = nb::cast<int>(values[name]);
        T5KIT_CHECK(value >= least && value <= kLargestSize, name << " = " << value << " must be in [" << least << ", " << kLargestSize << "].");
        return value;
    };
    ModelConfig config;
    config.vocab_size = size("vocab_size", 1);
    config.d_model = size("d_model", 1);
    config.d_kv = size("d_kv", 1);
    config.d_ff = size("d_ff", 1);
    config.num_heads = size("num_heads", 1);
    config.num_encoder_layers = size("num_encoder_layers", 1);
    config.num_decoder_layers = size("num_decoder_layers", 0);
    config.num_buckets = size("relative_attention_num_buckets", 4);
    config.max_distance = size("relative_attention_max_distance", 1);
    T5KIT_CHECK(config.max_distance > config.num_buckets / 2, "relative_attention_max_distance = " << config.max_distance
                << " must be above half of relative_attention_num_buckets = " << config.num_buckets << ".");
    config.decoder_start_id = size("decoder_start_id", 0);
    T5KIT_CHECK(static_cast<int64_t>(config.d_kv) * config.num_heads <= kLargestSize, "d_kv * num_heads is above " << kLargestSize << ".");
    T5KIT_CHECK(config.decoder_start_id < config.vocab_size, "decoder_start_id is outside the vocabulary.");
    config.uses_gated_mlp = nb::cast<bool>(values["uses_gated_mlp"]);
    config.is_tied = nb::cast<bool>(values["is_tied"]);
    config.scales_logits = nb::cast<bool>(values["scales_logits"]);
    config.has_bias_per_layer = nb::cast<bool>(values["has_bias_per_layer"]);
    config.activation = activation_named(nb::cast<std::string>(values["activation"]));
    config.layer_norm_epsilon = nb::cast<float>(values["layer_norm_epsilon"]);
    return config;
}

// (name, dtype word, shape, bytes, whether the bytes are a mapped file's)
using TensorTuple = std::tuple<std::string, std::string, std::vector<int64_t>, ByteArray, bool>;
using PackedTuple = std::tuple<ByteArray, uint64_t, bool>;  // bytes, digest, whether the bytes are a mapped file's

// Keeps a Python buffer until the engine is gone, whichever thread that is in.
std::shared_ptr<const void> keep(const ByteArray& array) {
    return {new ByteArray(array), [](const ByteArray* kept) {
                nb::gil_scoped_acquire locked;
                delete kept;
            }};
}

void make_engine(Engine* self, const nb::dict& config_values, const std::vector<TensorTuple>& tensors, const std::string& weights,
                 int threads, const std::string& kernels, const std::optional<PackedTuple>& packed) {
    T5KIT_CHECK(threads >= 0 && threads <= 1024, "threads = " << threads << " must be in [1, 1024], or 0 for all there are.");
    const ModelConfig config = config_from(config_values);
    const Format format = format_named(weights);
    const Kernels& chosen = choose_kernels(kernels);
    TensorMap map;
    for (const auto& [name, dtype, shape, data, is_file] : tensors)
        map.add({name, dtype_named(dtype, name), shape, data.data(), data.size(), is_file});
    map.join_scales();
    PackedBytes bytes;
    if (packed) {
        const ByteArray& array = std::get<0>(*packed);
        bytes = {array.data(), array.size(), std::get<1>(*packed), std::get<2>(*packed), keep(array)};
    }
    nb::gil_scoped_release unlocked;
    new (self) Engine(config, map, format, threads ? threads : default_threads(), chosen, bytes);
}

void check_flat(const IdArray& ids, const std::vector<int>& lengths) {
    int64_t total = 0;
    for (int length : lengths) {
        T5KIT_CHECK(length >= 1, "A sequence has " << length << " tokens, expected at least 1.");
        total += length;
    }
    T5KIT_CHECK(total == static_cast<int64_t>(ids.size()), "The lengths sum to " << total << ", but " << ids.size() << " ids were given.");
}

// (name of the linear map, A [r, in], B [out, r])
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using LowRankTuple = std::tuple<std::string, Matrix, Matrix>;

int add_adapter(Engine& self, const std::vector<LowRankTuple>& maps) {
    const Engine::Call call(self);
    std::vector<LowRankSource> sources;
    for (const auto& [name, a, b] : maps) {
        T5KIT_CHECK(a.shape(0) == b.shape(1), "The adapter of '" << name << "' has A of rank " << a.shape(0) << " and B of rank " << b.shape(1) << ".");
        T5KIT_CHECK(std::max({a.shape(0), a.shape(1), b.shape(0)}) <= static_cast<size_t>(kLargestSize), "The adapter of '" << name << "' is too large.");
        sources.push_back({name, static_cast<int>(a.shape(0)), static_cast<int>(a.shape(1)), static_cast<int>(b.shape(0)), a.data(), b.data()});
    }
    return self.add_adapter(sources);
}

std::vector<int> encode(Engine& self, const IdArray& ids, const IdArray& lengths, const std::vector<int>& adapters) {
    const std::vector<int> counts = to_ints(lengths);
    check_flat(ids, counts);
    const Engine::Call call(self);
    nb::gil_scoped_release unlocked;
    return self.encode(ids.data(), counts, adapters);
}

auto encoder_states(Engine& self, const IdArray& ids, const IdArray& lengths, const std::vector<int>& adapters) {
    const std::vector<int> counts = to_ints(lengths);
    check_flat(ids, counts);
    const size_t width = self.config().d_model, rows = ids.size();
    const Engine::Call call(self);
    std::vector<float> states(rows * width);
    {
        nb::gil_scoped_release unlocked;
        self.encoder_states(ids.data(), counts, adapters, states.data());
    }
    return to_numpy(std::move(states), {rows, width});
}

// (row, penalty_ids, penalty, penalises_log_probs, delta_ids, deltas, suppressed_ids, allowed_ids, forced_id)
using EditTuple = std::tuple<int, IdArray, float, bool, IdArray, FloatArray, IdArray, std::optional<IdArray>, int>;

RowEdits edits_from(const EditTuple& tuple) {
    const auto& [row, penalty_ids, penalty, penalises_log_probs, delta_ids, deltas, suppressed_ids, allowed_ids, forced_id] = tuple;
    T5KIT_CHECK(delta_ids.size() == deltas.size(), "Logit edits of row " << row << " have " << delta_ids.size() << " ids and " << deltas.size() << " deltas.");
    RowEdits edits;
    edits.penalty_ids = to_ids(penalty_ids);
    edits.delta_ids = to_ids(delta_ids);
    edits.deltas = deltas.data();
    edits.suppressed_ids = to_ids(suppressed_ids);
    edits.has_allowed = allowed_ids.has_value();
    if (allowed_ids) edits.allowed_ids = to_ids(*allowed_ids);
    edits.penalty = penalty;
    edits.penalises_log_probs = penalises_log_probs;
    edits.forced_id = forced_id;
    return edits;
}

nb::tuple step(Engine& self, const IdArray& slots, const IdArray& tokens, const IdArray& lengths, int top_k, bool logits,
               bool all_positions, bool cross_attention, bool hidden, const std::vector<EditTuple>& edits) {
    StepRequest request;
    request.slots = to_ints(slots);
    request.lengths = to_ints(lengths);
    check_flat(tokens, request.lengths);
    request.tokens = tokens.data();
    request.top_k = top_k;
    request.wants_logits = logits;
    request.wants_all_positions = all_positions;
    request.wants_cross_attention = cross_attention;
    request.wants_hidden = hidden;
    const int num_rows = static_cast<int>(all_positions ? tokens.size() : slots.size());
    std::vector<RowEdits> row_edits;
    row_edits.reserve(edits.size());
    if (!edits.empty()) request.edits.resize(num_rows);
    for (const EditTuple& tuple : edits) {
        const int row = std::get<0>(tuple);
        T5KIT_CHECK(row >= 0 && row < num_rows, "Logit edits name row " << row << " of a step with " << num_rows << " output rows.");
        row_edits.push_back(edits_from(tuple));
        request.edits[row] = &row_edits.back();
    }
    const Engine::Call call(self);
    StepResult result;
    {
        nb::gil_scoped_release unlocked;
        result = self.step(request);
    }
    const size_t rows = result.num_rows, k = top_k;
    nb::object dense = nb::none(), states = nb::none(), attention = nb::none();
    if (logits) dense = nb::cast(to_numpy(std::move(result.logits), {rows, static_cast<size_t>(self.config().vocab_size)}));
    if (hidden) states = nb::cast(to_numpy(std::move(result.hidden), {rows, static_cast<size_t>(self.config().d_model)}));
    if (cross_attention) {
        nb::list each;
        for (size_t i = 0; i < result.cross_attention.size(); ++i) {
            each.append(to_numpy(std::move(result.cross_attention[i]),
                                 {static_cast<size_t>(self.config().num_decoder_layers), static_cast<size_t>(self.config().num_heads),
                                  static_cast<size_t>(request.lengths[i]), static_cast<size_t>(result.prompt_lengths[i])}));
        }
        attention = nb::tuple(each);
    }
    return nb::make_tuple(to_numpy(std::move(result.top_ids), {rows, k}), to_numpy(std::move(result.top_logits), {rows, k}),
                          to_numpy(std::move(result.log_sum_exp), {rows}), dense, attention, states);
}

auto score(Engine& self, const std::vector<int>& handles, const IdArray& targets, const IdArray& lengths) {
    const std::vector<int> counts = to_ints(lengths);
    check_flat(targets, counts);
    std::vector<float> scores(targets.size());
    const Engine::Call call(self);
    {
        nb::gil_scoped_release unlocked;
        self.score(handles, targets.data(), counts, scores.data());
    }
    return to_numpy(std::move(scores), {targets.size()});
}

auto names_array(std::vector<int> names) {
    const size_t count = names.size();
    return to_numpy<int>(std::move(names), {count});
}

auto slot_lengths(Engine& self, const IdArray& slots) {
    const Engine::Call call(self);
    std::vector<int> lengths;
    for (int slot : to_ints(slots)) lengths.push_back(self.sequences().slot(slot).length);
    return names_array(std::move(lengths));
}

void translate(const std::exception_ptr& pointer, void*) {
    try {
        std::rethrow_exception(pointer);
    } catch (const EngineFailure& failure) {
        PyErr_SetString(nb::module_::import_("t5kit.errors").attr("EngineError").ptr(), failure.what());
    }
}

}  // namespace

void bind_engine(nb::module_& module) {
    nb::register_exception_translator(translate);
    module.def("available_kernels", &available_kernels, nb::sig("def available_kernels() -> list[str]"),
               "Return the names of the kernel sets that run on this processor, the one that is chosen by itself first.");
    module.def("default_threads", &default_threads, nb::sig("def default_threads() -> int"),
               "Return how many processors this process may use: its affinity, cut to the cgroup's quota.");
    module.def("cgroup_threads", &cgroup_threads, nb::arg("groups"), nb::arg("root"));
    module.def("xxh64", [](const ByteArray& data, uint64_t seed) { return xxh64(data.data(), data.size(), seed); }, nb::arg("data"), nb::arg("seed"));
    nb::class_<Engine>(module, "Engine")
        .def("__init__", &make_engine, nb::arg("config"), nb::arg("tensors"), nb::arg("weights"), nb::arg("threads"), nb::arg("kernels"),
             nb::arg("packed").none())
        .def_prop_ro("kernels", [](const Engine& self) { return std::string(self.kernels().name); })
        .def_prop_ro("threads", &Engine::num_threads)
        .def_prop_ro("weight_bytes", &Engine::weight_bytes)
        .def_prop_ro("cache_bytes", [](Engine& self) {
            const Engine::Call call(self);
            return self.sequences().held_bytes();
        })
        .def_prop_ro("spare_cache_bytes", [](Engine& self) {
            const Engine::Call call(self);
            return self.sequences().spare_bytes();
        })
        .def("packed", [](Engine& self) { return nb::ndarray<nb::numpy, const uint8_t>(self.packed(), {self.weight_bytes()}); },
             nb::rv_policy::reference_internal)
        .def("packed_digest", [](Engine& self) {
            const Engine::Call call(self);
            nb::gil_scoped_release unlocked;
            return self.packed_digest();
        })
        .def("add_adapter", &add_adapter, nb::arg("maps"))
        .def("remove_adapter", [](Engine& self, int name) {
            const Engine::Call call(self);
            self.remove_adapter(name);
        }, nb::arg("name"))
        .def("encode", &encode, nb::arg("ids"), nb::arg("lengths"), nb::arg("adapters"))
        .def("encoder_states", &encoder_states, nb::arg("ids"), nb::arg("lengths"), nb::arg("adapters"))
        .def("retain", [](Engine& self, const std::vector<int>& handles) {
            const Engine::Call call(self);
            self.sequences().retain(handles);
        }, nb::arg("handles"))
        .def("release", [](Engine& self, const std::vector<int>& handles) {
            const Engine::Call call(self);
            self.sequences().release(handles);
        }, nb::arg("handles"))
        .def("open_slots", [](Engine& self, const std::vector<int>& handles) {
            const Engine::Call call(self);
            return names_array(self.sequences().open_slots(handles));
        }, nb::arg("handles"))
        .def("close_slots", [](Engine& self, const IdArray& slots) {
            const Engine::Call call(self);
            self.sequences().close_slots(to_ints(slots));
        }, nb::arg("slots"))
        .def("fork_slots", [](Engine& self, const IdArray& slots) {
            const Engine::Call call(self);
            return names_array(self.sequences().fork_slots(to_ints(slots)));
        }, nb::arg("slots"))
        .def("reorder_slots", [](Engine& self, const IdArray& slots, const IdArray& parents) {
            const Engine::Call call(self);
            self.sequences().reorder_slots(to_ints(slots), to_ints(parents));
        }, nb::arg("slots"), nb::arg("parents"))
        .def("rollback_slots", [](Engine& self, const IdArray& slots, const IdArray& lengths) {
            const Engine::Call call(self);
            self.sequences().rollback_slots(to_ints(slots), to_ints(lengths));
        }, nb::arg("slots"), nb::arg("lengths"))
        .def("slot_lengths", &slot_lengths, nb::arg("slots"))
        .def("step", &step, nb::arg("slots"), nb::arg("tokens"), nb::arg("lengths"), nb::arg("top_k"), nb::arg("logits"),
             nb::arg("all_positions"), nb::arg("cross_attention"), nb::arg("hidden"), nb::arg("edits"))
        .def("score", &score, nb::arg("handles"), nb::arg("targets"), nb::arg("lengths"));
}

}  // namespace t5kit
