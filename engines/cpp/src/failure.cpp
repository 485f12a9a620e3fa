#include "failure.hpp"

#include <new>

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
        return {ErrorCode::failed, one_line(error.what())};
    } catch (...) {
        return {ErrorCode::failed, "The runtime failed without a message; run: msal-deploy doctor"};
    }
}

}  // namespace

Error current_error() noexcept {
    try {
        return error_from_exception();
    } catch (...) {
        return {ErrorCode::missing_requirement, "Out of memory"};  // short enough for a string without allocation
    }
}

}  // namespace msal_deploy
