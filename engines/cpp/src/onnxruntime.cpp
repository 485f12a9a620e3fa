// ONNX Runtime on the CPU.
#define ORT_API_MANUAL_INIT  // a library that is older than the headers is then an Error and not a null pointer
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>

#include "backend.hpp"
#include "failure.hpp"

namespace msal_deploy {

namespace {

constexpr const char* unsigned_graph = "model.int8.u8s8.onnx";  // the same INT8, twice as fast in this runtime

void initialise() {
    if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr) {
        environment_lacks("ONNX Runtime ", OrtGetApiBase()->GetVersionString(), " is older than version 1.",
                          ORT_API_VERSION, ", whose headers this library was built with; install that one");
    }
    Ort::InitApi();
}

Ort::SessionOptions session_options(const Options& options) {
    Ort::SessionOptions session;
    if (options.threads > 0) session.SetIntraOpNumThreads(options.threads);
    session.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
    return session;
}

std::filesystem::path graph(const Bundle& bundle, const std::string& precision) {
    if (precision != "fp32" && precision != "int8") {
        bad_input("onnxruntime runs no '", precision, "' on a CPU; known: fp32, int8");
    }
    const bool faster = precision == "int8" && bundle.artifacts.count(unsigned_graph) > 0;
    return bundle.file(faster ? unsigned_graph : "model." + precision + ".onnx");
}

class OnnxRuntime : public Backend {
  public:
    OnnxRuntime(const Bundle& bundle, const std::string& precision, const Options& options)
        : spec_(bundle.spec), session_(environment_, graph(bundle, precision).c_str(), session_options(options)) {
        check_tensor("input", session_.GetInputCount(), session_.GetInputTypeInfo(0), name(true), spec_.image,
                     ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
        check_tensor("output", session_.GetOutputCount(), session_.GetOutputTypeInfo(0), name(false), spec_.probability,
                     ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    }

    // A session may run in several threads at once: nothing waits here.
    void infer(const std::uint8_t* rgb, const Shape& shape, float* probability) override {
        const auto number = static_cast<std::int64_t>(shape.number), height = static_cast<std::int64_t>(shape.height),
                   width = static_cast<std::int64_t>(shape.width);
        const std::array<std::int64_t, 4> in{number, height, width, 3}, out{number, 1, height, width};
        const std::size_t pixels = shape.number * shape.height * shape.width;
        // ONNX Runtime has no read-only tensors; it does not write to inputs.
        auto* bytes = const_cast<std::uint8_t*>(rgb);
        const Ort::Value image = Ort::Value::CreateTensor(memory_, bytes, pixels * 3, in.data(), in.size());
        Ort::Value result = Ort::Value::CreateTensor(memory_, probability, pixels, out.data(), out.size());
        const char* image_name = spec_.image.c_str();
        const char* probability_name = spec_.probability.c_str();
        session_.Run(Ort::RunOptions{nullptr}, &image_name, &image, 1, &probability_name, &result, 1);
    }

  private:
    // By the C API: the C++ wrapper of this call was replaced by another in version 1.13.
    std::string name(bool input) {
        Ort::AllocatorWithDefaultOptions allocator;
        char* found = nullptr;
        const auto ask = input ? Ort::GetApi().SessionGetInputName : Ort::GetApi().SessionGetOutputName;
        Ort::ThrowOnError(ask(session_, 0, allocator, &found));
        std::string copy(found);
        allocator.Free(found);
        return copy;
    }

    static void check_tensor(const char* kind, std::size_t count, const Ort::TypeInfo& info, const std::string& found,
                             const std::string& wanted, ONNXTensorElementDataType type) {
        if (count != 1 || found != wanted) {
            bad_input("The graph has no ", kind, " '", wanted, "' alone; it is not one of msal-deploy's");
        }
        if (info.GetTensorTypeAndShapeInfo().GetElementType() != type) {
            bad_input("The graph's ", wanted,
                      " has another type than the manifest says; it is not one of msal-deploy's");
        }
    }

    Spec spec_;
    Ort::Env environment_{ORT_LOGGING_LEVEL_ERROR, "msal_deploy"};
    Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
    Ort::Session session_;
};

}  // namespace

std::unique_ptr<Backend> open_onnxruntime(const Bundle& bundle, const std::string& precision, const Options& options) {
    initialise();
    try {
        return std::make_unique<OnnxRuntime>(bundle, precision, options);
    } catch (const Ort::Exception& error) {
        bad_input("onnxruntime:", precision, " cannot open the graph of ", bundle.path.string(), " (",
                  one_line(error.what()), "); export it again");
    }
}

}  // namespace msal_deploy
