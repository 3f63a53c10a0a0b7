// Aligned memory: what grows with the work (Buffer) and what is filled once at load (Arena).
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <new>
#include <utility>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace t5kit {

// An array of T, 64-byte aligned, born zero. grow() never shrinks and does not keep the contents.
template <class T>
class Buffer {
public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    Buffer(Buffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
    Buffer& operator=(Buffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(size_, other.size_);
        return *this;
    }
    ~Buffer() { std::free(data_); }

    void grow(size_t size) {
        if (size <= size_) return;
        std::free(data_);
        data_ = nullptr;
        size_ = 0;
        const size_t bytes = (size * sizeof(T) + 63) / 64 * 64;
        if (bytes / sizeof(T) < size || !(data_ = static_cast<T*>(std::aligned_alloc(64, bytes)))) throw std::bad_alloc();
        std::memset(static_cast<void*>(data_), 0, bytes);
        size_ = size;
    }

    T* data() { return data_; }
    const T* data() const { return data_; }
    size_t size() const { return size_; }
    T& operator[](size_t i) { return data_[i]; }
    const T& operator[](size_t i) const { return data_[i]; }

private:
    T* data_ = nullptr;
    size_t size_ = 0;
};

// Memory for weights: never freed singly, zero until written, in huge pages where the system has them to give.
class Arena {
public:
    Arena() = default;
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    ~Arena() {
        for (void* chunk : chunks_) std::free(chunk);
    }

    template <class T>
    T* take(size_t count) {
        const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
        if (bytes / sizeof(T) < count) throw std::bad_alloc();
        if (bytes > left_) add_chunk(bytes);
        T* taken = reinterpret_cast<T*>(next_);
        next_ += bytes;
        left_ -= bytes;
        size_bytes_ += bytes;
        return taken;
    }

    size_t size_bytes() const { return size_bytes_; }

private:
    void add_chunk(size_t bytes) {
        constexpr size_t kHugePage = size_t{2} << 20;
        constexpr size_t kChunk = size_t{16} << 20;
        const size_t size = ((bytes > kChunk ? bytes : kChunk) + kHugePage - 1) / kHugePage * kHugePage;
        void* chunk = std::aligned_alloc(kHugePage, size);
        if (!chunk) throw std::bad_alloc();
        chunks_.push_back(chunk);
#if defined(__linux__)
        madvise(chunk, size, MADV_HUGEPAGE);  // a wish: without huge pages all works, slower by the misses
#endif
        std::memset(chunk, 0, size);
        next_ = static_cast<char*>(chunk);
        left_ = size;
    }

    std::vector<void*> chunks_;
    char* next_ = nullptr;
    size_t left_ = 0;
    size_t size_bytes_ = 0;
};

}  // namespace t5kit
