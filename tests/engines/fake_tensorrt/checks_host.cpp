// Images and results of the host: chunks, lanes, graphs, devices, threads and logs.
#include <atomic>
#include <cstdio>
#include <mutex>
#include <optional>
#include <set>
#include <thread>

#include "checks.hpp"

namespace checks {

namespace {

#ifdef FAKE_MAJOR
constexpr std::size_t lanes = 1;
#else
constexpr std::size_t lanes = 2;
#endif

Options on(int device) {
    Options options;
    options.device = device;
    return options;
}

int last_device() {
    int devices = 0;
    EXPECT(cudaGetDeviceCount(&devices) == cudaSuccess);
    return devices - 1;
}

void batches_are_computed_in_chunks() {
    const Segmenter segmenter = open();
    for (const std::size_t batch : {2, 4, 5, 7, 8, 9, 23}) expect_right(segmenter, {batch, 64, 64}, 1);
}

void shapes_take_turns() {
    const Segmenter segmenter = open();
    for (unsigned int seed = 0; seed < 3; ++seed) {
        expect_right(segmenter, {4, 64, 64}, seed);
        expect_right(segmenter, {9, 256, 64}, seed);
        expect_right(segmenter, {2, 64, 96}, seed);
    }
}

void chunks_use_all_contexts() {
    const Trace trace;
    expect_right(open(), {16, 64, 64}, 1);
    std::set<std::string> contexts;
    for (const std::string& line : trace.lines()) {
        if (line.find("computes") != std::string::npos) contexts.insert(line);
    }
    EXPECT(contexts.size() == lanes && trace.count("computes") == 4);
}

// The second chunk is on its way before the host waits for the first.
void copies_overlap_computation() {
    const Segmenter segmenter = open();
    const Trace trace;
    expect_right(segmenter, {8, 64, 64}, 1);
    std::size_t uploads = 0;
    for (const std::string& line : trace.lines()) {
        uploads += line == "upload";
        if (line == "wait") break;
    }
    EXPECT(uploads == lanes && trace.count("upload") == 2);
}

void threads_get_their_own_results() {
    const Segmenter segmenter = open();
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (unsigned int thread = 0; thread < 6; ++thread) {
        threads.emplace_back([&, thread] {
            for (unsigned int turn = 0; turn < 8; ++turn) {
                const Shape shape{2 + (thread + turn) % 9, 64 + 32 * (turn % 2), 64};
                try {
                    if (turn % 5 == 4 && !segmenter.prepare(shape)) throw std::runtime_error("prepare");
                    expect_right(segmenter, shape, thread * 100 + turn);
                } catch (const std::exception&) {
                    ++wrong;
                }
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT(wrong == 0);
}

void the_device_of_the_caller_stays() {
    const int mine = last_device();
    std::optional<Segmenter> segmenter = open(on(0));
    EXPECT(cudaSetDevice(mine) == cudaSuccess);
    expect_right(*segmenter, {4, 64, 64}, 1);
    EXPECT(current_device() == mine);
    EXPECT(segmenter->prepare({4, 64, 96}));
    EXPECT(current_device() == mine);
    segmenter.reset();
    EXPECT(current_device() == mine);
    segmenter = open(on(0));
    EXPECT(current_device() == mine);
    segmenter.reset();
    EXPECT(cudaSetDevice(0) == cudaSuccess);
}

void without_the_option_the_device_is_the_callers() {
    EXPECT(cudaSetDevice(last_device()) == cudaSuccess);
    const Segmenter segmenter = open();
    EXPECT(cudaSetDevice(0) == cudaSuccess);
    std::thread([&] { expect_right(segmenter, {4, 64, 64}, 1); }).join();
    EXPECT(current_device() == 0);
}

void a_device_that_is_not_there_is_bad_input() {
    const auto opened = try_open(on(last_device() + 1));
    EXPECT(!opened);
    expect_error(opened.error(), ErrorCode::bad_input,
                 "Expected device from 0 to " + std::to_string(last_device()) + ", got ");
}

#ifndef FAKE_RTX

Options with_graphs() {
    Options options;
    options.cuda_graphs = true;
    return options;
}

void graphs_are_captured_once_per_shape() {
    const Segmenter segmenter = open(with_graphs());
    const Trace trace;
    for (unsigned int seed = 0; seed < 6; ++seed) expect_right(segmenter, {4, 64, 64}, seed);
    EXPECT(trace.count("computes") == lanes && trace.count("captures") == lanes);
}

void a_prepared_shape_is_only_launched() {
    const Segmenter segmenter = open(with_graphs());
    EXPECT(segmenter.prepare({8, 64, 64}));
    const Trace trace;
    for (unsigned int seed = 0; seed < 3; ++seed) expect_right(segmenter, {8, 64, 64}, seed);
    EXPECT(trace.count("computes") == 0 && trace.count("captures") == 0);
}

void graphs_of_other_shapes_are_captured_again() {
    const Segmenter segmenter = open(with_graphs());
    for (unsigned int seed = 0; seed < 12; ++seed)
        expect_right(segmenter, {2 + seed / 4, 64, 64 + seed / 4 * 32}, seed);
    for (unsigned int seed = 0; seed < 4; ++seed) expect_right(segmenter, {9, 64, 64}, seed);
}

void a_graph_that_cannot_be_captured_is_an_error() {
    const Segmenter segmenter = open(with_graphs());
    const std::vector<std::uint8_t> rgb = images({4, 64, 64}, 1);
    const Fake fake("capture");
    for (std::size_t warm = 0; warm < lanes; ++warm) EXPECT(segmenter.segment(rgb, {4, 64, 64}));
    const auto found = segmenter.segment(rgb, {4, 64, 64});
    EXPECT(!found);
    expect_error(found.error(), ErrorCode::missing_requirement, "TensorRT could not capture a CUDA graph (");
    expect_error(found.error(), ErrorCode::missing_requirement, "an internal error of a kernel");
    const auto prepared = segmenter.prepare({4, 64, 64});
    EXPECT(!prepared);
    expect_error(prepared.error(), ErrorCode::missing_requirement, "open the Segmenter without cuda_graphs");
}

#endif

// The messages that a Segmenter's callback was given.
struct Heard {
    std::mutex mutex;
    std::vector<std::string> messages;

    Options options() {
        Options options;
        options.log = [this](LogLevel level, std::string_view message) {
            const std::lock_guard<std::mutex> lock(mutex);
            messages.push_back((level == LogLevel::warning ? "warning: " : "error: ") + std::string(message));
        };
        return options;
    }
};

void warnings_go_to_the_segmenter_of_the_call() {
    const Fake fake("warn");
    Heard one, two;
    const Segmenter first = open(one.options()), second = open(two.options());
    EXPECT(one.messages.size() == 1 && two.messages.size() == 1);
    EXPECT(one.messages[0] == "warning: Using an engine plan file across different models of devices");
    expect_right(second, {4, 64, 64}, 1);
    EXPECT(one.messages.size() == 1 && two.messages.size() == 2);
}

void a_message_of_no_call_goes_to_all() {
    Heard one, two;
    const Segmenter first = open(one.options()), second = open(two.options());
    const Fake fake("elsewhere");
    expect_right(first, {4, 64, 64}, 1);
    EXPECT(one.messages.size() == 1 && two.messages == one.messages);
}

void errors_go_to_the_callback_and_into_the_message() {
    Heard heard;
    const Segmenter segmenter = open(heard.options());
    const Fake fake("enqueue");
    const auto found = segmenter.segment(images({4, 64, 64}, 1), {4, 64, 64});
    EXPECT(!found && heard.messages.size() == 1 && heard.messages[0] == "error: an internal error of a kernel");
    expect_error(found.error(), ErrorCode::missing_requirement, "(an internal error of a kernel)");
}

void a_callback_that_throws_does_no_harm() {
    const Fake fake("warn");
    Options options;
    options.log = [](LogLevel, std::string_view) { throw std::runtime_error("a fault of the application"); };
    expect_right(open(options), {4, 64, 64}, 1);
}

std::optional<Segmenter> at_exit;  // is destroyed after every function-local static object

// A process of its own must run this one, because no check after it may change FAKE.
void a_global_segmenter_may_log_while_the_process_ends() {
    Options options;
    options.log = [](LogLevel, std::string_view message) { std::puts(std::string(message).c_str()); };
    at_exit = open(options);
    setenv("FAKE", "complain", 1);
}

}  // namespace

std::vector<Check> host_checks() {
    return {
        {"batches are computed in chunks", batches_are_computed_in_chunks, false},
        {"shapes take turns", shapes_take_turns, false},
        {"chunks use all contexts", chunks_use_all_contexts, false},
        {"copies overlap computation", copies_overlap_computation, true},
        {"threads get their own results", threads_get_their_own_results, false},
        {"the device of the caller stays", the_device_of_the_caller_stays, false},
        {"without the option the device is the caller's", without_the_option_the_device_is_the_callers, false},
        {"a device that is not there is bad input", a_device_that_is_not_there_is_bad_input, false},
#ifndef FAKE_RTX
        {"graphs are captured once per shape", graphs_are_captured_once_per_shape, false},
        {"a prepared shape is only launched", a_prepared_shape_is_only_launched, false},
        {"graphs of other shapes are captured again", graphs_of_other_shapes_are_captured_again, false},
        {"a graph that cannot be captured is an error", a_graph_that_cannot_be_captured_is_an_error, false},
#endif
        {"warnings go to the segmenter of the call", warnings_go_to_the_segmenter_of_the_call, false},
        {"a message of no call goes to all", a_message_of_no_call_goes_to_all, false},
        {"errors go to the callback and into the message", errors_go_to_the_callback_and_into_the_message, false},
        {"a callback that throws does no harm", a_callback_that_throws_does_no_harm, false},
        {"a global segmenter may log while the process ends", a_global_segmenter_may_log_while_the_process_ends, false},
    };
}

}  // namespace checks
