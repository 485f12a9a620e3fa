// Runs the TensorRT backend on the fake TensorRT and prints one line per check. See check.sh.
//     checks [NAME...]
#include "checks.hpp"

#include <unistd.h>

#include <cstdio>
#include <random>

#include "sha256.hpp"

namespace checks {

namespace {

namespace fs = std::filesystem;

std::string text(const char* format, const std::string& first, const std::string& second = "",
                 const std::string& third = "") {
    std::string written = format;
    for (const std::string* part : {&first, &second, &third}) {
        const std::size_t at = written.find('@');
        if (at != std::string::npos) written.replace(at, 1, *part);
    }
    return written;
}

std::string compute_capability() {
    int major = 0, minor = 0;
    EXPECT(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0) == cudaSuccess);
    EXPECT(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0) == cudaSuccess);
    return std::to_string(major) + "." + std::to_string(minor);
}

void write(const fs::path& file, const std::string& content) {
    std::ofstream stream(file);
    stream << content;
    EXPECT(stream.good());
}

constexpr const char* manifest = R"({"format_version": 1, "artifacts": {"model.fp32.onnx": {"sha256": "@"}}, "spec": {
    "image": {"name": "image", "dtype": "uint8", "axes": [{"name": "n", "minimum": 1, "maximum": 64, "multiple": 1},
        {"name": "h", "minimum": 32, "maximum": 512, "multiple": 32},
        {"name": "w", "minimum": 32, "maximum": 512, "multiple": 32}, 3]},
    "probability": {"name": "probability", "dtype": "float32", "axes": ["n", 1, "h", "w"]},
    "microns_per_pixel": 0.25, "threshold": 0.5}})";

constexpr const char* sidecar = R"({"format_version": 1, "backend": "@", "backend_version": "@", "sm": ["@"],
    "gpu": null, "requested": "fp32", "graph": "model.fp32.onnx", "graph_sha256": "0", "bytes": 20,
    "profile": {"minimum": [2, 64, 64], "optimum": [4, 64, 64], "maximum": [8, 256, 256]}, "options": {},
    "plan_sha256": ")";

fs::path new_folder() {
    std::string name = (fs::temp_directory_path() / "fake-tensorrt.XXXXXX").string();
    EXPECT(mkdtemp(name.data()) != nullptr);
    return name;
}

struct Folder {
    Folder() : path(new_folder()) {
        write(path / "manifest.json", text(manifest, "0"));
        write(plan_in(path), "a plan of some bytes");
        const std::string start = text(sidecar, backend, version, compute_capability());
        write(plan_in(path).string() + ".json", start + sha256(plan_in(path)) + "\"}");
    }
    ~Folder() { fs::remove_all(path); }

    static fs::path plan_in(const fs::path& folder) {
        return folder / (std::string("model.fp32.smXX.") + backend + ".plan");
    }

    fs::path path;
};

}  // namespace

const fs::path& bundle() {
    static const Folder folder;
    return folder.path;
}

fs::path plan() {
    return Folder::plan_in(bundle());
}

Trace::Trace() : file_(new_folder() / "trace") {
    setenv("FAKE_TRACE", file_.c_str(), 1);
}

Trace::~Trace() {
    unsetenv("FAKE_TRACE");
    fs::remove_all(file_.parent_path());
}

std::vector<std::string> Trace::lines() const {
    std::vector<std::string> found;
    std::ifstream stream(file_);
    for (std::string line; std::getline(stream, line);) found.push_back(line);
    return found;
}

std::size_t Trace::count(const std::string& part) const {
    std::size_t found = 0;
    for (const std::string& line : lines()) found += line.find(part) != std::string::npos;
    return found;
}

Result<Segmenter> try_open(Options options) {
    options.backend = backend;
    return Segmenter::open(bundle().string(), "fp32", options);
}

Segmenter open(const Options& options) {
    auto opened = try_open(options);
    if (!opened) throw std::runtime_error(opened.error().message);
    return std::move(opened).value();
}

std::vector<std::uint8_t> images(const Shape& shape, unsigned int seed) {
    std::mt19937 random(seed);
    std::vector<std::uint8_t> rgb(shape.batch * shape.height * shape.width * 3);
    for (std::uint8_t& byte : rgb) byte = static_cast<std::uint8_t>(random());
    return rgb;
}

std::vector<float> expected(const std::vector<std::uint8_t>& rgb) {
    std::vector<float> probability(rgb.size() / 3);
    for (std::size_t pixel = 0; pixel < probability.size(); ++pixel) {
        const std::uint8_t* at = rgb.data() + pixel * 3;
        const std::uint32_t bits = 0x3E000000U | std::uint32_t{at[0]} << 16 | std::uint32_t{at[1]} << 8 | at[2];
        std::memcpy(&probability[pixel], &bits, sizeof bits);
    }
    return probability;
}

void expect_right(const Segmenter& segmenter, const Shape& shape, unsigned int seed) {
    const std::vector<std::uint8_t> rgb = images(shape, seed);
    const auto found = segmenter.segment(rgb, shape);
    if (!found) throw std::runtime_error(found.error().message);
    EXPECT(*found == expected(rgb));
}

void expect_error(const Error& error, ErrorCode code, const std::string& part) {
    if (error.code == code && error.message.find(part) != std::string::npos) return;
    throw std::runtime_error("expected error " + std::to_string(static_cast<int>(code)) + ", \"" + part + "\", got " +
                             std::to_string(static_cast<int>(error.code)) + ", \"" + error.message + "\"");
}

int current_device() {
    int device = -1;
    EXPECT(cudaGetDevice(&device) == cudaSuccess);
    return device;
}

}  // namespace checks

int main(int count, char** words) {
    using namespace checks;
    std::vector<Check> all = host_checks();
    for (const auto& more : {device_checks(), rtx_checks(), fault_checks()})
        all.insert(all.end(), more.begin(), more.end());
    int failed = 0, run = 0;
    for (const Check& check : all) {
        bool wanted = count == 1;
        for (int index = 1; index < count; ++index) wanted |= std::strcmp(words[index], check.name) == 0;
        if (!wanted) continue;
#ifndef FAKE_CUDA
        if (check.needs_fake_cuda) continue;
#endif
        ++run;
        try {
            check.run();
            std::printf("ok      %s\n", check.name);
        } catch (const std::exception& error) {
            ++failed;
            std::printf("FAILED  %s: %s\n", check.name, error.what());
        }
        std::fflush(stdout);
    }
    std::printf("%d checks, %d failed\n", run, failed);
    return failed > 0 || run == 0 ? 1 : 0;
}
