// The part of TensorRT's interface that engines/cpp/src/tensorrt*.cpp use, with the names and types of the real one.
// Those files compile with this header and with NVIDIA's headers from 8.6 to 11. See fake_nvinfer.cpp.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>

#include <NvInferVersion.h>

#if defined(TRT_MAJOR_RTX) || NV_TENSORRT_MAJOR >= 10
#define FAKE_CONTEXT_MEMORY  // the caller can give a context its memory
#endif

namespace nvinfer1 {

enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kUINT8 = 5 };
enum class TensorIOMode : int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class TensorLocation : int32_t { kDEVICE = 0, kHOST = 1 };
enum class TensorFormat : int32_t { kLINEAR = 0, kCHW2 = 1 };
enum class ExecutionContextAllocationStrategy : int32_t { kSTATIC = 0, kON_PROFILE_CHANGE = 1, kUSER_MANAGED = 2 };
enum class CudaGraphStrategy : int32_t { kDISABLED = 0, kWHOLE_GRAPH_CAPTURE = 1 };

#if NV_TENSORRT_MAJOR == 8
using Side = int32_t;
#else
using Side = int64_t;
#endif

struct Dims {
    int32_t nbDims;
    Side d[8];
};

struct Dims4 : Dims {
    Dims4() : Dims{4, {}} {}
};

class ILogger {
  public:
    enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual void log(Severity severity, const char* message) noexcept = 0;
    virtual ~ILogger() = default;
};

class IHostMemory {
  public:
    explicit IHostMemory(std::string content) : content_(std::move(content)) {}
    virtual ~IHostMemory() noexcept = default;
    void* data() const noexcept { return const_cast<char*>(content_.data()); }
    std::size_t size() const noexcept { return content_.size(); }

  private:
    std::string content_;
};

class IRuntimeCache {
  public:
    virtual ~IRuntimeCache() noexcept = default;
    IHostMemory* serialize() const noexcept;
    bool deserialize(const void* blob, std::size_t size) noexcept;
    std::set<std::string> kernels;
};

class IRuntimeConfig {
  public:
    virtual ~IRuntimeConfig() noexcept = default;
    IRuntimeCache* createRuntimeCache() const noexcept;
    bool setRuntimeCache(const IRuntimeCache& cache) noexcept;
    void setExecutionContextAllocationStrategy(ExecutionContextAllocationStrategy strategy) noexcept;
    bool setCudaGraphStrategy(CudaGraphStrategy strategy) noexcept;
    IRuntimeCache* cache = nullptr;
    ExecutionContextAllocationStrategy strategy = ExecutionContextAllocationStrategy::kSTATIC;
};

class ICudaEngine;

class IExecutionContext {
  public:
    IExecutionContext(ICudaEngine& engine, bool owns_memory, IRuntimeCache* cache);
    virtual ~IExecutionContext() noexcept;
    bool setInputShape(const char* name, const Dims& dims) noexcept;
    Dims getTensorShape(const char* name) const noexcept;
    bool setTensorAddress(const char* name, void* address) noexcept;
    bool enqueueV3(cudaStream_t stream) noexcept;
#ifdef FAKE_CONTEXT_MEMORY
    std::size_t updateDeviceMemorySizeForShapes() noexcept;
    void setDeviceMemoryV2(void* memory, int64_t size) noexcept;
#endif

  private:
    std::size_t pixels() const;

    ICudaEngine& engine_;
    const int number_;
    const bool owns_memory_;
    IRuntimeCache* const cache_;
    Dims shape_{};
    void *image_ = nullptr, *probability_ = nullptr, *memory_ = nullptr;
    std::size_t memory_size_ = 0;
};

class ICudaEngine {
  public:
    virtual ~ICudaEngine() noexcept;
    int32_t getNbIOTensors() const noexcept;
    const char* getIOTensorName(int32_t index) const noexcept;
    TensorIOMode getTensorIOMode(const char* name) const noexcept;
    DataType getTensorDataType(const char* name) const noexcept;
    TensorLocation getTensorLocation(const char* name) const noexcept;
    TensorFormat getTensorFormat(const char* name) const noexcept;
#ifdef TRT_MAJOR_RTX
    IRuntimeConfig* createRuntimeConfig() noexcept;
    IExecutionContext* createExecutionContext(IRuntimeConfig* config) noexcept;
#endif
#ifdef FAKE_CONTEXT_MEMORY
    IExecutionContext* createExecutionContext(
        ExecutionContextAllocationStrategy strategy = ExecutionContextAllocationStrategy::kSTATIC) noexcept;
#else
    IExecutionContext* createExecutionContext() noexcept;
#endif
    std::atomic<int> contexts{0};  // alive

  private:
    IExecutionContext* context(bool owns_memory, IRuntimeCache* cache);
};

class IRuntime {
  public:
    virtual ~IRuntime() noexcept;
    void setEngineHostCodeAllowed(bool allowed) noexcept;
    ICudaEngine* deserializeCudaEngine(const void* blob, std::size_t size) noexcept;
};

IRuntime* createInferRuntime(ILogger& logger) noexcept;

}  // namespace nvinfer1

extern "C" int32_t getInferLibVersion() noexcept;
