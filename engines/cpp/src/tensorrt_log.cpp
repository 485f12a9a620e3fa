#include "tensorrt_log.hpp"

#include <algorithm>
#include <mutex>

#include "text.hpp"

namespace msal_deploy {

namespace {

constexpr std::size_t max_errors = 8;  // the first ones name the cause

thread_local LogScope* scope = nullptr;

// The logs of the Segmenters that are open. Never destroyed: a global Segmenter may outlive it otherwise.
struct Registry {
    std::mutex mutex;
    std::vector<std::shared_ptr<const Log>> logs;
};

Registry& registry() {
    static Registry& one = *new Registry;
    return one;
}

void call(const Log& log, LogLevel level, const std::string& message) noexcept {
    try {
        log(level, message);
    } catch (...) {  // must not pass through TensorRT
    }
}

// The callbacks run without the lock, because they may take long.
void tell_all(LogLevel level, const std::string& message) {
    std::unique_lock<std::mutex> lock(registry().mutex);
    const auto logs = registry().logs;
    lock.unlock();
    for (const auto& log : logs) call(*log, level, message);
}

class Logger : public nvinfer1::ILogger {
  public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity == Severity::kVERBOSE) return;
        const LogLevel level = severity == Severity::kWARNING ? LogLevel::warning
                               : severity == Severity::kINFO  ? LogLevel::info
                                                              : LogLevel::error;
        try {
            const std::string line = one_line(message);
            scope != nullptr ? scope->add(level, line) : tell_all(level, line);
        } catch (...) {  // no memory for the message
        }
    }
};

}  // namespace

nvinfer1::ILogger& tensorrt_logger() {
    static Logger& one = *new Logger;
    return one;
}

TensorRtLog::TensorRtLog(const LogCallback& callback) : log_(std::make_shared<const Log>(callback)) {
    const std::lock_guard<std::mutex> lock(registry().mutex);
    registry().logs.push_back(log_);
}

TensorRtLog::~TensorRtLog() {
    const std::lock_guard<std::mutex> lock(registry().mutex);
    auto& logs = registry().logs;
    logs.erase(std::find(logs.begin(), logs.end(), log_));
}

void TensorRtLog::write(LogLevel level, const std::string& message) const noexcept {
    call(*log_, level, message);
}

LogScope::LogScope(const TensorRtLog& log) noexcept : log_(log), outer_(scope) {
    scope = this;
}

LogScope::~LogScope() {
    scope = outer_;
}

void LogScope::add(LogLevel level, const std::string& message) {
    log_.write(level, message);
    if (level == LogLevel::error && errors_.size() < max_errors) errors_.push_back(message);
}

std::string tensorrt_errors() {
    return scope == nullptr || scope->errors_.empty() ? "no message" : join(scope->errors_, "; ");
}

}  // namespace msal_deploy
