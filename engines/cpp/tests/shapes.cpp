// OpenVINO with changing image shapes: calls of other shapes go on during a compilation, and nothing is compiled twice.
// The log callback counts the compilations and holds them up. No check depends on time: where a call waited for
// another, the test would not end.
#include <sys/resource.h>

#include <functional>
#include <map>
#include <thread>

#include "gate.hpp"
#include "golden.hpp"

using namespace msal_deploy;

namespace {

const Shape a{1, 32, 32}, b{1, 32, 64}, c{1, 64, 32}, d{1, 64, 64};

// Counts the messages that begin with "Compiling for" and so on, and calls `compiling` when the first kind comes.
struct Messages {
    std::mutex mutex;
    std::map<std::string, int> count;
    std::function<void(const std::string&)> compiling = [](const std::string&) {};

    void operator()(LogLevel level, std::string_view text) {
        const std::string message(text);
        CHECK(level == LogLevel::info && message.find('\n') == std::string::npos);
        {
            const std::lock_guard<std::mutex> lock(mutex);
            ++count[message];
        }
        if (message.rfind("Compiling", 0) == 0) compiling(message);
    }

    int with(const std::string& part) {
        const std::lock_guard<std::mutex> lock(mutex);
        int all = 0;
        for (const auto& [message, times] : count) all += message.find(part) == std::string::npos ? 0 : times;
        return all;
    }
};

std::vector<std::uint8_t> image_of(const Golden& golden, const Shape& shape, std::size_t seed) {
    const std::size_t size = shape.height * shape.width * 3, start = seed * 997 % (golden.rgb.size() - size);
    const auto first = golden.rgb.begin() + static_cast<std::ptrdiff_t>(start);
    return {first, first + static_cast<std::ptrdiff_t>(size)};
}

std::vector<float> compute(const Segmenter& segmenter, const Golden& golden, const Shape& shape, std::size_t seed) {
    auto result = segmenter.segment(image_of(golden, shape, seed), shape);
    if (!result) std::fprintf(stderr, "%s\n", result.error().message.c_str());
    CHECK(result);
    return std::move(result).value();
}

void others_go_on_during_a_compilation(const Segmenter& segmenter, Messages& messages, const Golden& golden) {
    CHECK(segmenter.prepare(a));
    CHECK(messages.with("Compiling for 1 × 32 × 32 px") == 1);
    Gate gate;
    messages.compiling = [&](const std::string&) { gate.pass(); };
    std::thread one([&] { compute(segmenter, golden, b, 0); });
    gate.wait_until_reached();
    compute(segmenter, golden, a, 0);  // while the other shape is compiled
    CHECK(messages.with("Compiling") == 2 && messages.with("Compiled") == 1);
    gate.open();
    one.join();
    messages.compiling = [](const std::string&) {};
    CHECK(messages.with("Compiled for 1 × 32 × 64 px") == 1);
}

// Eight threads go through the shapes, each from another one on.
void threads_change_sizes(const Segmenter& segmenter, Messages& messages, const Golden& golden) {
    const std::vector<Shape> shapes{a, b, c, d};
    constexpr std::size_t calls = 6, threads = 8;
    std::vector<std::vector<std::vector<float>>> found(threads);
    std::vector<std::thread> running;
    for (std::size_t thread = 0; thread < threads; ++thread) {
        running.emplace_back([&, thread] {
            for (std::size_t call = 0; call < calls; ++call) {
                found[thread].push_back(compute(segmenter, golden, shapes[(thread + call) % 4], thread));
            }
        });
    }
    for (std::thread& thread : running) thread.join();
    for (std::size_t thread = 0; thread < threads; ++thread) {
        for (std::size_t call = 0; call < calls; ++call) {
            CHECK(found[thread][call] == compute(segmenter, golden, shapes[(thread + call) % 4], thread));
        }
    }
    CHECK(found[0][0] != found[1][3]);  // another image of the same shape
    CHECK(messages.with("Compiling") == 4);
    for (const auto& [message, times] : messages.count) CHECK(times == 1);
}

// An image of any size needs the shape of its tiles and no other.
void tiles_share_a_shape(const Segmenter& segmenter, Messages& messages, const Golden& golden) {
    const Tiling tiling{64, 16, 1};
    for (const std::size_t height : {70, 101, 200}) {
        CHECK(segmenter.segment({golden.rgb.data(), height, 90, golden.shape.width * 3}, tiling));
    }
    CHECK(messages.with("Compiling") == 4);
}

Segmenter open(char** words, Options options, Messages& messages) {
    options.backend = "openvino";
    options.log = std::ref(messages);
    return open_or_skip(words[1], words[3], options);
}

void four_sizes(char** words, const Golden& golden, std::optional<int> streams) {
    Messages messages;
    Options options;
    options.streams = streams;
    const Segmenter segmenter = open(words, options, messages);
    others_go_on_during_a_compilation(segmenter, messages, golden);
    threads_change_sizes(segmenter, messages, golden);
    tiles_share_a_shape(segmenter, messages, golden);
    CHECK(!segmenter.prepare({1, 1000, 64}));
    CHECK(segmenter.prepare({streams ? std::size_t{3} : std::size_t{1}, 32, 32}));  // streams compute one by one
    CHECK(messages.with("Compiling") == 4);
    std::printf("%s: 4 sizes in turn and in 8 threads: %d compilations\n", segmenter.engine().c_str(),
                messages.with("Compiling"));
}

void as_many_shapes_as_asked_for(char** words, const Golden& golden) {
    Messages messages;
    Options options;
    options.shapes = 1;
    const Segmenter segmenter = open(words, options, messages);
    for (const Shape& shape : {a, a, b, a}) compute(segmenter, golden, shape, 0);
    CHECK(messages.with("Compiling for 1 × 32 × 32 px") == 2 && messages.with("Compiling") == 3);
}

// Changes one byte in the middle of each file of a folder.
void damage(const std::filesystem::path& folder) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        std::fstream file(entry.path(), std::ios::binary | std::ios::in | std::ios::out);
        file.seekg(static_cast<std::streamoff>(entry.file_size() / 2));
        const char changed = static_cast<char>(file.peek() ^ 1);
        file.seekp(static_cast<std::streamoff>(entry.file_size() / 2));
        file.put(changed);
        CHECK(file);
    }
}

void cut(const std::filesystem::path& folder) {
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
        std::filesystem::resize_file(entry.path(), entry.file_size() / 2);
    }
}

// Another process, here another Segmenter, loads what one compiled. What is damaged is compiled and saved again.
void compiled_graphs_on_disk(char** words, const Golden& golden) {
    const std::filesystem::path folder = std::filesystem::current_path() / "cache" / "new";
    std::filesystem::remove_all(folder);
    Options options;
    options.cache = folder.string();
    std::vector<std::vector<float>> found;
    const auto expect = [&](const char* outcome) {
        Messages messages;
        found.push_back(compute(open(words, options, messages), golden, a, 3));
        CHECK(messages.with(outcome) == 1);
    };
    expect("Compiled for 1 × 32 × 32 px");
    expect("Loaded from the cache for 1 × 32 × 32 px");
    damage(folder);
    expect("Compiled for 1 × 32 × 32 px");
    cut(folder);
    expect("Compiled for 1 × 32 × 32 px");
    expect("Loaded from the cache for 1 × 32 × 32 px");
    options.threads = 1;
    expect("Compiled for 1 × 32 × 32 px");  // not what other settings compiled
    found.pop_back();                       // another number of threads may change the last bits
    for (const std::vector<float>& one : found) CHECK(one == found[0]);
    const auto files = std::filesystem::directory_iterator(folder);
    CHECK(std::distance(begin(files), end(files)) == 2);  // and no partial ones
    std::filesystem::remove_all(folder.parent_path());
}

// AddressSanitizer ends the program when the limit is reached.
#ifndef __SANITIZE_ADDRESS__
void without_memory(char** words, const Golden& golden) {
    Messages messages;
    const Segmenter segmenter = open(words, {}, messages);
    compute(segmenter, golden, a, 0);
    rlimit before{}, tight{};
    CHECK(getrlimit(RLIMIT_AS, &before) == 0);
    tight = before;
    tight.rlim_cur = rlim_t{8} << 30;  // an activation needs more, and OpenVINO's threads have their stacks already
    CHECK(setrlimit(RLIMIT_AS, &tight) == 0);
    for (int times : {1, 2}) {  // the failure is not kept
        refused(segmenter.prepare({64, 4096, 4096}), "Not enough memory; use a smaller batch or tile, or fewer",
                ErrorCode::missing_requirement);
        CHECK(messages.with("Compiling for 64 × 4096 × 4096 px") == times);
    }
    compute(segmenter, golden, a, 0);
    CHECK(setrlimit(RLIMIT_AS, &before) == 0);
}
#else
void without_memory(char**, const Golden&) {}
#endif

}  // namespace

int main(int count, char** words) {
    CHECK(count == 4);
    const Golden golden(words[2]);
    four_sizes(words, golden, std::nullopt);
    four_sizes(words, golden, 2);
    as_many_shapes_as_asked_for(words, golden);
    compiled_graphs_on_disk(words, golden);
    without_memory(words, golden);
    return 0;
}
