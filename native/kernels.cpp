#include "kernels.h"

#include <algorithm>

#include "check.h"
#include "cpu_features.h"

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
    opt_in,     // only by name
    hidden,     // only by name, and not among those that are offered
};

struct Set {
    const Kernels* kernels;
    std::vector<std::string> needed;
    Use use = Use::automatic;
};

// Best first, but for those that must be asked for.
std::vector<Set> built_sets() {
#if defined(__x86_64__)
    const std::vector<std::string> avx512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "fma"};
    std::vector<Set> sets = {
        {&kernels_avx512, avx512},
        {&kernels_avx512_fine, avx512},
        {&kernels_avx2, {"avx2", "fma"}},
        {&kernels_portable, {}},
        {&kernels_amx_emulated, avx512, Use::hidden},
    };
#if defined(T5KIT_HAS_AMX)
    // Nobody has run it on hardware yet: docs/reference/native.md says how to.
    sets.push_back({&kernels_amx, avx512, Use::opt_in});
    for (const char* feature : {"amx_tile", "amx_int8", "amx_bf16"}) sets.back().needed.emplace_back(feature);
#endif
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

bool runs_here(const Set& set, const std::vector<std::string>& features) {
    return std::all_of(set.needed.begin(), set.needed.end(), [&](const std::string& name) {
        return std::find(features.begin(), features.end(), name) != features.end();
    });
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
        if (name.empty() ? set.use != Use::automatic : name != set.kernels->name) continue;
        if (runs_here(set, features)) return *set.kernels;
        T5KIT_CHECK(name.empty(), "The kernel set '" << name << "' needs " << joined(set.needed) << "; this processor has only: "
                                                     << joined(features) << ". Sets that run here: " << joined(available_kernels()) << ".");
    }
    throw EngineFailure("There is no kernel set '" + name + "'. Sets that run here: " + joined(available_kernels()) + ".");
}

}  // namespace t5kit
