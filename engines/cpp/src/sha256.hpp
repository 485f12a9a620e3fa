#pragma once

#include <filesystem>
#include <string>

namespace msal_deploy {

// Returns the SHA-256 of a file, in hex. Throws Failure where it cannot be read.
std::string sha256(const std::filesystem::path& file);

}  // namespace msal_deploy
