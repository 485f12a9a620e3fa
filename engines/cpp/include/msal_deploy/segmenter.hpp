// Segmenter: a graph of a bundle, opened in one runtime. RGB images go in, probabilities of nuclei come out.
//
//     auto segmenter = msal_deploy::Segmenter::open("model", "int8");
//     if (!segmenter) return std::puts(segmenter.error().sentence.c_str());
//     auto probability = segmenter->segment(rgb, 512, 512);  // std::vector<float>, 512 × 512
//
// The graph casts, normalises and applies the sigmoid by itself: bytes as they come out of a decoder are right.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "msal_deploy/export.hpp"
#include "msal_deploy/result.hpp"
#include "msal_deploy/span.hpp"

namespace msal_deploy {

// N images of H × W pixels.
struct Shape {
    std::size_t number = 1;
    std::size_t height = 0;
    std::size_t width = 0;
};

struct Axis {
    std::string name;
    std::size_t minimum = 1;
    std::size_t maximum = 1;
    std::size_t multiple = 1;  // the extent must be a multiple of this
};

// What the graph takes and gives: read from the bundle's manifest, never typed into a program.
struct Spec {
    std::string image;        // name of the input, uint8[N,H,W,3]
    std::string probability;  // name of the output, float32[N,1,H,W]
    Axis number;
    Axis height;
    Axis width;
    double microns_per_pixel = 0;  // the resolution that the network was trained at
    float threshold = 0;           // a pixel is a nucleus where the probability is at least this
};

struct Options {
    std::string backend;  // "openvino", "onnxruntime", "tensorrt", "tensorrt-rtx"; empty: the first of backends()
    int threads = 0;      // CPU threads; 0: as many as the runtime takes by itself
    int streams = 1;      // how many images are computed side by side (openvino); each stream holds its own activations
};

// Names of the runtimes that this library was built with.
MSAL_DEPLOY_EXPORT std::vector<std::string> backends();

// Threads may share one Segmenter and call it at the same time; each call is answered as if it were the only one. With
// one stream the calls wait for each other; see README.md, "Threads". Nothing may use one that is being moved from.
class MSAL_DEPLOY_EXPORT Segmenter {
  public:
    // Opens `model.<precision>.onnx`, or the plan built from it, after checking its SHA-256 against the manifest.
    //
    // folder: a bundle, or the `model` folder of a package. precision: fp32, fp16, int8, or bf16 (the FP32 graph,
    // computed in bf16 by openvino).
    [[nodiscard]] static Result<Segmenter> open(const std::string& folder, const std::string& precision,
                                                const Options& options = {}) noexcept;

    Segmenter(Segmenter&&) noexcept;
    Segmenter& operator=(Segmenter&&) noexcept;
    ~Segmenter();

    // One image: rgb is height × width × 3 bytes, row by row. Returns height × width probabilities.
    [[nodiscard]] Result<std::vector<float>> segment(Span<const std::uint8_t> rgb, std::size_t height,
                                                     std::size_t width) const noexcept;

    // A batch: N × H × W × 3 bytes. Returns N × H × W probabilities.
    [[nodiscard]] Result<std::vector<float>> segment(Span<const std::uint8_t> rgb, const Shape& shape) const noexcept;

    // The same into a buffer of the caller's with room for at least N × H × W numbers, so that it can be used again.
    [[nodiscard]] Result<void> segment(Span<const std::uint8_t> rgb, const Shape& shape,
                                       Span<float> probability) const noexcept;

    const Spec& spec() const noexcept;
    const std::string& engine() const noexcept;  // such as "openvino:int8"

  private:
    struct Parts;
    explicit Segmenter(std::unique_ptr<Parts> parts) noexcept;
    std::unique_ptr<Parts> parts_;
};

}  // namespace msal_deploy
