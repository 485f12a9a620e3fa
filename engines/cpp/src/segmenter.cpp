#include "msal_deploy/segmenter.hpp"

#include <array>
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

void check_options(const std::string& backend, const Options& options) {
    if (options.threads < 0 || options.threads > max_threads) {
        throw_bad_input("Expected threads from 0 to ", max_threads, ", got ", options.threads,
                        "; use 0 for the runtime's default");
    }
    const int max_streams = backend == "openvino" ? max_threads : 1;
    if (options.streams < 1 || options.streams > max_streams) {
        throw_bad_input("Expected streams from 1 to ", max_streams, " for ", backend, ", got ", options.streams,
                        max_streams == 1 ? "; use 1, or the backend openvino" : "; use 1 for the lowest latency");
    }
}

// The functions below expect a shape that has been checked, whose products do not overflow.
std::size_t pixels_of(const Shape& shape) {
    return shape.batch * shape.height * shape.width;
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

void check_names(const char* kind, const std::vector<std::string>& names, const std::string& expected) {
    if (names.size() == 1 && names[0] == expected) return;
    throw_bad_input("Expected '", expected, "' as the graph's only ", kind, ", got '", join(names, "', '"),
                    "'; export the bundle with: msal-deploy export");
}

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
        infer_tiles(*impl.backend, impl.spec, image, tiling, probability.data());
        return Result<std::vector<float>>(std::move(probability));
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
        infer_tiles(*impl.backend, impl.spec, image, tiling, probability.data());
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

const Spec& Segmenter::spec() const noexcept {
    static const Spec none;
    return impl_ ? impl_->spec : none;
}

const std::string& Segmenter::engine() const noexcept {
    static const std::string none;
    return impl_ ? impl_->engine : none;
}

}  // namespace msal_deploy
