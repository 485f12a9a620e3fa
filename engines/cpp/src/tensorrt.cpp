// The backend of TensorRT 8.6 or later, or of TensorRT for RTX: see tensorrt_api.hpp.
#include <algorithm>
#include <atomic>

#include "backend.hpp"
#include "tensorrt_lanes.hpp"

namespace msal_deploy {

namespace {

int choose_device(const Options& options) {
    const int devices = count_gpus(), device = options.device.value_or(current_device());
    if (device < devices) return device;
    throw_bad_input("Expected device from 0 to ", devices - 1, ", got ", device, "; choose from: nvidia-smi -L");
}

// What lives on the GPU, destroyed while that is the current one.
struct OnGpu {
    OnGpu(Plan plan, const Spec& spec, const Options& options, const TensorRtLog& log)
        : engine(std::move(plan), spec, options, log), lanes(engine, options.cuda_graphs.value_or(false)) {}

    Engine engine;
    Lanes lanes;
};

class TensorRt : public Backend {
  public:
    TensorRt(const Bundle& bundle, const std::string& precision, const Options& options)
        : device_(choose_device(options)), log_(options.log) {
        const DeviceGuard guard(device_);
        const LogScope scope(log_);
        Plan plan = read_plan(bundle, precision, {tensorrt_name, tensorrt_version(), compute_capability(device_)});
        gpu_ = std::make_unique<OnGpu>(std::move(plan), bundle.spec, options, log_);
    }

    ~TensorRt() override {
        try {
            const DeviceGuard guard(device_);
            const LogScope scope(log_);
            gpu_.reset();
        } catch (const Failure&) {  // the GPU is lost, and with it all there is to free
        }
    }

    void infer(const std::uint8_t* rgb, const Shape& shape, float* probability) override {
        const std::vector<Chunk> chunks = split(shape);
        guarded([&] {
            compute(rgb, shape, chunks, probability);
            gpu_->engine.computed(part(shape, chunks.front()));
        });
    }

    void infer_on_device(const void* rgb, const Shape& shape, float* probability, void* stream) override {
        const std::vector<Chunk> chunks = split(shape);
        const std::size_t pixels = shape.height * shape.width;
        guarded([&] {
            Lanes::Taken lane(gpu_->lanes);
            gpu_->lanes.take(lane, 1);
            for (const Chunk& chunk : chunks) {
                auto* image = const_cast<std::uint8_t*>(static_cast<const std::uint8_t*>(rgb));  // only read
                lane[0].run(image + chunk.first * pixels * 3, part(shape, chunk), probability + chunk.first * pixels,
                            static_cast<cudaStream_t>(stream));
            }
            gpu_->engine.computed(part(shape, chunks.front()));
        });
    }

    void prepare(const Shape& shape) override {
        const std::vector<Chunk> chunks = split(shape);
        guarded([&] {
            Lanes::Taken lanes(gpu_->lanes);
            gpu_->lanes.take_all(lanes);
            for (std::size_t index = 0; index < lanes.size(); ++index) {
                // A lane keeps one shape: that of all chunks but the last one.
                if (chunks.size() > 1) lanes[index].prepare(part(shape, chunks.back()));
                lanes[index].prepare(part(shape, chunks.front()));
            }
            gpu_->engine.computed(part(shape, chunks.front()));
        });
    }

  private:
    // A part of a batch: `size` images from `first` on.
    struct Chunk {
        std::size_t first, size;
    };

    static Shape part(const Shape& shape, const Chunk& chunk) { return {chunk.size, shape.height, shape.width}; }

    // Cuts a batch into chunks of the profile's opt. The last one may overlap the one before it, so that it is not
    // smaller than the profile's min. Throws Failure unless the plan accepts the shape.
    std::vector<Chunk> split(const Shape& shape) const {
        const PlanMetadata& plan = gpu_->engine.plan();
        const std::size_t min = plan.profile.min.batch, opt = plan.profile.opt.batch;
        check_profile(plan, {std::min(shape.batch, opt), shape.height, shape.width});
        std::vector<Chunk> chunks;
        for (std::size_t start = 0; start < shape.batch; start += opt) {
            const std::size_t end = std::min(start + opt, shape.batch), first = std::min(start, end - min);
            chunks.push_back({first, end - first});
        }
        return chunks;
    }

    // Chunk by chunk, the lanes take turns: one copies while the other computes.
    void compute(const std::uint8_t* rgb, const Shape& shape, const std::vector<Chunk>& chunks, float* probability) {
        const std::size_t pixels = shape.height * shape.width;
        Lanes::Taken lanes(gpu_->lanes);
        gpu_->lanes.take(lanes, chunks.size());
        const std::size_t ahead = lanes.size();
        for (std::size_t index = 0; index < chunks.size() + ahead; ++index) {
            if (index >= ahead) lanes[index].finish(probability + chunks[index - ahead].first * pixels);
            if (index >= chunks.size()) continue;
            lanes[index].start(rgb + chunks[index].first * pixels * 3, part(shape, chunks[index]));
        }
    }

    // Runs `work` on the device. If there is not enough memory for two lanes, tries again with one.
    template <class Work>
    void guarded(const Work& work) {
        if (lost_) throw_lost();
        const DeviceGuard guard(device_);
        const LogScope scope(log_);
        try {
            const std::size_t lanes = gpu_->lanes.size();
            try {
                work();
            } catch (const OutOfGpuMemory& failure) {
                if (lanes == 1) throw;
                log_.write(LogLevel::warning, concat(failure.what(), " (trying again without overlapping copies)"));
                gpu_->lanes.shrink();
                work();
            }
        } catch (const ContextLost&) {
            lost_ = true;
            throw;
        }
    }

    [[noreturn]] static void throw_lost() { throw ContextLost("an earlier call failed"); }

    int device_;
    TensorRtLog log_;
    std::atomic<bool> lost_{false};
    std::unique_ptr<OnGpu> gpu_;
};

}  // namespace

std::unique_ptr<Backend> open_tensorrt(const Bundle& bundle, const std::string& precision, const Options& options) {
    if (precision != "fp32" && precision != "fp16" && precision != "int8") {
        throw_bad_input(tensorrt_name, " does not support '", precision, "'; choose from: fp16, fp32, int8");
    }
    return std::make_unique<TensorRt>(bundle, precision, options);
}

}  // namespace msal_deploy
