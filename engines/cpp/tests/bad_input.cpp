// Everything that can be wrong with what a program gives: each is an Error with a sentence, and nothing crashes (the
// same test runs under AddressSanitizer).
#include <algorithm>
#include <limits>

#include "check.hpp"
#include "sha256.hpp"

using namespace msal_deploy;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t huge = std::numeric_limits<std::size_t>::max();

void expect(const Error& error, ErrorCode code, const std::string& part) {
    std::printf("%d: %s\n", static_cast<int>(error.code), error.sentence.c_str());
    CHECK(error.code == code);
    if (error.sentence.find(part) == std::string::npos) std::fprintf(stderr, "expected: %s\n", part.c_str());
    CHECK(error.sentence.find(part) != std::string::npos);
}

template <class T>
void refused(const Result<T>& result, const std::string& part, ErrorCode code = ErrorCode::bad_input) {
    CHECK(!result);
    expect(result.error(), code, part);
}

void images(const Segmenter& segmenter) {
    const std::vector<std::uint8_t> rgb(64 * 64 * 3, 128);
    std::vector<float> buffer(64 * 64);
    const Shape good{1, 64, 64};
    const Span<const std::uint8_t> nothing;
    refused(segmenter.segment(rgb, 63, 64), "The height is 63, no multiple of 32; use 32 or 64");
    refused(segmenter.segment(rgb, 64, 16), "The width is 16; it must lie between 32 and 4096");
    refused(segmenter.segment(rgb, 0, 0), "The height is 0");
    refused(segmenter.segment(rgb, huge, huge), "must lie between");
    refused(segmenter.segment(rgb, Shape{0, 64, 64}), "The batch is 0; it must lie between 1 and 64");
    refused(segmenter.segment(rgb, Shape{65, 64, 64}), "The batch is 65");
    refused(segmenter.segment(nothing, 64, 64), "The images are a null pointer");
    refused(segmenter.segment({nullptr, 64 * 64 * 3}, 64, 64), "The images are a null pointer");
    refused(segmenter.segment({rgb.data(), 100}, 64, 64),
            "The images have 100 bytes; 1 × 64 × 64 px of RGB take 12288");
    refused(segmenter.segment(rgb, Shape{2, 64, 64}), "2 × 64 × 64 px of RGB take 24576");
    refused(segmenter.segment(rgb, good, Span<float>()), "The buffer for the probabilities is a null pointer");
    refused(segmenter.segment(rgb, good, Span<float>(buffer.data(), 4095)), "holds 4095 numbers");
    CHECK(segmenter.segment(rgb, good, buffer));  // after all that, it works
    CHECK(buffer[0] >= 0 && buffer[4095] <= 1);
}

void moved_from(Segmenter& segmenter) {
    const Segmenter other = std::move(segmenter);
    const std::vector<std::uint8_t> rgb(64 * 64 * 3);
    refused(segmenter.segment(rgb, 64, 64), "was moved from");
    CHECK(segmenter.engine().empty() && segmenter.spec().image.empty());
    CHECK(other.spec().image == "image");
}

// A copy of the model's folder in which one thing at a time is spoilt.
class Spoilt {
  public:
    Spoilt(const fs::path& model, const std::string& precision)
        : model_(model), graph_("model." + precision + ".onnx"), folder_(fs::current_path() / "spoilt") {
        fs::remove_all(folder_);
        fs::create_directory(folder_);
    }
    ~Spoilt() { fs::remove_all(folder_); }

    std::string folder() const { return folder_.string(); }
    std::vector<char> graph() const { return bytes_of(model_ / graph_); }

    void write_manifest(const std::string& written) const { std::ofstream(folder_ / "manifest.json") << written; }

    // Writes the manifest with one thing in it replaced.
    void change_manifest(const std::string& old, const std::string& changed) const {
        const std::vector<char> bytes = bytes_of(model_ / "manifest.json");
        std::string manifest(bytes.begin(), bytes.end());
        const std::size_t other = manifest.find("\"model.int8.u8s8.onnx\"");  // which onnxruntime would take instead
        if (other != std::string::npos) manifest.insert(other + 1, "no ");
        const std::size_t at = manifest.find(old);
        CHECK(at != std::string::npos);
        write_manifest(manifest.replace(at, old.size(), changed));
    }

    // Writes the graph, with the hash that it has or with one of its own.
    void write_graph(const std::vector<char>& bytes, bool own_hash) const {
        std::ofstream(folder_ / graph_, std::ios::binary)
            .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
        const std::string hash = sha256(model_ / graph_);
        change_manifest(hash, own_hash ? sha256(folder_ / graph_) : hash);
    }

  private:
    fs::path model_;
    std::string graph_;
    fs::path folder_;
};

void folders(const Spoilt& spoilt, const std::string& precision, const Options& options) {
    const auto open = [&] { return Segmenter::open(spoilt.folder(), precision, options); };
    refused(Segmenter::open("/no/such/folder", precision, options), "is no bundle (it has no manifest.json)");
    refused(Segmenter::open("", precision, options), "is no bundle");
    refused(open(), "is no bundle");
    spoilt.write_manifest("{\"spec\": ");
    refused(open(), "it is not JSON");
    spoilt.write_manifest("[]");
    refused(open(), "it has no format_version");
    spoilt.change_manifest("", "");
    refused(open(), "is named in the manifest and missing");
    spoilt.change_manifest("\"format_version\": 1", "\"format_version\": 2");
    refused(open(), "has format version 2, and only 1 can be read");
    spoilt.change_manifest("\"dtype\": \"uint8\"", "\"dtype\": \"float32\"");
    refused(open(), "The graph's image is float32 and not uint8");
    spoilt.change_manifest("\"multiple\": 32", "\"multiple\": 0");
    refused(open(), "multiple 0");
    spoilt.change_manifest("\"threshold\": 0.5", "\"threshold\": \"half\"");
    refused(open(), "spec.threshold is not a number");
    spoilt.change_manifest("\"threshold\"", "\"limit\"");
    refused(open(), "it has no spec.threshold");
    spoilt.change_manifest("\"model." + precision + ".onnx\": {", "\"other.onnx\": {");
    refused(open(), "holds no model.");
}

void graphs(const Spoilt& spoilt, const std::string& precision, const Options& options) {
    const auto open = [&] { return Segmenter::open(spoilt.folder(), precision, options); };
    const std::string name = "image";
    const std::vector<char> whole = spoilt.graph();
    std::vector<char> bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(whole.size() / 2));
    spoilt.write_graph(bytes, false);
    refused(open(), "is not the file that the manifest describes (SHA-256 differs)");
    spoilt.write_graph(bytes, true);  // a truncated file that claims to be whole
    refused(open(), "cannot open the graph of");
    spoilt.write_graph({}, true);
    refused(open(), "cannot open the graph of");
    bytes = whole;
    for (auto at = bytes.begin(); (at = std::search(at, bytes.end(), name.begin(), name.end())) != bytes.end();)
        *at++ = 'x';
    spoilt.write_graph(bytes, true);  // a graph of somebody else's
    refused(open(), "The graph has no input 'image' alone; it is not one of msal-deploy's");
}

void options(const std::string& model, const std::string& precision, const std::string& backend) {
    const auto open = [&](const std::string& name, int threads, int streams) {
        Options given;
        given.backend = name;
        given.threads = threads;
        given.streams = streams;
        return Segmenter::open(model, precision, given);
    };
    refused(open("openvno", 0, 1), "No backend is called 'openvno'; built: ");
    refused(open(backend, -1, 1), "-1 threads are no sensible number");
    refused(open(backend, 1025, 1), "1025 threads are no sensible number");
    refused(open(backend, 0, 0), "does not run 0 streams");
    for (const char* name : {"openvino", "onnxruntime", "tensorrt", "tensorrt-rtx"}) {
        const std::vector<std::string> built = backends();
        if (std::find(built.begin(), built.end(), name) != built.end()) continue;
        refused(open(name, 0, 1), "This library was built without", ErrorCode::environment_lacks);
    }
    Options given;
    given.backend = backend;
    refused(Segmenter::open(model, "int4", given), "runs no 'int4'");
    refused(Segmenter::open(model, "", given), "runs no ''");
}

}  // namespace

int main(int count, char** words) {
    CHECK(count == 4);
    const std::string model = words[1], precision = words[2];
    Options given;
    given.backend = words[3];
    Segmenter segmenter = open_or_skip(model, precision, given);
    images(segmenter);
    moved_from(segmenter);
    const Spoilt spoilt(model, precision);
    folders(spoilt, precision, given);
    graphs(spoilt, precision, given);
    options(model, precision, given.backend);
    return 0;
}
