// Aligned memory: what grows with the work (Buffer) and what is filled once at load, or never (Arena).
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <utility>

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

// Lets go of the pages that hold these bytes of a read-only file mapping: they stay in the system's file cache, count no more
// as this process's memory, and whoever reads them has them again.
inline void forget_pages(const void* data, size_t size_bytes) {
#if defined(__linux__)
    const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)), begin = reinterpret_cast<uintptr_t>(data);
    const uintptr_t first_page = begin / page * page;
    madvise(reinterpret_cast<void*>(first_page), (begin + size_bytes + page - 1) / page * page - first_page, MADV_DONTNEED);
#else
    (void)data, (void)size_bytes;
#endif
}

// Memory for weights: one block of exactly the size they take. A loader walks through the model twice, taking the same
// arrays in the same order: first to measure (take() gives null), then to fill the block, or to find everything in a block
// that was filled before, such as a mapped file.
class Arena {
public:
    Arena() = default;
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    ~Arena() {
        if (mapped_) munmap(mapped_, mapped_bytes_);
    }

    // 64-byte aligned; zero where it is to be filled. Null while measuring.
    template <class T>
    T* take(size_t count) {
        const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
        if (bytes / sizeof(T) < count || used_ + bytes < used_) throw std::bad_alloc();
        if (base_ && bytes > size_bytes_ - used_) throw std::logic_error("The second walk took more than the first.");
        T* taken = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
        used_ += bytes;
        return taken;
    }

    // Ends the measuring: what is taken from now on lies in new memory and wants filling.
    void allocate() {
        constexpr size_t kHugePage = size_t{2} << 20;
        start_over();
        mapped_bytes_ = (size_bytes_ + 2 * kHugePage - 1) / kHugePage * kHugePage;
        void* mapped = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED) throw std::bad_alloc();
        mapped_ = mapped;
        base_ = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(mapped) + kHugePage - 1) / kHugePage * kHugePage);
#if defined(__linux__)
        madvise(base_, size_bytes_, MADV_HUGEPAGE);  // a wish: without huge pages all works, slower by the misses
#endif
        is_filling_ = true;
    }

    // Ends the measuring: everything stands already in `filled`, size_bytes() of the caller's, which nobody writes to.
    void adopt(const uint8_t* filled) {
        start_over();
        base_ = const_cast<uint8_t*>(filled);
    }

    bool is_filling() const { return is_filling_; }
    const uint8_t* data() const { return base_; }
    // While measuring: so far.
    size_t size_bytes() const { return base_ ? size_bytes_ : used_; }

private:
    void start_over() {
        size_bytes_ = used_;
        used_ = 0;
    }

    uint8_t* base_ = nullptr;
    void* mapped_ = nullptr;
    size_t size_bytes_ = 0, used_ = 0, mapped_bytes_ = 0;
    bool is_filling_ = false;
};

}  // namespace t5kit
