#pragma once

#include <nanobind/nanobind.h>

namespace t5kit {

// Adds the class Engine and the functions about kernels and threads to the module.
void bind_engine(nanobind::module_& module);

}  // namespace t5kit
