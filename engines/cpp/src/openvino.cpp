// OpenVINO on the CPU. The graph is compiled for each shape of images when that shape first comes.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <future>
#include <list>
#include <map>
#include <mutex>
#include <openvino/openvino.hpp>

#include "backend.hpp"
#include "failure.hpp"

namespace msal_deploy {

namespace {

constexpr std::size_t compiled_shapes = 4;  // kept: each holds its own copy of the weights, packed for the shape

// Which graph is read, what floating point is computed in, and the capability that this takes. The precision must be
// asked for: unasked, OpenVINO computes FP32 in bf16 on chips that have it.
struct Precision {
    std::string graph;
    ov::element::Type type;
    std::string capability;
};

const std::map<std::string, Precision> precisions{
    {"fp32", {"fp32", ov::element::f32, "FP32"}},
    {"int8", {"int8", ov::element::f32, "INT8"}},
    {"bf16", {"fp32", ov::element::bf16, "BF16"}},
    {"fp16", {"fp16", ov::element::f16, "FP16"}},
};

// The graph compiled for one shape, with its requests: as many as there are streams.
class Compiled {
  public:
    Compiled(ov::CompiledModel model, int requests) : model_(std::move(model)) {
        for (int request = 0; request < requests; ++request) idle_.push_back(model_.create_infer_request());
    }

    void infer(const ov::Tensor& image, const ov::Tensor& probability) {
        ov::InferRequest request = take();
        try {
            request.set_input_tensor(image);
            request.set_output_tensor(probability);
            request.infer();
        } catch (...) {
            give(std::move(request));
            throw;
        }
        give(std::move(request));
    }

  private:
    ov::InferRequest take() {
        std::unique_lock<std::mutex> lock(mutex_);
        returned_.wait(lock, [this] { return !idle_.empty(); });
        ov::InferRequest request = std::move(idle_.back());
        idle_.pop_back();
        return request;
    }

    void give(ov::InferRequest request) {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            idle_.push_back(std::move(request));
        }
        returned_.notify_one();
    }

    ov::CompiledModel model_;
    std::mutex mutex_;
    std::condition_variable returned_;
    std::vector<ov::InferRequest> idle_;
};

class OpenVino : public Backend {
  public:
    OpenVino(const Bundle& bundle, const std::string& precision, const Options& options)
        : spec_(bundle.spec), options_(options) {
        const Precision& wanted = known(precision);
        check_capability(wanted);
        type_ = wanted.type;
        model_ = core_.read_model(bundle.file("model." + wanted.graph + ".onnx").string());
        check_tensor("input", model_->inputs(), spec_.image, ov::element::u8);
        check_tensor("output", model_->outputs(), spec_.probability, ov::element::f32);
    }

    void infer(const std::uint8_t* rgb, const Shape& shape, float* probability) override {
        if (options_.streams > 1 && shape.number > 1) return side_by_side(rgb, shape, probability);
        run(*at(shape), rgb, shape, probability);
    }

  private:
    static const Precision& known(const std::string& precision) {
        const auto found = precisions.find(precision);
        if (found == precisions.end()) {
            bad_input("openvino runs no '", precision, "'; known: bf16, fp16, fp32, int8");
        }
        return found->second;
    }

    // OpenVINO replaces an FP16 that the chip lacks by bf16 without a word.
    void check_capability(const Precision& wanted) {
        const std::vector<std::string> has = core_.get_property("CPU", ov::device::capabilities);
        if (std::find(has.begin(), has.end(), wanted.capability) != has.end()) return;
        std::string names;
        for (const char* name : {"BF16", "FP16", "FP32", "INT8"}) {
            if (std::find(has.begin(), has.end(), name) != has.end())
                names += (names.empty() ? "" : ", ") + std::string(name);
        }
        environment_lacks("This CPU does not compute in ", wanted.capability, ", only in ", names,
                          "; use one of those");
    }

    template <class Ports>
    static void check_tensor(const char* kind, const Ports& ports, const std::string& name, ov::element::Type type) {
        if (ports.size() != 1 || ports[0].get_names().count(name) == 0) {
            bad_input("The graph has no ", kind, " '", name, "' alone; it is not one of msal-deploy's");
        }
        if (ports[0].get_element_type() != type) {
            bad_input("The graph's ", name, " is ", ports[0].get_element_type().get_type_name(), " and not ",
                      type.get_type_name(), "; it is not one of msal-deploy's");
        }
    }

    void run(Compiled& compiled, const std::uint8_t* rgb, const Shape& shape, float* probability) {
        // OpenVINO has no read-only tensors; it does not write to inputs.
        const ov::Tensor image(ov::element::u8, {shape.number, shape.height, shape.width, 3},
                               const_cast<std::uint8_t*>(rgb));
        compiled.infer(image, ov::Tensor(ov::element::f32, {shape.number, 1, shape.height, shape.width}, probability));
    }

    // Each of the threads takes the next image until there is none; they are few and started once a batch.
    void side_by_side(const std::uint8_t* rgb, const Shape& shape, float* probability) {
        const Shape one{1, shape.height, shape.width};
        const std::shared_ptr<Compiled> compiled = at(one);
        const std::size_t pixels = shape.height * shape.width;
        std::atomic<std::size_t> next{0};
        const auto work = [&] {
            for (std::size_t index; (index = next++) < shape.number;) {
                run(*compiled, rgb + index * pixels * 3, one, probability + index * pixels);
            }
        };
        std::vector<std::future<void>> others;  // their destructors wait, whatever is thrown here
        const std::size_t threads = std::min(shape.number, static_cast<std::size_t>(options_.streams));
        for (std::size_t thread = 1; thread < threads; ++thread) others.push_back(std::async(std::launch::async, work));
        work();
        for (std::future<void>& other : others) other.get();
    }

    // Returns the graph compiled for `shape`. Who uses one keeps it alive after it was dropped from the list.
    std::shared_ptr<Compiled> at(const Shape& shape) {
        const std::lock_guard<std::mutex> lock(mutex_);
        const auto same = [&](const Entry& entry) {
            return entry.shape.number == shape.number && entry.shape.height == shape.height &&
                   entry.shape.width == shape.width;
        };
        const auto found = std::find_if(recent_.begin(), recent_.end(), same);
        if (found != recent_.end()) {
            recent_.splice(recent_.begin(), recent_, found);
        } else {
            recent_.push_front({shape, std::make_shared<Compiled>(compile(shape), options_.streams)});
            if (recent_.size() > compiled_shapes) recent_.pop_back();
        }
        return recent_.front().compiled;
    }

    ov::CompiledModel compile(const Shape& shape) {
        const std::shared_ptr<ov::Model> model = model_->clone();
        model->reshape(ov::PartialShape(ov::Shape{shape.number, shape.height, shape.width, 3}));
        ov::AnyMap settings{ov::hint::inference_precision(type_)};
        if (options_.streams > 1) {
            settings.insert(ov::hint::performance_mode(ov::hint::PerformanceMode::THROUGHPUT));
            settings.insert(ov::num_streams(options_.streams));
        } else {
            settings.insert(ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
        }
        if (options_.threads > 0) settings.insert(ov::inference_num_threads(options_.threads));
        return core_.compile_model(model, "CPU", settings);
    }

    struct Entry {
        Shape shape;
        std::shared_ptr<Compiled> compiled;
    };

    Spec spec_;
    Options options_;
    ov::element::Type type_;
    ov::Core core_;
    std::shared_ptr<ov::Model> model_;
    std::mutex mutex_;
    std::list<Entry> recent_;  // the last used first
};

}  // namespace

std::unique_ptr<Backend> open_openvino(const Bundle& bundle, const std::string& precision, const Options& options) {
    try {
        return std::make_unique<OpenVino>(bundle, precision, options);
    } catch (const ov::Exception& error) {
        bad_input("openvino:", precision, " cannot open the graph of ", bundle.path.string(), " (",
                  one_line(error.what()), "); export it again");
    }
}

}  // namespace msal_deploy
