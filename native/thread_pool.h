// A team of threads that runs one function together, with barriers inside and work handed out item by item.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace t5kit {

// Processors this process may use: its affinity, cut to the cgroup's quota; at least 1.
int default_threads();

class ThreadPool {
public:
    // threads counts the caller of run().
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return size_; }

    // Calls work(thread number) on every thread and returns when all are done; work must not throw. One caller at a time.
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
            for (int item = first; item < last; ++item) body(item);
        }
        barrier();
    }

    // Inside run(), by every thread: waits for all.
    void barrier();

private:
    void serve(int number);

    const int size_;
    const long owner_process_;
    std::vector<std::thread> threads_;
    const std::function<void(int)>* work_ = nullptr;
    bool stops_ = false;

    alignas(64) std::atomic<int> next_item_{0};
    alignas(64) std::atomic<int> num_arrived_{0};
    alignas(64) std::atomic<unsigned> phase_{0};
    alignas(64) std::atomic<unsigned> epoch_{0};
    std::atomic<int> num_asleep_{0};
    std::mutex mutex_;
    std::condition_variable wake_;
};

}  // namespace t5kit
