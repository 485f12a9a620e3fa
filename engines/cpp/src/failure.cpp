#include "failure.hpp"

#include <new>

namespace msal_deploy {

namespace {

constexpr std::size_t longest = 400;  // characters of a runtime's message; the beginning says what is wrong

Error described() {
    try {
        throw;
    } catch (const Failure& failure) {
        return {failure.code(), failure.what()};
    } catch (const std::bad_alloc&) {
        throw;
    } catch (const std::exception& error) {
        return {ErrorCode::failed, one_line(error.what())};
    } catch (...) {
        return {ErrorCode::failed, "The runtime failed and did not say why"};
    }
}

}  // namespace

std::string one_line(const std::string& message) {
    std::istringstream words(message);
    std::string line;
    for (std::string word; words >> word && line.size() < longest;) line += (line.empty() ? "" : " ") + word;
    return line.size() < longest ? line : line + " …";
}

Error current_error() noexcept {
    try {
        return described();
    } catch (...) {
        return {ErrorCode::environment_lacks, "Out of memory"};  // short enough to need no memory itself
    }
}

}  // namespace msal_deploy
