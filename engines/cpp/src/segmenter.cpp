#include "msal_deploy/segmenter.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <utility>

#include "backend.hpp"
#include "bundle.hpp"
#include "failure.hpp"
#include "tiling.hpp"

namespace msal_deploy {

namespace {

using Opener = std::unique_ptr<Backend> (*)(const Bundle&, const std::string&, const Options&);

struct BackendEntry {
    const char* name;
    Opener open;         // null if it is not built in
    const char* option;  // CMake option that builds it
};

// CMake defines each OPEN_… as the backend's function, or as nullptr if it is not built in. The fastest on a CPU comes
// first, because it is the default; a GPU is chosen by name, or because nothing else was built.
constexpr std::array<BackendEntry, 4> backend_table{{
    {"openvino", MSAL_DEPLOY_OPEN_OPENVINO, "MSAL_DEPLOY_OPENVINO"},
    {"onnxruntime", MSAL_DEPLOY_OPEN_ONNXRUNTIME, "MSAL_DEPLOY_ONNXRUNTIME"},
    {"tensorrt", MSAL_DEPLOY_OPEN_TENSORRT, "MSAL_DEPLOY_TENSORRT"},
    {"tensorrt-rtx", MSAL_DEPLOY_OPEN_TENSORRT_RTX, "MSAL_DEPLOY_TENSORRT"},
}};

constexpr int max_threads = 1024;
constexpr std::size_t max_shapes = 1024;

const BackendEntry& choose(const std::string& name) {
    const std::string built = join(backends(), ", ");
    for (const BackendEntry& entry : backend_table) {
        if (entry.open && (name.empty() || name == entry.name)) return entry;
        if (name == entry.name) {
            throw_missing_requirement(name, " is not built into this library (it has ", built, "); rebuild it with -D",
                                      entry.option, "=ON");
        }
    }
    throw_bad_input("'", name, "' is not a backend; choose from: ", built);
}

struct OptionEntry {
    const char* name;
    bool (*is_set)(const Options&);
    std::vector<std::string> backends;  // that honour it
};

// The options that not every backend honours.
const std::array<OptionEntry, 6> option_table{{
    {"threads", [](const Options& given) { return given.threads.has_value(); }, {"openvino", "onnxruntime"}},
    {"streams", [](const Options& given) { return given.streams.has_value(); }, {"openvino"}},
    {"device", [](const Options& given) { return given.device.has_value(); }, {"tensorrt", "tensorrt-rtx"}},
    {"shapes", [](const Options& given) { return given.shapes.has_value(); }, {"openvino"}},
    {"cache", [](const Options& given) { return given.cache.has_value(); }, {"openvino", "tensorrt-rtx"}},
    {"cuda_graphs", [](const Options& given) { return given.cuda_graphs.has_value(); }, {"tensorrt"}},
}};

template <class Number>
void check_range(const char* name, const std::optional<Number>& given, Number min, Number max) {
    if (!given || (*given >= min && *given <= max)) return;
    throw_bad_input("Expected ", name, " from ", min, " to ", max, ", got ", *given,
                    "; leave it unset for the default");
}

void check_options(const std::string& backend, const Options& options) {
    for (const OptionEntry& entry : option_table) {
        const auto& able = entry.backends;
        if (!entry.is_set(options) || std::find(able.begin(), able.end(), backend) != able.end()) continue;
        throw_bad_input(backend, " does not have the option ", entry.name, " (", join(able, ", "),
                        able.size() > 1 ? " have it" : " has it", "); leave it unset");
    }
    check_range("threads", options.threads, 1, max_threads);
    check_range("streams", options.streams, 1, max_threads);
    check_range("device", options.device, 0, std::numeric_limits<int>::max());
    check_range("shapes", options.shapes, std::size_t{1}, max_shapes);
    if (options.cache && options.cache->empty()) {
        throw_bad_input("Expected a folder as cache, got an empty name; leave it unset for the default");
    }
}

template <class Got>
void expect(bool good, std::size_t size, const char* what, const Shape& shape, const Got& got, const char* remedy) {
    if (good) return;
    throw_bad_input("Expected ", size, what, " for ", shape.batch, " × ", shape.height, " × ", shape.width, " px, got ",
                    got, remedy);
}

void check_rgb(Span<const std::uint8_t> rgb, const Shape& shape) {
    const std::size_t bytes = pixels_of(shape) * 3;
    expect(rgb.data() != nullptr, bytes, " bytes of RGB", shape, "a null pointer", "; pass the images");
    expect(rgb.size() == bytes, bytes, " bytes of RGB", shape, rgb.size(), "; check the shape");
}

void check_buffer(Span<float> probability, const Shape& shape) {
    const std::size_t pixels = pixels_of(shape);
    const char* what = " floats in the buffer for the probabilities";
    expect(probability.data() != nullptr, pixels, what, shape, "a null pointer", "; pass a buffer");
    expect(probability.size() >= pixels, pixels, what, shape, probability.size(), "; pass a larger one");
}

}  // namespace

std::vector<std::string> backends() {
    std::vector<std::string> names;
    for (const BackendEntry& entry : backend_table) {
        if (entry.open) names.emplace_back(entry.name);
    }
    return names;
}

struct Segmenter::Impl {
    Spec spec;
    std::string engine;
    std::unique_ptr<Backend> backend;

    static const Impl& of(const Segmenter& segmenter) {
        if (segmenter.impl_) return *segmenter.impl_;
        throw_bad_input("This Segmenter is not usable (moved from); use the one it was moved to");
    }
};

Segmenter::Segmenter(std::unique_ptr<Impl> impl) noexcept : impl_(std::move(impl)) {}
Segmenter::Segmenter(Segmenter&&) noexcept = default;
Segmenter& Segmenter::operator=(Segmenter&&) noexcept = default;
Segmenter::~Segmenter() = default;

Result<Segmenter> Segmenter::open(const std::string& folder, const std::string& precision,
                                  const Options& options) noexcept {
    try {
        const BackendEntry& entry = choose(options.backend);
        check_options(entry.name, options);
        const Bundle bundle = Bundle::read(folder);
        return Segmenter(std::make_unique<Impl>(
            Impl{bundle.spec, entry.name + (":" + precision), entry.open(bundle, precision, options)}));
    } catch (...) {
        return current_error();
    }
}

Result<std::vector<float>> Segmenter::segment(Span<const std::uint8_t> rgb, std::size_t height,
                                              std::size_t width) const noexcept {
    try {
        Impl::of(*this);
        const ImageView image(rgb.data(), height, width);
        check_size(image);
        check_rgb(rgb, {1, height, width});
        return segment(image);
    } catch (...) {
        return current_error();
    }
}

Result<std::vector<float>> Segmenter::segment(const ImageView& image, const Tiling& tiling) const noexcept {
    try {
        const Impl& impl = Impl::of(*this);
        check_image(image);
        check_tiling(impl.spec, tiling);
        std::vector<float> probability(image.height * image.width);
        infer_tiles(*impl.backend, impl.spec, {{image, probability.data()}}, tiling);
        return Result<std::vector<float>>(std::move(probability));
    } catch (...) {
        return current_error();
    }
}

Result<std::vector<std::vector<float>>> Segmenter::segment(Span<const ImageView> images,
                                                           const Tiling& tiling) const noexcept {
    try {
        const Impl& impl = Impl::of(*this);
        check_images(images);
        check_tiling(impl.spec, tiling);
        std::vector<std::vector<float>> probabilities(images.size());
        std::vector<TiledImage> tiled;
        for (std::size_t at = 0; at < images.size(); ++at) {
            const ImageView& image = images.data()[at];
            probabilities[at].resize(image.height * image.width);
            tiled.push_back({image, probabilities[at].data()});
        }
        infer_tiles(*impl.backend, impl.spec, tiled, tiling);
        return Result<std::vector<std::vector<float>>>(std::move(probabilities));
    } catch (...) {
        return current_error();
    }
}

Result<void> Segmenter::segment(const ImageView& image, const Tiling& tiling, Span<float> probability) const noexcept {
    try {
        const Impl& impl = Impl::of(*this);
        check_image(image);
        check_tiling(impl.spec, tiling);
        check_buffer(probability, {1, image.height, image.width});
        infer_tiles(*impl.backend, impl.spec, {{image, probability.data()}}, tiling);
        return {};
    } catch (...) {
        return current_error();
    }
}

Result<std::vector<float>> Segmenter::segment(Span<const std::uint8_t> rgb, const Shape& shape) const noexcept {
    try {
        check_shape(Impl::of(*this).spec, shape);  // before allocating that much memory
        std::vector<float> probability(pixels_of(shape));
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
        const Impl& impl = Impl::of(*this);
        check_shape(impl.spec, shape);
        check_rgb(rgb, shape);
        check_buffer(probability, shape);
        impl.backend->infer(rgb.data(), shape, probability.data());
        return {};
    } catch (...) {
        return current_error();
    }
}

Result<void> Segmenter::segment_on_device(const void* rgb, const Shape& shape, float* probability,
                                          void* stream) const noexcept {
    try {
        const Impl& impl = Impl::of(*this);
        check_shape(impl.spec, shape);
        if (rgb == nullptr || probability == nullptr) {
            throw_bad_input("Expected pointers to GPU memory, got a null pointer; pass the images and a buffer");
        }
        impl.backend->infer_on_device(rgb, shape, probability, stream);
        return {};
    } catch (...) {
        return current_error();
    }
}

Result<void> Segmenter::prepare(const Shape& shape) const noexcept {
    try {
        const Impl& impl = Impl::of(*this);
        check_shape(impl.spec, shape);
        impl.backend->prepare(shape);
        return {};
    } catch (...) {
        return current_error();
    }
}

const Spec& Segmenter::spec() const noexcept {
    static const Spec none;
    return impl_ ? impl_->spec : none;
}

const std::string& Segmenter::engine() const noexcept {
    static const std::string none;
    return impl_ ? impl_->engine : none;
}

}  // namespace msal_deploy
