// Options that the backend honours, refuses or does not have; shapes to prepare for; pointers to GPU memory. Also runs
// under AddressSanitizer.
#include <algorithm>
#include <limits>

#include "check.hpp"

using namespace msal_deploy;

namespace {

constexpr std::size_t huge = std::numeric_limits<std::size_t>::max();

void prepared(const Segmenter& segmenter) {
    refused(segmenter.prepare({1, 1000, 64}), "Expected a height that is a multiple of 32, got 1000; use 992 or 1024");
    refused(segmenter.prepare({0, 64, 64}), "Expected a batch from 1 to 64, got 0");
    refused(segmenter.prepare({1, 64, huge}), "Expected a width from 32 to 4096, got 18446744073709551615");
    CHECK(segmenter.prepare({1, 64, 64}));
}

// On a CPU. The tests of TensorRT use it.
void on_device(const Segmenter& segmenter) {
    const std::vector<std::uint8_t> rgb(64 * 64 * 3, 128);
    std::vector<float> buffer(64 * 64);
    refused(segmenter.segment_on_device(rgb.data(), {1, 63, 64}, buffer.data(), nullptr),
            "Expected a height that is a multiple of 32, got 63; use 32 or 64");
    for (const void* data : {static_cast<const void*>(rgb.data()), static_cast<const void*>(nullptr)}) {
        refused(segmenter.segment_on_device(data, {1, 64, 64}, data == nullptr ? buffer.data() : nullptr, nullptr),
                "Expected pointers to GPU memory, got a null pointer; pass the images and a buffer");
    }
    if (segmenter.engine().rfind("tensorrt", 0) == 0) return;
    refused(segmenter.segment_on_device(rgb.data(), {1, 64, 64}, buffer.data(), nullptr),
            "This backend does not read GPU memory; call segment, or open the backend tensorrt");
}

void options(const std::string& model, const std::string& precision, const std::string& backend) {
    const auto open = [&](const std::string& name) {
        Options given;
        given.backend = name;
        return Segmenter::open(model, precision, given);
    };
    refused(open("openvno"), "'openvno' is not a backend; choose from: ");
    for (const char* name : {"openvino", "onnxruntime", "tensorrt", "tensorrt-rtx"}) {
        const std::vector<std::string> built = backends();
        if (std::find(built.begin(), built.end(), name) != built.end()) continue;
        refused(open(name), name + std::string(" is not built into this library (it has "),
                ErrorCode::missing_requirement);
    }
    const auto set = [&](auto option, auto value, const std::string& part) {
        Options given;
        given.backend = backend;
        given.*option = value;
        refused(Segmenter::open(model, precision, given), part);
    };
    const auto refuse = [&](const char* name, const std::string& able, auto option, auto good) {
        if (able.find(backend) != std::string::npos) return;
        set(option, good, backend + " does not have the option " + name + " (" + able + "); leave it unset");
    };
    refuse("threads", "openvino, onnxruntime have it", &Options::threads, 2);
    refuse("streams", "openvino has it", &Options::streams, 1);
    refuse("device", "tensorrt, tensorrt-rtx have it", &Options::device, 0);
    refuse("shapes", "openvino has it", &Options::shapes, std::size_t{4});
    refuse("cache", "openvino, tensorrt-rtx have it", &Options::cache, "folder");
    refuse("cuda_graphs", "tensorrt has it", &Options::cuda_graphs, false);
    if (backend == "openvino") {
        const std::string remedy = "; leave it unset for the default";
        set(&Options::threads, 0, "Expected threads from 1 to 1024, got 0" + remedy);
        set(&Options::threads, 1025, "Expected threads from 1 to 1024, got 1025" + remedy);
        set(&Options::streams, -1, "Expected streams from 1 to 1024, got -1" + remedy);
        set(&Options::shapes, std::size_t{0}, "Expected shapes from 1 to 1024, got 0" + remedy);
        set(&Options::cache, "", "Expected a folder as cache, got an empty name" + remedy);
        set(&Options::cache, model + "/manifest.json",
            "manifest.json is not a writable folder (Not a directory); choose another, or leave it unset");
    }
    Options given;
    given.backend = backend;
    refused(Segmenter::open(model, "int4", given), backend + " does not support 'int4'");
    refused(Segmenter::open(model, "", given), backend + " does not support ''");
}

}  // namespace

int main(int count, char** words) {
    CHECK(count == 4);
    Options given;
    given.backend = words[3];
    const Segmenter segmenter = open_or_skip(words[1], words[2], given);
    prepared(segmenter);
    on_device(segmenter);
    options(words[1], words[2], words[3]);
    return 0;
}
