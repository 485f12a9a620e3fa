// Engine: a plan that TensorRT has loaded.
#pragma once

#include <memory>
#include <string>

#include "plan_metadata.hpp"
#include "tensorrt_api.hpp"
#include "tensorrt_log.hpp"

namespace msal_deploy {

// Version of the TensorRT that runs, such as "10.13.3".
std::string tensorrt_version();

class KernelCache;

class Engine {
  public:
    // Loads the plan on the current device and checks its tensors. Throws Failure.
    Engine(Plan plan, const Spec& spec, const Options& options, const TensorRtLog& log);
    ~Engine();

    const PlanMetadata& plan() const { return plan_; }
    const Spec& spec() const { return spec_; }

    // Returns a context, or null if there is not enough memory. It must not outlive the Engine.
    std::unique_ptr<nvinfer1::IExecutionContext> context();

    // Throws Failure: TensorRT cannot use the plan, for the reason given and what it said.
    [[noreturn]] void throw_unusable(const std::string& reason) const;

    // Throws Failure: the plan is not the one of the bundle.
    [[noreturn]] void throw_other(const std::string& what) const;

    // TensorRT for RTX: saves kernels that were compiled meanwhile. Call it after each computation.
    void computed(const Shape& shape);

  private:
    void check_tensor(const std::string& name, nvinfer1::TensorIOMode mode, nvinfer1::DataType type) const;

    PlanMetadata plan_;
    Spec spec_;
    // In order of creation: TensorRT needs them destroyed in reverse.
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> engine_;
    std::unique_ptr<KernelCache> kernels_;
};

}  // namespace msal_deploy
