// Segmenter: runs one graph of a bundle in one runtime. It takes images of any size and returns the probability of a
// nucleus for each pixel.
//
//     auto segmenter = msal_deploy::Segmenter::open("model", "int8");
//     if (!segmenter) return std::puts(segmenter.error().message.c_str());
//     auto probability = segmenter->segment(rgb, 700, 1000);  // std::vector<float>, 700 × 1000
//
// The graph includes the normalisation and the sigmoid: pass the bytes as they come out of an image decoder.
//
// Lifetime: a Segmenter owns its runtime, graph and buffers. It keeps no pointer into the arguments of a call.
// Threads: any number of threads may call the const functions of one Segmenter at the same time.
// Errors: open and segment return a Result and never throw; see result.hpp for the codes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "msal_deploy/export.hpp"
#include "msal_deploy/image.hpp"
#include "msal_deploy/result.hpp"
#include "msal_deploy/span.hpp"

namespace msal_deploy {

// `batch` images of `height` × `width` pixels.
struct Shape {
    std::size_t batch = 1;
    std::size_t height = 0;
    std::size_t width = 0;
};

// The sizes that a graph accepts along one axis: multiples of `multiple` from `min` to `max`.
struct Axis {
    std::string name;
    std::size_t min = 1;
    std::size_t max = 1;
    std::size_t multiple = 1;
};

// The input and output of the graph, read from the bundle's manifest.
struct Spec {
    std::string image;        // name of the input, uint8[N,H,W,3]
    std::string probability;  // name of the output, float32[N,1,H,W]
    Axis batch;
    Axis height;
    Axis width;
    double microns_per_pixel = 0;  // resolution of the training images
    float threshold = 0;           // a pixel belongs to a nucleus if its probability is at least this
};

enum class LogLevel { error, warning, info };

// Receives a message of one line without its end. Any thread may call it, several at the same time. It must not throw
// and must not call the Segmenter.
using LogCallback = std::function<void(LogLevel level, std::string_view message)>;

// An option that is set but that the backend does not honour is an error: bad_input.
struct Options {
    std::string backend;  // "openvino", "onnxruntime", "tensorrt" or "tensorrt-rtx"; empty: the first of backends()

    // openvino, onnxruntime: CPU threads, 1 to 1024. Unset: the runtime's default.
    std::optional<int> threads;

    // openvino: images computed in parallel, 1 to 1024, each with its own activation memory. Unset: 1.
    std::optional<int> streams;

    // tensorrt, tensorrt-rtx: index of the CUDA device. Unset: the current device of the thread that calls open().
    std::optional<int> device;

    // openvino: number of image shapes for which the compiled graph is kept; the least recently used one is dropped.
    // Unset: 4.
    std::optional<std::size_t> shapes;

    // openvino: folder for compiled graphs, which later processes load instead of compiling; unset: none is kept.
    // tensorrt-rtx: folder for compiled kernels; unset: next to the plan. It is created if it does not exist. Like the
    // bundle, it must be one that you trust.
    std::optional<std::string> cache;

    // tensorrt: capture a CUDA graph for each shape and replay it.
    std::optional<bool> cuda_graphs;

    // Receives warnings and errors of the runtime, and from openvino each compilation, as long as the Segmenter exists;
    // all backends. OpenVINO itself has one log for the process, which belongs to the program
    // (ov::util::set_log_callback). onnxruntime needs version 1.17.
    LogCallback log;
};

// Returns the backends that this library was built with, the default first. Throws std::bad_alloc if memory runs out.
MSAL_DEPLOY_EXPORT std::vector<std::string> backends();

class MSAL_DEPLOY_EXPORT Segmenter {
  public:
    // Opens `model.<precision>.onnx`, or the plan built from it, after comparing its SHA-256 with the expected one.
    //
    // folder: a bundle, or the `model` folder of a package.
    // precision: fp32, fp16, int8 or bf16 (openvino only: computes the FP32 graph in bf16).
    //
    // Errors: bad_input if the folder, the precision, the options or a file is not usable; missing_requirement if this
    // machine or this build cannot run it.
    [[nodiscard]] static Result<Segmenter> open(const std::string& folder, const std::string& precision,
                                                const Options& options = {}) noexcept;

    // Moving and destroying must not overlap with a call in another thread. A moved-from Segmenter returns bad_input
    // from segment, an empty spec() and an empty engine().
    Segmenter(Segmenter&&) noexcept;
    Segmenter& operator=(Segmenter&&) noexcept;
    ~Segmenter();

    // Segments one image of any size: height × width × 3 bytes, row by row. Returns height × width probabilities, 0 to
    // 1. This is the next function with the default tiling.
    //
    // Errors: bad_input if there is no pixel, or `rgb` is null or has another length; missing_requirement if memory
    // runs out or the GPU fails; failed if the runtime fails.
    [[nodiscard]] Result<std::vector<float>> segment(Span<const std::uint8_t> rgb, std::size_t height,
                                                     std::size_t width) const noexcept;

    // Segments one image of any size, also with gaps between its rows, a region of a larger one, BGR, or with alpha. It
    // is covered by tiles that overlap by at least `tiling.overlap` pixels and end at its borders. Near the edge of a
    // tile a network lacks context: the outer quarter of each overlap is dropped, and in the half between, the tiles
    // are blended linearly. An image that is lower or narrower than a tile is mirrored up to the next size that the
    // graph accepts. The result is that of Python's segment(), to the last bit. RGB without gaps and of a size that the
    // graph accepts is not copied if it is no larger than a tile. Otherwise, the call needs 4 bytes per pixel of the
    // image besides the result, and 7 per pixel of a batch of tiles.
    //
    // Errors: as above, and bad_input if spec() excludes the tile or the batch, or if the overlap or the bytes per row
    // are out of range.
    [[nodiscard]] Result<std::vector<float>> segment(const ImageView& image, const Tiling& tiling = {}) const noexcept;

    // The same, but writes to `probability`, which has room for at least height × width floats and can be reused. After
    // an error its content is unspecified.
    // Errors: as above, and bad_input if `probability` is null or too small.
    [[nodiscard]] Result<void> segment(const ImageView& image, const Tiling& tiling,
                                       Span<float> probability) const noexcept;

    // Segments images of any sizes. Returns the probabilities of each, in the same order. With `tiling.batch` = n, up
    // to n tiles of equal size share an inference, also of different images; otherwise, as for each image alone.
    // Errors: as above; the message names the image, counted from 0.
    [[nodiscard]] Result<std::vector<std::vector<float>>> segment(Span<const ImageView> images,
                                                                  const Tiling& tiling = {}) const noexcept;

    // Segments a batch: N × H × W × 3 bytes, one image after the other. Returns N × H × W probabilities. Each image is
    // computed in one pass, without tiles.
    // Errors: as above, and bad_input if spec() excludes the shape.
    [[nodiscard]] Result<std::vector<float>> segment(Span<const std::uint8_t> rgb, const Shape& shape) const noexcept;

    // The same, but writes to `probability`, which has room for at least N × H × W floats and can be reused. Both spans
    // must stay valid until the call returns. After an error the content of `probability` is unspecified.
    // Errors: as above, and bad_input if `probability` is null or too small.
    [[nodiscard]] Result<void> segment(Span<const std::uint8_t> rgb, const Shape& shape,
                                       Span<float> probability) const noexcept;

    // Computes N × H × W × 3 bytes in GPU memory, without a copy to the host, and writes N × H × W probabilities to GPU
    // memory. tensorrt and tensorrt-rtx only. The work is queued on `stream`, a cudaStream_t of the Segmenter's device;
    // the call does not wait for it. Both buffers must stay valid until the stream has got there.
    // Errors: bad_input for a null pointer, a shape that the plan excludes, or another backend; missing_requirement if
    // the GPU fails, which CUDA may report by a later call.
    [[nodiscard]] Result<void> segment_on_device(const void* rgb, const Shape& shape, float* probability,
                                                 void* stream) const noexcept;

    // Gets ready for images of a shape now (compiles, allocates, captures), so that later calls do not wait for it. An
    // image of at least one tile, such as 512 × 512, needs only the shape of a tile: {tiling.batch, tile, tile}.
    // Errors: bad_input if spec() excludes the shape; missing_requirement if memory runs out or the GPU fails.
    [[nodiscard]] Result<void> prepare(const Shape& shape) const noexcept;

    // Both references are valid as long as the Segmenter is.
    const Spec& spec() const noexcept;
    const std::string& engine() const noexcept;  // such as "openvino:int8"

  private:
    struct Impl;
    explicit Segmenter(std::unique_ptr<Impl> impl) noexcept;
    std::unique_ptr<Impl> impl_;
};

}  // namespace msal_deploy
