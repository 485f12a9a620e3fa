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

// Opens a Segmenter. Ends the test if that fails: as skipped if this machine does not meet a requirement.
inline msal_deploy::Segmenter open_or_skip(const std::string& model, const std::string& precision,
                                           const msal_deploy::Options& options) {
    auto segmenter = msal_deploy::Segmenter::open(model, precision, options);
    if (segmenter) return std::move(segmenter).value();
    const bool lacks = segmenter.error().code == msal_deploy::ErrorCode::missing_requirement;
    std::printf("%s: %s\n", lacks ? "skipped" : "FAILED", segmenter.error().message.c_str());
    std::exit(lacks ? skipped : 1);
}
