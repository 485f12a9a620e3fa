// ONNX Runtime on the CPU.
#define ORT_API_MANUAL_INIT  // turns a library older than the headers into an Error instead of a null pointer
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>

#include "backend.hpp"
#include "failure.hpp"
#include "log.hpp"

namespace msal_deploy {

namespace {

constexpr const char* unsigned_graph = "model.int8.u8s8.onnx";  // the same INT8 graph, twice as fast in this runtime

void initialize() {
    if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr) {
        throw_missing_requirement("Expected ONNX Runtime 1.", ORT_API_VERSION, " or later, got ",
                                  OrtGetApiBase()->GetVersionString(),
                                  "; install the version that this library was built with");
    }
    Ort::InitApi();
}

// ONNX Runtime 1.17 introduced log functions of a session. Before, the first user of the runtime in a process sets one
// for all.
#if ORT_API_VERSION >= 17
void ORT_API_CALL pass_on(void* log, OrtLoggingLevel level, const char*, const char*, const char*,
                          const char* message) {
    const LogLevel ours = level >= ORT_LOGGING_LEVEL_ERROR     ? LogLevel::error
                          : level == ORT_LOGGING_LEVEL_WARNING ? LogLevel::warning
                                                               : LogLevel::info;
    (*static_cast<const Log*>(log))(ours, one_line(message));
}

void set_log(Ort::SessionOptions& session, Log& log) {
    Ort::ThrowOnError(Ort::GetApi().SetUserLoggingFunction(session, pass_on, &log));
    session.SetLogSeverityLevel(ORT_LOGGING_LEVEL_WARNING);
}
#else
void set_log(Ort::SessionOptions&, Log&) {
    throw_missing_requirement("This library was built with ONNX Runtime 1.", ORT_API_VERSION,
                              ", which cannot log to a callback; leave log unset, or build it with 1.17 or later");
}
#endif

// log: must exist as long as the session.
Ort::SessionOptions session_options(const Options& options, Log& log) {
    Ort::SessionOptions session;
    if (options.threads) session.SetIntraOpNumThreads(*options.threads);
    session.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
    if (log) set_log(session, log);
    return session;
}

std::filesystem::path graph(const Bundle& bundle, const std::string& precision) {
    if (precision != "fp32" && precision != "int8") {
        throw_bad_input("onnxruntime does not support '", precision, "' on a CPU; choose from: fp32, int8");
    }
    const bool faster = precision == "int8" && bundle.artifacts.count(unsigned_graph) > 0;
    return bundle.file(faster ? unsigned_graph : "model." + precision + ".onnx");
}

class OnnxRuntime : public Backend {
  public:
    OnnxRuntime(const Bundle& bundle, const std::string& precision, const Options& options)
        : spec_(bundle.spec),
          log_(options.log),
          session_(environment_, graph(bundle, precision).c_str(), session_options(options, log_)) {
        check_names("input", names(session_.GetInputCount(), Ort::GetApi().SessionGetInputName), spec_.image);
        check_names("output", names(session_.GetOutputCount(), Ort::GetApi().SessionGetOutputName), spec_.probability);
        check_type(session_.GetInputTypeInfo(0), spec_.image, ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8);
        check_type(session_.GetOutputTypeInfo(0), spec_.probability, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
    }

    // No lock: a session can run in several threads at once.
    void infer(const std::uint8_t* rgb, const Shape& shape, float* probability) override {
        const auto batch = static_cast<std::int64_t>(shape.batch), height = static_cast<std::int64_t>(shape.height),
                   width = static_cast<std::int64_t>(shape.width);
        const std::array<std::int64_t, 4> in{batch, height, width, 3}, out{batch, 1, height, width};
        const std::size_t pixels = pixels_of(shape);
        // ONNX Runtime has no read-only tensors; it does not write to inputs.
        auto* bytes = const_cast<std::uint8_t*>(rgb);
        const Ort::Value image = Ort::Value::CreateTensor(memory_, bytes, pixels * 3, in.data(), in.size());
        Ort::Value result = Ort::Value::CreateTensor(memory_, probability, pixels, out.data(), out.size());
        const char* image_name = spec_.image.c_str();
        const char* probability_name = spec_.probability.c_str();
        session_.Run(Ort::RunOptions{nullptr}, &image_name, &image, 1, &probability_name, &result, 1);
    }

  private:
    // Uses the C API, because version 1.13 replaced the C++ wrapper of these calls.
    template <class GetName>
    std::vector<std::string> names(std::size_t count, GetName get_name) {
        Ort::AllocatorWithDefaultOptions allocator;
        std::vector<std::string> all;
        for (std::size_t index = 0; index < count; ++index) {
            char* name = nullptr;
            Ort::ThrowOnError(get_name(session_, index, allocator, &name));
            all.emplace_back(name);
            allocator.Free(name);
        }
        return all;
    }

    static void check_type(const Ort::TypeInfo& info, const std::string& name, ONNXTensorElementDataType type) {
        if (info.GetTensorTypeAndShapeInfo().GetElementType() == type) return;
        throw_bad_input("The graph's ", name,
                        " does not have the type in the manifest; export the bundle with: msal-deploy export");
    }

    Spec spec_;
    Log log_;
    Ort::Env environment_{ORT_LOGGING_LEVEL_ERROR, "msal_deploy"};
    Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeCPU);
    Ort::Session session_;
};

}  // namespace

std::unique_ptr<Backend> open_onnxruntime(const Bundle& bundle, const std::string& precision, const Options& options) {
    initialize();
    try {
        return std::make_unique<OnnxRuntime>(bundle, precision, options);
    } catch (const Ort::Exception& error) {
        if (is_out_of_memory(error)) throw;
        throw_bad_input("onnxruntime:", precision, " cannot open the graph in ", bundle.path.string(), " (",
                        one_line(error.what()), "); export the bundle again");
    }
}

}  // namespace msal_deploy
