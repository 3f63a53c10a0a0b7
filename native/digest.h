// A checksum of packed weights that costs no more than reading them.
#pragma once

#include <cstddef>
#include <cstdint>

#include "thread_pool.h"

namespace t5kit {

// XXH64 of `size` bytes. Source: the xxHash specification, "XXH64 algorithm description".
uint64_t xxh64(const uint8_t* data, size_t size, uint64_t seed);

// XXH64 over the XXH64 of every mebibyte, which all threads of the pool compute together; seeded with the size. is_file: the
// bytes are a mapped file's; their pages are let go, since much of a model's weights (rows of words) is seldom read.
uint64_t digest(const uint8_t* data, size_t size, bool is_file, ThreadPool& pool);

}  // namespace t5kit
