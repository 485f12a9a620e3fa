// The part of TensorRT's interface that engines/cpp/src/tensorrt.cpp uses, with the names and types of the real one.
// That file compiles with this header and with NVIDIA's headers from 8.6 to 11. See fake.cpp.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "NvInferVersion.h"

namespace nvinfer1 {

enum class DataType : int32_t { kFLOAT = 0, kHALF = 1, kINT8 = 2, kINT32 = 3, kBOOL = 4, kUINT8 = 5 };
enum class TensorIOMode : int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };

struct Dims64 {
    int32_t nbDims;
    int64_t d[8];
};

struct Dims4 : Dims64 {
    Dims4() : Dims64{4, {}} {}
};

class ILogger {
  public:
    enum class Severity : int32_t { kINTERNAL_ERROR = 0, kERROR = 1, kWARNING = 2, kINFO = 3, kVERBOSE = 4 };
    virtual void log(Severity severity, const char* message) noexcept = 0;
    virtual ~ILogger() = default;
};

class IExecutionContext {
  public:
    virtual ~IExecutionContext() noexcept;
    bool setInputShape(const char* name, const Dims64& dims) noexcept;
    bool setTensorAddress(const char* name, void* address) noexcept;
    bool enqueueV3(cudaStream_t stream) noexcept;

  private:
    Dims64 shape_{};
    void *image_ = nullptr, *probability_ = nullptr;
};

class ICudaEngine {
  public:
    virtual ~ICudaEngine() noexcept;
    int32_t getNbIOTensors() const noexcept;
    const char* getIOTensorName(int32_t index) const noexcept;
    TensorIOMode getTensorIOMode(const char* name) const noexcept;
    DataType getTensorDataType(const char* name) const noexcept;
    IExecutionContext* createExecutionContext() noexcept;
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
