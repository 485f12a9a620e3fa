// The C interface, on top of the C++ one. Every function runs its body in `guarded`, so no exception leaves it.
#include "msal_deploy.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "failure.hpp"
#include "msal_deploy/nuclei.hpp"
#include "msal_deploy/segmenter.hpp"
#include "msal_deploy/version.hpp"

using namespace msal_deploy;

struct msal_deploy_segmenter {
    Segmenter segmenter;
};

namespace {

static_assert(sizeof(std::size_t) == sizeof(std::uint64_t), "the runtimes exist for 64-bit machines only");

// Cuts a text to `room` bytes, at the end of a UTF-8 character.
std::size_t cut(const std::string& text, std::size_t room) {
    if (text.size() <= room) return text.size();
    while (room > 0 && (static_cast<unsigned char>(text[room]) & 0xC0) == 0x80) --room;
    return room;
}

std::int32_t report(msal_deploy_error* error, std::int32_t code, const std::string& message) noexcept {
    if (error == nullptr) return code;
    error->code = code;
    const std::size_t length = cut(message, sizeof error->message - 1);
    std::copy_n(message.data(), length, error->message);
    error->message[length] = '\0';
    return code;
}

template <class Body>
std::int32_t guarded(msal_deploy_error* error, const Body& body) noexcept {
    try {
        body();
        return report(error, MSAL_DEPLOY_OK, {});
    } catch (...) {
        const Error caught = current_error();
        return report(error, static_cast<std::int32_t>(caught.code), caught.message);
    }
}

template <class T>
T unwrap(Result<T> result) {
    if (!result) throw Failure(result.error().code, result.error().message);
    if constexpr (!std::is_void_v<T>) return std::move(result).value();
}

template <class T>
T& given(T* pointer, const char* name) {
    if (pointer == nullptr) throw_bad_input("Expected ", name, ", got a null pointer; pass one");
    return *pointer;
}

const Segmenter& opened(const msal_deploy_segmenter* segmenter) {
    return given(segmenter, "a segmenter").segmenter;
}

// Writes the first `size` bytes of a structure, and the number of bytes written as its struct_size.
template <class T>
void write(T value, T* out, std::uint64_t size) {
    value.struct_size = std::min<std::uint64_t>(size, sizeof value);
    std::memcpy(out, &value, value.struct_size);
}

// Returns the defaults, overwritten with the fields that the program's header has.
template <class T>
T read(const T* in, T defaults, const char* name) {
    if (in == nullptr) return defaults;
    if (in->struct_size < sizeof in->struct_size || in->struct_size > sizeof defaults) {
        throw_bad_input("Expected msal_deploy_", name, " with a struct_size from ", sizeof in->struct_size, " to ",
                        sizeof defaults, ", got ", in->struct_size, "; call msal_deploy_", name, "_init first");
    }
    std::memcpy(&defaults, in, in->struct_size);
    return defaults;
}

msal_deploy_options default_options() {
    msal_deploy_options options{};
    options.threads = options.streams = options.device = options.shapes = options.cuda_graphs = MSAL_DEPLOY_UNSET;
    return options;
}

msal_deploy_tiling default_tiling() {
    const Tiling tiling;
    return {0, tiling.tile, tiling.overlap, tiling.batch};
}

msal_deploy_separation default_separation() {
    static const Separation one;
    return {0,          one.microns_per_pixel, one.min_area,        one.max_hole,  one.smoothing,
            one.saddle, one.levels.data(),     one.levels.size(), one.threshold, 0};
}

std::optional<int> number(std::int32_t value) {
    return value == MSAL_DEPLOY_UNSET ? std::nullopt : std::optional<int>(value);
}

std::optional<std::size_t> shapes(std::int32_t value) {
    if (value == MSAL_DEPLOY_UNSET) return std::nullopt;
    if (value < 0) throw_bad_input("Expected shapes from 1 on, got ", value, "; leave it unset for the default");
    return static_cast<std::size_t>(value);
}

std::optional<bool> flag(std::int32_t value) {
    if (value == MSAL_DEPLOY_UNSET) return std::nullopt;
    if (value != 0 && value != 1) throw_bad_input("Expected 0 or 1 for cuda_graphs, got ", value, "; use one of them");
    return value == 1;
}

LogCallback log_callback(msal_deploy_log log, void* user) {
    if (log == nullptr) return {};
    return [log, user](LogLevel level, std::string_view message) {
        guarded(nullptr, [&] { log(user, static_cast<std::int32_t>(level), std::string(message).c_str()); });
    };
}

Options options_of(const msal_deploy_options* pointer) {
    const msal_deploy_options one = read(pointer, default_options(), "options");
    Options options;
    if (one.backend != nullptr) options.backend = one.backend;
    options.threads = number(one.threads);
    options.streams = number(one.streams);
    options.device = number(one.device);
    options.shapes = shapes(one.shapes);
    if (one.cache != nullptr) options.cache = one.cache;
    options.cuda_graphs = flag(one.cuda_graphs);
    options.log = log_callback(one.log, one.log_user);
    return options;
}

Tiling tiling_of(const msal_deploy_tiling* pointer) {
    const msal_deploy_tiling one = read(pointer, default_tiling(), "tiling");
    return {one.tile, one.overlap, one.batch};
}

Separation separation_of(const msal_deploy_separation* pointer) {
    const msal_deploy_separation one = read(pointer, default_separation(), "separation");
    if (one.level_count > 0) given(one.levels, "levels");
    return {one.threshold, one.microns_per_pixel, one.min_area, one.max_hole,
            one.smoothing, {one.levels, one.levels + one.level_count}, one.saddle};
}

ImageView view_of(const msal_deploy_image& image) {
    if (image.format < MSAL_DEPLOY_RGB || image.format > MSAL_DEPLOY_BGRA) {
        throw_bad_input("Expected a format from 0 (RGB) to 3 (BGRA), got ", image.format, "; use one of them");
    }
    return {image.data, image.height, image.width, image.row_bytes, static_cast<PixelFormat>(image.format)};
}

// Throws unless `room` floats suffice for the maps of all images.
void check_room(const std::vector<ImageView>& images, const float* probability, std::size_t room) {
    given(probability, "a place for the probabilities");
    std::size_t left = room;
    for (const ImageView& image : images) {
        if (image.width > 0 && image.height > left / image.width) {
            throw_bad_input("Expected a place for the probabilities of all images, got one for ", room,
                            " floats; pass a larger one");
        }
        left -= image.height * image.width;
    }
}

msal_deploy_axis axis_of(const Axis& axis) {
    return {axis.min, axis.max, axis.multiple};
}

}  // namespace

void msal_deploy_options_init(msal_deploy_options* options, uint64_t size) {
    if (options != nullptr) write(default_options(), options, size);
}

void msal_deploy_tiling_init(msal_deploy_tiling* tiling, uint64_t size) {
    if (tiling != nullptr) write(default_tiling(), tiling, size);
}

void msal_deploy_separation_init(msal_deploy_separation* separation, uint64_t size) {
    guarded(nullptr, [&] { write(default_separation(), &given(separation, "a structure"), size); });
}

const char* msal_deploy_version() {
    return MSAL_DEPLOY_VERSION;
}

const char* msal_deploy_backend(uint64_t index) {
    const char* found = nullptr;
    guarded(nullptr, [&] {
        static const std::vector<std::string> names = backends();
        if (index < names.size()) found = names[index].c_str();
    });
    return found;
}

int32_t msal_deploy_open(const char* folder, const char* precision, const msal_deploy_options* options,
                         msal_deploy_segmenter** segmenter, msal_deploy_error* error) {
    return guarded(error, [&] {
        given(segmenter, "a place for the segmenter") = nullptr;
        const char *where = &given(folder, "a folder"), *which = &given(precision, "a precision");
        *segmenter = new msal_deploy_segmenter{unwrap(Segmenter::open(where, which, options_of(options)))};
    });
}

void msal_deploy_close(msal_deploy_segmenter* segmenter) {
    delete segmenter;
}

const char* msal_deploy_engine(const msal_deploy_segmenter* segmenter) {
    return segmenter == nullptr ? "" : segmenter->segmenter.engine().c_str();
}

int32_t msal_deploy_get_spec(const msal_deploy_segmenter* segmenter, msal_deploy_spec* spec, uint64_t size,
                             msal_deploy_error* error) {
    return guarded(error, [&] {
        const Spec& one = opened(segmenter).spec();
        write(msal_deploy_spec{0, axis_of(one.batch), axis_of(one.height), axis_of(one.width), one.microns_per_pixel,
                               one.threshold, 0},
              &given(spec, "a spec"), size);
    });
}

int32_t msal_deploy_prepare(const msal_deploy_segmenter* segmenter, uint64_t batch, uint64_t height, uint64_t width,
                            msal_deploy_error* error) {
    return guarded(error, [&] { unwrap(opened(segmenter).prepare({batch, height, width})); });
}

int32_t msal_deploy_segment(const msal_deploy_segmenter* segmenter, const msal_deploy_image* image,
                            const msal_deploy_tiling* tiling, float* probability, uint64_t count,
                            msal_deploy_error* error) {
    return guarded(error, [&] {
        const ImageView view = view_of(given(image, "an image"));
        unwrap(opened(segmenter).segment(view, tiling_of(tiling), {probability, count}));
    });
}

int32_t msal_deploy_segment_images(const msal_deploy_segmenter* segmenter, const msal_deploy_image* images,
                                   uint64_t number, const msal_deploy_tiling* tiling, float* probability,
                                   uint64_t count, msal_deploy_error* error) {
    return guarded(error, [&] {
        const Segmenter& one = opened(segmenter);
        if (number > 0) given(images, "images");
        std::vector<ImageView> views;
        std::transform(images, images + number, std::back_inserter(views), view_of);
        check_room(views, probability, count);
        float* next = probability;
        for (const std::vector<float>& map : unwrap(one.segment(views, tiling_of(tiling)))) {
            next = std::copy(map.begin(), map.end(), next);
        }
    });
}

int32_t msal_deploy_segment_batch(const msal_deploy_segmenter* segmenter, const uint8_t* rgb, uint64_t bytes,
                                  uint64_t batch, uint64_t height, uint64_t width, float* probability, uint64_t count,
                                  msal_deploy_error* error) {
    return guarded(error, [&] {
        unwrap(opened(segmenter).segment({rgb, bytes}, Shape{batch, height, width}, {probability, count}));
    });
}

int32_t msal_deploy_segment_on_device(const msal_deploy_segmenter* segmenter, const void* rgb, uint64_t batch,
                                      uint64_t height, uint64_t width, float* probability, void* stream,
                                      msal_deploy_error* error) {
    return guarded(error, [&] {
        unwrap(opened(segmenter).segment_on_device(rgb, {batch, height, width}, probability, stream));
    });
}

int32_t msal_deploy_mask(const float* probability, uint64_t count, float threshold, uint8_t* mask,
                         msal_deploy_error* error) {
    return guarded(error, [&] {
        given(mask, "a place for the mask");
        const std::vector<std::uint8_t> found = unwrap(msal_deploy::mask({probability, count}, threshold));
        std::copy(found.begin(), found.end(), mask);
    });
}

int32_t msal_deploy_labels(const float* probability, uint64_t height, uint64_t width,
                           const msal_deploy_separation* separation, int32_t* labels, int32_t* nuclei,
                           msal_deploy_error* error) {
    return guarded(error, [&] {
        given(labels, "a place for the labels");
        // labels() refuses sizes whose product wraps before it looks at the length of the map.
        const std::vector<std::int32_t> found =
            unwrap(msal_deploy::labels({probability, height * width}, height, width, separation_of(separation)));
        std::copy(found.begin(), found.end(), labels);
        if (nuclei != nullptr) *nuclei = *std::max_element(found.begin(), found.end());
    });
}
