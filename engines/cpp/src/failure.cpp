#include "failure.hpp"

#include <new>
#include <regex>

namespace msal_deploy {

namespace {

Error error_from_exception() {
    try {
        throw;
    } catch (const Failure& failure) {
        return {failure.code(), failure.what()};
    } catch (const std::bad_alloc&) {
        throw;
    } catch (const std::exception& error) {
        if (is_out_of_memory(error)) {
            return {ErrorCode::missing_requirement,
                    "Not enough memory; use a smaller batch or tile, or fewer streams or shapes"};
        }
        return {ErrorCode::failed, one_line(error.what())};
    } catch (...) {
        return {ErrorCode::failed, "The runtime failed without a message; run: msal-deploy doctor"};
    }
}

}  // namespace

bool is_out_of_memory(const std::exception& error) {
    // Of the texts in Python's msal_deploy/memory.py, those of the runtimes here.
    static const std::regex texts(
        "(could not|failed to|unable to) allocate|bad[_ ]alloc|out[ _]?of[ _]?memory|alloc\\w* failed",
        std::regex::icase);
    return std::regex_search(error.what(), texts);
}

Error current_error() noexcept {
    try {
        return error_from_exception();
    } catch (...) {
        return {ErrorCode::missing_requirement, "Out of memory"};  // short enough for a string without allocation
    }
}

}  // namespace msal_deploy
