#include "kernels.h"

#include <algorithm>

#include "check.h"
#include "cpu_features.h"
#include "trial.h"

namespace t5kit {

extern const Kernels kernels_portable;
#if defined(__x86_64__)
extern const Kernels kernels_avx2;
extern const Kernels kernels_avx512;
extern const Kernels kernels_avx512_fine;
#if defined(T5KIT_HAS_AMX)
extern const Kernels kernels_amx;
#endif
extern const Kernels kernels_amx_emulated;
#elif defined(__aarch64__)
extern const Kernels kernels_neon;
#endif

namespace {

enum class Use {
    automatic,  // where no set was named
    on_trial,   // the same, if it gives what it must here: nobody has run it on hardware yet
    hidden,     // only by name, and not among those that are offered
};

struct Set {
    const Kernels* kernels;
    std::vector<std::string> needed;
    Use use = Use::automatic;
};

// Best first.
std::vector<Set> built_sets() {
#if defined(__x86_64__)
    const std::vector<std::string> avx512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "fma"};
    std::vector<Set> sets;
#if defined(T5KIT_HAS_AMX)
    sets.push_back({&kernels_amx, avx512, Use::on_trial});
    for (const char* feature : {"amx_tile", "amx_int8", "amx_bf16"}) sets.back().needed.emplace_back(feature);
#endif
    sets.push_back({&kernels_avx512, avx512});
    sets.push_back({&kernels_avx512_fine, avx512});
    sets.push_back({&kernels_avx2, {"avx2", "fma"}});
    sets.push_back({&kernels_portable, {}});
    sets.push_back({&kernels_amx_emulated, avx512, Use::hidden});
    return sets;
#elif defined(__aarch64__)
    return {{&kernels_neon, {"asimd", "asimddp"}}, {&kernels_portable, {}}};
#else
    return {{&kernels_portable, {}}};
#endif
}

std::string joined(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) text += (text.empty() ? "" : ", ") + name;
    return text;
}

bool has_needed(const Set& set, const std::vector<std::string>& features) {
    return std::all_of(set.needed.begin(), set.needed.end(), [&](const std::string& name) {
        return std::find(features.begin(), features.end(), name) != features.end();
    });
}

// Tried once a process: there is one set that must be.
bool passed_trial([[maybe_unused]] const Kernels& kernels) {
#if defined(__x86_64__)
    static const bool passed = passes_trial(kernels, kernels_avx512_fine);
    return passed;
#else
    return false;
#endif
}

bool runs_here(const Set& set, const std::vector<std::string>& features) {
    return has_needed(set, features) && (set.use != Use::on_trial || passed_trial(*set.kernels));
}

}  // namespace

std::vector<std::string> available_kernels() {
    const std::vector<std::string> features = cpu_features();
    std::vector<std::string> names;
    for (const Set& set : built_sets())
        if (set.use != Use::hidden && runs_here(set, features)) names.emplace_back(set.kernels->name);
    return names;
}

const Kernels& choose_kernels(const std::string& name) {
    const std::vector<std::string> features = cpu_features();
    for (const Set& set : built_sets()) {
        if (name.empty() ? set.use == Use::hidden : name != set.kernels->name) continue;
        if (runs_here(set, features)) return *set.kernels;
        T5KIT_CHECK(name.empty() || !has_needed(set, features),
                    "The kernel set '" << name << "' does not give here what it must, so it is not used: the processor has its instructions, "
                                       << "but a trial of them failed. Sets that run here: " << joined(available_kernels()) << ".");
        T5KIT_CHECK(name.empty(), "The kernel set '" << name << "' needs " << joined(set.needed) << "; this processor has only: "
                                                     << joined(features) << ". Sets that run here: " << joined(available_kernels()) << ".");
    }
    throw EngineFailure("There is no kernel set '" + name + "'. Sets that run here: " + joined(available_kernels()) + ".");
}

bool passes_trial(const std::string& name) {
    cpu_features();  // asks for the tile registers
    for ([[maybe_unused]] const Set& set : built_sets()) {
#if defined(__x86_64__)
        if (name == set.kernels->name) return passes_trial(*set.kernels, kernels_avx512_fine);
#endif
    }
    throw EngineFailure("There is no kernel set '" + name + "' that can be tried here.");
}

}  // namespace t5kit
