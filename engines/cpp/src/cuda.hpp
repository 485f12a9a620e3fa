// The part of CUDA that the TensorRT backend uses, as objects that free what they hold. They belong to the device that
// is current when they are made: see DeviceGuard.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>

#include "failure.hpp"

namespace msal_deploy {

// After some errors, such as an illegal address, every later call of CUDA in the process fails.
class ContextLost : public Failure {
  public:
    explicit ContextLost(const std::string& reason);
};

class OutOfGpuMemory : public Failure {
  public:
    using Failure::Failure;
};

// Throws Failure unless `status` is success: "CUDA could not <what> (…)". The error does not stay the thread's last
// one, which the application may be about to ask for.
void check_cuda(cudaError_t status, const char* what);

// Waits for a stream after an error. Throws ContextLost if the error has made CUDA unusable; other errors are known.
void settle(cudaStream_t stream);

// Returns the number of GPUs. Throws Failure if there is none.
int count_gpus();

// Returns the device that the calling thread uses.
int current_device();

// Returns the compute capability of a device, such as "8.6".
std::string compute_capability(int device);

// Makes a device the calling thread's until the end of the scope.
class DeviceGuard {
  public:
    explicit DeviceGuard(int device);
    DeviceGuard(const DeviceGuard&) = delete;
    DeviceGuard& operator=(const DeviceGuard&) = delete;
    ~DeviceGuard();

  private:
    int before_;
    bool changed_;
};

// Memory that grows as needed and never shrinks. Pinned memory is the host's; the GPU copies it without the CPU.
enum class MemoryKind { device, pinned };

class GpuMemory {
  public:
    explicit GpuMemory(MemoryKind kind) : kind_(kind) {}
    GpuMemory(const GpuMemory&) = delete;
    GpuMemory& operator=(const GpuMemory&) = delete;
    ~GpuMemory() { release(); }

    // Returns at least `size` bytes. A larger size than before discards the content: nothing may be using it.
    void* reserve(std::size_t size);

  private:
    void release() noexcept;

    MemoryKind kind_;
    void* data_ = nullptr;
    std::size_t size_ = 0;
};

// A stream that does not wait for the default stream.
class Stream {
  public:
    Stream() { check_cuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "create a stream"); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    ~Stream() { cudaStreamDestroy(stream_); }
    cudaStream_t get() const { return stream_; }

  private:
    cudaStream_t stream_ = nullptr;
};

// The end of some work. Before the first `record`, there is nothing to wait for.
class Event {
  public:
    Event() { check_cuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "create an event"); }
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;
    ~Event() { cudaEventDestroy(event_); }
    void record(cudaStream_t stream) { check_cuda(cudaEventRecord(event_, stream), "record an event"); }
    void wait() const { check_cuda(cudaEventSynchronize(event_), "compute"); }
    void wait_in(cudaStream_t stream) const { check_cuda(cudaStreamWaitEvent(stream, event_, 0), "order streams"); }

  private:
    cudaEvent_t event_ = nullptr;
};

// Work that was captured once and is launched as one.
class Graph {
  public:
    Graph() = default;
    Graph(const Graph&) = delete;
    Graph& operator=(const Graph&) = delete;
    ~Graph() { reset(); }

    // Captures what `enqueue` puts into the stream, which does not run. Throws Failure; the stream stays usable.
    template <class Enqueue>
    void capture(cudaStream_t stream, const Enqueue& enqueue) {
        reset();
        check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin a CUDA graph");
        try {
            enqueue();
        } catch (...) {
            abandon(stream);
            throw;
        }
        instantiate(stream);
    }
    void launch(cudaStream_t stream) const { check_cuda(cudaGraphLaunch(graph_, stream), "launch a CUDA graph"); }
    void reset() noexcept;
    explicit operator bool() const { return graph_ != nullptr; }

  private:
    static void abandon(cudaStream_t stream) noexcept;
    void instantiate(cudaStream_t stream);

    cudaGraphExec_t graph_ = nullptr;
};

}  // namespace msal_deploy
