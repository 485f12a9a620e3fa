// Shared by the tests.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "msal_deploy/segmenter.hpp"

constexpr int skipped = 77;  // see SKIP_RETURN_CODE in CMakeLists.txt

#define CHECK(condition)                                                                 \
    do {                                                                                 \
        if (!(condition)) {                                                              \
            std::fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition); \
            std::exit(1);                                                                \
        }                                                                                \
    } while (false)

inline std::vector<char> bytes_of(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    CHECK(stream);
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

// Checks the code of an error, that its message contains `part`, and that it has one line.
inline void expect(const msal_deploy::Error& error, msal_deploy::ErrorCode code, const std::string& part) {
    std::printf("%d: %s\n", static_cast<int>(error.code), error.message.c_str());
    CHECK(error.code == code);
    if (error.message.find(part) == std::string::npos) std::fprintf(stderr, "expected: %s\n", part.c_str());
    CHECK(error.message.find(part) != std::string::npos);
    CHECK(error.message.find('\n') == std::string::npos);
}

template <class T>
void refused(const msal_deploy::Result<T>& result, const std::string& part,
             msal_deploy::ErrorCode code = msal_deploy::ErrorCode::bad_input) {
    CHECK(!result);
    expect(result.error(), code, part);
}

// Opens a Segmenter. Ends the test if that fails: as skipped if this machine does not meet a requirement.
inline msal_deploy::Segmenter open_or_skip(const std::string& model, const std::string& precision,
                                           const msal_deploy::Options& options) {
    auto segmenter = msal_deploy::Segmenter::open(model, precision, options);
    if (segmenter) return std::move(segmenter).value();
    const bool lacks = segmenter.error().code == msal_deploy::ErrorCode::missing_requirement;
    std::printf("%s: %s\n", lacks ? "skipped" : "FAILED", segmenter.error().message.c_str());
    std::exit(lacks ? skipped : 1);
}
