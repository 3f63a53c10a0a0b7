// t5kit._native as Python sees it. Signatures are repeated in src/t5kit/_native.pyi.
#include <nanobind/nanobind.h>

#include "cpu_features.h"
#include "engine_bindings.h"
#include "kernel_bindings.h"

namespace nb = nanobind;

NB_MODULE(_native, module) {
    module.doc() = "The C++ core of t5kit.";
    // What a signal handler or another library still holds when Python ends is no fault of ours to print about.
    nb::set_leak_warnings(false);
    module.def(
        "cpu_features",
        [] {
            nb::set names;
            for (const std::string& name : t5kit::cpu_features()) names.add(nb::str(name.c_str()));
            return nb::frozenset(names);
        },
        nb::sig("def cpu_features() -> frozenset[str]"),
        "Return the instruction sets this process may use, in the spelling of /proc/cpuinfo.\n\n"
        "On a processor with AMX the first call asks the operating system for the tile registers, for the whole process.");
    t5kit::bind_engine(module);
    t5kit::bind_kernels(module);
}
