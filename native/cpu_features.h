// Which instruction sets this process may use.
#pragma once

#include <string>
#include <vector>

namespace t5kit {

// Names in the spelling of Linux's /proc/cpuinfo: "avx2", "avx512_vnni", "amx_int8"; on ARM "asimd", "asimddp", "i8mm".
// A name is there only if the processor has the instructions and the operating system keeps their registers across a
// task switch. For AMX that takes a permission, which this call asks for: it holds for the whole process and costs
// nothing until tiles are used. Empty on a processor family that no kernel of t5kit knows.
std::vector<std::string> cpu_features();

}  // namespace t5kit
