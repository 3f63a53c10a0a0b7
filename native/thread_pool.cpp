#include "thread_pool.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "check.h"

namespace t5kit {
namespace {

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Threads that the cgroup's quota allows, rounded up; 0 where there is none (cgroup v2, then v1).
int cgroup_threads() {
    long quota = -1, period = 0;
    if (FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r")) {
        if (std::fscanf(file, "%ld %ld", &quota, &period) != 2) quota = -1;  // "max 100000" has no number in front
        std::fclose(file);
    } else {
        FILE* quota_file = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "r");
        FILE* period_file = std::fopen("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "r");
        if (quota_file && period_file &&
            (std::fscanf(quota_file, "%ld", &quota) != 1 || std::fscanf(period_file, "%ld", &period) != 1)) {
            quota = -1;
        }
        if (quota_file) std::fclose(quota_file);
        if (period_file) std::fclose(period_file);
    }
    return quota > 0 && period > 0 ? static_cast<int>((quota + period - 1) / period) : 0;
}

// Speed: the next step of a search comes within some 50 to 100 us; a thread that sleeps would wake too late for it.
constexpr std::chrono::microseconds kSpin{200};
// After so many looks at a barrier (some 7 us) the processor is offered to others: more threads may run here than there are
// cores, and the one waited for may be among those that do not. Speed: where six programs shared two cores, 16 texts one by
// one on two threads took 2.2 s with 4000 looks and 1.0 s with 400.
constexpr int kLooksBeforeYield = 400;

}  // namespace

int default_threads() {
    int count = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) count = CPU_COUNT(&allowed);
#endif
    const int quota = cgroup_threads();
    if (quota > 0) count = std::min(count, quota);
    return std::max(count, 1);
}

ThreadPool::ThreadPool(int threads) : size_(threads), owner_process_(getpid()) {
    for (int number = 1; number < size_; ++number) threads_.emplace_back([this, number] { serve(number); });
}

ThreadPool::~ThreadPool() {
    if (owner_process_ != getpid()) {  // forked: the threads are not ours to join, and joining would wait for ever
        for (std::thread& thread : threads_) thread.detach();
        return;
    }
    {
        std::lock_guard<std::mutex> lock(mutex_);
        stops_ = true;
        epoch_.fetch_add(1);
    }
    wake_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(const std::function<void(int)>& work) {
    T5KIT_CHECK(owner_process_ == getpid(),
                "This model was loaded before the process was forked, and its threads stayed behind. Load it again in the new process.");
    if (size_ == 1) {
        next_item_.store(0, std::memory_order_relaxed);
        work(0);
        return;
    }
    work_ = &work;
    // The order of these two (and of their twins in serve) makes sure that a thread going to sleep is seen, or sees the work.
    epoch_.fetch_add(1);
    if (num_asleep_.load() > 0) {
        std::lock_guard<std::mutex> lock(mutex_);
        wake_.notify_all();
    }
    work(0);
    barrier();
}

void ThreadPool::barrier() {
    const unsigned phase = phase_.load(std::memory_order_relaxed);
    if (num_arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == size_) {
        num_arrived_.store(0, std::memory_order_relaxed);
        next_item_.store(0, std::memory_order_relaxed);
        phase_.store(phase + 1, std::memory_order_release);
        return;
    }
    int looks = 0;
    while (phase_.load(std::memory_order_acquire) == phase) {
        if (++looks < kLooksBeforeYield) {
            relax();
        } else {
            sched_yield();
        }
    }
}

void ThreadPool::serve(int number) {
    unsigned seen = 0;
    for (;;) {
        const auto deadline = std::chrono::steady_clock::now() + kSpin;
        while (epoch_.load(std::memory_order_acquire) == seen) {
            for (int i = 0; i < 64 && epoch_.load(std::memory_order_relaxed) == seen; ++i) relax();
            if (std::chrono::steady_clock::now() < deadline) continue;
            std::unique_lock<std::mutex> lock(mutex_);
            num_asleep_.fetch_add(1);
            wake_.wait(lock, [&] { return epoch_.load() != seen; });
            num_asleep_.fetch_sub(1);
        }
        seen = epoch_.load(std::memory_order_acquire);
        if (stops_) return;
        (*work_)(number);
        barrier();
    }
}

}  // namespace t5kit
