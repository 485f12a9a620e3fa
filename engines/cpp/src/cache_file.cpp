#include "cache_file.hpp"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <system_error>

#include "failure.hpp"

namespace msal_deploy {

namespace {

bool write_all(int file, std::string_view content) {
    while (!content.empty()) {
        const ssize_t written = ::write(file, content.data(), content.size());
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        content.remove_prefix(static_cast<std::size_t>(written));
    }
    return true;
}

}  // namespace

void create_cache_folder(const std::filesystem::path& folder) {
    std::error_code failed;
    std::filesystem::create_directories(folder, failed);
    if (!failed && access(folder.c_str(), W_OK) == 0) return;
    throw_bad_input("The cache ", folder.string(), " is not a writable folder (",
                    failed ? failed.message() : std::strerror(errno), "); choose another, or leave it unset");
}

std::string replace_content(const std::filesystem::path& file, std::string_view content) {
    std::string temporary = file.string() + ".XXXXXX";
    const int opened = mkstemp(temporary.data());
    bool good = opened >= 0 && fchmod(opened, 0644) == 0 && write_all(opened, content);
    if (opened >= 0) good = close(opened) == 0 && good;
    if (good && std::rename(temporary.c_str(), file.c_str()) == 0) return {};
    const std::string reason = std::strerror(errno);
    if (opened >= 0) unlink(temporary.c_str());
    return reason;
}

}  // namespace msal_deploy
