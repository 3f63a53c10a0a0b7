#include "thread_pool.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <system_error>
#include <utility>

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

// Threads that quota microseconds of each period allow; 0 for no quota.
int threads_of(long quota, long period) {
    return quota > 0 && period > 0 ? static_cast<int>(std::min<long>((quota + period - 1) / period, 1 << 20)) : 0;
}

// A whole number at the beginning of a file; -1 where there is none.
long number_in(const std::string& path) {
    long number = -1;
    std::ifstream file(path);
    return file >> number ? number : -1;
}

// The quota of one group: cpu.max of cgroup v2 ("max 100000" has no number in front), or the two files of v1.
int threads_of_group(const std::string& folder, bool is_v1) {
    if (is_v1) return threads_of(number_in(folder + "/cpu.cfs_quota_us"), number_in(folder + "/cpu.cfs_period_us"));
    long quota = -1, period = 0;
    std::ifstream file(folder + "/cpu.max");
    return file >> quota >> period ? threads_of(quota, period) : 0;
}

// The least quota of a group and of all around it: each holds for what is inside it.
int least_quota(const std::string& root, std::string group, bool is_v1) {
    int least = 0;
    for (;;) {
        const int here = threads_of_group(root + group, is_v1);
        if (here > 0) least = least > 0 ? std::min(least, here) : here;
        if (group.empty()) return least;
        group.resize(group.rfind('/'));
    }
}

bool has_word(const std::string& words, const std::string& word) {
    return ("," + words + ",").find("," + word + ",") != std::string::npos;
}

// Speed: the next step of a search comes within some 50 to 100 us; a thread that sleeps would wake too late for it.
constexpr std::chrono::microseconds kSpin{200};
// After so many looks at a barrier (some 7 us) the processor is offered to others: more threads may run here than there are
// cores, and the one waited for may be among those that do not. Speed: where six programs shared two cores, 16 texts one by
// one on two threads took 2.2 s with 4000 looks and 1.0 s with 400.
constexpr int kLooksBeforeYield = 400;

// An exception here would leave the others waiting, or using what its unwinding destroys: it ends the process instead.
void work_on(const std::function<void(int)>& work, int number) noexcept { work(number); }

}  // namespace

int cgroup_threads(const std::string& groups, const std::string& root) {
    std::ifstream file(groups);
    int least = 0;
    // A line is number:controllers:/group; cgroup v2 has number 0 and no controllers.
    for (std::string line; std::getline(file, line);) {
        const size_t first = line.find(':'), second = line.find(':', first + 1);
        if (first == std::string::npos || second == std::string::npos) continue;
        const std::string controllers = line.substr(first + 1, second - first - 1);
        const bool is_v1 = !controllers.empty();
        if (is_v1 && !has_word(controllers, "cpu")) continue;
        std::string group = line.substr(second + 1);
        while (!group.empty() && group.back() == '/') group.pop_back();
        if (!group.empty() && group.front() != '/') continue;
        const int here = least_quota(is_v1 ? root + "/cpu" : root, group, is_v1);
        if (here > 0) least = least > 0 ? std::min(least, here) : here;
    }
    return least;
}

int default_threads() {
    int count = static_cast<int>(std::thread::hardware_concurrency());
#if defined(__linux__)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) count = CPU_COUNT(&allowed);
#endif
    const int quota = cgroup_threads("/proc/self/cgroup", "/sys/fs/cgroup");
    if (quota > 0) count = std::min(count, quota);
    return std::max(count, 1);
}

ThreadPool::ThreadPool(int threads) : size_(threads), owner_process_(getpid()) {
    threads_.reserve(size_);  // so that nothing but the system's refusal can end the loop
    try {
        for (int number = 1; number < size_; ++number) threads_.emplace_back([this, number] { serve(number); });
    } catch (const std::system_error& error) {
        const size_t num_made = threads_.size() + 1;
        stop();
        throw EngineFailure("The system gives this process no more than " + std::to_string(num_made) + " of " + std::to_string(size_) +
                            " threads (" + error.what() + "). Ask for fewer with threads=.");
    }
}

ThreadPool::~ThreadPool() {
    if (owner_process_ == getpid()) {
        stop();
        return;
    }
    // Forked: the threads stayed behind. Nothing may name them, neither to join (it would wait for ever) nor to detach: the system
    // gives their names to threads that this process makes. So the handles are left where they are, and the bed with them.
    static_cast<void>(new std::vector<std::thread>(std::move(threads_)));
    static_cast<void>(bed_.release());
}

void ThreadPool::stop() {
    {
        std::lock_guard<std::mutex> lock(bed_->mutex);
        stops_ = true;
        epoch_.fetch_add(1);
    }
    bed_->wake.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(const std::function<void(int)>& work) {
    T5KIT_CHECK(size_ == 1 || owner_process_ == getpid(),
                "This model was loaded before the process was forked, and its threads stayed behind. Load it again in the new process.");
    if (size_ == 1) {
        next_item_.store(0, std::memory_order_relaxed);
        work(0);
        throw_failure();
        return;
    }
    work_ = &work;
    // The order of these two (and of their twins in serve) makes sure that a thread going to sleep is seen, or sees the work.
    epoch_.fetch_add(1);
    if (num_asleep_.load() > 0) {
        std::lock_guard<std::mutex> lock(bed_->mutex);
        bed_->wake.notify_all();
    }
    work_on(work, 0);
    barrier();
    throw_failure();
}

void ThreadPool::note_failure() {
    if (!has_failed_.exchange(true, std::memory_order_acq_rel)) failure_ = std::current_exception();
}

// After the last barrier, which all that was noted came before.
void ThreadPool::throw_failure() {
    if (!has_failed_.exchange(false, std::memory_order_acq_rel)) return;
    std::rethrow_exception(std::exchange(failure_, nullptr));
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
            std::unique_lock<std::mutex> lock(bed_->mutex);
            num_asleep_.fetch_add(1);
            bed_->wake.wait(lock, [&] { return epoch_.load() != seen; });
            num_asleep_.fetch_sub(1);
        }
        seen = epoch_.load(std::memory_order_acquire);
        if (stops_) return;
        work_on(*work_, number);
        barrier();
    }
}

}  // namespace t5kit
