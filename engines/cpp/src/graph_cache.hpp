// GraphCache: a folder of compiled graphs for later processes.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

namespace msal_deploy {

// OpenVINO's own cache (ov::cache_dir) loads a damaged file without a word and then computes wrong probabilities. Each
// file here begins with the SHA-256 of the rest.
class GraphCache {
  public:
    // Creates the folder. Throws Failure if it cannot be written.
    explicit GraphCache(std::filesystem::path folder);

    // Returns what was saved under a key, or nothing if there is nothing, or if the file is damaged.
    //
    // key: everything that the content depends on.
    std::optional<std::string> load(const std::string& key) const;

    // Saves the content at once: other processes find all of it or nothing.
    //
    // Returns an empty string, or why it cannot be written.
    std::string save(const std::string& key, const std::string& content) const;

  private:
    std::filesystem::path file(const std::string& key) const;

    std::filesystem::path folder_;
};

}  // namespace msal_deploy
