// Streams, events, graphs and copies of the fake CUDA.
#include "fake_cuda.hpp"

using namespace fake;

extern "C" {

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
    put(stream,
        {work,
         {written(target, target_pitch * (height - 1) + width), read(source, source_pitch * (height - 1) + width)}});
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
