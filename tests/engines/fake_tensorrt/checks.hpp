// Shared by the checks: a bundle with a plan for the fake TensorRT, its images and what it computes from them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "msal_deploy/segmenter.hpp"

namespace checks {

using namespace msal_deploy;

#define EXPECT(condition)                                                                                 \
    do {                                                                                                  \
        if (!(condition)) throw std::runtime_error("line " + std::to_string(__LINE__) + ": " #condition); \
    } while (false)

#if defined(FAKE_RTX)
constexpr const char* backend = "tensorrt-rtx";
constexpr const char* version = "1.5.0";
#elif defined(FAKE_MAJOR)
constexpr const char* backend = "tensorrt";
constexpr const char* version = "8.6.1";
#else
constexpr const char* backend = "tensorrt";
constexpr const char* version = "10.13.3";
#endif

struct Check {
    const char* name;
    void (*run)();
    bool needs_fake_cuda;  // it makes CUDA fail, or reads what was asked of it
};

std::vector<Check> host_checks();
std::vector<Check> device_checks();
std::vector<Check> fault_checks();
std::vector<Check> rtx_checks();

// Sets the environment variable FAKE until the end of the scope: see fake_nvinfer.cpp and fake_cuda.cpp.
class Fake {
  public:
    explicit Fake(const char* what) { setenv("FAKE", what, 1); }
    ~Fake() { unsetenv("FAKE"); }
};

// Lines that the fakes append while it lives.
class Trace {
  public:
    Trace();
    ~Trace();
    std::vector<std::string> lines() const;
    std::size_t count(const std::string& part) const;

  private:
    std::filesystem::path file_;
};

// The bundle, in a new folder that the program removes at its end. Its profile is 2 × 64 × 64, 4 × 64 × 64,
// 8 × 256 × 256.
const std::filesystem::path& bundle();
std::filesystem::path plan();

Result<Segmenter> try_open(Options options = {});
Segmenter open(const Options& options = {});

// Images without a pattern, another batch for each seed.
std::vector<std::uint8_t> images(const Shape& shape, unsigned int seed);
std::vector<float> expected(const std::vector<std::uint8_t>& rgb);

// Throws unless the Segmenter computes what it should for these images.
void expect_right(const Segmenter& segmenter, const Shape& shape, unsigned int seed);

// Throws unless an error has this code and this part of its message.
void expect_error(const Error& error, ErrorCode code, const std::string& part);

int current_device();

}  // namespace checks
