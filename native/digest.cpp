#include "digest.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "memory.h"

namespace t5kit {
namespace {

constexpr uint64_t kPrime1 = 0x9E3779B185EBCA87ULL;
constexpr uint64_t kPrime2 = 0xC2B2AE3D27D4EB4FULL;
constexpr uint64_t kPrime3 = 0x165667B19E3779F9ULL;
constexpr uint64_t kPrime4 = 0x85EBCA77C2B2AE63ULL;
constexpr uint64_t kPrime5 = 0x27D4EB2F165667C5ULL;
constexpr size_t kPieceBytes = size_t{1} << 20;

// Little-endian machines only, as all of the core.
template <class T>
T read(const uint8_t* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}

uint64_t rotate(uint64_t x, int bits) { return x << bits | x >> (64 - bits); }
uint64_t stir(uint64_t lane, uint64_t input) { return rotate(lane + input * kPrime2, 31) * kPrime1; }
uint64_t join(uint64_t hash, uint64_t lane) { return (hash ^ stir(0, lane)) * kPrime1 + kPrime4; }

}  // namespace

uint64_t xxh64(const uint8_t* data, size_t size, uint64_t seed) {
    const uint8_t* at = data;
    const uint8_t* const end = data + size;
    uint64_t hash = seed + kPrime5;
    if (size >= 32) {
        uint64_t lanes[4] = {seed + kPrime1 + kPrime2, seed + kPrime2, seed, seed - kPrime1};
        for (; end - at >= 32; at += 32)
            for (int i = 0; i < 4; ++i) lanes[i] = stir(lanes[i], read<uint64_t>(at + 8 * i));
        hash = rotate(lanes[0], 1) + rotate(lanes[1], 7) + rotate(lanes[2], 12) + rotate(lanes[3], 18);
        for (uint64_t lane : lanes) hash = join(hash, lane);
    }
    hash += size;
    for (; end - at >= 8; at += 8) hash = rotate(hash ^ stir(0, read<uint64_t>(at)), 27) * kPrime1 + kPrime4;
    if (end - at >= 4) {
        hash = rotate(hash ^ read<uint32_t>(at) * kPrime1, 23) * kPrime2 + kPrime3;
        at += 4;
    }
    for (; at < end; ++at) hash = rotate(hash ^ *at * kPrime5, 11) * kPrime1;
    hash = (hash ^ hash >> 33) * kPrime2;
    hash = (hash ^ hash >> 29) * kPrime3;
    return hash ^ hash >> 32;
}

uint64_t digest(const uint8_t* data, size_t size, bool is_file, ThreadPool& pool) {
    std::vector<uint64_t> pieces((size + kPieceBytes - 1) / kPieceBytes);
    pool.run([&](int) {
        pool.for_each(static_cast<int>(pieces.size()), 1, [&](int piece) {
            const size_t first = static_cast<size_t>(piece) * kPieceBytes;
            const size_t count = std::min(kPieceBytes, size - first);
            pieces[piece] = xxh64(data + first, count, 0);
            if (is_file) forget_pages(data + first, count);
        });
    });
    return xxh64(reinterpret_cast<const uint8_t*>(pieces.data()), pieces.size() * sizeof(uint64_t), size);
}

}  // namespace t5kit
