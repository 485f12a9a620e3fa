// A fake of TensorRT without its kernels. It computes with copies of CUDA's runtime alone, so it runs on a real GPU, in
// real streams and graphs, and with fake_cuda.cpp under AddressSanitizer without a GPU. The network reads the bytes of
// a pixel as the lower three of a float whose highest is 0x3E: 0.125 to 0.5, different for each colour.
//
// The environment variable FAKE is what fails: deserialise, context, second-context, half-image, host-image, chw-image,
// shape, output-shape, enqueue, capture, runtime-cache, or graph-strategy. FAKE=complain logs while contexts are
// destroyed, FAKE=warn for each call, FAKE=elsewhere from another thread. FAKE_LOG is a file to which each computed
// shape is appended, FAKE_TRACE one for the number of each context that computes.
#include <NvInfer.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <thread>

namespace {

std::atomic<int> runtimes{0}, engines{0};  // objects alive
std::atomic<int> numbers{0};
nvinfer1::ILogger* logger = nullptr;  // the first one, as in TensorRT
std::mutex mutex;

bool is(const char* what) {
    const char* named = std::getenv("FAKE");
    return named != nullptr && std::strcmp(named, what) == 0;
}

void expect(bool so, const char* what) {
    if (so) return;
    std::fprintf(stderr, "fake TensorRT: %s\n", what);
    std::abort();
}

void say(nvinfer1::ILogger::Severity severity, const char* message) {
    logger->log(severity, message);
}

void complain(const char* message) {
    say(nvinfer1::ILogger::Severity::kERROR, message);
}

template <class... Args>
void note(const char* variable, const char* format, Args... args) {
    const char* file = std::getenv(variable);
    if (file == nullptr) return;
    const std::lock_guard<std::mutex> lock(mutex);
    std::FILE* stream = std::fopen(file, "a");
    std::fprintf(stream, format, args...);
    std::fclose(stream);
}

void warn(const char* message) {
    if (is("warn")) say(nvinfer1::ILogger::Severity::kWARNING, message);
    if (is("elsewhere")) std::thread([=] { say(nvinfer1::ILogger::Severity::kWARNING, message); }).join();
}

bool is_image(const char* name) {
    return std::strcmp(name, "image") == 0;
}

}  // namespace

extern "C" int32_t getInferLibVersion() noexcept {
#if NV_TENSORRT_MAJOR == 8
    return NV_TENSORRT_MAJOR * 1000 + NV_TENSORRT_MINOR * 100 + NV_TENSORRT_PATCH;
#else
    return (NV_TENSORRT_MAJOR * 100 + NV_TENSORRT_MINOR) * 100 + NV_TENSORRT_PATCH;
#endif
}

namespace nvinfer1 {

IRuntime* createInferRuntime(ILogger& given) noexcept {
    if (logger == nullptr) logger = &given;
    ++runtimes;
    return new IRuntime;
}

IRuntime::~IRuntime() noexcept {
    expect(--runtimes >= 0 && engines <= runtimes, "the runtime was destroyed before its engine");
}

void IRuntime::setEngineHostCodeAllowed(bool) noexcept {}

ICudaEngine* IRuntime::deserializeCudaEngine(const void* blob, std::size_t size) noexcept {
    const std::string plan(static_cast<const char*>(blob), size);
    if (is("deserialise") || plan != "a plan of some bytes") {
        complain("Serialization assertion failed");
        return nullptr;
    }
    warn("Using an engine plan file across different models of devices");
    ++engines;
    return new ICudaEngine;
}

ICudaEngine::~ICudaEngine() noexcept {
    --engines;
    expect(contexts == 0, "the engine was destroyed before its context");
}

int32_t ICudaEngine::getNbIOTensors() const noexcept {
    return 2;
}

const char* ICudaEngine::getIOTensorName(int32_t index) const noexcept {
    return index == 0 ? "image" : "probability";
}

TensorIOMode ICudaEngine::getTensorIOMode(const char* name) const noexcept {
    return is_image(name) ? TensorIOMode::kINPUT : TensorIOMode::kOUTPUT;
}

DataType ICudaEngine::getTensorDataType(const char* name) const noexcept {
    if (is("half-image")) return DataType::kHALF;
    return is_image(name) ? DataType::kUINT8 : DataType::kFLOAT;
}

TensorLocation ICudaEngine::getTensorLocation(const char*) const noexcept {
    return is("host-image") ? TensorLocation::kHOST : TensorLocation::kDEVICE;
}

TensorFormat ICudaEngine::getTensorFormat(const char*) const noexcept {
    return is("chw-image") ? TensorFormat::kCHW2 : TensorFormat::kLINEAR;
}

IExecutionContext* ICudaEngine::context(bool owns_memory, IRuntimeCache* cache) {
    if (is("context") || (is("second-context") && contexts > 0)) {
        complain("Cannot allocate 5 GiB");
        return nullptr;
    }
    return new IExecutionContext(*this, owns_memory, cache);
}

#ifdef FAKE_CONTEXT_MEMORY
IExecutionContext* ICudaEngine::createExecutionContext(ExecutionContextAllocationStrategy strategy) noexcept {
    return context(strategy != ExecutionContextAllocationStrategy::kUSER_MANAGED, nullptr);
}
#else
IExecutionContext* ICudaEngine::createExecutionContext() noexcept {
    expect(contexts == 0, "two contexts of one profile");
    return context(true, nullptr);
}
#endif

#ifdef TRT_MAJOR_RTX
IRuntimeConfig* ICudaEngine::createRuntimeConfig() noexcept {
    return new IRuntimeConfig;
}

IExecutionContext* ICudaEngine::createExecutionContext(IRuntimeConfig* config) noexcept {
    return context(config->strategy != ExecutionContextAllocationStrategy::kUSER_MANAGED, config->cache);
}
#endif

IHostMemory* IRuntimeCache::serialize() const noexcept {
    const std::lock_guard<std::mutex> lock(mutex);
    std::string all = "kernels of";
    for (const std::string& shape : kernels) all += " " + shape;
    return new IHostMemory(all);
}

bool IRuntimeCache::deserialize(const void* blob, std::size_t size) noexcept {
    return std::string(static_cast<const char*>(blob), size).rfind("kernels of", 0) == 0;
}

IRuntimeCache* IRuntimeConfig::createRuntimeCache() const noexcept {
    return new IRuntimeCache;
}

bool IRuntimeConfig::setRuntimeCache(const IRuntimeCache& given) noexcept {
    cache = const_cast<IRuntimeCache*>(&given);
    return !is("runtime-cache");
}

void IRuntimeConfig::setExecutionContextAllocationStrategy(ExecutionContextAllocationStrategy given) noexcept {
    strategy = given;
}

bool IRuntimeConfig::setCudaGraphStrategy(CudaGraphStrategy) noexcept {
    return !is("graph-strategy");
}

IExecutionContext::IExecutionContext(ICudaEngine& engine, bool owns_memory, IRuntimeCache* cache)
    : engine_(engine), number_(numbers++), owns_memory_(owns_memory), cache_(cache) {
    ++engine_.contexts;
}

IExecutionContext::~IExecutionContext() noexcept {
    if (is("complain")) complain("a message while a context is destroyed");
    --engine_.contexts;
}

std::size_t IExecutionContext::pixels() const {
    return static_cast<std::size_t>(shape_.d[0] * shape_.d[1] * shape_.d[2]);
}

bool IExecutionContext::setInputShape(const char* name, const Dims& dims) noexcept {
    expect(is_image(name) && dims.nbDims == 4 && dims.d[3] == 3, "a shape that is not one of images");
    if (is("shape")) {
        complain("Profile kMIN is not satisfied");
        return false;
    }
    shape_ = dims;
    return true;
}

Dims IExecutionContext::getTensorShape(const char* name) const noexcept {
    if (is_image(name)) return shape_;
    Dims shape{4, {shape_.d[0], 1, shape_.d[1], shape_.d[2]}};
    if (is("output-shape")) shape.d[1] = 2;
    return shape;
}

#ifdef FAKE_CONTEXT_MEMORY
std::size_t IExecutionContext::updateDeviceMemorySizeForShapes() noexcept {
    return pixels() * 4;
}

void IExecutionContext::setDeviceMemoryV2(void* memory, int64_t size) noexcept {
    memory_ = memory;
    memory_size_ = static_cast<std::size_t>(size);
}
#endif

bool IExecutionContext::setTensorAddress(const char* name, void* address) noexcept {
    expect(reinterpret_cast<std::uintptr_t>(address) % 256 == 0, "an address that is not aligned");
    (is_image(name) ? image_ : probability_) = address;
    return true;
}

bool IExecutionContext::enqueueV3(cudaStream_t stream) noexcept {
    cudaStreamCaptureStatus captured = cudaStreamCaptureStatusNone;
    cudaStreamIsCapturing(stream, &captured);
    if (is("enqueue") || (is("capture") && captured == cudaStreamCaptureStatusActive)) {
        complain("an internal error of a kernel");
        return false;
    }
    note("FAKE_LOG", "%d %d %d\n", static_cast<int>(shape_.d[0]), static_cast<int>(shape_.d[1]),
         static_cast<int>(shape_.d[2]));
    note("FAKE_TRACE", "%d %s\n", number_, captured == cudaStreamCaptureStatusActive ? "captures" : "computes");
    warn("a message of a call");
    if (cache_ != nullptr) {
        const std::lock_guard<std::mutex> lock(mutex);
        cache_->kernels.insert(std::to_string(shape_.d[1]) + "x" + std::to_string(shape_.d[2]));
    }
    const std::size_t rows = pixels();
    auto *from = static_cast<unsigned char*>(image_), *to = static_cast<unsigned char*>(probability_);
    bool good = cudaMemset2DAsync(to + 3, 4, 0x3E, 1, rows, stream) == cudaSuccess;
    for (std::size_t byte = 0; byte < 3; ++byte) {
        good = good && cudaMemcpy2DAsync(to + 2 - byte, 4, from + byte, 3, 1, rows, cudaMemcpyDeviceToDevice, stream) ==
                           cudaSuccess;
    }
    if (!owns_memory_) {
        expect(memory_size_ >= rows * 4, "not enough memory for the context");
        good = good && cudaMemsetAsync(memory_, 1, rows * 4, stream) == cudaSuccess;
    }
    if (!good) complain("a copy failed");
    return good;
}

}  // namespace nvinfer1
