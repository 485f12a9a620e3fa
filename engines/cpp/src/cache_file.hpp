// Files of the caches: what graph_cache.hpp and kernel_cache_file.hpp share.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace msal_deploy {

// Creates the folder of a cache. Throws Failure if it cannot be written.
void create_cache_folder(const std::filesystem::path& folder);

// Replaces a file's content. Another process or thread sees the old or the new one, never half of it, and may write at
// the same time.
//
// Returns an empty string, or why the file cannot be written.
std::string replace_content(const std::filesystem::path& file, std::string_view content);

}  // namespace msal_deploy
