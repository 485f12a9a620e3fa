#include "tensorrt_lane.hpp"

#include <cstring>

#include "backend.hpp"

namespace msal_deploy {

namespace {

// TensorRT needs what it is given at a multiple of this.
constexpr std::size_t alignment = 256;

void check_pointer(const void* pointer, const char* what) {
    cudaPointerAttributes found{};
    check_cuda(cudaPointerGetAttributes(&found, pointer), "look up a pointer");
    const bool on_gpu = found.type == cudaMemoryTypeDevice || found.type == cudaMemoryTypeManaged;
    if (!on_gpu || found.device != current_device()) {
        throw_bad_input("Expected memory of GPU ", current_device(), " for the ", what, ", got ",
                        on_gpu ? concat("memory of GPU ", found.device) : "memory that is not on a GPU",
                        "; use cudaMalloc on the device of the Segmenter");
    }
    if (reinterpret_cast<std::uintptr_t>(pointer) % alignment != 0) {
        throw_bad_input("Expected the ", what, " at a multiple of ", alignment,
                        " bytes, as cudaMalloc returns it; copy it to the beginning of an allocation");
    }
}

void check_stream(cudaStream_t stream) {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check_cuda(cudaStreamIsCapturing(stream, &status), "look up a stream");
    if (status == cudaStreamCaptureStatusNone) return;
    throw_bad_input("The stream is being captured into a CUDA graph; end the capture first, or set cuda_graphs");
}

[[noreturn]] void throw_not_run() {
    throw_missing_requirement("TensorRT could not run the plan (", tensorrt_errors(),
                              "); find the cause with: msal-deploy doctor");
}

}  // namespace

Lane::Lane(const Engine& engine, std::unique_ptr<nvinfer1::IExecutionContext> context, bool graphs)
    : engine_(engine), context_(std::move(context)), graphs_(graphs) {}

Lane::~Lane() {
    try {
        wait();
    } catch (const Failure&) {  // nothing runs any more
    }
}

void Lane::start(const std::uint8_t* rgb, const Shape& shape) {
    wait();
    set_shape(shape);
    const std::size_t pixels = pixels_of(shape), in = pixels * 3, out = pixels * sizeof(float);
    void *image = image_.reserve(in), *result = probability_.reserve(out);
    void *staged = image_on_host_.reserve(in), *back = probability_on_host_.reserve(out);
    std::memcpy(staged, rgb, in);
    try {
        check_cuda(cudaMemcpyAsync(image, staged, in, cudaMemcpyHostToDevice, stream_.get()), "copy to the GPU");
        enqueue(image, result, stream_.get());
        check_cuda(cudaMemcpyAsync(back, result, out, cudaMemcpyDeviceToHost, stream_.get()), "copy from the GPU");
        done_.record(stream_.get());
    } catch (...) {
        settle(stream_.get());  // the next call uses the same buffers
        throw;
    }
}

void Lane::finish(float* probability) {
    wait();
    const std::size_t bytes = pixels_of(shape_) * sizeof(float);
    std::memcpy(probability, probability_on_host_.reserve(bytes), bytes);
}

void Lane::run(void* rgb, const Shape& shape, void* probability, cudaStream_t stream) {
    check_stream(stream);
    check_pointer(rgb, "images");
    check_pointer(probability, "probabilities");
    set_shape(shape);
    done_.wait_in(stream);
    try {
        enqueue(rgb, probability, stream);
        done_.record(stream);
    } catch (...) {
        settle(stream);  // nothing of a call that failed writes later
        throw;
    }
}

void Lane::prepare(const Shape& shape) {
    const std::vector<std::uint8_t> black(pixels_of(shape) * 3);
    start(black.data(), shape);
    wait();
    if (graphs_) capture(image_.reserve(0), probability_.reserve(0));
}

void Lane::set_shape(const Shape& shape) {
    if (shape.batch == shape_.batch && shape.height == shape_.height && shape.width == shape_.width) return;
    wait();
    shape_ = {0, 0, 0};
    warm_ = false;
    graph_.reset();
    nvinfer1::Dims4 dims;
    const std::size_t extents[4] = {shape.batch, shape.height, shape.width, 3};
    for (int axis = 0; axis < 4; ++axis)
        dims.d[axis] = static_cast<std::remove_reference_t<decltype(dims.d[0])>>(extents[axis]);
    if (!context_->setInputShape(engine_.spec().image.c_str(), dims)) throw_not_run();
    check_output(shape);
#ifdef MSAL_DEPLOY_CONTEXT_MEMORY
    const std::size_t size = context_->updateDeviceMemorySizeForShapes();
    context_->setDeviceMemoryV2(activations_.reserve(size), static_cast<std::int64_t>(size));
#endif
    shape_ = shape;
}

void Lane::check_output(const Shape& shape) const {
    const auto found = context_->getTensorShape(engine_.spec().probability.c_str());
    const std::size_t expected[4] = {shape.batch, 1, shape.height, shape.width};
    bool good = found.nbDims == 4;
    for (int axis = 0; good && axis < 4; ++axis) good = static_cast<std::size_t>(found.d[axis]) == expected[axis];
    if (good) return;
    std::vector<std::string> sides;
    for (int axis = 0; axis < found.nbDims; ++axis) sides.push_back(concat(found.d[axis]));
    engine_.throw_other(concat("returns ", sides.empty() ? "no shape" : join(sides, " × "), " for ", shape.batch, " × ",
                               shape.height, " × ", shape.width, " px"));
}

void Lane::enqueue(void* image, void* probability, cudaStream_t stream) {
    if (!graphs_ || !warm_) {
        enqueue_once(image, probability, stream);
        warm_ = true;
        return;
    }
    if (!graph_ || image != captured_image_ || probability != captured_probability_) capture(image, probability);
    graph_.launch(stream);
}

void Lane::capture(void* image, void* probability) {
    wait();  // the graph that is replaced may be running
    try {
        graph_.capture(stream_.get(), [&] { enqueue_once(image, probability, stream_.get()); });
    } catch (const ContextLost&) {
        throw;
    } catch (const Failure& failure) {
        throw_missing_requirement("TensorRT could not capture a CUDA graph (", failure.what(),
                                  "); open the Segmenter without cuda_graphs");
    }
    captured_image_ = image;
    captured_probability_ = probability;
}

void Lane::enqueue_once(void* image, void* probability, cudaStream_t stream) {
    if (context_->setTensorAddress(engine_.spec().image.c_str(), image) &&
        context_->setTensorAddress(engine_.spec().probability.c_str(), probability) && context_->enqueueV3(stream)) {
        return;
    }
    throw_not_run();
}

}  // namespace msal_deploy
