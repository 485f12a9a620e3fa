// Backend: one runtime. Each has its own source file, which is built if CMake finds the runtime.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "bundle.hpp"
#include "msal_deploy/segmenter.hpp"

namespace msal_deploy {

class Backend {
  public:
    virtual ~Backend() = default;

    // Computes `probability`, float32[N,1,H,W], from `rgb`, uint8[N,H,W,3]. The caller has checked the shape against
    // the spec. Threads may call it at the same time; a backend that cannot run in parallel locks. Throws.
    virtual void infer(const std::uint8_t* rgb, const Shape& shape, float* probability) = 0;

    // Does what would make the first call of `infer` with this shape slower than the next. The caller has checked the
    // shape against the spec. Throws. Unless a backend has a better way, it computes a black image.
    virtual void prepare(const Shape& shape);

    // The same as `infer`, with pointers to GPU memory and a cudaStream_t, without waiting for the result. The caller
    // has checked the pointers and the shape. Throws; a backend without GPU memory throws bad_input.
    virtual void infer_on_device(const void* rgb, const Shape& shape, float* probability, void* stream);
};

std::unique_ptr<Backend> open_openvino(const Bundle& bundle, const std::string& precision, const Options& options);
std::unique_ptr<Backend> open_onnxruntime(const Bundle& bundle, const std::string& precision, const Options& options);
std::unique_ptr<Backend> open_tensorrt(const Bundle& bundle, const std::string& precision, const Options& options);

// Number of pixels. The caller has checked the shape; the product does not overflow.
inline std::size_t pixels_of(const Shape& shape) {
    return shape.batch * shape.height * shape.width;
}

// Throws Failure unless `names`, the graph's inputs or outputs, are just `expected`. kind: "input" or "output".
void check_names(const char* kind, const std::vector<std::string>& names, const std::string& expected);

}  // namespace msal_deploy
