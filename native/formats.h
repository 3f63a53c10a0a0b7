// The words of the Python side for the core's choices.
#pragma once

#include <string>

#include "check.h"
#include "kernels.h"

namespace t5kit {

inline Format format_named(const std::string& name) {
    if (name == "float32") return Format::float32;
    if (name == "bfloat16") return Format::bfloat16;
    if (name == "int8") return Format::int8;
    if (name == "int4") return Format::int4;
    throw EngineFailure("weights = '" + name + "' must be one of: float32, bfloat16, int8, int4.");
}

inline Activation activation_named(const std::string& name) {
    if (name == "relu") return Activation::relu;
    if (name == "gelu_tanh") return Activation::gelu_tanh;
    if (name == "gelu") return Activation::gelu;
    if (name == "silu") return Activation::silu;
    throw EngineFailure("activation = '" + name + "' must be one of: relu, gelu_tanh, gelu, silu.");
}

}  // namespace t5kit
