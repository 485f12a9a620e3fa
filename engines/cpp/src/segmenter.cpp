#include "msal_deploy/segmenter.hpp"

#include <array>
#include <utility>

#include "backend.hpp"
#include "bundle.hpp"
#include "failure.hpp"

namespace msal_deploy {

namespace {

using Opener = std::unique_ptr<Backend> (*)(const Bundle&, const std::string&, const Options&);

struct Known {
    const char* name;
    Opener open;  // null where it was not built
    const char* needs;
};

#ifdef MSAL_DEPLOY_OPENVINO
constexpr Opener openvino = open_openvino;
#else
constexpr Opener openvino = nullptr;
#endif
#ifdef MSAL_DEPLOY_ONNXRUNTIME
constexpr Opener onnxruntime = open_onnxruntime;
#else
constexpr Opener onnxruntime = nullptr;
#endif
#ifdef MSAL_DEPLOY_TENSORRT
constexpr Opener tensorrt = open_tensorrt;
#else
constexpr Opener tensorrt = nullptr;
#endif
#ifdef MSAL_DEPLOY_TENSORRT_RTX
constexpr Opener tensorrt_rtx = open_tensorrt;
#else
constexpr Opener tensorrt_rtx = nullptr;
#endif

// By evidence, the fastest on a CPU comes first. A GPU is asked for by name, or is the only one that was built.
constexpr std::array<Known, 4> known{{
    {"openvino", openvino, "OpenVINO"},
    {"onnxruntime", onnxruntime, "onnxruntime_cxx_api.h"},
    {"tensorrt", tensorrt, "NvInfer.h"},
    {"tensorrt-rtx", tensorrt_rtx, "NvInfer.h of TensorRT for RTX"},
}};

constexpr int most_threads = 1024;

std::string list(const std::vector<std::string>& names) {
    std::string listed;
    for (const std::string& name : names) listed += (listed.empty() ? "" : ", ") + name;
    return listed.empty() ? "none" : listed;
}

const Known& choose(const std::string& name) {
    for (const Known& one : known) {
        if (one.open ? name.empty() || name == one.name : name == one.name) {
            if (one.open) return one;
            environment_lacks("This library was built without ", name, ", which needs ", one.needs,
                              "; build it again where CMake finds that (built: ", list(backends()), ")");
        }
    }
    bad_input("No backend is called '", name, "'; built: ", list(backends()));
}

void check_options(const std::string& backend, const Options& options) {
    if (options.threads < 0 || options.threads > most_threads) {
        bad_input(options.threads, " threads are no sensible number; give 1 to ", most_threads,
                  ", or 0 for the default");
    }
    if (options.streams < 1 || options.streams > most_threads || (options.streams > 1 && backend != "openvino")) {
        bad_input(backend, " does not run ", options.streams, " streams; leave it at 1, or use openvino");
    }
}

void check_spans(const Spec& spec, Span<const std::uint8_t> rgb, const Shape& shape, Span<float> probability) {
    check_shape(spec, shape);  // first: it bounds the products below
    const std::size_t pixels = shape.number * shape.height * shape.width;
    if (rgb.data() == nullptr) bad_input("The images are a null pointer; give N × H × W × 3 bytes of RGB");
    if (rgb.size() != pixels * 3) {
        bad_input("The images have ", rgb.size(), " bytes; ", shape.number, " × ", shape.height, " × ", shape.width,
                  " px of RGB take ", pixels * 3);
    }
    if (probability.data() == nullptr) bad_input("The buffer for the probabilities is a null pointer");
    if (probability.size() < pixels) {
        bad_input("The buffer for the probabilities holds ", probability.size(), " numbers; ", shape.number, " × ",
                  shape.height, " × ", shape.width, " px take ", pixels);
    }
}

}  // namespace

std::vector<std::string> backends() {
    std::vector<std::string> names;
    for (const Known& one : known) {
        if (one.open) names.emplace_back(one.name);
    }
    return names;
}

struct Segmenter::Parts {
    Spec spec;
    std::string engine;
    std::unique_ptr<Backend> backend;
};

Segmenter::Segmenter(std::unique_ptr<Parts> parts) noexcept : parts_(std::move(parts)) {}
Segmenter::Segmenter(Segmenter&&) noexcept = default;
Segmenter& Segmenter::operator=(Segmenter&&) noexcept = default;
Segmenter::~Segmenter() = default;

Result<Segmenter> Segmenter::open(const std::string& folder, const std::string& precision,
                                  const Options& options) noexcept {
    try {
        const Known& one = choose(options.backend);
        check_options(one.name, options);
        const Bundle bundle = Bundle::read(folder);
        return Segmenter(std::make_unique<Parts>(
            Parts{bundle.spec, one.name + (":" + precision), one.open(bundle, precision, options)}));
    } catch (...) {
        return current_error();
    }
}

Result<std::vector<float>> Segmenter::segment(Span<const std::uint8_t> rgb, std::size_t height,
                                              std::size_t width) const noexcept {
    return segment(rgb, Shape{1, height, width});
}

Result<std::vector<float>> Segmenter::segment(Span<const std::uint8_t> rgb, const Shape& shape) const noexcept {
    try {
        if (parts_) check_shape(parts_->spec, shape);  // before so much memory is asked for
        std::vector<float> probability(parts_ ? shape.number * shape.height * shape.width : 0);
        const Result<void> done = segment(rgb, shape, probability);
        if (!done) return done.error();
        return Result<std::vector<float>>(std::move(probability));
    } catch (...) {
        return current_error();
    }
}

Result<void> Segmenter::segment(Span<const std::uint8_t> rgb, const Shape& shape,
                                Span<float> probability) const noexcept {
    try {
        if (!parts_) bad_input("This Segmenter was moved from; use the one that it was moved to");
        check_spans(parts_->spec, rgb, shape, probability);
        parts_->backend->infer(rgb.data(), shape, probability.data());
        return {};
    } catch (...) {
        return current_error();
    }
}

const Spec& Segmenter::spec() const noexcept {
    static const Spec none;
    return parts_ ? parts_->spec : none;
}

const std::string& Segmenter::engine() const noexcept {
    static const std::string none;
    return parts_ ? parts_->engine : none;
}

}  // namespace msal_deploy
