// Failure: how an Error travels inside the library. Segmenter catches it before it reaches the caller.
#pragma once

#include <stdexcept>
#include <string>

#include "msal_deploy/result.hpp"
#include "text.hpp"

namespace msal_deploy {

class Failure : public std::runtime_error {
  public:
    Failure(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
    ErrorCode code() const noexcept { return code_; }

  private:
    ErrorCode code_;
};

template <class... Args>
[[noreturn]] void throw_bad_input(const Args&... args) {
    throw Failure(ErrorCode::bad_input, concat(args...));
}

template <class... Args>
[[noreturn]] void throw_missing_requirement(const Args&... args) {
    throw Failure(ErrorCode::missing_requirement, concat(args...));
}

// Returns whether an error of a runtime says that memory ran out. Runtimes have no type for it.
bool is_out_of_memory(const std::exception& error);

// Returns the exception being handled as an Error. Call it only in a catch block.
Error current_error() noexcept;

}  // namespace msal_deploy
