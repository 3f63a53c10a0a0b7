// The one check at the border of the core: what is not as expected becomes an EngineError in Python.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace t5kit {

// Becomes t5kit.errors.EngineError in Python (native/engine_bindings.cpp).
class EngineFailure : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// T5KIT_CHECK(got == wanted, "tensor " << name << " has " << got << " bytes, expected " << wanted);
#define T5KIT_CHECK(condition, message)                      \
    do {                                                     \
        if (!(condition)) {                                  \
            std::ostringstream t5kit_text;                   \
            t5kit_text << message;                           \
            throw ::t5kit::EngineFailure(t5kit_text.str());  \
        }                                                    \
    } while (false)

}  // namespace t5kit
