#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace msal_deploy {

// Returns the SHA-256 of a file in hexadecimal. Throws Failure if the file is not readable.
std::string sha256(const std::filesystem::path& file);

// Returns the SHA-256 of bytes in hexadecimal.
std::string sha256_of(std::string_view bytes);

}  // namespace msal_deploy
