// What TensorRT says. It keeps the first logger that a process gives it, for all runtimes and until the process ends,
// so there is one logger, which is never destroyed. A message belongs to the Segmenter whose call is running in the
// thread that it comes from.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "log.hpp"
#include "tensorrt_api.hpp"

namespace msal_deploy {

nvinfer1::ILogger& tensorrt_logger();

// Where one Segmenter's messages go. A message from a thread without a call goes to all Segmenters, because TensorRT
// does not say whose it is.
class TensorRtLog {
  public:
    explicit TensorRtLog(const LogCallback& callback);
    TensorRtLog(const TensorRtLog&) = delete;
    TensorRtLog& operator=(const TensorRtLog&) = delete;
    ~TensorRtLog();

    void write(LogLevel level, const std::string& message) const noexcept;

  private:
    std::shared_ptr<const Log> log_;
};

// Until the end of the scope, what TensorRT says in this thread goes to `log`, and errors are kept for errors().
class LogScope {
  public:
    explicit LogScope(const TensorRtLog& log) noexcept;
    LogScope(const LogScope&) = delete;
    LogScope& operator=(const LogScope&) = delete;
    ~LogScope();

    void add(LogLevel level, const std::string& message);

  private:
    friend std::string tensorrt_errors();
    const TensorRtLog& log_;
    LogScope* outer_;
    std::vector<std::string> errors_;
};

// Returns the errors of this thread's innermost LogScope, or "no message".
std::string tensorrt_errors();

}  // namespace msal_deploy
