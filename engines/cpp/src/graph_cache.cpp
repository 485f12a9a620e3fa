#include "graph_cache.hpp"

#include <fstream>
#include <utility>

#include "cache_file.hpp"
#include "sha256.hpp"

namespace msal_deploy {

namespace {

constexpr std::streamoff hash_size = 64;  // hexadecimal digits

}  // namespace

GraphCache::GraphCache(std::filesystem::path folder) : folder_(std::move(folder)) { create_cache_folder(folder_); }

std::filesystem::path GraphCache::file(const std::string& key) const {
    return folder_ / (sha256_of(key) + ".graph");
}

std::optional<std::string> GraphCache::load(const std::string& key) const {
    std::ifstream stream(file(key), std::ios::binary | std::ios::ate);
    const std::streamoff size = stream.tellg();  // -1 if the file does not exist
    if (size < hash_size) return std::nullopt;
    std::string hash(hash_size, '\0'), content(static_cast<std::size_t>(size - hash_size), '\0');
    stream.seekg(0).read(hash.data(), hash_size).read(content.data(), size - hash_size);
    if (!stream || sha256_of(content) != hash) return std::nullopt;
    return content;
}

std::string GraphCache::save(const std::string& key, const std::string& content) const {
    return replace_content(file(key), sha256_of(content) + content);
}

}  // namespace msal_deploy
