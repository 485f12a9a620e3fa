// Lane: one execution context with its stream and buffers. Two lanes compute in turns, so that one copies while the
// other computes. Only one thread at a time may use a lane.
#pragma once

#include "cuda.hpp"
#include "tensorrt_engine.hpp"

namespace msal_deploy {

class Lane {
  public:
    // graphs: capture a CUDA graph for each shape and pair of addresses, from the second call on.
    Lane(const Engine& engine, std::unique_ptr<nvinfer1::IExecutionContext> context, bool graphs);
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;
    ~Lane();

    // Starts to compute images of the host and returns without waiting. They may be changed at once.
    void start(const std::uint8_t* rgb, const Shape& shape);

    // Waits for the result of `start` and copies it.
    void finish(float* probability);

    // The same for images and a result on the GPU, after the work that is in `stream` already. Returns without waiting.
    void run(void* rgb, const Shape& shape, void* probability, cudaStream_t stream);

    // Allocates, and captures the graph, for a shape.
    void prepare(const Shape& shape);

  private:
    void wait() { done_.wait(); }
    void set_shape(const Shape& shape);
    void check_output(const Shape& shape) const;
    void enqueue(void* image, void* probability, cudaStream_t stream);
    void capture(void* image, void* probability);
    void enqueue_once(void* image, void* probability, cudaStream_t stream);

    const Engine& engine_;
    GpuMemory activations_{MemoryKind::device};
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    Stream stream_;
    Event done_;  // the end of the last work, in whichever stream
    GpuMemory image_{MemoryKind::device}, probability_{MemoryKind::device};
    GpuMemory image_on_host_{MemoryKind::pinned}, probability_on_host_{MemoryKind::pinned};
    Shape shape_{0, 0, 0};
    const bool graphs_;
    bool warm_ = false;  // TensorRT has computed this shape once: it can be captured
    Graph graph_;
    void *captured_image_ = nullptr, *captured_probability_ = nullptr;
};

}  // namespace msal_deploy
