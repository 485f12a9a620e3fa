// Backend: one runtime. Each lives in a file of its own and is built where its headers are found.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "bundle.hpp"
#include "msal_deploy/segmenter.hpp"

namespace msal_deploy {

class Backend {
  public:
    virtual ~Backend() = default;

    // Fills probability, float32[N,1,H,W], from rgb, uint8[N,H,W,3]. The shape is one that the spec takes. Called from
    // several threads at the same time; what must wait, waits inside. Throws.
    virtual void infer(const std::uint8_t* rgb, const Shape& shape, float* probability) = 0;
};

std::unique_ptr<Backend> open_openvino(const Bundle& bundle, const std::string& precision, const Options& options);
std::unique_ptr<Backend> open_onnxruntime(const Bundle& bundle, const std::string& precision, const Options& options);
std::unique_ptr<Backend> open_tensorrt(const Bundle& bundle, const std::string& precision, const Options& options);

}  // namespace msal_deploy
