#include "tensorrt_engine.hpp"

#include <algorithm>
#include <mutex>
#include <set>
#include <tuple>

#include "failure.hpp"
#include "kernel_cache_file.hpp"

namespace msal_deploy {

#ifdef TRT_MAJOR_RTX

// TensorRT for RTX compiles kernels when a shape is first used, and better ones in the background later.
class KernelCache {
  public:
    KernelCache(const PlanMetadata& plan, const Options& options, const TensorRtLog& log)
        : file_(plan, options.cache), log_(log), saved_(file_.read()) {}

    // Returns null, with an error in the log, if there is not enough memory.
    std::unique_ptr<nvinfer1::IExecutionContext> context(nvinfer1::ICudaEngine& engine) {
        if (!config_) configure(engine);
        return std::unique_ptr<nvinfer1::IExecutionContext>(engine.createExecutionContext(config_.get()));
    }

    // Saves after the first call with a shape, and after the next 1, 2, 4, 8, … calls: comparing takes a while.
    void computed(const Shape& shape) {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (shapes_.insert({shape.batch, shape.height, shape.width}).second) calls_ = 0;
        if ((calls_ & (calls_ - 1)) == 0) save();
        ++calls_;
    }

    void save() noexcept try {
        const std::unique_ptr<nvinfer1::IHostMemory> now(cache_ ? cache_->serialize() : nullptr);
        if (!now) return;
        const auto* data = static_cast<const char*>(now->data());
        if (std::equal(saved_.begin(), saved_.end(), data, data + now->size())) return;
        file_.write(data, now->size());
        saved_.assign(data, data + now->size());
    } catch (...) {  // a read-only bundle works, too
        if (!warned_) log_.write(LogLevel::warning, current_error().message);
        warned_ = true;
    }

  private:
    void configure(nvinfer1::ICudaEngine& engine) {
        config_.reset(engine.createRuntimeConfig());
        cache_.reset(config_ ? config_->createRuntimeCache() : nullptr);
        if (!cache_) {
            throw_missing_requirement(tensorrt_name, " has no runtime cache (", tensorrt_errors(),
                                      "); find the cause with: msal-deploy doctor");
        }
        if (!saved_.empty() && !cache_->deserialize(saved_.data(), saved_.size())) {
            log_.write(LogLevel::warning, "The cached kernels are not of this version or GPU; they are compiled again");
        }
        bool set = config_->setRuntimeCache(*cache_);
        config_->setExecutionContextAllocationStrategy(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED);
#if TRT_MAJOR_RTX > 1 || TRT_MINOR_RTX >= 3
        set = config_->setCudaGraphStrategy(nvinfer1::CudaGraphStrategy::kWHOLE_GRAPH_CAPTURE) && set;
#endif
        if (!set) {
            throw_missing_requirement(tensorrt_name, " refuses the runtime cache or CUDA graphs (", tensorrt_errors(),
                                      "); use another release of it");
        }
    }

    KernelCacheFile file_;
    const TensorRtLog& log_;
    std::vector<char> saved_;
    std::unique_ptr<nvinfer1::IRuntimeConfig> config_;
    std::unique_ptr<nvinfer1::IRuntimeCache> cache_;
    std::mutex mutex_;
    std::set<std::tuple<std::size_t, std::size_t, std::size_t>> shapes_;
    std::size_t calls_ = 0;
    bool warned_ = false;
};

#else

class KernelCache {
  public:
    KernelCache(const PlanMetadata&, const Options&, const TensorRtLog&) {}
    std::unique_ptr<nvinfer1::IExecutionContext> context(nvinfer1::ICudaEngine& engine) {
#ifdef MSAL_DEPLOY_CONTEXT_MEMORY
        constexpr auto strategy = nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED;
        return std::unique_ptr<nvinfer1::IExecutionContext>(engine.createExecutionContext(strategy));
#else
        return std::unique_ptr<nvinfer1::IExecutionContext>(engine.createExecutionContext());
#endif
    }
    void computed(const Shape&) {}
    void save() noexcept {}
};

#endif

// Before TensorRT 9 the number was major × 1000 + minor × 100 + patch.
std::string tensorrt_version() {
    const int number = getInferLibVersion();
#if !defined(TRT_MAJOR_RTX) && NV_TENSORRT_MAJOR < 9
    return concat(number / 1000, ".", number / 100 % 10, ".", number % 100);
#else
    return concat(number / 10000, ".", number / 100 % 100, ".", number % 100);
#endif
}

Engine::Engine(Plan plan, const Spec& spec, const Options& options, const TensorRtLog& log)
    : plan_(std::move(plan.about)), spec_(spec), kernels_(std::make_unique<KernelCache>(plan_, options, log)) {
    runtime_.reset(nvinfer1::createInferRuntime(tensorrt_logger()));
    if (!runtime_) {
        throw_missing_requirement(tensorrt_name, " could not start (", tensorrt_errors(),
                                  "); find the cause with: msal-deploy doctor");
    }
    if (plan_.has("version_compatible")) runtime_->setEngineHostCodeAllowed(true);  // such plans contain code
    engine_.reset(runtime_->deserializeCudaEngine(plan.bytes.data(), plan.bytes.size()));
    if (!engine_) throw_unusable(concat(tensorrt_name, " ", tensorrt_version(), " cannot load"));
    check_tensor(spec_.image, nvinfer1::TensorIOMode::kINPUT, nvinfer1::DataType::kUINT8);
    check_tensor(spec_.probability, nvinfer1::TensorIOMode::kOUTPUT, nvinfer1::DataType::kFLOAT);
}

Engine::~Engine() {
    kernels_->save();
}

std::unique_ptr<nvinfer1::IExecutionContext> Engine::context() {
    return kernels_->context(*engine_);
}

void Engine::computed(const Shape& shape) {
    kernels_->computed(shape);
}

void Engine::throw_unusable(const std::string& reason) const {
    throw_missing_requirement(reason, " ", plan_.file.string(), " (", tensorrt_errors(),
                              "); rebuild it with: ", rebuild_command(plan_, plan_.profile));
}

void Engine::throw_other(const std::string& what) const {
    throw_bad_input(plan_.file.string(), " ", what, "; rebuild it with: ", rebuild_command(plan_, plan_.profile));
}

void Engine::check_tensor(const std::string& name, nvinfer1::TensorIOMode mode, nvinfer1::DataType type) const {
    bool found = false;
    for (int index = 0; index < engine_->getNbIOTensors(); ++index) found |= name == engine_->getIOTensorName(index);
    if (!found || engine_->getTensorIOMode(name.c_str()) != mode || engine_->getTensorDataType(name.c_str()) != type) {
        throw_other(concat("does not have the tensor '", name, "' of the manifest"));
    }
    if (engine_->getTensorLocation(name.c_str()) != nvinfer1::TensorLocation::kDEVICE ||
        engine_->getTensorFormat(name.c_str()) != nvinfer1::TensorFormat::kLINEAR) {
        throw_other(concat("does not have the tensor '", name, "' on the GPU, in rows without gaps"));
    }
}

}  // namespace msal_deploy
