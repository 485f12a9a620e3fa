// A fake of the CUDA runtime with four GPUs, whose memory is host memory. Work on a stream runs when the host waits for
// it, as late as CUDA allows, so that reading a result too early, or without the right order of streams, gives a wrong
// one. What CUDA forbids or what would be slow ends the program: copies outside of an allocation, of host memory that is
// not pinned, work for another GPU than the current one, allocations during a capture, and streams that use the same
// memory in no order.
//
// The environment variable FAKE is what fails: no-gpu, malloc, second-malloc (all memory but one lane's), download, or
// illegal-address (the computation, and then everything). FAKE_TRACE is a file to which copies and waits are appended.
#include <cuda_runtime_api.h>

#include <algorithm>
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

namespace {

struct Allocation {
    std::size_t size;
    int device;  // or -1: pinned
};

constexpr int devices = 4;
thread_local int current = 0;                    // CUDA's current device is per thread
thread_local cudaError_t last = cudaSuccess;     // so is the last error
thread_local FakeStream* capturing = nullptr;    // by this thread
bool lost = false;
std::size_t numbers = 0;

// Never destroyed, because global objects of the application may come here after the end of main.
std::recursive_mutex& mutex = *new std::recursive_mutex;                                             // one for all
std::map<const char*, Allocation>& allocations = *new std::map<const char*, Allocation>;             // by address
std::vector<std::unique_ptr<FakeStream>>& streams = *new std::vector<std::unique_ptr<FakeStream>>;   // all there were

FakeStream* default_stream() {
    static FakeStream& one = *new FakeStream;
    return &one;
}

using Lock = std::lock_guard<std::recursive_mutex>;

bool is(const char* what) {
    const char* named = std::getenv("FAKE");
    return named != nullptr && std::strcmp(named, what) == 0;
}

void expect(bool so, const char* what) {
    if (so) return;
    std::fprintf(stderr, "fake CUDA: %s\n", what);
    std::abort();
}

void trace(const char* what) {
    const char* file = std::getenv("FAKE_TRACE");
    if (file == nullptr) return;
    std::FILE* stream = std::fopen(file, "a");
    std::fprintf(stream, "%s\n", what);
    std::fclose(stream);
}

cudaError_t result(cudaError_t error = cudaSuccess) {
    if (lost) error = cudaErrorIllegalAddress;
    if (error != cudaSuccess) last = error;
    return error;
}

// Returns the allocation that a range is inside of, or null.
const Allocation* find(const void* at, std::size_t size) {
    const char* start = static_cast<const char*>(at);
    for (const auto& [memory, allocation] : allocations) {
        if (start >= memory && start + size <= memory + allocation.size) return &allocation;
    }
    return nullptr;
}

void expect_on_gpu(const void* at, std::size_t size, const FakeStream* stream) {
    const Allocation* found = find(at, size);
    expect(found != nullptr && found->device == stream->device, "work outside of an allocation of the stream's GPU");
}

Range written(void* at, std::size_t size) {
    return {static_cast<char*>(at), size, true};
}

Range read(const void* at, std::size_t size) {
    return {static_cast<const char*>(at), size, false};
}

FakeStream* checked(FakeStream* stream) {
    if (stream == nullptr) return default_stream();
    expect(!stream->destroyed, "a stream that was destroyed");
    return stream;
}

void put(FakeStream* stream, Work work) {
    expect(current == stream->device, "work for another GPU than the current one");
    work.number = numbers++;
    (stream->capturing ? stream->captured : stream->queue).push_back(std::move(work));
}

bool meet(const Range& one, const Range& other) {
    return (one.written || other.written) && one.start < other.start + other.size && other.start < one.start + one.size;
}

// Ends the program if a stream that is not `own` still has earlier work with the same memory: nothing orders the two.
void expect_order(const Work& work, const FakeStream* stream, const FakeStream* own) {
    for (std::size_t index = stream == own ? stream->queue.size() : stream->done; index < stream->queue.size(); ++index) {
        const Work& other = stream->queue[index];
        if (other.number > work.number) return;
        for (const Range& one : work.ranges) {
            for (const Range& two : other.ranges) expect(!meet(one, two), "two streams use the same memory in no order");
        }
    }
}

void run(FakeStream* stream, std::size_t end) {
    while (stream->done < end) {
        const Work work = std::move(stream->queue[stream->done++]);
        for (const auto& other : streams) expect_order(work, other.get(), stream);
        expect_order(work, default_stream(), stream);
        work.run();
    }
}

cudaError_t allocate(void** pointer, std::size_t size, int device) {
    const Lock lock(mutex);
    expect(capturing == nullptr, "an allocation during a capture");
    expect(size > 0, "an allocation of nothing");
    const auto pinned = [](const auto& entry) { return entry.second.device < 0; };
    const bool second = is("second-malloc") && std::count_if(allocations.begin(), allocations.end(), pinned) >= 2;
    if (is("malloc") || second) return result(cudaErrorMemoryAllocation);
    char* memory = static_cast<char*>(std::aligned_alloc(256, (size + 255) / 256 * 256));
    std::memset(memory, 0x7F, size);  // values that do not look like results
    allocations[memory] = {size, device};
    *pointer = memory;
    return result();
}

cudaError_t deallocate(void* pointer) {
    const Lock lock(mutex);
    if (pointer == nullptr) return result();
    expect(allocations.erase(static_cast<char*>(pointer)) == 1, "memory was freed that is not allocated");
    std::free(pointer);
    return result();
}

}  // namespace

extern "C" {

const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaErrorNoDevice: return "no CUDA-capable device is detected";
        case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
        case cudaErrorMemoryAllocation: return "out of memory";
        default: return "invalid argument";
    }
}

cudaError_t cudaGetLastError() {
    const Lock lock(mutex);
    const cudaError_t error = lost ? cudaErrorIllegalAddress : last;
    last = cudaSuccess;
    return error;
}

cudaError_t cudaGetDeviceCount(int* count) {
    const Lock lock(mutex);
    *count = devices;
    return result(is("no-gpu") ? cudaErrorNoDevice : cudaSuccess);
}

cudaError_t cudaGetDevice(int* device) {
    *device = current;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    const Lock lock(mutex);
    if (device < 0 || device >= devices) return result(cudaErrorInvalidDevice);
    current = device;
    return result();
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    const Lock lock(mutex);
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? 8 : 6;
    return result();
}

cudaError_t cudaMalloc(void** pointer, std::size_t size) {
    return allocate(pointer, size, current);
}

cudaError_t cudaFree(void* pointer) {
    return deallocate(pointer);
}

cudaError_t cudaHostAlloc(void** pointer, std::size_t size, unsigned int) {
    return allocate(pointer, size, -1);
}

cudaError_t cudaFreeHost(void* pointer) {
    return deallocate(pointer);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
    const Lock lock(mutex);
    const Allocation* found = find(pointer, 1);
    *attributes = {};
    if (found != nullptr) attributes->type = found->device < 0 ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
    attributes->device = found != nullptr ? std::max(found->device, 0) : -1;
    return result();
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
    const Lock lock(mutex);
    streams.push_back(std::make_unique<FakeStream>());
    *stream = streams.back().get();
    (*stream)->device = current;
    return result();
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const Lock lock(mutex);
    expect(lost || checked(stream)->done == stream->queue.size(), "a stream was destroyed with pending work");
    stream->destroyed = true;
    return result();
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    const Lock lock(mutex);
    stream = checked(stream);
    expect(!stream->capturing, "a stream that is being captured was waited for");
    if (!lost) run(stream, stream->queue.size());
    return result();
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
    const Lock lock(mutex);
    stream = checked(stream);
    if (event->stream == nullptr) return result();
    put(stream, {[other = event->stream, end = event->end] { run(other, end); }, {}});
    return result();
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    const Lock lock(mutex);
    *status = checked(stream)->capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return result();
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    const Lock lock(mutex);
    expect(mode == cudaStreamCaptureModeThreadLocal, "a capture that stops other threads");
    checked(stream)->capturing = true;
    stream->captured.clear();
    capturing = stream;
    return result();
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    const Lock lock(mutex);
    expect(checked(stream)->capturing, "the end of a capture that has not begun");
    stream->capturing = false;
    capturing = nullptr;
    *graph = new FakeGraph{std::move(stream->captured)};
    return result();
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    const Lock lock(mutex);
    *executable = new FakeGraph(*graph);
    return result();
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
    const Lock lock(mutex);
    trace("launch");
    for (const Work& work : graph->works) put(checked(stream), work);
    return result();
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return result();
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
    delete graph;
    return result();
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
    *event = new FakeEvent;
    return result();
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return result();
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    const Lock lock(mutex);
    stream = checked(stream);
    expect(!stream->capturing, "an event in a capture");
    *event = {stream, stream->queue.size()};
    return result();
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    const Lock lock(mutex);
    if (event->stream == nullptr) return result();
    trace("wait");
    if (!lost) run(event->stream, event->end);
    return result();
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t size, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    const Lock lock(mutex);
    const bool up = kind == cudaMemcpyHostToDevice;
    if (!up && is("download")) return result(cudaErrorInvalidValue);
    trace(up ? "upload" : "download");
    stream = checked(stream);
    expect_on_gpu(up ? target : source, size, stream);
    const Allocation* host = find(up ? source : target, size);
    expect(host != nullptr && host->device < 0, "a copy of host memory that is not pinned");
    put(stream, {[=] { std::memcpy(target, source, size); }, {written(target, size), read(source, size)}});
    return result();
}

cudaError_t cudaMemcpy2DAsync(void* target, std::size_t target_pitch, const void* source, std::size_t source_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind, cudaStream_t stream) {
    const Lock lock(mutex);
    stream = checked(stream);
    expect_on_gpu(target, target_pitch * (height - 1) + width, stream);
    expect_on_gpu(source, source_pitch * (height - 1) + width, stream);
    const auto work = [=] {
        if (is("illegal-address")) lost = true;
        auto* to = static_cast<char*>(target);
        const auto* from = static_cast<const char*>(source);
        for (std::size_t row = 0; row < height; ++row) {
            std::memcpy(to + row * target_pitch, from + row * source_pitch, width);
        }
    };
    put(stream, {work, {written(target, target_pitch * (height - 1) + width), read(source, source_pitch * (height - 1) + width)}});
    return result();
}

cudaError_t cudaMemsetAsync(void* target, int value, std::size_t size, cudaStream_t stream) {
    return cudaMemset2DAsync(target, size, value, size, 1, stream);
}

cudaError_t cudaMemset2DAsync(void* target, std::size_t pitch, int value, std::size_t width, std::size_t height,
                              cudaStream_t stream) {
    const Lock lock(mutex);
    stream = checked(stream);
    expect_on_gpu(target, pitch * (height - 1) + width, stream);
    const auto work = [=] {
        for (std::size_t row = 0; row < height; ++row) {
            std::memset(static_cast<char*>(target) + row * pitch, value, width);
        }
    };
    put(stream, {work, {written(target, pitch * (height - 1) + width)}});
    return result();
}

}  // extern "C"
