// msal-segment: reads images and writes masks, labels or probabilities. An example of a program that uses
// msal_deploy::Segmenter; the Python tests run the golden tiles through it.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <numeric>
#include <sstream>

#include "arguments.hpp"
#include "image.hpp"
#include "msal_deploy/nuclei.hpp"

using namespace msal_deploy;

namespace {

constexpr std::size_t max_pixels = 1 << 28;  // per image; computing so many takes about 3 GB

// The graph sees at least 32 px, and mirrored pixels where the image has none. Below half of that, most are mirrored.
constexpr std::size_t least_side = 16;
constexpr double same_resolution = 0.005;  // as in Python: a difference of 2.6 px in 512

// Carries an error to main, which prints it.
struct Stop {
    Error error;
};

template <class T>
T unwrap(Result<T> result) {
    if (!result) throw Stop{result.error()};
    if constexpr (!std::is_void_v<T>) return std::move(result).value();
}

[[noreturn]] void throw_bad_input(const std::string& message) {
    throw Stop{Error{ErrorCode::bad_input, message}};
}

// Returns the precision of the only graph in the folder.
std::string only_precision(const std::string& folder) {
    std::vector<std::string> found;
    std::error_code ignored;
    for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
        // Matches model.<precision>.onnx but not model.int8.u8s8.onnx.
        const std::string name = entry.path().filename().string();
        const std::size_t end = name.find(".onnx");
        if (name.rfind("model.", 0) != 0 || end == std::string::npos || end + 5 != name.size()) continue;
        const std::string middle = name.substr(6, end - 6);
        if (middle.find('.') == std::string::npos) found.push_back(middle);
    }
    if (found.size() == 1) return found[0];
    if (found.empty()) {
        throw_bad_input(folder + " is not a bundle (no model.<precision>.onnx); create one with: msal-deploy export");
    }
    std::sort(found.begin(), found.end());
    throw_bad_input(folder + " has several graphs; choose one with --precision " +
                    std::accumulate(found.begin() + 1, found.end(), found[0],
                                    [](const std::string& a, const std::string& b) { return a + " or " + b; }));
}

// Images of one size.
struct Batch {
    std::vector<std::string> files;
    std::size_t height = 0, width = 0;
    std::vector<std::uint8_t> rgb;  // one image after the other

    std::size_t pixels() const { return height * width; }  // of one image
};

// Reads an image of the model's resolution.
Image read(const std::string& file, const Spec& spec) {
    Image image = unwrap(read_image(file, max_pixels));
    if (image.height < least_side || image.width < least_side) {
        throw_bad_input("Expected an image of at least " + std::to_string(least_side) + " px a side, got " +
                        std::to_string(image.width) + "×" + std::to_string(image.height) + " px in " + file +
                        "; cut out a larger region");
    }
    const double ratio = image.microns_per_pixel.value_or(spec.microns_per_pixel) / spec.microns_per_pixel;
    if (std::abs(ratio - 1) > same_resolution) {
        std::ostringstream text;
        text << "Expected " << spec.microns_per_pixel << " µm/px in " << file << ", got " << *image.microns_per_pixel
             << "; resample it, or run: msal-deploy predict";
        throw_bad_input(text.str());
    }
    return image;
}

Batch read_batch(const std::vector<std::string>& files, const Spec& spec) {
    Batch batch;
    for (const std::string& file : files) {
        Image image = read(file, spec);
        if (batch.rgb.empty()) {
            batch = {files, image.height, image.width, std::move(image.rgb)};
            continue;
        }
        if (image.height != batch.height || image.width != batch.width) {
            throw_bad_input("Expected images of one size in a batch, got " + files[0] + " and " + file +
                            " of different sizes; use --batch 1");
        }
        batch.rgb.insert(batch.rgb.end(), image.rgb.begin(), image.rgb.end());
    }
    return batch;
}

// Computes a single image in tiles, and several in one pass each.
void compute(const Segmenter& segmenter, const Arguments& given, const Batch& batch, std::vector<float>& probability) {
    probability.resize(batch.files.size() * batch.pixels());
    if (given.batch > 1) {
        unwrap(segmenter.segment(batch.rgb, {batch.files.size(), batch.height, batch.width}, probability));
    } else {
        Tiling tiling = given.tiling;
        if (given.options.streams) tiling.batch = static_cast<std::size_t>(*given.options.streams);  // a tile for each
        unwrap(segmenter.segment({batch.rgb.data(), batch.height, batch.width}, tiling, probability));
    }
}

void write_mask(const std::string& file, const Batch& batch, const float* probability, float threshold) {
    std::vector<std::uint8_t> grey = unwrap(mask({probability, batch.pixels()}, threshold));
    for (std::uint8_t& value : grey) value = value != 0 ? 255 : 0;
    unwrap(write_png(file, grey, batch.height, batch.width));
    const auto nuclei = static_cast<double>(std::count(grey.begin(), grey.end(), 255));
    std::printf("%s: %zu × %zu px, %.1f %% nuclei\n", file.c_str(), batch.height, batch.width,
                100 * nuclei / static_cast<double>(grey.size()));
}

void write_nuclei(const std::string& file, const Batch& batch, const float* probability, float threshold,
                  const Spec& spec) {
    Separation separation;
    separation.threshold = threshold;
    separation.microns_per_pixel = spec.microns_per_pixel;
    const std::vector<std::int32_t> nuclei =
        unwrap(labels({probability, batch.pixels()}, batch.height, batch.width, separation));
    unwrap(write_labels(file, nuclei, batch.height, batch.width));
    std::printf("%s: %zu × %zu px, %d nuclei\n", file.c_str(), batch.height, batch.width,
                *std::max_element(nuclei.begin(), nuclei.end()));
}

void segment(const Segmenter& segmenter, const Arguments& given) {
    const float threshold = given.threshold.value_or(segmenter.spec().threshold);
    std::vector<float> probability, all;  // the first is reused for each batch
    for (std::size_t start = 0; start < given.images.size(); start += given.batch) {
        const auto first = given.images.begin() + static_cast<std::ptrdiff_t>(start);
        const auto count = std::min(given.batch, given.images.size() - start);
        const Batch batch = read_batch({first, first + static_cast<std::ptrdiff_t>(count)}, segmenter.spec());
        compute(segmenter, given, batch, probability);
        for (std::size_t index = 0; index < count; ++index) {
            const float* one = &probability[index * batch.pixels()];
            const std::filesystem::path name = std::filesystem::path(batch.files[index]).stem();
            if (!given.mask.empty()) write_mask(given.mask, batch, one, threshold);
            if (!given.labels.empty()) write_nuclei(given.labels, batch, one, threshold, segmenter.spec());
            if (!given.masks.empty())
                write_mask((std::filesystem::path(given.masks) / name).string() + ".png", batch, one, threshold);
        }
        if (!given.probability.empty()) all.insert(all.end(), probability.begin(), probability.end());
    }
    if (!given.probability.empty()) unwrap(write_bytes(given.probability, all.data(), all.size() * sizeof(float)));
}

double time_call_ms(const Segmenter& segmenter, const Arguments& given, const Batch& batch,
                    std::vector<float>& probability) {
    const auto start = std::chrono::steady_clock::now();
    compute(segmenter, given, batch, probability);
    return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start).count();
}

// Interpolates between the two nearest values, like numpy.
double percentile(const std::vector<double>& sorted, double share) {
    const double at = share * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<std::size_t>(at), above = std::min(below + 1, sorted.size() - 1);
    return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

void bench(const Segmenter& segmenter, const Arguments& given) {
    const auto count = std::min(given.batch, given.images.size());
    const auto first = given.images.begin();
    const Batch batch = read_batch({first, first + static_cast<std::ptrdiff_t>(count)}, segmenter.spec());
    std::vector<float> probability;
    std::vector<double> times(given.bench);
    for (std::size_t call = 0; call < 5; ++call)
        time_call_ms(segmenter, given, batch, probability);  // the first call compiles
    for (double& time : times) time = time_call_ms(segmenter, given, batch, probability);
    std::sort(times.begin(), times.end());
    const double mean = std::accumulate(times.begin(), times.end(), 0.0) / static_cast<double>(times.size());
    std::printf("%s, %zu × %zu × %zu px, %zu calls, ms: p50 %.3f  p90 %.3f  p99 %.3f  mean %.3f  min %.3f\n",
                segmenter.engine().c_str(), count, batch.height, batch.width, times.size(),
                percentile(times, 0.5), percentile(times, 0.9), percentile(times, 0.99), mean, times.front());
}

void run(Arguments given) {
    if (given.precision.empty()) given.precision = only_precision(given.model);
    if (!given.masks.empty()) std::filesystem::create_directories(given.masks);
    const Segmenter segmenter = unwrap(Segmenter::open(given.model, given.precision, given.options));
    given.bench > 0 ? bench(segmenter, given) : segment(segmenter, given);
}

int fail(const Error& error) {
    std::fprintf(stderr, "Error: %s\n", error.message.c_str());
    return static_cast<int>(error.code);
}

}  // namespace

int main(int count, char** words) try {
    const Arguments given = unwrap(parse(count, words));
    if (given.help.empty()) {
        run(given);
    } else {
        std::fputs(given.help.c_str(), stdout);
    }
    return 0;
} catch (const Stop& stopped) {
    return fail(stopped.error);
} catch (const std::exception& error) {
    return fail({ErrorCode::missing_requirement, error.what()});
}
