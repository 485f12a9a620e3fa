// OpenVINO on the CPU. The graph is compiled for each image shape when that shape is first used.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <future>
#include <map>
#include <mutex>
#include <openvino/openvino.hpp>
#include <optional>
#include <sstream>

#include "backend.hpp"
#include "failure.hpp"
#include "graph_cache.hpp"
#include "log.hpp"
#include "shape_cache.hpp"

namespace msal_deploy {

namespace {

constexpr std::size_t default_shapes = 4;  // each has its own copy of the weights, packed for the shape

struct Precision {
    std::string graph;       // precision of the graph to read
    ov::element::Type type;  // of the floating-point computation; without it, OpenVINO uses bf16 on CPUs that have it
    std::string capability;  // that the CPU must have
};

const std::map<std::string, Precision> precisions{
    {"fp32", {"fp32", ov::element::f32, "FP32"}},
    {"int8", {"int8", ov::element::f32, "INT8"}},
    {"bf16", {"fp32", ov::element::bf16, "BF16"}},
    {"fp16", {"fp16", ov::element::f16, "FP16"}},
};

// One core for the whole process. The CPU plugin gives the thread that loads it a signal stack, and unmaps that memory
// with the core. If the core ends in another thread, the first one still points to the memory, and its next signal with
// a handler on the signal stack, as Python and Go have, is a segmentation fault (OpenVINO 2026.4).
std::shared_ptr<ov::Core> shared_core() {
    static const auto core = std::make_shared<ov::Core>();
    return core;
}

// The graph compiled for one shape, with one infer request per stream.
class Compiled {
  public:
    Compiled(ov::CompiledModel model, int requests) : model_(std::move(model)) {
        for (int request = 0; request < requests; ++request) idle_.push_back(model_.create_infer_request());
    }

    void infer(const ov::Tensor& image, const ov::Tensor& probability) {
        ov::InferRequest request = acquire();
        try {
            request.set_input_tensor(image);
            request.set_output_tensor(probability);
            request.infer();
        } catch (...) {
            release(std::move(request));
            throw;
        }
        release(std::move(request));
    }

  private:
    ov::InferRequest acquire() {
        std::unique_lock<std::mutex> lock(mutex_);
        released_.wait(lock, [this] { return !idle_.empty(); });
        ov::InferRequest request = std::move(idle_.back());
        idle_.pop_back();
        return request;
    }

    void release(ov::InferRequest request) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            idle_.push_back(std::move(request));
        }
        released_.notify_one();
    }

    ov::CompiledModel model_;
    std::mutex mutex_;
    std::condition_variable released_;
    std::vector<ov::InferRequest> idle_;
};

class OpenVino : public Backend {
  public:
    OpenVino(const Bundle& bundle, const std::string& precision, const Options& options)
        : spec_(bundle.spec), options_(options) {
        const Precision& requested = find_precision(precision);
        check_capability(requested.capability);
        type_ = requested.type;
        if (options.cache) cache_.emplace(*options.cache);
        const std::string graph = "model." + requested.graph + ".onnx";
        model_ = core_->read_model(bundle.file(graph).string());
        graph_sha256_ = bundle.artifacts.at(graph);
        check_tensor("input", model_->inputs(), spec_.image, ov::element::u8);
        check_tensor("output", model_->outputs(), spec_.probability, ov::element::f32);
    }

    void infer(const std::uint8_t* rgb, const Shape& shape, float* probability) override {
        if (streams_ > 1 && shape.batch > 1) return infer_in_parallel(rgb, shape, probability);
        run(*compiled_for(shape), rgb, shape, probability);
    }

    void prepare(const Shape& shape) override {
        compiled_for(streams_ > 1 ? Shape{1, shape.height, shape.width} : shape);
    }

  private:
    static const Precision& find_precision(const std::string& precision) {
        const auto found = precisions.find(precision);
        if (found == precisions.end()) {
            throw_bad_input("openvino does not support '", precision, "'; choose from: bf16, fp16, fp32, int8");
        }
        return found->second;
    }

    // On a CPU without FP16, OpenVINO silently uses bf16 instead.
    void check_capability(const std::string& capability) {
        const std::vector<std::string> all = core_->get_property("CPU", ov::device::capabilities);
        const auto has = [&](const std::string& name) { return std::find(all.begin(), all.end(), name) != all.end(); };
        if (has(capability)) return;
        std::vector<std::string> supported;
        for (const char* name : {"BF16", "FP16", "FP32", "INT8"}) {
            if (has(name)) supported.emplace_back(name);
        }
        throw_missing_requirement("This CPU does not support ", capability, "; choose from: ", join(supported, ", "));
    }

    template <class Ports>
    static void check_tensor(const char* kind, const Ports& ports, const std::string& name, ov::element::Type type) {
        std::vector<std::string> names;
        for (const auto& port : ports) {
            const auto& all = port.get_names();  // a port can have several names, or none
            names.push_back(all.count(name) > 0 ? name : all.empty() ? "" : *all.begin());
        }
        check_names(kind, names, name);
        if (ports[0].get_element_type() == type) return;
        throw_bad_input("Expected ", type.get_type_name(), " for the graph's ", name, ", got ",
                        ports[0].get_element_type().get_type_name(), "; export the bundle with: msal-deploy export");
    }

    void run(Compiled& compiled, const std::uint8_t* rgb, const Shape& shape, float* probability) {
        // OpenVINO has no read-only tensors; it does not write to inputs.
        const ov::Tensor image(ov::element::u8, {shape.batch, shape.height, shape.width, 3},
                               const_cast<std::uint8_t*>(rgb));
        compiled.infer(image, ov::Tensor(ov::element::f32, {shape.batch, 1, shape.height, shape.width}, probability));
    }

    // Computes the images of a batch in as many threads as there are streams, started for each batch.
    void infer_in_parallel(const std::uint8_t* rgb, const Shape& shape, float* probability) {
        const Shape one{1, shape.height, shape.width};
        const std::shared_ptr<Compiled> compiled = compiled_for(one);
        const std::size_t pixels = shape.height * shape.width;
        std::atomic<std::size_t> next{0};
        const auto work = [&] {
            for (std::size_t index; (index = next++) < shape.batch;) {
                run(*compiled, rgb + index * pixels * 3, one, probability + index * pixels);
            }
        };
        std::vector<std::future<void>> others;  // their destructors wait, even if this thread throws
        const std::size_t threads = std::min(shape.batch, static_cast<std::size_t>(streams_));
        for (std::size_t thread = 1; thread < threads; ++thread) others.push_back(std::async(std::launch::async, work));
        work();
        for (std::future<void>& other : others) other.get();
    }

    // Returns the graph compiled for `shape`.
    std::shared_ptr<Compiled> compiled_for(const Shape& shape) {
        return compiled_.get(shape, [&] { return std::make_shared<Compiled>(load_or_compile(shape), streams_); });
    }

    ov::CompiledModel load_or_compile(const Shape& shape) {
        const std::string size = concat(shape.batch, " × ", shape.height, " × ", shape.width, " px");
        if (!cache_) return compile(shape, size);
        const std::string key = concat(shape.batch, ' ', shape.height, ' ', shape.width, '\n', key_of_settings());
        if (std::optional<ov::CompiledModel> loaded = load(key)) {
            log_(LogLevel::info, "Loaded from the cache for ", size);
            return *loaded;
        }
        ov::CompiledModel model = compile(shape, size);
        std::ostringstream exported;
        model.export_model(exported);
        const std::string failed = cache_->save(key, exported.str());
        if (!failed.empty()) {
            log_(LogLevel::warning, "Cannot write to the cache ", *options_.cache, " (", failed, ")");
        }
        return model;
    }

    std::optional<ov::CompiledModel> load(const std::string& key) {
        const std::optional<std::string> saved = cache_->load(key);
        if (!saved) return std::nullopt;
        try {
            std::istringstream stream(*saved);
            return core_->import_model(stream, "CPU", settings());
        } catch (const ov::Exception& error) {
            if (is_out_of_memory(error)) throw;
            log_(LogLevel::warning, "Cannot use the cache ", *options_.cache, " (", one_line(error.what()), ")");
            return std::nullopt;
        }
    }

    // Everything besides the shape that a compiled graph depends on.
    std::string key_of_settings() {
        const std::vector<std::string> capabilities = core_->get_property("CPU", ov::device::capabilities);
        return concat(graph_sha256_, '\n', type_.get_type_name(), '\n', streams_, ' ', options_.threads.value_or(0),
                      '\n', ov::get_openvino_version().buildNumber, '\n',
                      core_->get_property("CPU", ov::device::full_name), '\n', join(capabilities, " "));
    }

    ov::CompiledModel compile(const Shape& shape, const std::string& size) {
        log_(LogLevel::info, "Compiling for ", size);
        const std::shared_ptr<ov::Model> model = clone();
        model->reshape(ov::PartialShape(ov::Shape{shape.batch, shape.height, shape.width, 3}));
        ov::CompiledModel compiled = core_->compile_model(model, "CPU", settings());
        log_(LogLevel::info, "Compiled for ", size);
        return compiled;
    }

    ov::AnyMap settings() const {
        ov::AnyMap settings{ov::hint::inference_precision(type_)};
        if (streams_ > 1) {
            settings.insert(ov::hint::performance_mode(ov::hint::PerformanceMode::THROUGHPUT));
            settings.insert(ov::num_streams(streams_));
        } else {
            settings.insert(ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
        }
        if (options_.threads) {
            settings.insert(ov::inference_num_threads(*options_.threads));
            settings.insert(ov::hint::enable_cpu_pinning(false));  // several processes would all take the first cores
        }
        return settings;
    }

    // OpenVINO does not promise that threads may clone a model at the same time. It takes milliseconds.
    std::shared_ptr<ov::Model> clone() {
        const std::lock_guard<std::mutex> lock(cloning_);
        return model_->clone();
    }

    Spec spec_;
    Options options_;
    int streams_ = options_.streams.value_or(1);
    ov::element::Type type_;
    std::shared_ptr<ov::Core> core_ = shared_core();
    std::shared_ptr<ov::Model> model_;
    std::string graph_sha256_;
    std::optional<GraphCache> cache_;
    std::mutex cloning_;
    ShapeCache<Compiled> compiled_{options_.shapes.value_or(default_shapes)};
    Log log_{options_.log};
};

}  // namespace

std::unique_ptr<Backend> open_openvino(const Bundle& bundle, const std::string& precision, const Options& options) {
    try {
        return std::make_unique<OpenVino>(bundle, precision, options);
    } catch (const ov::Exception& error) {
        if (is_out_of_memory(error)) throw;
        throw_bad_input("openvino:", precision, " cannot open the graph in ", bundle.path.string(), " (",
                        one_line(error.what()), "); export the bundle again");
    }
}

}  // namespace msal_deploy
