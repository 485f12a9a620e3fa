// Building messages.
#pragma once

#include <sstream>
#include <string>
#include <vector>

namespace msal_deploy {

// Returns the arguments written one after the other.
template <class... Args>
std::string concat(const Args&... args) {
    std::ostringstream stream;
    (stream << ... << args);
    return stream.str();
}

// Returns the words with `separator` between them.
std::string join(const std::vector<std::string>& words, const std::string& separator);

// Returns a runtime's message on one line of at most about 400 characters: some runtimes write stack traces.
std::string one_line(const std::string& message);

}  // namespace msal_deploy
