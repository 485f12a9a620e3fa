// Result: what a function returns, or the sentence that says why it could not. No exception leaves this library.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace msal_deploy {

// The numbers are the exit codes of the msal-deploy command line.
enum class ErrorCode {
    failed = 1,             // a runtime failed at what it should be able to do
    bad_input = 2,          // what was given cannot be used
    environment_lacks = 3,  // this machine lacks something: memory, a GPU, an instruction set
};

struct Error {
    ErrorCode code = ErrorCode::failed;
    std::string sentence;  // what is wrong, then what to do
};

namespace detail {
// Taking the value of an error is a fault of the program, as is following a null pointer. This one says which.
[[noreturn]] inline void no_value(const Error& error) noexcept {
    std::fprintf(stderr, "msal_deploy: the value of a failed Result was taken: %s\n", error.sentence.c_str());
    std::abort();
}
}  // namespace detail

// Ask `if (result)` before value(): taking the value of an error aborts, and so does taking the error of a value.
template <class T>
class [[nodiscard]] Result {
  public:
    Result(T value) : content_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : content_(std::in_place_index<1>, std::move(error)) {}

    explicit operator bool() const noexcept { return content_.index() == 0; }

    T& value() & noexcept { return *checked(); }
    const T& value() const& noexcept { return *checked(); }
    T&& value() && noexcept { return std::move(*checked()); }
    T* operator->() noexcept { return checked(); }
    const T* operator->() const noexcept { return checked(); }
    T& operator*() & noexcept { return *checked(); }
    T&& operator*() && noexcept { return std::move(*checked()); }

    const Error& error() const noexcept {
        const Error* error = std::get_if<1>(&content_);
        return error ? *error : (std::abort(), *error);
    }

  private:
    T* checked() noexcept { return const_cast<T*>(std::as_const(*this).checked()); }
    const T* checked() const noexcept {
        const T* value = std::get_if<0>(&content_);
        return value ? value : (detail::no_value(error()), nullptr);
    }

    std::variant<T, Error> content_;
};

template <>
class [[nodiscard]] Result<void> {
  public:
    Result() = default;
    Result(Error error) : error_(std::move(error)) {}

    explicit operator bool() const noexcept { return !error_; }
    const Error& error() const noexcept { return error_ ? *error_ : (std::abort(), *error_); }

  private:
    std::optional<Error> error_;
};

}  // namespace msal_deploy
