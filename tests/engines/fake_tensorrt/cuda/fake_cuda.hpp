// A fake of the CUDA runtime with four GPUs, whose memory is host memory. Work on a stream runs when the host waits for
// it, as late as CUDA allows, so that reading a result too early, or without the right order of streams, gives a wrong
// one. What CUDA forbids or what would be slow ends the program: copies outside of an allocation, of host memory that
// is not pinned, work for another GPU than the current one, allocations during a capture, and streams that use the same
// memory in no order.
//
// The environment variable FAKE is what fails: no-gpu, malloc, second-malloc (all memory but one lane's), download, or
// illegal-address (the computation, and then everything). FAKE_TRACE is a file to which copies and waits are appended.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

struct Range {
    const char* start;
    std::size_t size;
    bool written;
};

struct Work {
    std::function<void()> run;
    std::vector<Range> ranges;
    std::size_t number = 0;  // works are numbered in the order in which they were put into streams
};

struct FakeStream {
    int device = 0;
    std::vector<Work> queue;
    std::size_t done = 0;  // works of `queue` that have run
    bool capturing = false;
    bool destroyed = false;  // it stays in `streams`, because events refer to it
    std::vector<Work> captured;
};

struct FakeEvent {
    FakeStream* stream = nullptr;
    std::size_t end = 0;  // the event comes after that many works of the stream
};

struct FakeGraph {
    std::vector<Work> works;
};

namespace fake {

struct Allocation {
    std::size_t size;
    int device;  // or -1: pinned
};

constexpr int devices = 4;
inline thread_local int current = 0;                  // CUDA's current device is per thread
inline thread_local cudaError_t last = cudaSuccess;   // so is the last error
inline thread_local FakeStream* capturing = nullptr;  // by this thread
inline bool lost = false;
inline std::size_t numbers = 0;

// Never destroyed, because global objects of the application may come here after the end of main.
inline std::recursive_mutex& mutex = *new std::recursive_mutex;                                  // one for all
inline std::map<const char*, Allocation>& allocations = *new std::map<const char*, Allocation>;  // by address
inline std::vector<std::unique_ptr<FakeStream>>& streams =
    *new std::vector<std::unique_ptr<FakeStream>>;  // all there were

inline FakeStream* default_stream() {
    static FakeStream& one = *new FakeStream;
    return &one;
}

using Lock = std::lock_guard<std::recursive_mutex>;

inline bool is(const char* what) {
    const char* named = std::getenv("FAKE");
    return named != nullptr && std::strcmp(named, what) == 0;
}

inline void expect(bool so, const char* what) {
    if (so) return;
    std::fprintf(stderr, "fake CUDA: %s\n", what);
    std::abort();
}

inline void trace(const char* what) {
    const char* file = std::getenv("FAKE_TRACE");
    if (file == nullptr) return;
    std::FILE* stream = std::fopen(file, "a");
    std::fprintf(stream, "%s\n", what);
    std::fclose(stream);
}

inline cudaError_t result(cudaError_t error = cudaSuccess) {
    if (lost) error = cudaErrorIllegalAddress;
    if (error != cudaSuccess) last = error;
    return error;
}

// Returns the allocation that a range is inside of, or null.
inline const Allocation* find(const void* at, std::size_t size) {
    const char* start = static_cast<const char*>(at);
    for (const auto& [memory, allocation] : allocations) {
        if (start >= memory && start + size <= memory + allocation.size) return &allocation;
    }
    return nullptr;
}

inline void expect_on_gpu(const void* at, std::size_t size, const FakeStream* stream) {
    const Allocation* found = find(at, size);
    expect(found != nullptr && found->device == stream->device, "work outside of an allocation of the stream's GPU");
}

inline Range written(void* at, std::size_t size) {
    return {static_cast<char*>(at), size, true};
}

inline Range read(const void* at, std::size_t size) {
    return {static_cast<const char*>(at), size, false};
}

inline FakeStream* checked(FakeStream* stream) {
    if (stream == nullptr) return default_stream();
    expect(!stream->destroyed, "a stream that was destroyed");
    return stream;
}

inline void put(FakeStream* stream, Work work) {
    expect(current == stream->device, "work for another GPU than the current one");
    work.number = numbers++;
    (stream->capturing ? stream->captured : stream->queue).push_back(std::move(work));
}

inline bool meet(const Range& one, const Range& other) {
    return (one.written || other.written) && one.start < other.start + other.size && other.start < one.start + one.size;
}

// Ends the program if a stream that is not `own` still has earlier work with the same memory: nothing orders the two.
inline void expect_order(const Work& work, const FakeStream* stream, const FakeStream* own) {
    for (std::size_t index = stream == own ? stream->queue.size() : stream->done; index < stream->queue.size();
         ++index) {
        const Work& other = stream->queue[index];
        if (other.number > work.number) return;
        for (const Range& one : work.ranges) {
            for (const Range& two : other.ranges)
                expect(!meet(one, two), "two streams use the same memory in no order");
        }
    }
}

inline void run(FakeStream* stream, std::size_t end) {
    while (stream->done < end) {
        const Work work = std::move(stream->queue[stream->done++]);
        for (const auto& other : streams) expect_order(work, other.get(), stream);
        expect_order(work, default_stream(), stream);
        work.run();
    }
}

}  // namespace fake
