#include "graph_cache.hpp"

#include <unistd.h>

#include <fstream>
#include <thread>
#include <utility>

#include "failure.hpp"
#include "sha256.hpp"

namespace msal_deploy {

namespace {

constexpr std::streamoff hash_size = 64;  // hexadecimal digits

// Removes the file unless it was renamed.
class Partial {
  public:
    explicit Partial(const std::filesystem::path& whole)
        : path(concat(whole.string(), '.', getpid(), '.', std::this_thread::get_id(), ".partial")) {}
    Partial(const Partial&) = delete;
    Partial& operator=(const Partial&) = delete;
    ~Partial() {
        std::error_code ignored;
        std::filesystem::remove(path, ignored);
    }

    const std::filesystem::path path;
};

}  // namespace

GraphCache::GraphCache(std::filesystem::path folder) : folder_(std::move(folder)) {
    std::error_code ignored;
    std::filesystem::create_directories(folder_, ignored);
    if (std::filesystem::is_directory(folder_, ignored) && access(folder_.c_str(), W_OK) == 0) return;
    throw_bad_input("The cache ", folder_.string(), " is not a writable folder; choose another");
}

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

bool GraphCache::save(const std::string& key, const std::string& content) const {
    const Partial partial(file(key));
    std::ofstream stream(partial.path, std::ios::binary);
    stream << sha256_of(content) << content;
    stream.close();
    std::error_code failed;
    if (stream) std::filesystem::rename(partial.path, file(key), failed);
    return stream && !failed;
}

}  // namespace msal_deploy
