// Images and results on the GPU, in the caller's streams.
#include <thread>

#include "checks.hpp"

namespace checks {

namespace {

// Memory on the GPU with its copy in pinned memory of the host.
template <class T>
class Buffer {
  public:
    explicit Buffer(std::size_t count) : count_(count) {
        EXPECT(cudaMalloc(reinterpret_cast<void**>(&gpu), bytes()) == cudaSuccess);
        EXPECT(cudaHostAlloc(reinterpret_cast<void**>(&host), bytes(), cudaHostAllocDefault) == cudaSuccess);
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() {
        cudaFree(gpu);
        cudaFreeHost(host);
    }
    std::size_t bytes() const { return count_ * sizeof(T); }

    T *gpu = nullptr, *host = nullptr;

  private:
    std::size_t count_;
};

// A stream of the caller with images and room for the result.
class Job {
  public:
    explicit Job(const Shape& shape) : shape_(shape), image_(pixels() * 3), probability_(pixels()), rgb_(pixels() * 3) {
        EXPECT(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) == cudaSuccess);
    }
    Job(const Job&) = delete;
    Job& operator=(const Job&) = delete;
    ~Job() { cudaStreamDestroy(stream_); }

    // Puts a copy to the GPU, the computation and a copy back into the stream.
    void start(const Segmenter& segmenter, unsigned int seed) {
        rgb_ = images(shape_, seed);
        std::memcpy(image_.host, rgb_.data(), rgb_.size());
        EXPECT(cudaMemcpyAsync(image_.gpu, image_.host, image_.bytes(), cudaMemcpyHostToDevice, stream_) ==
               cudaSuccess);
        const auto done = segmenter.segment_on_device(image_.gpu, shape_, probability_.gpu, stream_);
        if (!done) throw std::runtime_error(done.error().message);
        EXPECT(cudaMemcpyAsync(probability_.host, probability_.gpu, probability_.bytes(), cudaMemcpyDeviceToHost,
                               stream_) == cudaSuccess);
    }
    void finish() {
        EXPECT(cudaStreamSynchronize(stream_) == cudaSuccess);
        EXPECT(std::vector<float>(probability_.host, probability_.host + pixels()) == expected(rgb_));
    }

    // Calls segment_on_device alone, with pointers that may be wrong.
    Result<void> call(const Segmenter& segmenter, const void* rgb, float* probability) const {
        return segmenter.segment_on_device(rgb, shape_, probability, stream_);
    }

    std::size_t pixels() const { return shape_.batch * shape_.height * shape_.width; }
    std::uint8_t* image() const { return image_.gpu; }
    std::uint8_t* image_on_host() const { return image_.host; }
    float* probability() const { return probability_.gpu; }
    cudaStream_t stream() const { return stream_; }

  private:
    Shape shape_;
    Buffer<std::uint8_t> image_;
    Buffer<float> probability_;
    std::vector<std::uint8_t> rgb_;
    cudaStream_t stream_ = nullptr;
};

void run_jobs(const Segmenter& segmenter) {
    Job one({4, 64, 64}), two({4, 64, 64}), three({4, 64, 64}), large({9, 96, 64});  // more than there are contexts
    for (unsigned int turn = 0; turn < 4; ++turn) {
        one.start(segmenter, turn);
        two.start(segmenter, turn + 10);
        three.start(segmenter, turn + 20);
        three.finish();
        large.start(segmenter, turn + 30);
        expect_right(segmenter, {4, 64, 64}, turn + 40);  // meanwhile, from the host
        large.finish();
        two.finish();
        one.finish();
    }
}

void streams_of_the_caller_keep_their_order() {
    run_jobs(open());
}

void work_in_a_stream_may_outlast_the_segmenter() {
    Job job({4, 64, 64});
    {
        const Segmenter segmenter = open();
        job.start(segmenter, 1);
    }
    job.finish();
}

void the_default_stream_will_do() {
    const Segmenter segmenter = open();
    const Shape shape{4, 64, 64};
    const std::vector<std::uint8_t> rgb = images(shape, 3);
    Buffer<std::uint8_t> image(rgb.size());
    Buffer<float> probability(rgb.size() / 3);
    std::memcpy(image.host, rgb.data(), rgb.size());
    EXPECT(cudaMemcpyAsync(image.gpu, image.host, image.bytes(), cudaMemcpyHostToDevice, nullptr) == cudaSuccess);
    EXPECT(segmenter.segment_on_device(image.gpu, shape, probability.gpu, nullptr));
    EXPECT(cudaMemcpyAsync(probability.host, probability.gpu, probability.bytes(), cudaMemcpyDeviceToHost, nullptr) ==
           cudaSuccess);
    EXPECT(cudaStreamSynchronize(nullptr) == cudaSuccess);
    EXPECT(std::vector<float>(probability.host, probability.host + rgb.size() / 3) == expected(rgb));
}

void threads_with_streams_of_their_own() {
    const Segmenter segmenter = open();
    std::vector<std::string> errors(4);
    std::vector<std::thread> threads;
    for (unsigned int thread = 0; thread < errors.size(); ++thread) {
        threads.emplace_back([&, thread] {
            try {
                Job job({2 + thread, 64, 64});
                for (unsigned int turn = 0; turn < 6; ++turn) {
                    job.start(segmenter, thread * 10 + turn);
                    job.finish();
                }
            } catch (const std::exception& error) {
                errors[thread] = error.what();
            }
        });
    }
    for (std::thread& thread : threads) thread.join();
    for (const std::string& error : errors) {
        if (!error.empty()) throw std::runtime_error(error);
    }
}

void expect_bad(const Result<void>& done, const char* part) {
    EXPECT(!done);
    expect_error(done.error(), ErrorCode::bad_input, part);
}

void other_memory_is_bad_input() {
    const Segmenter segmenter = open();
    const Job job({4, 64, 64});
    std::vector<std::uint8_t> pageable(job.pixels() * 3);
    expect_bad(job.call(segmenter, pageable.data(), job.probability()), "got memory that is not on a GPU");
    expect_bad(job.call(segmenter, job.image_on_host(), job.probability()), "got memory that is not on a GPU");
    expect_bad(job.call(segmenter, job.image() + 4, job.probability()), "at a multiple of 256 bytes");
    expect_bad(job.call(segmenter, job.image(), job.probability() + 4), "at a multiple of 256 bytes");
    EXPECT(cudaGetLastError() == cudaSuccess);
}

void memory_of_another_gpu_is_bad_input() {
    Options options;
    options.device = 1;
    const Segmenter segmenter = open(options);
    const Job job({4, 64, 64});
    expect_bad(job.call(segmenter, job.image(), job.probability()),
               "Expected memory of GPU 1 for the images, got memory of GPU 0");
}

void a_stream_that_is_being_captured_is_bad_input() {
    const Segmenter segmenter = open();
    Job job({4, 64, 64});
    EXPECT(cudaStreamBeginCapture(job.stream(), cudaStreamCaptureModeThreadLocal) == cudaSuccess);
    const auto done = job.call(segmenter, job.image(), job.probability());
    cudaGraph_t graph = nullptr;
    EXPECT(cudaStreamEndCapture(job.stream(), &graph) == cudaSuccess);
    cudaGraphDestroy(graph);
    expect_bad(done, "The stream is being captured");
    job.start(segmenter, 5);
    job.finish();
}

#ifndef FAKE_RTX
void graphs_follow_the_pointers_of_the_caller() {
    Options options;
    options.cuda_graphs = true;
    run_jobs(open(options));
}
#endif

}  // namespace

std::vector<Check> device_checks() {
    return {
        {"streams of the caller keep their order", streams_of_the_caller_keep_their_order, false},
        {"work in a stream may outlast the segmenter", work_in_a_stream_may_outlast_the_segmenter, false},
        {"the default stream will do", the_default_stream_will_do, false},
        {"threads with streams of their own", threads_with_streams_of_their_own, false},
        {"other memory is bad input", other_memory_is_bad_input, false},
        {"memory of another GPU is bad input", memory_of_another_gpu_is_bad_input, true},
        {"a stream that is being captured is bad input", a_stream_that_is_being_captured_is_bad_input, false},
#ifndef FAKE_RTX
        {"graphs follow the pointers of the caller", graphs_follow_the_pointers_of_the_caller, false},
#endif
    };
}

}  // namespace checks
