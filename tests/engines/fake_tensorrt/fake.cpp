// A fake of TensorRT and CUDA without a GPU, so that the tests can run the TensorRT backend of the C++ library under
// AddressSanitizer. GPU memory is host memory. Work on a stream runs when the stream is synchronised, as late as CUDA
// allows, so that reading a result too early gives a wrong one. The network is (r + g + b) / 765 of each pixel.
//
// The environment variable FAKE is the call that fails: no-gpu, malloc, deserialise, context, half-image, shape,
// enqueue or download. FAKE_LOG is a file to which every computed shape is appended.
#include <NvInfer.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

struct FakeStream {
    std::vector<std::function<void()>> queue;
};

namespace {

thread_local int current = 0;                 // CUDA's current device is per thread
std::map<char*, std::size_t> on_the_gpu;      // allocations of cudaMalloc
int runtimes = 0, engines = 0, contexts = 0;  // objects alive
nvinfer1::ILogger* logger = nullptr;

bool fails(const char* what) {
    const char* named = std::getenv("FAKE");
    return named != nullptr && std::strcmp(named, what) == 0;
}

[[noreturn]] void fault(const char* what) {
    std::fprintf(stderr, "fake TensorRT: %s\n", what);
    std::abort();
}

void expect(bool so, const char* what) {
    if (!so) fault(what);
}

void complain(const char* message) {
    logger->log(nvinfer1::ILogger::Severity::kERROR, message);
}

// Returns whether a range is inside one allocation on the GPU.
bool is_on_the_gpu(const void* at, std::size_t size) {
    const char* start = static_cast<const char*>(at);
    for (const auto& [memory, room] : on_the_gpu) {
        if (start >= memory && start + size <= memory + room) return true;
    }
    return false;
}

void note(const nvinfer1::Dims64& shape) {
    const char* file = std::getenv("FAKE_LOG");
    if (file == nullptr) return;
    std::FILE* stream = std::fopen(file, "a");
    std::fprintf(stream, "%d %d %d\n", static_cast<int>(shape.d[0]), static_cast<int>(shape.d[1]),
                 static_cast<int>(shape.d[2]));
    std::fclose(stream);
}

}  // namespace

extern "C" {

const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorNoDevice ? "no CUDA-capable device is detected" : "out of memory";
}

cudaError_t cudaGetDeviceCount(int* count) {
    *count = 1;
    return fails("no-gpu") ? cudaErrorNoDevice : cudaSuccess;
}

cudaError_t cudaGetDevice(int* device) {
    *device = current;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
    current = device;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    *value = attribute == cudaDevAttrComputeCapabilityMajor ? 8 : 6;
    return cudaSuccess;
}

cudaError_t cudaMalloc(void** pointer, std::size_t size) {
    if (fails("malloc")) return cudaErrorMemoryAllocation;
    char* memory = static_cast<char*>(std::malloc(size));
    std::memset(memory, 0x7F, size);  // values that do not look like results
    on_the_gpu[memory] = size;
    *pointer = memory;
    return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
    if (pointer == nullptr) return cudaSuccess;
    expect(on_the_gpu.erase(static_cast<char*>(pointer)) == 1, "cudaFree of a pointer that is not on the GPU");
    std::free(pointer);
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
    *stream = new FakeStream;
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    expect(stream->queue.empty(), "a stream was destroyed with pending work");
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    for (const auto& work : stream->queue) work();
    stream->queue.clear();
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t size, cudaMemcpyKind kind,
                            cudaStream_t stream) {
    const bool up = kind == cudaMemcpyHostToDevice;
    if (!up && fails("download")) return cudaErrorInvalidValue;
    expect(is_on_the_gpu(up ? target : source, size), "a copy outside the allocated GPU memory");
    stream->queue.emplace_back([=] { std::memcpy(target, source, size); });
    return cudaSuccess;
}

int32_t getInferLibVersion() noexcept {
    return (NV_TENSORRT_MAJOR * 100 + NV_TENSORRT_MINOR) * 100 + NV_TENSORRT_PATCH;
}

}  // extern "C"

namespace nvinfer1 {

IRuntime* createInferRuntime(ILogger& given) noexcept {
    logger = &given;
    ++runtimes;
    return new IRuntime;
}

IRuntime::~IRuntime() noexcept {
    expect(engines == 0, "the runtime was destroyed before its engine");
    --runtimes;
}

void IRuntime::setEngineHostCodeAllowed(bool) noexcept {}

ICudaEngine* IRuntime::deserializeCudaEngine(const void* blob, std::size_t size) noexcept {
    const std::string plan(static_cast<const char*>(blob), size);
    if (fails("deserialise") || plan != "a plan of some bytes") {
        complain("Serialization assertion failed");
        return nullptr;
    }
    ++engines;
    return new ICudaEngine;
}

ICudaEngine::~ICudaEngine() noexcept {
    expect(contexts == 0, "the engine was destroyed before its context");
    --engines;
}

int32_t ICudaEngine::getNbIOTensors() const noexcept {
    return 2;
}

const char* ICudaEngine::getIOTensorName(int32_t index) const noexcept {
    return index == 0 ? "image" : "probability";
}

TensorIOMode ICudaEngine::getTensorIOMode(const char* name) const noexcept {
    return std::strcmp(name, "image") == 0 ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
}

DataType ICudaEngine::getTensorDataType(const char* name) const noexcept {
    if (fails("half-image")) return DataType::kHALF;
    return std::strcmp(name, "image") == 0 ? DataType::kUINT8 : DataType::kFLOAT;
}

IExecutionContext* ICudaEngine::createExecutionContext() noexcept {
    if (fails("context")) {
        complain("Cannot allocate 5 GiB");
        return nullptr;
    }
    ++contexts;
    return new IExecutionContext;
}

IExecutionContext::~IExecutionContext() noexcept {
    --contexts;
}

bool IExecutionContext::setInputShape(const char* name, const Dims64& dims) noexcept {
    expect(std::strcmp(name, "image") == 0 && dims.nbDims == 4 && dims.d[3] == 3, "a shape that is not one of images");
    if (fails("shape")) {
        complain("Profile kMIN is not satisfied");
        return false;
    }
    shape_ = dims;
    return true;
}

bool IExecutionContext::setTensorAddress(const char* name, void* address) noexcept {
    (std::strcmp(name, "image") == 0 ? image_ : probability_) = address;
    return true;
}

bool IExecutionContext::enqueueV3(cudaStream_t stream) noexcept {
    if (fails("enqueue")) {
        complain("an illegal memory access was encountered");
        return false;
    }
    const auto pixels = static_cast<std::size_t>(shape_.d[0] * shape_.d[1] * shape_.d[2]);
    expect(is_on_the_gpu(image_, pixels * 3) && is_on_the_gpu(probability_, pixels * 4), "buffers that are too small");
    note(shape_);
    stream->queue.emplace_back(
        [pixels, from = static_cast<const unsigned char*>(image_), to = static_cast<float*>(probability_)] {
            for (std::size_t at = 0; at < pixels; ++at) {
                to[at] = static_cast<float>(from[at * 3] + from[at * 3 + 1] + from[at * 3 + 2]) / 765.0F;
            }
        });
    return true;
}

}  // namespace nvinfer1
