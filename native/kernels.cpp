#include "kernels.h"

#include <algorithm>
#include <map>
#include <mutex>

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

struct Set {
    const Kernels* kernels;
    std::vector<std::string> needed;
    const Kernels* held_to = nullptr;  // it runs only where a trial finds it as right as this one
    bool is_hidden = false;            // taken by name alone, and not among those that are offered
};

// Best first.
std::vector<Set> built_sets() {
#if defined(__x86_64__)
    const std::vector<std::string> avx512 = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "fma"};
    std::vector<Set> sets;
#if defined(T5KIT_HAS_AMX)
    // Nobody has run it on hardware yet.
    sets.push_back({&kernels_amx, avx512, &kernels_avx512_fine});
    for (const char* feature : {"amx_tile", "amx_int8", "amx_bf16"}) sets.back().needed.emplace_back(feature);
#endif
    sets.push_back({&kernels_avx512, avx512});
    sets.push_back({&kernels_avx512_fine, avx512});
    sets.push_back({&kernels_avx2, {"avx2", "fma"}});
    sets.push_back({&kernels_portable, {}});
    sets.push_back({&kernels_amx_emulated, avx512, nullptr, true});
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

// Once a process for each set.
Verdict verdict_of(const Set& set) {
    static std::mutex mutex;
    static std::map<const Kernels*, Verdict> verdicts;
    const std::lock_guard<std::mutex> lock(mutex);
    const auto found = verdicts.find(set.kernels);
    if (found != verdicts.end()) return found->second;
    return verdicts[set.kernels] = tried(*set.kernels, *set.held_to);
}

bool runs_here(const Set& set, const std::vector<std::string>& features) {
    return has_needed(set, features) && (!set.held_to || verdict_of(set) == Verdict::right);
}

}  // namespace

std::vector<std::string> available_kernels() {
    const std::vector<std::string> features = cpu_features();
    std::vector<std::string> names;
    for (const Set& set : built_sets())
        if (!set.is_hidden && runs_here(set, features)) names.emplace_back(set.kernels->name);
    return names;
}

const Kernels& choose_kernels(const std::string& name) {
    const std::vector<std::string> features = cpu_features();
    for (const Set& set : built_sets()) {
        if (name.empty() ? set.is_hidden : name != set.kernels->name) continue;
        if (runs_here(set, features)) return *set.kernels;
        T5KIT_CHECK(name.empty() || !has_needed(set, features),
                    "The kernel set '" << name << "' is not used: the processor has its instructions, but "
                                       << (verdict_of(set) == Verdict::wrong ? "a trial of them did not give what it must"
                                                                             : "the system gave no process to try them in")
                                       << ". Sets that run here: " << joined(available_kernels()) << ".");
        T5KIT_CHECK(name.empty(), "The kernel set '" << name << "' needs " << joined(set.needed) << "; this processor has only: "
                                                     << joined(features) << ". Sets that run here: " << joined(available_kernels()) << ".");
    }
    throw EngineFailure("There is no kernel set '" + name + "'. Sets that run here: " + joined(available_kernels()) + ".");
}

bool passes_trial(const std::string& name) {
    cpu_features();  // asks for the tile registers
    const std::vector<Set> sets = built_sets();
    const auto named = std::find_if(sets.begin(), sets.end(), [&](const Set& set) { return name == set.kernels->name; });
    const auto held_to = std::find_if(sets.begin(), sets.end(), [](const Set& set) { return set.held_to; });
    T5KIT_CHECK(named != sets.end() && held_to != sets.end(), "There is no kernel set '" << name << "' that can be tried here.");
    return tried(*named->kernels, *held_to->held_to) == Verdict::right;
}

}  // namespace t5kit
