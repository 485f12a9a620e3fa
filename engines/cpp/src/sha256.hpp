#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace msal_deploy {

// Returns the SHA-256 of a file, or of bytes, in hexadecimal. Throws Failure if the file is not readable.
std::string sha256(const std::filesystem::path& file);
std::string sha256(const std::vector<char>& bytes);

}  // namespace msal_deploy
