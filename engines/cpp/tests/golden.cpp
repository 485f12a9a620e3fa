// Runs the golden tiles through one backend, as a batch and one by one, and compares the results with the expected
// probabilities within the tolerances of the package.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "golden.hpp"

using namespace msal_deploy;

namespace {

// Reads the float32 values of a .npy file in format 1.0: a header whose length is at byte 8, then the values.
std::vector<float> read_npy(const std::filesystem::path& file, std::size_t count) {
    const std::vector<char> bytes = bytes_of(file);
    CHECK(bytes.size() > 10 && std::memcmp(bytes.data(), "\x93NUMPY\x01\x00", 8) == 0);
    const std::size_t start = 10 + static_cast<unsigned char>(bytes[8]) + 256 * static_cast<unsigned char>(bytes[9]);
    CHECK(std::string(bytes.data() + 10, bytes.data() + start).find("'<f4', 'fortran_order': False") !=
          std::string::npos);
    CHECK(bytes.size() == start + count * sizeof(float));
    std::vector<float> numbers(count);
    std::memcpy(numbers.data(), bytes.data() + start, count * sizeof(float));
    return numbers;
}

struct Differences {
    double max = 0, mean = 0, flipped = 0;
};

Differences compare(const std::vector<float>& found, const std::vector<float>& expected, float threshold) {
    Differences all;
    for (std::size_t index = 0; index < found.size(); ++index) {
        CHECK(std::isfinite(found[index]));
        const double difference = std::abs(static_cast<double>(found[index]) - expected[index]);
        all.max = std::max(all.max, difference);
        all.mean += difference / static_cast<double>(found.size());
        all.flipped +=
            ((found[index] >= threshold) != (expected[index] >= threshold)) / static_cast<double>(found.size());
    }
    return all;
}

bool has_plan(const std::filesystem::path& model) {
    const std::filesystem::directory_iterator entries(model);
    return std::any_of(begin(entries), end(entries),
                       [](const auto& entry) { return entry.path().extension() == ".plan"; });
}

}  // namespace

int main(int count, char** words) {
    CHECK(count == 5);
    const std::filesystem::path folder = words[2];
    const std::string backend = words[3], precision = words[4];
    Options options;
    options.backend = backend;
    if (backend == "tensorrt") {  // tensorrt or tensorrt-rtx, whichever was built
        for (const std::string& name : backends()) options.backend = name == "tensorrt-rtx" ? name : options.backend;
    }
    const std::vector<std::string> built = backends();
    if (std::find(built.begin(), built.end(), options.backend) == built.end()) {
        const bool tensorrt = backend == "tensorrt", onnxruntime = backend == "onnxruntime";
        std::printf("%s: not built: needs %s\n", backend.c_str(),
                    tensorrt      ? "NvInfer.h"
                    : onnxruntime ? "onnxruntime_cxx_api.h"
                                  : "OpenVINO");
        return skipped;
    }
    if (backend == "tensorrt" && !has_plan(words[1])) {
        std::printf("skipped: %s has no plan; build one with: msal-deploy build-trt\n", words[1]);
        return skipped;
    }
    const Segmenter segmenter = open_or_skip(words[1], precision, options);
    const Golden golden(folder);
    const std::vector<float> expected = read_npy(folder / ("probability." + precision + ".npy"), golden.pixels());
    const Json& tolerance = golden.about.at("tolerances").at(precision);
    const auto judge = [&](const char* how, const std::vector<float>& found) {
        const Differences all = compare(found, expected, segmenter.spec().threshold);
        std::printf("%s %s: max |dp| %.2e, mean %.2e, flipped pixels %.4f %%\n", segmenter.engine().c_str(), how,
                    all.max, all.mean, 100 * all.flipped);
        CHECK(all.max <= tolerance.at("largest").get<double>());
        CHECK(all.mean <= tolerance.at("mean").get<double>());
        CHECK(all.flipped <= tolerance.at("flipped").get<double>());
    };

    auto batch = segmenter.segment(golden.rgb, golden.shape);
    CHECK(batch);
    judge("as a batch", *batch);

    const std::size_t pixels = golden.shape.height * golden.shape.width;
    std::vector<float> one_by_one(golden.pixels());
    for (std::size_t index = 0; index < golden.shape.batch; ++index) {
        const Span<const std::uint8_t> tile(golden.rgb.data() + index * pixels * 3, pixels * 3);
        auto probability = segmenter.segment(tile, golden.shape.height, golden.shape.width);
        CHECK(probability && probability->size() == pixels);
        std::copy(probability->begin(), probability->end(),
                  one_by_one.begin() + static_cast<std::ptrdiff_t>(index * pixels));
    }
    judge("one by one", one_by_one);
    return 0;
}
