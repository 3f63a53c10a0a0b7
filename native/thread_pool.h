// A team of threads that runs one function together, with barriers inside and work handed out item by item.
#pragma once

#include <atomic>
#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace t5kit {

// Processors this process may use: its affinity, cut to the cgroup's quota; at least 1.
int default_threads();

// Threads that the quotas of a process's cgroup and of those around it allow, rounded up; 0 where there is none. `groups` is a
// file like /proc/self/cgroup, `root` a folder like /sys/fs/cgroup (cgroup v2, or v1 with its controllers below).
int cgroup_threads(const std::string& groups, const std::string& root);

class ThreadPool {
public:
    // threads counts the caller of run(). Raises: EngineFailure if the system gives no more threads.
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return size_; }

    // Calls work(thread number) on every thread and returns when all are done. One caller at a time. What an item of
    // for_each throws (memory that ran out) is thrown again then, the first of it; all but its neighbours of the same grain are done.
    // Outside for_each work must not throw: that ends the process, since others may wait for the thread at a barrier.
    // Raises: EngineFailure in a process forked after the pool was made, which has none of its threads.
    void run(const std::function<void(int)>& work);

    // Inside run(), by every thread, in the same order: each item of [0, count) is handed to one thread, then all wait for
    // all. `grain` neighbouring items are taken at a time.
    template <class Body>
    void for_each(int count, int grain, Body&& body) {
        for (;;) {
            const int first = next_item_.fetch_add(grain, std::memory_order_relaxed);
            if (first >= count) break;
            const int last = first + grain < count ? first + grain : count;
            try {
                for (int item = first; item < last; ++item) body(item);
            } catch (...) {
                note_failure();
            }
        }
        barrier();
    }

    // Inside run(), by every thread: waits for all.
    void barrier();

private:
    // Where threads sleep. Of a forked process's copy nothing is destroyed: the system's mutex and condition variable wait for
    // sleepers that the fork left behind.
    struct Bed {
        std::mutex mutex;
        std::condition_variable wake;
    };

    void serve(int number);
    void stop();
    void note_failure();
    void throw_failure();

    const int size_;
    const long owner_process_;
    std::vector<std::thread> threads_;
    const std::function<void(int)>* work_ = nullptr;
    bool stops_ = false;
    std::atomic<bool> has_failed_{false};
    std::exception_ptr failure_;  // by the thread that was first to set has_failed_

    alignas(64) std::atomic<int> next_item_{0};
    alignas(64) std::atomic<int> num_arrived_{0};
    alignas(64) std::atomic<unsigned> phase_{0};
    alignas(64) std::atomic<unsigned> epoch_{0};
    std::atomic<int> num_asleep_{0};
    std::unique_ptr<Bed> bed_ = std::make_unique<Bed>();
};

}  // namespace t5kit
