#pragma once

#include <filesystem>
#include <string>

namespace msal_deploy {

// Returns the SHA-256 of a file in hexadecimal. Throws Failure if the file is not readable.
std::string sha256(const std::filesystem::path& file);

}  // namespace msal_deploy
