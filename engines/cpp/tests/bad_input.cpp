// Every mistake that a caller or a file can make returns an Error with a clear message, and nothing crashes. The test
// also runs under AddressSanitizer.
#include <algorithm>
#include <limits>

#include "bundle.hpp"
#include "check.hpp"
#include "failure.hpp"
#include "sha256.hpp"

using namespace msal_deploy;
namespace fs = std::filesystem;

namespace {

constexpr std::size_t huge = std::numeric_limits<std::size_t>::max();

void images(const Segmenter& segmenter) {
    const std::vector<std::uint8_t> rgb(64 * 64 * 3, 128);
    std::vector<float> buffer(64 * 64);
    const Shape good{1, 64, 64};
    const Span<const std::uint8_t> nothing;
    refused(segmenter.segment(rgb, Shape{1, 63, 64}),
            "Expected a height that is a multiple of 32, got 63; use 32 or 64");
    refused(segmenter.segment(rgb, Shape{1, 64, 16}), "Expected a width from 32 to 4096, got 16");
    refused(segmenter.segment(rgb, Shape{1, huge, huge}),
            "Expected a height from 32 to 4096, got 18446744073709551615");
    refused(segmenter.segment(rgb, 63, 64), "Expected 12096 bytes of RGB for 1 × 63 × 64 px, got 12288");
    refused(segmenter.segment(rgb, 0, 5), "Expected at least one pixel, got an image of 5×0 px; leave it out");
    refused(segmenter.segment(rgb, huge, huge),
            "Expected sides up to 2147483647 px, got an image of 18446744073709551");
    refused(segmenter.segment(rgb, 2147483647, 2147483647),
            "Expected an image that fits in memory, got 2147483647 rows");
    refused(segmenter.segment(rgb, Shape{0, 64, 64}), "Expected a batch from 1 to 64, got 0");
    refused(segmenter.segment(rgb, Shape{65, 64, 64}), "Expected a batch from 1 to 64, got 65");
    refused(segmenter.segment(nothing, 64, 64), "Expected 12288 bytes of RGB for 1 × 64 × 64 px, got a null pointer");
    refused(segmenter.segment({nullptr, 64 * 64 * 3}, 64, 64),
            "Expected 12288 bytes of RGB for 1 × 64 × 64 px, got a null pointer");
    refused(segmenter.segment({rgb.data(), 100}, 64, 64), "Expected 12288 bytes of RGB for 1 × 64 × 64 px, got 100");
    refused(segmenter.segment(rgb, Shape{2, 64, 64}), "Expected 24576 bytes of RGB for 2 × 64 × 64 px, got 12288");
    refused(segmenter.segment(rgb, good, Span<float>()),
            "Expected 4096 floats in the buffer for the probabilities for 1 × 64 × 64 px, got a null pointer");
    refused(segmenter.segment(rgb, good, Span<float>(buffer.data(), 4095)), "px, got 4095; pass a larger one");
    CHECK(segmenter.segment(rgb, good, buffer));  // still works after all the errors
    CHECK(buffer[0] >= 0 && buffer[4095] <= 1);
}

void views(const Segmenter& segmenter) {
    const std::vector<std::uint8_t> rgb(64 * 64 * 3, 128);
    std::vector<float> buffer(64 * 64);
    const ImageView good(rgb.data(), 64, 64);
    refused(segmenter.segment(ImageView(nullptr, 64, 64)),
            "Expected an image, got a null pointer; pass its first pixel");
    refused(segmenter.segment({rgb.data(), 64, 0}), "Expected at least one pixel, got an image of 0×64 px");
    refused(segmenter.segment({rgb.data(), 64, 64, 191}),
            "Expected at least 192 bytes per row for 64 px, got 191; pass the bytes from one row to the next");
    refused(segmenter.segment({rgb.data(), 64, 64, huge}), "Expected an image that fits in memory, got 64 rows of ");
    refused(segmenter.segment({rgb.data(), 1, huge / 3 + 2}), "Expected sides up to 2147483647 px");
    refused(segmenter.segment(good, {100, 0, 1}), "Expected a tile that is a multiple of 32, got 100; use 96 or 128");
    refused(segmenter.segment(good, {0, 0, 1}), "Expected a tile from 32 to 4096, got 0; use a size in that range");
    refused(segmenter.segment(good, {64, 64, 1}), "Expected an overlap from 0 to 63, got 64; use one in that range");
    refused(segmenter.segment(good, {64, huge, 1}), "Expected an overlap from 0 to 63, got 18446744073709551615");
    refused(segmenter.segment(good, {64, 0, 0}), "Expected a batch from 1 to 64, got 0");
    refused(segmenter.segment(good, {}, Span<float>(buffer.data(), 4095)), "px, got 4095; pass a larger one");
    refused(segmenter.segment(good, {}, Span<float>()), "Expected 4096 floats in the buffer for the probabilities");
    CHECK(segmenter.segment(good, {64, 63, 64}, buffer));
    refused(segmenter.segment({rgb.data(), 64, 48, 191, PixelFormat::bgra}),
            "Expected at least 192 bytes per row for 48");
    refused(segmenter.segment({rgb.data(), 64, 64, 255, PixelFormat::rgba}),
            "Expected at least 256 bytes per row for 64");
    CHECK(segmenter.segment({rgb.data(), 48, 64, 0, PixelFormat::rgba}));
}

void many_views(const Segmenter& segmenter) {
    const std::vector<std::uint8_t> rgb(64 * 64 * 3, 128);
    std::vector<ImageView> images(3, {rgb.data(), 64, 64});
    refused(segmenter.segment(images, {100, 0, 1}), "Expected a tile that is a multiple of 32, got 100");
    images[2].row_bytes = 191;
    refused(segmenter.segment(images), "Image 2: Expected at least 192 bytes per row for 64 px, got 191; pass the");
    images[1].data = nullptr;
    refused(segmenter.segment(images), "Image 1: Expected an image, got a null pointer; pass its first pixel");
    refused(segmenter.segment(Span<const ImageView>(nullptr, 2)), "Expected images, got a null pointer; pass them");
}

void moved_from(Segmenter& segmenter) {
    const Segmenter other = std::move(segmenter);
    const std::vector<std::uint8_t> rgb(64 * 64 * 3);
    for (const auto& result : {segmenter.segment(rgb, 64, 64), segmenter.segment(rgb, Shape{1, 64, 64}),
                               segmenter.segment(ImageView(rgb.data(), 64, 64))}) {
        refused(result, "This Segmenter is not usable (moved from)");
    }
    refused(segmenter.segment(Span<const ImageView>()), "This Segmenter is not usable (moved from)");
    refused(segmenter.prepare({1, 64, 64}), "This Segmenter is not usable (moved from)");
    refused(segmenter.segment_on_device(nullptr, {1, 64, 64}, nullptr, nullptr), "This Segmenter is not usable");
    CHECK(segmenter.engine().empty() && segmenter.spec().image.empty());
    CHECK(other.spec().image == "image");
}

// A result is a value or an error; a program that mistakes one for the other gets an exception with the message.
template <class Access>
void expect_logic_error(const Access& access, const std::string& part) {
    try {
        access();
    } catch (const std::logic_error& error) {
        std::printf("%s\n", error.what());
        CHECK(std::string(error.what()).find(part) != std::string::npos);
        return;
    }
    CHECK(!"std::logic_error");
}

void wrong_access() {
    const Result<int> error = Error{ErrorCode::bad_input, "something is wrong"}, value = 7;
    Result<std::string> temporary = Error{ErrorCode::bad_input, "something is wrong"};
    expect_logic_error([&] { return error.value(); }, "something is wrong");
    expect_logic_error([&] { return *error; }, "something is wrong");
    expect_logic_error([&] { return temporary->size(); }, "something is wrong");
    expect_logic_error([&] { return std::move(temporary).value(); }, "something is wrong");
    expect_logic_error([&] { return value.error(); }, "got a value");
    expect_logic_error([&] { return Result<void>().error(); }, "got success");
    CHECK(value.value() == 7 && *value == 7);
}

// A copy of the model's folder with one thing wrong at a time.
class BrokenBundle {
  public:
    BrokenBundle(const fs::path& model, const std::string& precision)
        : model_(model), graph_("model." + precision + ".onnx"), folder_(fs::current_path() / "broken") {
        fs::remove_all(folder_);
        fs::create_directory(folder_);
    }
    ~BrokenBundle() { fs::remove_all(folder_); }

    std::string folder() const { return folder_.string(); }
    std::vector<char> graph() const { return bytes_of(model_ / graph_); }

    void write_manifest(const std::string& written) const { std::ofstream(folder_ / "manifest.json") << written; }

    // Writes the manifest with one part of it replaced.
    void change_manifest(const std::string& old, const std::string& changed) const {
        const std::vector<char> bytes = bytes_of(model_ / "manifest.json");
        std::string manifest(bytes.begin(), bytes.end());
        const std::size_t other = manifest.find("\"model.int8.u8s8.onnx\"");  // which onnxruntime prefers
        if (other != std::string::npos) manifest.insert(other + 1, "no ");
        const std::size_t at = manifest.find(old);
        CHECK(at != std::string::npos);
        write_manifest(manifest.replace(at, old.size(), changed));
    }

    // Writes the graph, with the hash of the original in the manifest or with its own.
    void write_graph(const std::vector<char>& bytes, bool own_hash) const {
        std::ofstream(folder_ / graph_, std::ios::binary)
            .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
        const std::string hash = sha256(model_ / graph_);
        change_manifest(hash, own_hash ? sha256(folder_ / graph_) : hash);
    }

    // Puts a link to the original graph, whose hash is right, in place of the graph.
    void link_graph() const {
        change_manifest("", "");
        fs::create_symlink(fs::canonical(model_ / graph_), folder_ / graph_);
    }

    void remove_graph() const { fs::remove(folder_ / graph_); }

  private:
    fs::path model_;
    std::string graph_;
    fs::path folder_;
};

void folders(const BrokenBundle& broken, const std::string& precision, const Options& options) {
    const auto open = [&] { return Segmenter::open(broken.folder(), precision, options); };
    refused(Segmenter::open("/no/such/folder", precision, options),
            "/no/such/folder is not a bundle (no manifest.json); create one with: msal-deploy export");
    refused(Segmenter::open("", precision, options), "is not a bundle");
    refused(open(), "is not a bundle");
    const std::string graph = "\"model." + precision + ".onnx\": {";
    broken.change_manifest("", "");
    refused(open(), ".onnx is missing but listed in the manifest; export the bundle again");
    broken.change_manifest("\"dtype\": \"uint8\"", "\"dtype\": \"float32\"");
    refused(open(), "Expected uint8 for the graph's image, got float32; export the bundle with: msal-deploy export");
    broken.change_manifest("\"format_version\": 1", "\"format_version\": 2");
    refused(open(), "manifest.json, got 2; export the bundle again");
    broken.change_manifest(graph, "\"other.onnx\": {");
    refused(open(), ".onnx is not in " + broken.folder() + "; choose from: ");
}

// The message names the file, the path of the field, and what was expected.
void manifests(const BrokenBundle& broken, const std::string& precision, const Options& options) {
    const std::string file = broken.folder() + "/manifest.json";
    const auto expect_invalid = [&](const std::string& reason) {
        const auto opened = Segmenter::open(broken.folder(), precision, options);
        refused(opened, file + " is not a valid manifest: " + reason);
        CHECK(opened.error().message.find("; export the bundle again") != std::string::npos);
    };
    const auto change = [&](const std::string& old, const std::string& changed, const std::string& reason) {
        broken.change_manifest(old, changed);
        expect_invalid(reason);
    };
    for (const char* content : {"", "{\"spec\": ", "{\"spec\": \"\xff\"}", "{} {}", "{\"spec\": 1e999}"}) {
        broken.write_manifest(content);
        expect_invalid("");
    }
    broken.write_manifest(std::string(1000000, '['));
    expect_invalid("parse error");
    for (const char* content : {"[]", "3", "null", "\"text\""}) {
        broken.write_manifest(content);
        expect_invalid("no such field, because its type is ");
    }
    change("\"format_version\"", "\"version\"", "key 'format_version' not found");
    change("\"format_version\": 1", "\"format_version\": -1", "(/format_version) type must be whole number, but is -1");
    change("\"format_version\": 1", "\"format_version\": true",
           "(/format_version) type must be whole number, but is boolean");
    change("\"multiple\": 32", "\"multiple\": 0", "(/spec/image/axes/1/multiple) number must be positive, but is 0");
    change("\"multiple\": 32", "\"multiple\": 1.5",
           "(/spec/image/axes/1/multiple) type must be whole number, but is 1.5");
    change("\"threshold\": 0.5", "\"threshold\": \"half\"", "(/spec/threshold) type must be number, but is string");
    change("\"threshold\": 0.5", "\"threshold\": null", "(/spec/threshold) type must be number, but is null");
    change("\"threshold\"", "\"limit\"", "(/spec) key 'threshold' not found");
    change("\"axes\": [", "\"axes\": 3, \"old\": [", "(/spec/image/axes) no such field, because its type is number");
    change("\"axes\": [", "\"axes\": [], \"old\": [", "(/spec/image/axes) array index 3 is out of range");
    change("\"artifacts\": {", "\"artifacts\": [1], \"old\": {",
           "(/artifacts) no such field, because its type is array");
    change("\"sha256\": \"", "\"sha256\": 1, \"old\": \"", "(/artifacts/");
    refused(Segmenter::open(broken.folder(), precision, options), "/sha256) type must be string, but is number");
}

// No name in a manifest may lead out of the folder. A link may, if its content has the hash of the manifest.
void outside(const BrokenBundle& broken, const std::string& precision, const Options& options) {
    broken.link_graph();
    CHECK(static_cast<bool>(Segmenter::open(broken.folder(), precision, options)));
    broken.remove_graph();
    const fs::path folder = broken.folder(), secret = folder.parent_path() / "secret";
    std::ofstream(secret) << "content";
    for (const std::string& name : {std::string("../secret"), std::string("a/../../secret"), secret.string()}) {
        const Bundle bundle{folder, {}, {{name, sha256(secret)}}};
        try {
            bundle.file(name);
            CHECK(!"Failure");
        } catch (const Failure& failure) {
            expect({failure.code(), failure.what()}, ErrorCode::bad_input, "is outside the bundle");
        }
    }
    std::ofstream(folder / "inside") << "content";
    const Bundle bundle{folder, {}, {{"./inside", sha256(secret)}}};
    CHECK(bundle.file("./inside") == folder / "./inside");
    fs::remove(secret);
}

void graphs(const BrokenBundle& broken, const std::string& precision, const Options& options) {
    const auto open = [&] { return Segmenter::open(broken.folder(), precision, options); };
    const std::string name = "image";
    const std::vector<char> whole = broken.graph();
    std::vector<char> bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(whole.size() / 2));
    broken.write_graph(bytes, false);
    refused(open(), "has changed since export (SHA-256 differs); export the bundle again");
    broken.write_graph(bytes, true);  // truncated, but with the right hash
    refused(open(), "cannot open the graph in");
    broken.write_graph({}, true);
    refused(open(), "cannot open the graph in");
    bytes = whole;
    for (auto at = bytes.begin(); (at = std::search(at, bytes.end(), name.begin(), name.end())) != bytes.end();)
        *at++ = 'x';
    broken.write_graph(bytes, true);  // a graph with other names
    refused(open(),
            "Expected 'image' as the graph's only input, got 'xmage'; export the bundle with: msal-deploy export");
}

}  // namespace

int main(int count, char** words) {
    CHECK(count == 4);
    const std::string model = words[1], precision = words[2];
    Options given;
    given.backend = words[3];
    Segmenter segmenter = open_or_skip(model, precision, given);
    wrong_access();
    images(segmenter);
    views(segmenter);
    many_views(segmenter);
    moved_from(segmenter);
    const BrokenBundle broken(model, precision);
    folders(broken, precision, given);
    manifests(broken, precision, given);
    outside(broken, precision, given);
    graphs(broken, precision, given);
    return 0;
}
