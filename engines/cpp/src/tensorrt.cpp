// TensorRT 8.6 or later, and TensorRT for RTX, whose classes have the same names: one file for both, and one of them in
// a build. Only NvInfer.h tells them apart.
#include <NvInfer.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <mutex>

#include "backend.hpp"
#include "failure.hpp"
#include "plan.hpp"

#if !defined(TRT_MAJOR_RTX) && (NV_TENSORRT_MAJOR < 8 || (NV_TENSORRT_MAJOR == 8 && NV_TENSORRT_MINOR < 6))
#error "TensorRT 8.6 or later is needed: plans of uint8 images and host code in plans begin there"
#endif

namespace msal_deploy {

namespace {

#ifdef TRT_MAJOR_RTX
constexpr const char* backend_name = "tensorrt-rtx";
#else
constexpr const char* backend_name = "tensorrt";
#endif

// Until TensorRT 9 the number was major × 1000 + minor × 100 + patch.
std::string version() {
    const int number = getInferLibVersion();
#if !defined(TRT_MAJOR_RTX) && NV_TENSORRT_MAJOR < 9
    return text(number / 1000, ".", number / 100 % 10, ".", number % 100);
#else
    return text(number / 10000, ".", number / 100 % 100, ".", number % 100);
#endif
}

// Keeps what TensorRT says of errors. One for the whole process: TensorRT keeps the first that it is given.
class Messages : public nvinfer1::ILogger {
  public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity != Severity::kERROR && severity != Severity::kINTERNAL_ERROR) return;
        try {
            const std::lock_guard<std::mutex> lock(mutex_);
            said_ += (said_.empty() ? "" : "; ") + one_line(message);
        } catch (...) {  // no memory for a message
        }
    }

    std::string take() {
        const std::lock_guard<std::mutex> lock(mutex_);
        std::string said = said_.empty() ? "it does not say why" : said_;
        said_.clear();
        return said;
    }

  private:
    std::mutex mutex_;
    std::string said_;
};

Messages& messages() {
    static Messages one;
    return one;
}

void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    environment_lacks("CUDA could not ", what, " (", cudaGetErrorString(status),
                      "); msal-deploy doctor looks for causes");
}

// Returns the compute capability of the GPU that the calling thread uses.
std::string compute_capability() {
    int devices = 0;
    const cudaError_t status = cudaGetDeviceCount(&devices);
    if (status != cudaSuccess || devices == 0) {
        environment_lacks("There is no GPU here that CUDA can use (",
                          status == cudaSuccess ? "none was found" : cudaGetErrorString(status),
                          "); msal-deploy doctor looks for causes");
    }
    int device = 0, major = 0, minor = 0;
    check(cudaGetDevice(&device), "name its device");
    check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "read the compute capability");
    check(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), "read the compute capability");
    return text(major, ".", minor);
}

std::vector<char> bytes_of(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    std::vector<char> bytes{std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
    if (!stream) bad_input(file.string(), " cannot be read to its end");
    return bytes;
}

// Memory on the GPU. It grows when it must, and never shrinks.
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
    Stream() { check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "make a stream"); }
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    ~Stream() { cudaStreamDestroy(stream_); }
    cudaStream_t get() const { return stream_; }

  private:
    cudaStream_t stream_ = nullptr;
};

#ifdef TRT_MAJOR_RTX
// TensorRT for RTX compiles its kernels when it first needs them. They are kept beside the plan, in a file that it
// checks and that may be deleted at any time.
class Kernels {
  public:
    explicit Kernels(const std::filesystem::path& plan) : file_(plan.string() + ".cache") {}

    std::unique_ptr<nvinfer1::IExecutionContext> context(nvinfer1::ICudaEngine& engine) {
        config_.reset(engine.createRuntimeConfig());
        if (!config_) return nullptr;
        cache_.reset(config_->createRuntimeCache());
        if (cache_) {
            std::error_code missing;
            if (std::filesystem::is_regular_file(file_, missing)) before_ = bytes_of(file_);
            if (!before_.empty())
                cache_->deserialize(before_.data(), before_.size());  // takes nothing of another version
            config_->setRuntimeCache(*cache_);
        }
#if TRT_MAJOR_RTX > 1 || TRT_MINOR_RTX >= 3
        config_->setCudaGraphStrategy(nvinfer1::CudaGraphStrategy::kWHOLE_GRAPH_CAPTURE);
#endif
        return std::unique_ptr<nvinfer1::IExecutionContext>(engine.createExecutionContext(config_.get()));
    }

    // A bundle that cannot be written to runs as well.
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
class Kernels {
  public:
    explicit Kernels(const std::filesystem::path&) {}
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
        check(cudaGetDevice(&device_), "name its device");
        messages().take();
        runtime_.reset(nvinfer1::createInferRuntime(messages()));
        if (!runtime_) environment_lacks(backend_name, " does not start (", messages().take(), ")");
        if (plan_.has("version_compatible")) runtime_->setEngineHostCodeAllowed(true);  // such plans carry code
        const std::vector<char> bytes = bytes_of(plan_.file);
        engine_.reset(runtime_->deserializeCudaEngine(bytes.data(), bytes.size()));
        if (!engine_) refuse(text(backend_name, " ", version(), " cannot load"), messages().take());
        check_tensor(spec_.image, nvinfer1::TensorIOMode::kINPUT, nvinfer1::DataType::kUINT8);
        check_tensor(spec_.probability, nvinfer1::TensorIOMode::kOUTPUT, nvinfer1::DataType::kFLOAT);
        context_ = kernels_.context(*engine_);
        if (!context_) refuse("The GPU has no room for", messages().take());
    }

    ~TensorRt() override {
        cudaSetDevice(device_);
        kernels_.save();
    }

    // There is one execution context, because TensorRT 8.6 allows one a profile: calls wait for each other.
    void infer(const std::uint8_t* rgb, const Shape& shape, float* probability) override {
        const std::size_t least = plan_.profile.minimum.number, most = plan_.profile.optimum.number;
        check_profile(plan_, {std::min(shape.number, most), shape.height, shape.width});
        const std::size_t pixels = shape.height * shape.width;
        const std::lock_guard<std::mutex> lock(mutex_);
        check(cudaSetDevice(device_), "use its device");  // each thread has one of its own
        for (std::size_t start = 0; start < shape.number; start += most) {
            // The last chunk may reach back into the one before it, so as not to fall below the profile.
            const std::size_t end = std::min(start + most, shape.number), first = std::min(start, end - least);
            compute(rgb + first * pixels * 3, {end - first, shape.height, shape.width}, probability + first * pixels);
        }
    }

  private:
    [[noreturn]] void refuse(const std::string& wrong, const std::string& said) const {
        environment_lacks(wrong, " ", plan_.file.string(), " (", said,
                          "); build it again with: ", rebuild_command(plan_, plan_.profile));
    }

    void check_tensor(const std::string& name, nvinfer1::TensorIOMode mode, nvinfer1::DataType type) const {
        for (int index = 0; index < engine_->getNbIOTensors(); ++index) {
            if (name != engine_->getIOTensorName(index)) continue;
            if (engine_->getTensorIOMode(name.c_str()) == mode && engine_->getTensorDataType(name.c_str()) == type)
                return;
        }
        bad_input(plan_.file.string(), " has no tensor '", name,
                  "' of the type that the manifest says; build it again with: ", rebuild_command(plan_, plan_.profile));
    }

    void compute(const std::uint8_t* rgb, const Shape& shape, float* probability) {
        const std::size_t pixels = shape.number * shape.height * shape.width;
        try {
            void* image = image_.reserve(pixels * 3);
            void* result = probability_.reserve(pixels * sizeof(float));
            check(cudaMemcpyAsync(image, rgb, pixels * 3, cudaMemcpyHostToDevice, stream_.get()), "copy to the GPU");
            enqueue(image, shape, result);
            check(cudaMemcpyAsync(probability, result, pixels * sizeof(float), cudaMemcpyDeviceToHost, stream_.get()),
                  "copy from the GPU");
            check(cudaStreamSynchronize(stream_.get()), "compute");
        } catch (...) {
            cudaStreamSynchronize(stream_.get());  // what is under way would write into buffers of the caller's
            throw;
        }
    }

    void enqueue(void* image, const Shape& shape, void* result) {
        nvinfer1::Dims4 dims;
        const std::size_t extents[4] = {shape.number, shape.height, shape.width, 3};
        for (int axis = 0; axis < 4; ++axis)
            dims.d[axis] = static_cast<std::remove_reference_t<decltype(dims.d[0])>>(extents[axis]);
        const bool set = context_->setInputShape(spec_.image.c_str(), dims) &&
                         context_->setTensorAddress(spec_.image.c_str(), image) &&
                         context_->setTensorAddress(spec_.probability.c_str(), result);
        if (!set || !context_->enqueueV3(stream_.get())) {
            environment_lacks("TensorRT could not compute (", messages().take(),
                              "); msal-deploy doctor looks for causes");
        }
    }

    Spec spec_;
    Plan plan_;
    int device_ = 0;
    std::mutex mutex_;
    // In the order of their making: TensorRT wants them gone in the reverse.
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    Kernels kernels_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
    Stream stream_;
    DeviceMemory image_, probability_;
};

}  // namespace

std::unique_ptr<Backend> open_tensorrt(const Bundle& bundle, const std::string& precision, const Options&) {
    if (precision != "fp32" && precision != "fp16" && precision != "int8") {
        bad_input(backend_name, " runs no '", precision, "'; known: fp16, fp32, int8");
    }
    return std::make_unique<TensorRt>(bundle, precision);
}

}  // namespace msal_deploy
