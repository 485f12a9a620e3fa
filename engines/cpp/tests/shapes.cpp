// Calls of different image shapes do not wait for each other, and nothing is compiled twice. First the cache that sees
// to that, then OpenVINO, whose compilations are counted and held up by its log callback. No check depends on time:
// where a call waited for another, the test would not end.
#include <sys/resource.h>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <stdexcept>
#include <thread>

#include "golden.hpp"
#include "shape_cache.hpp"

using namespace msal_deploy;

namespace {

const Shape a{1, 32, 32}, b{1, 32, 64}, c{1, 64, 32}, d{1, 64, 64};

// Lets a thread wait at a point until another has seen it there and opens it.
class Gate {
  public:
    void pass() {
        std::unique_lock<std::mutex> lock(mutex_);
        reached_ = true;
        changed_.notify_all();
        changed_.wait(lock, [this] { return open_; });
    }

    void wait_until_reached() {
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return reached_; });
    }

    void open() {
        const std::lock_guard<std::mutex> lock(mutex_);
        open_ = true;
        changed_.notify_all();
    }

  private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool reached_ = false, open_ = false;
};

// Makes numbers for a cache: 0, 1, 2 …
struct Numbers {
    std::atomic<int> made{0};
    std::shared_ptr<int> operator()() { return std::make_shared<int>(made++); }
};

void only_the_same_shape_waits() {
    ShapeCache<int> cache(4);
    Numbers numbers;
    Gate gate;
    const auto slowly = [&] {
        gate.pass();
        return numbers();
    };
    std::shared_ptr<int> first, second;
    std::thread one([&] { first = cache.get(a, slowly); });
    gate.wait_until_reached();
    std::thread two([&] { second = cache.get(a, std::ref(numbers)); });
    CHECK(*cache.get(b, std::ref(numbers)) == 0);  // while `a` is being made
    gate.open();
    one.join();
    two.join();
    CHECK(first == second && *first == 1 && numbers.made == 2);
}

void a_failure_is_not_kept() {
    ShapeCache<int> cache(4);
    Numbers numbers;
    Gate gate;
    const auto fail = [&]() -> std::shared_ptr<int> {
        gate.pass();
        throw std::runtime_error("no memory");
    };
    std::atomic<int> errors{0};
    const auto call = [&](const std::function<std::shared_ptr<int>()>& make) {
        try {
            cache.get(a, make);
        } catch (const std::runtime_error&) {
            ++errors;
        }
    };
    std::thread one(call, fail);
    gate.wait_until_reached();
    std::thread two(call, std::ref(numbers));  // waits and gets the error, or comes later and makes the value
    gate.open();
    one.join();
    two.join();
    CHECK(errors + numbers.made == 2 && errors >= 1);
    CHECK(*cache.get(a, std::ref(numbers)) == 0 && numbers.made == 1);
}

void the_least_recently_used_is_dropped() {
    ShapeCache<int> cache(2);
    Numbers numbers;
    const std::shared_ptr<int> held = cache.get(a, std::ref(numbers));
    const std::weak_ptr<int> second = cache.get(b, std::ref(numbers));
    CHECK(cache.get(a, std::ref(numbers)) == held);
    cache.get(c, std::ref(numbers));  // drops b
    CHECK(second.expired());
    cache.get(b, std::ref(numbers));  // drops a, which is still held
    CHECK(*held == 0 && held.use_count() == 1);
    CHECK(*cache.get(a, std::ref(numbers)) == 4);
}

void what_is_being_made_is_not_dropped() {
    ShapeCache<int> cache(1);
    Numbers numbers;
    Gate gate;
    std::thread one([&] {
        cache.get(a, [&] {
            gate.pass();
            return numbers();
        });
    });
    gate.wait_until_reached();
    const std::weak_ptr<int> other = cache.get(b, std::ref(numbers));  // `b` is dropped rather than `a`
    CHECK(other.expired());
    gate.open();
    one.join();
    CHECK(*cache.get(a, std::ref(numbers)) == 1);
}

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
    constexpr std::size_t calls = 12, threads = 8;
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

// Another process, here another Segmenter, loads what one compiled. What is damaged is compiled again.
void compiled_graphs_on_disk(char** words, const Golden& golden) {
    const std::filesystem::path folder = std::filesystem::current_path() / "cache" / "new";
    std::filesystem::remove_all(folder);
    Options options;
    options.cache = folder.string();
    std::vector<std::vector<float>> found;
    for (const char* outcome : {"Compiled", "Loaded from the cache", "Compiled", "Loaded from the cache"}) {
        Messages messages;
        const Segmenter segmenter = open(words, options, messages);
        found.push_back(compute(segmenter, golden, a, 3));
        CHECK(messages.with(outcome) == 1);
        if (found.size() != 2) continue;
        for (const auto& entry : std::filesystem::directory_iterator(folder)) {
            std::filesystem::resize_file(entry.path(), std::filesystem::file_size(entry.path()) / 2);
        }
    }
    for (const std::vector<float>& one : found) CHECK(one == found[0]);
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
        refused(segmenter.prepare({64, 4096, 4096}), "Not enough memory; use a smaller batch or tile, or fewer", ErrorCode::missing_requirement);
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
    only_the_same_shape_waits();
    a_failure_is_not_kept();
    the_least_recently_used_is_dropped();
    what_is_being_made_is_not_dropped();
    const Golden golden(words[2]);
    four_sizes(words, golden, std::nullopt);
    four_sizes(words, golden, 2);
    as_many_shapes_as_asked_for(words, golden);
    compiled_graphs_on_disk(words, golden);
    without_memory(words, golden);
    return 0;
}
