// What TensorRT or CUDA can do wrong, and the kernels that TensorRT for RTX keeps.
#include <sys/stat.h>
#include <unistd.h>

#include <iterator>

#include "checks.hpp"
#include "kernel_cache_file.hpp"

namespace checks {

namespace {

namespace fs = std::filesystem;

constexpr Shape shape{4, 64, 64};

Error error_of_a_call(const Segmenter& segmenter) {
    const auto found = segmenter.segment(images(shape, 1), shape);
    EXPECT(!found);
    return found.error();
}

Error error_of_open(const Options& options = {}) {
    const auto opened = try_open(options);
    EXPECT(!opened);
    return opened.error();
}

void an_output_of_another_shape_is_bad_input() {
    const Segmenter segmenter = open();
    const Fake fake("output-shape");
    expect_error(error_of_a_call(segmenter), ErrorCode::bad_input,
                 "returns 4 × 2 × 64 × 64 for 4 × 64 × 64 px; rebuild");
}

void other_tensors_are_bad_input() {
    for (const char* fault : {"half-image", "host-image", "chw-image"}) {
        const Fake fake(fault);
        expect_error(error_of_open(), ErrorCode::bad_input, "does not have the tensor 'image' ");
    }
}

void a_call_that_failed_leaves_no_error_behind() {
    const Segmenter segmenter = open();
    {
        const Fake fake("download");
        expect_error(error_of_a_call(segmenter), ErrorCode::missing_requirement, "CUDA could not copy from the GPU");
    }
    EXPECT(cudaGetLastError() == cudaSuccess && current_device() == 0);
    expect_right(segmenter, shape, 2);
}

void one_context_will_do() {
    const Fake fake("second-context");
    expect_right(open(), {16, 64, 64}, 1);
}

void memory_for_one_context_will_do() {
    std::string said;
    Options options;
    options.log = [&](LogLevel level, std::string_view message) {
        if (level == LogLevel::warning) said = message;
    };
    const Fake fake("second-malloc");
    const Segmenter segmenter = open(options);
    expect_right(segmenter, {16, 64, 64}, 1);
    expect_right(segmenter, {16, 64, 64}, 2);
#ifndef FAKE_MAJOR
    EXPECT(said.find("(trying again without overlapping copies)") != std::string::npos);
#endif
}

void no_memory_at_all_is_an_error() {
    const Segmenter segmenter = open();
    {
        const Fake fake("malloc");
        expect_error(error_of_a_call(segmenter), ErrorCode::missing_requirement,
                     "CUDA could not allocate memory on the GPU (out of memory); use smaller images or batches");
    }
    expect_right(segmenter, shape, 2);
}

// The last check: nothing else works afterwards.
void a_lost_context_is_told_apart() {
    const Segmenter segmenter = open(), other = open();
    {
        const Fake fake("illegal-address");
        expect_error(error_of_a_call(segmenter), ErrorCode::failed,
                     "The CUDA context of this process is unusable (an illegal memory access was encountered); restart "
                     "the process");
    }
    const Trace trace;
    expect_error(error_of_a_call(segmenter), ErrorCode::failed, "restart the process");
    const auto prepared = segmenter.prepare(shape);
    EXPECT(!prepared && trace.lines().empty());
    expect_error(error_of_a_call(other), ErrorCode::failed, "restart the process");
}

#ifdef FAKE_RTX

std::string content(const fs::path& file) {
    std::ifstream stream(file);
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

std::vector<fs::path> caches(const fs::path& folder) {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(folder)) {
        if (entry.path().filename().string().find(".cache") != std::string::npos) found.push_back(entry.path());
    }
    return found;
}

Options cached_in(const fs::path& folder) {
    Options options;
    options.cache = folder.string();
    return options;
}

// Returns the file next to the plan, which is not there.
fs::path no_cache() {
    const fs::path file = plan().string() + ".cache";
    fs::remove(file);
    return file;
}

void kernels_are_saved_when_they_are_compiled() {
    const fs::path file = no_cache();
    const Segmenter segmenter = open();
    EXPECT(!fs::exists(file));
    expect_right(segmenter, shape, 1);
    EXPECT(content(file) == "kernels of 64x64");
    EXPECT(segmenter.prepare({4, 64, 96}));
    EXPECT(content(file) == "kernels of 64x64 64x96" && caches(bundle()) == std::vector<fs::path>{file});
}

void kernels_go_to_the_folder_of_the_option() {
    no_cache();
    const fs::path folder = bundle() / "a" / "b";
    {
        const Segmenter segmenter = open(cached_in(folder));
        expect_right(segmenter, shape, 1);
    }
    EXPECT(caches(bundle()).empty() && caches(folder).size() == 1);
    EXPECT(content(caches(folder)[0]) == "kernels of 64x64");
}

void a_folder_that_is_none_is_bad_input() {
    expect_error(error_of_open(cached_in(plan())), ErrorCode::bad_input, "is not a writable folder");
}

void writers_do_not_meet() {
    const fs::path folder = bundle() / "writers";
    PlanMetadata about;
    about.file = "one.plan";
    about.plan_sha256 = std::string(64, '0');
    const KernelCacheFile one(about, folder.string()), two(about, folder.string());
    const std::string first(1 << 20, '1'), second(1 << 10, '2');
    one.write(first.data(), first.size());
    two.write(second.data(), second.size());
    const std::vector<char> read = one.read();
    EXPECT(std::string(read.begin(), read.end()) == second && caches(folder).size() == 1);
    struct stat found{};
    EXPECT(stat(caches(folder)[0].c_str(), &found) == 0 && (found.st_mode & 0777) == 0644);
}

void a_refused_cache_is_an_error() {
    for (const char* fault : {"runtime-cache", "graph-strategy"}) {
        const Fake fake(fault);
        expect_error(error_of_open(), ErrorCode::missing_requirement, "refuses the runtime cache or CUDA graphs");
    }
}

void kernels_that_cannot_be_saved_are_a_warning() {
    const fs::path file = no_cache();
    fs::create_directory(file);  // a file cannot take its place
    std::vector<std::string> said;
    Options options;
    options.log = [&](LogLevel, std::string_view message) { said.emplace_back(message); };
    {
        const Segmenter segmenter = open(options);
        expect_right(segmenter, shape, 1);
        expect_right(segmenter, {4, 64, 96}, 1);
    }
    EXPECT(said.size() == 1 && said[0].find("is not writable (") != std::string::npos);
    EXPECT(caches(bundle()).size() == 1);  // no temporary file stays
    fs::remove(file);
}

#endif

}  // namespace

std::vector<Check> rtx_checks() {
    return {
#ifdef FAKE_RTX
        {"kernels are saved when they are compiled", kernels_are_saved_when_they_are_compiled, false},
        {"kernels go to the folder of the option", kernels_go_to_the_folder_of_the_option, false},
        {"a folder that is none is bad input", a_folder_that_is_none_is_bad_input, false},
        {"writers do not meet", writers_do_not_meet, false},
        {"a refused cache is an error", a_refused_cache_is_an_error, false},
        {"kernels that cannot be saved are a warning", kernels_that_cannot_be_saved_are_a_warning, false},
#endif
    };
}

std::vector<Check> fault_checks() {
    return {
        {"an output of another shape is bad input", an_output_of_another_shape_is_bad_input, false},
        {"other tensors are bad input", other_tensors_are_bad_input, false},
        {"a call that failed leaves no error behind", a_call_that_failed_leaves_no_error_behind, true},
        {"one context will do", one_context_will_do, false},
        {"memory for one context will do", memory_for_one_context_will_do, true},
        {"no memory at all is an error", no_memory_at_all_is_an_error, true},
        {"a lost context is told apart", a_lost_context_is_told_apart, true},
    };
}

}  // namespace checks
