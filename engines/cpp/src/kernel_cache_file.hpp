// KernelCacheFile: where the kernels are kept that TensorRT for RTX compiles when they are first used. TensorRT
// validates the content, and the file can be deleted at any time. This file does not need TensorRT.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "plan_metadata.hpp"

namespace msal_deploy {

class KernelCacheFile {
  public:
    // folder: unset means next to the plan. Throws Failure if a folder that was asked for is not writable.
    KernelCacheFile(const PlanMetadata& plan, const std::optional<std::string>& folder);

    // Returns the content, or nothing if there is no readable file.
    std::vector<char> read() const;

    // Replaces the content at once. Throws Failure.
    void write(const char* data, std::size_t size) const;

  private:
    std::filesystem::path file_;
};

}  // namespace msal_deploy
