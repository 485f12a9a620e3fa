// Result<T>: a value, or the Error that explains why there is none.
//
//     auto opened = msal_deploy::Segmenter::open("model", "int8");
//     if (!opened) {
//         std::fprintf(stderr, "%s\n", opened.error().message.c_str());
//         return static_cast<int>(opened.error().code);
//     }
//     msal_deploy::Segmenter segmenter = std::move(opened).value();
//
// Lifetime: a Result owns its content. References from value() and error() are valid until it is changed or destroyed.
// Threads: as for a standard container, threads may share a Result as long as none of them changes it.
// Errors: std::logic_error if value() is called on an error, or error() on a value.
#pragma once

#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>

namespace msal_deploy {

// Why a call failed. Each number is the exit code that the msal-deploy command line uses for the same kind of error.
enum class ErrorCode {
    // A runtime (OpenVINO, ONNX Runtime or TensorRT) failed although the input and the machine passed every check.
    // Error::message quotes the runtime.
    failed = 1,

    // An argument or a file is not usable: an unsupported image size, a null or short buffer, an unknown backend or
    // precision, a folder that is not a bundle, a graph or plan that is truncated, modified or built for another GPU.
    // The same call fails again until the input is fixed.
    bad_input = 2,

    // This machine or this build does not meet a requirement: the backend is not built in, no GPU was found, memory ran
    // out, CUDA or TensorRT reported an error, or the CPU does not support the precision.
    missing_requirement = 3,
};

struct Error {
    ErrorCode code = ErrorCode::failed;
    std::string message;  // one line: what is wrong, then what to do
};

// The outcome of a call that can fail. Test it with `if (result)` before value(), * or ->.
template <class T>
class [[nodiscard]] Result {
  public:
    Result(T value) : content_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : content_(std::in_place_index<1>, std::move(error)) {}

    explicit operator bool() const noexcept { return content_.index() == 0; }

    // The value. Throws std::logic_error, with the message of the error, if there is none.
    T& value() & { return *checked(); }
    const T& value() const& { return *checked(); }
    T&& value() && { return std::move(*checked()); }
    T* operator->() { return checked(); }
    const T* operator->() const { return checked(); }
    T& operator*() & { return *checked(); }
    const T& operator*() const& { return *checked(); }
    T&& operator*() && { return std::move(*checked()); }

    // The error. Throws std::logic_error if there is none.
    const Error& error() const {
        if (const Error* error = std::get_if<1>(&content_)) return *error;
        throw std::logic_error("Expected an error in msal_deploy::Result, got a value; test it before error()");
    }

  private:
    T* checked() { return const_cast<T*>(std::as_const(*this).checked()); }
    const T* checked() const {
        if (const T* value = std::get_if<0>(&content_)) return value;
        throw std::logic_error("Expected a value in msal_deploy::Result, got an error; test it before value(): " +
                               error().message);
    }

    std::variant<T, Error> content_;
};

// The outcome of a call that returns nothing.
template <>
class [[nodiscard]] Result<void> {
  public:
    Result() = default;
    Result(Error error) : error_(std::move(error)) {}

    explicit operator bool() const noexcept { return !error_; }

    // The error. Throws std::logic_error if there is none.
    const Error& error() const {
        if (error_) return *error_;
        throw std::logic_error("Expected an error in msal_deploy::Result, got success; test it before error()");
    }

  private:
    std::optional<Error> error_;
};

}  // namespace msal_deploy
