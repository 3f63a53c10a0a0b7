#include "cpu_features.h"

#include <cstdint>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace t5kit {
namespace {

#if defined(__x86_64__)

enum Register { EAX, EBX, ECX, EDX };

// Registers that the operating system must save for a feature to be usable: bits of XCR0.
// Source: Intel SDM volume 1, section 13.1.
constexpr uint64_t kSaveAvx = 0x6;         // XMM and YMM
constexpr uint64_t kSaveAvx512 = 0xe6;     // and opmask, ZMM0-15 upper halves, ZMM16-31
constexpr uint64_t kSaveAmx = 0x60000;     // tile configuration and tile data

struct Feature {
    const char* name;
    unsigned leaf;
    unsigned subleaf;
    Register reg;
    int bit;
    uint64_t needs_saved;
};

// Source: Intel SDM volume 2, CPUID; names from Linux arch/x86/include/asm/cpufeatures.h.
constexpr Feature kFeatures[] = {
    {"avx", 1, 0, ECX, 28, kSaveAvx},
    {"fma", 1, 0, ECX, 12, kSaveAvx},
    {"f16c", 1, 0, ECX, 29, kSaveAvx},
    {"avx2", 7, 0, EBX, 5, kSaveAvx},
    {"avx_vnni", 7, 1, EAX, 4, kSaveAvx},
    {"avx512f", 7, 0, EBX, 16, kSaveAvx512},
    {"avx512dq", 7, 0, EBX, 17, kSaveAvx512},
    {"avx512bw", 7, 0, EBX, 30, kSaveAvx512},
    {"avx512vl", 7, 0, EBX, 31, kSaveAvx512},
    {"avx512_vnni", 7, 0, ECX, 11, kSaveAvx512},
    {"avx512_bf16", 7, 1, EAX, 5, kSaveAvx512},
    {"amx_bf16", 7, 0, EDX, 22, kSaveAmx},
    {"amx_tile", 7, 0, EDX, 24, kSaveAmx},
    {"amx_int8", 7, 0, EDX, 25, kSaveAmx},
};

// XCR0, or 0 where the operating system does not use XSAVE.
uint64_t saved_registers() {
    unsigned eax, ebx, ecx, edx;
    constexpr unsigned kOsxsave = 1u << 27;
    if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & kOsxsave)) return 0;
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t{high} << 32) | low;
}

// Linux grants tile data only to processes that ask (kernel documentation, arch/x86/xstate.rst).
bool may_use_amx() {
#if defined(__linux__)
    constexpr long kArchReqXcompPerm = 0x1023;
    constexpr long kXfeatureTileData = 18;
    return syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureTileData) == 0;
#else
    return false;
#endif
}

std::vector<std::string> detect() {
    const uint64_t saved = saved_registers();
    std::vector<std::string> names;
    for (const Feature& feature : kFeatures) {
        unsigned regs[4] = {0, 0, 0, 0};
        // Fails, leaving zeros, where the processor has no such leaf; a missing subleaf reads as zeros.
        __get_cpuid_count(feature.leaf, feature.subleaf, &regs[EAX], &regs[EBX], &regs[ECX], &regs[EDX]);
        const bool present = (regs[feature.reg] >> feature.bit) & 1u;
        const bool kept = (saved & feature.needs_saved) == feature.needs_saved;
        if (!present || !kept) continue;
        if (feature.needs_saved == kSaveAmx && !may_use_amx()) continue;
        names.emplace_back(feature.name);
    }
    return names;
}

#elif defined(__aarch64__) && defined(__linux__)

// Bits of AT_HWCAP and AT_HWCAP2 (Linux arch/arm64/include/uapi/asm/hwcap.h).
std::vector<std::string> detect() {
    struct Feature {
        const char* name;
        unsigned long type;
        int bit;
    };
    constexpr Feature kFeatures[] = {
        {"asimd", AT_HWCAP, 1},  {"asimdhp", AT_HWCAP, 10}, {"asimddp", AT_HWCAP, 20},
        {"sve", AT_HWCAP, 22},   {"i8mm", AT_HWCAP2, 13},   {"bf16", AT_HWCAP2, 14},
    };
    std::vector<std::string> names;
    for (const Feature& feature : kFeatures) {
        if ((getauxval(feature.type) >> feature.bit) & 1ul) names.emplace_back(feature.name);
    }
    return names;
}

#elif defined(__aarch64__)

// Every 64-bit ARM processor has it; what else a system without AT_HWCAP has is not asked yet.
std::vector<std::string> detect() { return {"asimd"}; }

#else

std::vector<std::string> detect() { return {}; }

#endif

}  // namespace

std::vector<std::string> cpu_features() { return detect(); }

}  // namespace t5kit
