// Failure: how an Error travels inside the library. It is caught before it reaches a caller.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include "msal_deploy/result.hpp"

namespace msal_deploy {

class Failure : public std::runtime_error {
  public:
    Failure(ErrorCode code, const std::string& sentence) : std::runtime_error(sentence), code_(code) {}
    ErrorCode code() const noexcept { return code_; }

  private:
    ErrorCode code_;
};

// Returns its arguments, written one after the other.
template <class... Parts>
std::string text(const Parts&... parts) {
    std::ostringstream stream;
    (stream << ... << parts);
    return stream.str();
}

template <class... Parts>
[[noreturn]] void bad_input(const Parts&... parts) {
    throw Failure(ErrorCode::bad_input, text(parts...));
}

template <class... Parts>
[[noreturn]] void environment_lacks(const Parts&... parts) {
    throw Failure(ErrorCode::environment_lacks, text(parts...));
}

// Returns the message of a runtime in one line: they write stack traces and empty lines.
std::string one_line(const std::string& message);

// Returns the exception that is being handled as an Error. Call it in a catch block only.
Error current_error() noexcept;

}  // namespace msal_deploy
