#pragma once

#include <nanobind/nanobind.h>

namespace t5kit {

// Adds single kernels of any set to the module: what tests compare with NumPy.
void bind_kernels(nanobind::module_& module);

}  // namespace t5kit
