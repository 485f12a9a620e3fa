// Log: the callback of Options::log, or nothing.
#pragma once

#include <utility>

#include "msal_deploy/segmenter.hpp"
#include "text.hpp"

namespace msal_deploy {

class Log {
  public:
    explicit Log(LogCallback callback) : callback_(std::move(callback)) {}

    // Passes on the arguments, written one after the other. Throws std::bad_alloc.
    template <class... Args>
    void operator()(LogLevel level, const Args&... args) const {
        if (callback_) callback_(level, concat(args...));
    }

    explicit operator bool() const noexcept { return static_cast<bool>(callback_); }

  private:
    LogCallback callback_;
};

}  // namespace msal_deploy
