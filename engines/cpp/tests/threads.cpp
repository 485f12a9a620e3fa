// Threads share one Segmenter, each with its own image and with changing sizes: every result must be the one that the
// image gets alone. A batch computed in parallel streams must equal the batch computed in one. A Segmenter may end in
// another thread than it began in.
#include <signal.h>

#include <cmath>
#include <cstring>
#include <thread>

#include "golden.hpp"

using namespace msal_deploy;

namespace {

struct Job {
    Shape shape;
    std::vector<std::uint8_t> rgb;
    std::vector<float> alone;
};

// Returns different images: the golden ones in increasing brightness and two sizes.
std::vector<Job> jobs_from(const Golden& golden, const Segmenter& segmenter) {
    std::vector<Job> jobs;
    for (std::size_t index = 0; index < 4; ++index) {
        Job job;
        job.shape = {1, 64, index % 2 == 0 ? std::size_t{64} : std::size_t{96}};
        for (std::size_t y = 0; y < job.shape.height; ++y) {
            const std::uint8_t* row = &golden.rgb[y * golden.shape.width * 3];
            for (std::size_t x = 0; x < job.shape.width * 3; ++x) {
                job.rgb.push_back(static_cast<std::uint8_t>(row[x] / 2 + index * 30));
            }
        }
        auto alone = segmenter.segment(job.rgb, job.shape);
        CHECK(alone);
        job.alone = *alone;
        jobs.push_back(job);
    }
    CHECK(jobs[0].alone != jobs[2].alone);  // otherwise a mix-up would go unnoticed
    return jobs;
}

void replay(const Segmenter& segmenter, const Job& job) {
    std::vector<float> probability(job.alone.size());
    for (int round = 0; round < 5; ++round) {
        std::fill(probability.begin(), probability.end(), -1.0F);
        CHECK(segmenter.segment(job.rgb, job.shape, probability));
        CHECK(std::memcmp(probability.data(), job.alone.data(), probability.size() * sizeof(float)) == 0);
        CHECK(!segmenter.segment({job.rgb.data(), 1}, job.shape,
                                 probability));  // an error in one thread does not affect another
    }
}

void share(const Segmenter& segmenter, const Golden& golden) {
    const std::vector<Job> jobs = jobs_from(golden, segmenter);
    std::vector<std::thread> threads;
    for (const Job& job : jobs) threads.emplace_back(replay, std::cref(segmenter), std::cref(job));
    for (std::thread& thread : threads) thread.join();
}

// Another batch size changes the order of the sums, so the last bits may differ.
void compare_streams(const Segmenter& one, const Segmenter& two, const Golden& golden) {
    const Shape shape{4, 64, 64};
    std::vector<std::uint8_t> rgb;
    for (std::size_t index = 0; index < shape.batch * 64 * 64 * 3; ++index) rgb.push_back(golden.rgb[index]);
    const auto whole = one.segment(rgb, shape), cut = two.segment(rgb, shape);
    CHECK(whole && cut);
    for (std::size_t index = 0; index < whole.value().size(); ++index) {
        CHECK(std::abs(whole.value()[index] - cut.value()[index]) < 1e-4F);
    }
}

// The thread that opened the segmenter must keep a signal stack that exists: Python's and Go's signal handlers use it.
void end_in_another_thread(Segmenter segmenter) {
    std::thread([ending = std::move(segmenter)] {}).join();
    struct sigaction action {};
    action.sa_handler = [](int) {};
    action.sa_flags = SA_ONSTACK;
    CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
    CHECK(raise(SIGUSR1) == 0);
}

}  // namespace

int main(int count, char** words) {
    CHECK(count == 5);
    Options options;
    options.backend = words[4];
    if (options.backend.rfind("tensorrt", 0) != 0) options.threads = 2;
    Segmenter one = open_or_skip(words[1], words[3], options);
    const Golden golden(words[2]);
    CHECK(golden.pixels() * 3 >= 4 * 64 * 64 * 3 && golden.shape.height >= 64 && golden.shape.width >= 96);
    share(one, golden);
    if (options.backend == "openvino") {
        options.streams = 2;
        const Segmenter two = open_or_skip(words[1], words[3], options);
        share(two, golden);
        compare_streams(one, two, golden);
    }
    Segmenter moved = std::move(one);
    share(moved, golden);
    end_in_another_thread(std::move(moved));
    return 0;
}
