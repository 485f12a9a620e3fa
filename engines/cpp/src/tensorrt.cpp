// TensorRT 8.6 or later, or TensorRT for RTX. Their classes have the same names, so a build has only one of them: the
// one whose NvInfer.h it includes.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <mutex>

#include "backend.hpp"
#include "failure.hpp"
#include "plan_metadata.hpp"

#if !defined(TRT_MAJOR_RTX) && (NV_TENSORRT_MAJOR < 8 || (NV_TENSORRT_MAJOR == 8 && NV_TENSORRT_MINOR < 6))
#error "TensorRT is not 8.6 or later, the first with uint8 inputs and host code in plans; use a later one"
#endif

namespace msal_deploy {

namespace {

#ifdef TRT_MAJOR_RTX
constexpr const char* backend_name = "tensorrt-rtx";
#else
constexpr const char* backend_name = "tensorrt";
#endif

// Before TensorRT 9 the number was major × 1000 + minor × 100 + patch.
std::string version() {
    const int number = getInferLibVersion();
#if !defined(TRT_MAJOR_RTX) && NV_TENSORRT_MAJOR < 9
    return concat(number / 1000, ".", number / 100 % 10, ".", number % 100);
#else
    return concat(number / 10000, ".", number / 100 % 100, ".", number % 100);
#endif
}

// Collects TensorRT's error messages. One per process, because TensorRT keeps the first logger it is given.
class ErrorLog : public nvinfer1::ILogger {
  public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity != Severity::kERROR && severity != Severity::kINTERNAL_ERROR) return;
        try {
            const std::lock_guard<std::mutex> lock(mutex_);
            messages_ += (messages_.empty() ? "" : "; ") + one_line(message);
        } catch (...) {  // no memory for the message
        }
    }

    std::string take() {
        const std::lock_guard<std::mutex> lock(mutex_);
        std::string messages = messages_.empty() ? "no message" : messages_;
        messages_.clear();
        return messages;
    }

  private:
    std::mutex mutex_;
    std::string messages_;
};

ErrorLog& error_log() {
    static ErrorLog log;
    return log;
}

void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    throw_missing_requirement("CUDA could not ", what, " (", cudaGetErrorString(status),
                              "); find the cause with: msal-deploy doctor");
}

// Returns the compute capability of the GPU that the calling thread uses.
std::string compute_capability() {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (status != cudaSuccess || devices == 0) {
        throw_missing_requirement("CUDA found no GPU (",
                                  status == cudaSuccess ? "0 devices" : cudaGetErrorString(status),
                                  "); find the cause with: msal-deploy doctor");
    }
    int device = 0, major = 0, minor = 0;
    check(cudaGetDevice(&device), "get the current device");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "read the compute capability");
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "read the compute capability");
    return concat(major, ".", minor);
}

std::vector<char> read_bytes(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    std::vector<char> bytes{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    if (!stream) throw_bad_input(file.string(), " is not readable to its end; check the disk");
    return bytes;
}

// Memory on the GPU, which grows as needed and never shrinks.
class DeviceMemory {
  public:
    DeviceMemory() = default;
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;
    ~DeviceMemory() { cudaFree(data_); }

    void* reserve(std::size_t size) {
        if (size > size_) {
            cudaFree(data_);
            data_ = nullptr;
            size_ = 0;
            check(cudaMalloc(&data_, size), "allocate memory on the GPU");
            size_ = size;
        }
        return data_;
    }

  private:
    void* data_ = nullptr;
    std::size_t size_ = 0;
};

class Stream {
  public:
    Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "create a stream"); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    ~Stream() { cudaStreamDestroy(stream_); }
    cudaStream_t get() const { return stream_; }

  private:
    cudaStream_t stream_ = nullptr;
};

#ifdef TRT_MAJOR_RTX
// Creates the execution context. TensorRT for RTX compiles kernels at first use; they are saved next to the plan, in a
// file that TensorRT validates and that can be deleted at any time.
class KernelCache {
  public:
    explicit KernelCache(const std::filesystem::path& plan) : file_(plan.string() + ".cache") {}

    std::unique_ptr<nvinfer1::IExecutionContext> context(nvinfer1::ICudaEngine& engine) {
        config_.reset(engine.createRuntimeConfig());
        if (!config_) return nullptr;
        cache_.reset(config_->createRuntimeCache());
        if (cache_) {
            std::error_code missing;
            if (std::filesystem::is_regular_file(file_, missing)) before_ = read_bytes(file_);
            if (!before_.empty())
                cache_->deserialize(before_.data(), before_.size());  // ignores the cache of another version
            config_->setRuntimeCache(*cache_);
        }
#if TRT_MAJOR_RTX > 1 || TRT_MINOR_RTX >= 3
        config_->setCudaGraphStrategy(nvinfer1::CudaGraphStrategy::kWHOLE_GRAPH_CAPTURE);
#endif
        return std::unique_ptr<nvinfer1::IExecutionContext>(engine.createExecutionContext(config_.get()));
    }

    // Ignores errors: a read-only bundle works too.
    void save() noexcept try {
        if (!cache_) return;
        const std::unique_ptr<nvinfer1::IHostMemory> now(cache_->serialize());
        const auto* data = now ? static_cast<const char*>(now->data()) : nullptr;
        if (data == nullptr || (now->size() == before_.size() && std::equal(before_.begin(), before_.end(), data)))
            return;
        const std::filesystem::path temporary = file_.string() + ".partial";
        std::ofstream stream(temporary, std::ios::binary);
        stream.write(data, static_cast<std::streamsize>(now->size()));
        stream.close();
        if (stream) std::filesystem::rename(temporary, file_);
    } catch (...) {
    }

  private:
    std::filesystem::path file_;
    std::vector<char> before_;
    std::unique_ptr<nvinfer1::IRuntimeConfig> config_;
    std::unique_ptr<nvinfer1::IRuntimeCache> cache_;
};
#else
class KernelCache {
  public:
    explicit KernelCache(const std::filesystem::path&) {}
    std::unique_ptr<nvinfer1::IExecutionContext> context(nvinfer1::ICudaEngine& engine) {
        return std::unique_ptr<nvinfer1::IExecutionContext>(engine.createExecutionContext());
    }
    void save() noexcept {}
};
#endif

class TensorRt : public Backend {
  public:
    TensorRt(const Bundle& bundle, const std::string& precision)
        : spec_(bundle.spec),
          plan_(find_plan(bundle, precision, {backend_name, version(), compute_capability()})),
          kernels_(plan_.file) {
        check(cudaGetDevice(&device_), "get the current device");
        error_log().take();
        runtime_.reset(nvinfer1::createInferRuntime(error_log()));
        if (!runtime_) {
            throw_missing_requirement(backend_name, " could not start (", error_log().take(),
                                      "); find the cause with: msal-deploy doctor");
        }
        if (plan_.has("version_compatible")) runtime_->setEngineHostCodeAllowed(true);  // such plans contain code
        const std::vector<char> bytes = read_bytes(plan_.file);
        engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
        if (!engine_) throw_unusable(concat(backend_name, " ", version(), " cannot load"), error_log().take());
        check_tensor(spec_.image, nvinfer1::TensorIOMode::kINPUT, nvinfer1::DataType::kUINT8);
        check_tensor(spec_.probability, nvinfer1::TensorIOMode::kOUTPUT, nvinfer1::DataType::kFLOAT);
        context_ = kernels_.context(*engine_);
        if (!context_) throw_unusable("The GPU does not have enough memory for", error_log().take());
    }

    ~TensorRt() override {
        cudaSetDevice(device_);
        kernels_.save();
    }

    // Calls wait for each other: there is one execution context, because TensorRT 8.6 allows one per profile.
    void infer(const std::uint8_t* rgb, const Shape& shape, float* probability) override {
        const std::size_t min = plan_.profile.min.batch, opt = plan_.profile.opt.batch;
        check_profile(plan_, {std::min(shape.batch, opt), shape.height, shape.width});
        const std::size_t pixels = shape.height * shape.width;
        const std::lock_guard<std::mutex> lock(mutex_);
        check(cudaSetDevice(device_), "set the device");  // the current device is per thread
        for (std::size_t start = 0; start < shape.batch; start += opt) {
            // The last chunk may overlap the one before it, so that it is not smaller than the profile's minimum.
            const std::size_t end = std::min(start + opt, shape.batch), first = std::min(start, end - min);
            compute(rgb + first * pixels * 3, {end - first, shape.height, shape.width}, probability + first * pixels);
        }
    }

  private:
    [[noreturn]] void throw_unusable(const std::string& reason, const std::string& messages) const {
        throw_missing_requirement(reason, " ", plan_.file.string(), " (", messages,
                                  "); rebuild it with: ", rebuild_command(plan_, plan_.profile));
    }

    void check_tensor(const std::string& name, nvinfer1::TensorIOMode mode, nvinfer1::DataType type) const {
        for (int index = 0; index < engine_->getNbIOTensors(); ++index) {
            if (name != engine_->getIOTensorName(index)) continue;
            if (engine_->getTensorIOMode(name.c_str()) == mode && engine_->getTensorDataType(name.c_str()) == type)
                return;
        }
        throw_bad_input(plan_.file.string(), " does not have the tensor '", name,
                        "' of the manifest; rebuild it with: ", rebuild_command(plan_, plan_.profile));
    }

    void compute(const std::uint8_t* rgb, const Shape& shape, float* probability) {
        const std::size_t pixels = shape.batch * shape.height * shape.width;
        try {
            void* image = image_.reserve(pixels * 3);
            void* result = probability_.reserve(pixels * sizeof(float));
            check(cudaMemcpyAsync(image, rgb, pixels * 3, cudaMemcpyHostToDevice, stream_.get()), "copy to the GPU");
            enqueue(image, shape, result);
            check(cudaMemcpyAsync(probability, result, pixels * sizeof(float), cudaMemcpyDeviceToHost, stream_.get()),
                  "copy from the GPU");
            check(cudaStreamSynchronize(stream_.get()), "compute");
        } catch (...) {
            cudaStreamSynchronize(stream_.get());  // copies in progress would write to the caller's buffers
            throw;
        }
    }

    void enqueue(void* image, const Shape& shape, void* result) {
        nvinfer1::Dims4 dims;
        const std::size_t extents[4] = {shape.batch, shape.height, shape.width, 3};
        for (int axis = 0; axis < 4; ++axis)
            dims.d[axis] = static_cast<std::remove_reference_t<decltype(dims.d[0])>>(extents[axis]);
        const bool set = context_->setInputShape(spec_.image.c_str(), dims) &&
                         context_->setTensorAddress(spec_.image.c_str(), image) &&
                         context_->setTensorAddress(spec_.probability.c_str(), result);
        if (!set || !context_->enqueueV3(stream_.get())) {
            throw_missing_requirement("TensorRT could not run the plan (", error_log().take(),
                                      "); find the cause with: msal-deploy doctor");
        }
    }

    Spec spec_;
    PlanMetadata plan_;
    int device_ = 0;
    std::mutex mutex_;
    // In order of creation: TensorRT needs them destroyed in reverse.
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    KernelCache kernels_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    Stream stream_;
    DeviceMemory image_, probability_;
};

}  // namespace

std::unique_ptr<Backend> open_tensorrt(const Bundle& bundle, const std::string& precision, const Options&) {
    if (precision != "fp32" && precision != "fp16" && precision != "int8") {
        throw_bad_input(backend_name, " does not support '", precision, "'; choose from: fp16, fp32, int8");
    }
    return std::make_unique<TensorRt>(bundle, precision);
}

}  // namespace msal_deploy
