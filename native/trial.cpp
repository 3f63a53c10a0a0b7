#include "trial.h"

#include "memory.h"

#if defined(__linux__)
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#endif

namespace t5kit {
namespace {

constexpr int kMostRows = 40;
constexpr int kBlocks = 2;
constexpr int kGroups = 3;  // of inputs
constexpr int kInputs = kGroups * kGroup;
constexpr int kRowCounts[] = {1, 3, 4, 15, 16, 17, 33, kMostRows};
// A bfloat16 sum may be off by so much of the sum of its terms' magnitudes: 2^-16 of an activation, and float32's own rounding.
constexpr float kTolerance = 1.0f / 16384;

// Numbers that look like chance and are the same at every start.
class Sequence {
public:
    uint32_t bits() {  // the upper half of a linear congruential generator (Knuth, MMIX)
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return static_cast<uint32_t>(state_ >> 32);
    }
    float between(float low, float high) { return low + (high - low) * static_cast<float>(bits() >> 8) / (1 << 24); }

private:
    uint64_t state_ = 5;
};

bool are_same(const float* a, const float* b, size_t count) {
    const auto* x = reinterpret_cast<const unsigned char*>(a);
    const auto* y = reinterpret_cast<const unsigned char*>(b);
    bool same = true;
    for (size_t i = 0; i < count * sizeof *a; ++i) same = same && x[i] == y[i];
    return same;
}

// All that is multiplied, and room for what comes out: nothing is allocated once the trial runs.
class Trial {
public:
    Trial(const Kernels& candidate, const Kernels& vectors) : candidate_(candidate), vectors_(vectors) {
        Sequence sequence;
        bytes_.grow(static_cast<size_t>(kBlocks) * kInputs / 4 * kLanes);
        pairs_.grow(static_cast<size_t>(kBlocks) * kInputs / 2 * kLanes);
        weight_scales_.grow(static_cast<size_t>(kBlocks) * kGroups * kLanes);
        values_.grow(static_cast<size_t>(kMostRows) * kInputs);
        quads_.grow(static_cast<size_t>(kMostRows) * kGroups * 2 * kGroup);
        scales_.grow(static_cast<size_t>(kMostRows) * kGroups);
        sums_.grow(static_cast<size_t>(kMostRows) * kGroups);
        for (Buffer<float>* each : {&got_, &wanted_, &alone_}) each->grow(static_cast<size_t>(kMostRows) * kLanes);
        for (size_t i = 0; i < bytes_.size(); ++i) bytes_[i] = sequence.bits();
        for (size_t i = 0; i < weight_scales_.size(); ++i) weight_scales_[i] = sequence.between(1e-4f, 1e-2f);
        for (size_t i = 0; i < pairs_.size(); ++i) pairs_[i] = bfloat16_of(sequence) | bfloat16_of(sequence) << 16;
        for (size_t i = 0; i < values_.size(); ++i) values_[i] = sequence.between(-1, 1) * (i % 37 ? 1.0f : 100.0f);
        for (int i = 0; i < kInputs; ++i) values_[2 * kInputs + i] = 0;  // a row of zeros
    }

    // Called in a process that has no other thread and may not allocate.
    bool passes() {
        candidate_.quantize(values_.data(), kMostRows * kGroups, false, quads_.data(), scales_.data(), sums_.data());
        bool is_right = true;
        for (int rows : kRowCounts)
            for (int block = 0; block < kBlocks; ++block)
                for (bool adds : {false, true})
                    is_right = is_right && int8_is_right(block, rows, adds) && bfloat16_is_right(block, rows, adds);
        return is_right;
    }

private:
    static uint32_t bfloat16_of(Sequence& sequence) {
        const float value = sequence.between(-1, 1);
        uint32_t bits;
        __builtin_memcpy(&bits, &value, sizeof bits);
        return bits >> 16;
    }

    Panels int8_weights() const { return {Format::int8, kInputs / 4, kGroups, bytes_.data(), weight_scales_.data()}; }
    Panels bfloat16_weights() const { return {Format::bfloat16, kInputs / 2, 0, pairs_.data(), nullptr}; }
    Rows rows() const { return {values_.data(), kInputs, quads_.data(), scales_.data(), sums_.data(), kGroups, false}; }

    // y begins with numbers of its own, which `adds` must keep.
    static void multiply(const Kernels& kernels, const Panels& weights, int block, const Rows& x, int first, int count, Buffer<float>& y,
                         bool adds) {
        for (int i = first * kLanes; i < (first + count) * kLanes; ++i) y[i] = static_cast<float>(i % 7);
        kernels.linear(weights, block, x, first, count, y.data(), kLanes, adds);
    }

    bool is_same_alone(const Panels& weights, int block, int rows, bool adds) {
        for (int m = 0; m < rows; ++m) multiply(candidate_, weights, block, this->rows(), m, 1, alone_, adds);
        return are_same(got_.data(), alone_.data(), static_cast<size_t>(rows) * kLanes);
    }

    bool int8_is_right(int block, int rows, bool adds) {
        multiply(candidate_, int8_weights(), block, this->rows(), 0, rows, got_, adds);
        Rows fine = this->rows();
        fine.is_fine = true;  // as a set whose activations are always fine has written them
        multiply(vectors_, int8_weights(), block, fine, 0, rows, wanted_, adds);
        return are_same(got_.data(), wanted_.data(), static_cast<size_t>(rows) * kLanes) && is_same_alone(int8_weights(), block, rows, adds);
    }

    bool bfloat16_is_right(int block, int rows, bool adds) {
        multiply(candidate_, bfloat16_weights(), block, this->rows(), 0, rows, got_, adds);
        multiply(vectors_, bfloat16_weights(), block, this->rows(), 0, rows, wanted_, adds);
        for (int m = 0; m < rows; ++m) {
            float most = 0;  // weights are within [-1, 1]
            for (int i = 0; i < kInputs; ++i) most += __builtin_fabsf(values_[m * kInputs + i]);
            for (int lane = 0; lane < kLanes; ++lane) {
                const float difference = got_[m * kLanes + lane] - wanted_[m * kLanes + lane];
                if (!(__builtin_fabsf(difference) <= kTolerance * most)) return false;
            }
        }
        return is_same_alone(bfloat16_weights(), block, rows, adds);
    }

    const Kernels& candidate_;
    const Kernels& vectors_;
    Buffer<uint32_t> bytes_, pairs_;
    Buffer<float> weight_scales_, values_, scales_, got_, wanted_, alone_;
    Buffer<uint8_t> quads_;
    Buffer<int32_t> sums_;
};

}  // namespace

#if defined(__linux__)

Verdict tried(const Kernels& candidate, const Kernels& vectors) {
    Trial trial(candidate, vectors);
    // A bare clone: handlers that libraries keep for forks may wait for threads that are not there, and no SIGCHLD reaches a
    // program that did not make this process.
    const long child = syscall(SYS_clone, 0L, 0L, 0L, 0L, 0L);
    if (child == 0) {
        prctl(PR_SET_DUMPABLE, 0L);  // a fault is an answer, not a crash to keep
        sigset_t faults;
        sigemptyset(&faults);
        for (int fault : {SIGILL, SIGSEGV, SIGBUS, SIGFPE, SIGTRAP}) {
            signal(fault, SIG_DFL);
            sigaddset(&faults, fault);
        }
        sigprocmask(SIG_UNBLOCK, &faults, nullptr);
        _exit(trial.passes() ? 0 : 1);
    }
    if (child < 0) return Verdict::not_tried;
    int status = 0;
    pid_t ended;
    do {
        ended = waitpid(static_cast<pid_t>(child), &status, __WCLONE);
    } while (ended < 0 && errno == EINTR);
    if (ended != child) return Verdict::not_tried;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? Verdict::right : Verdict::wrong;
}

#else

Verdict tried(const Kernels&, const Kernels&) { return Verdict::not_tried; }  // no set needs one there

#endif

}  // namespace t5kit
