#include "kernel_cache_file.hpp"

#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "failure.hpp"

namespace msal_deploy {

namespace {

namespace fs = std::filesystem;

// Bundles have plans of the same name; in one folder, their hashes tell them apart.
fs::path file_in(const fs::path& folder, const PlanMetadata& plan) {
    std::error_code failed;
    fs::create_directories(folder, failed);
    if (failed || access(folder.c_str(), W_OK) != 0) {
        throw_bad_input("The cache ", folder.string(), " is not a writable folder (",
                        failed ? failed.message() : std::strerror(errno), "); choose another, or leave it unset");
    }
    return folder / concat(plan.file.filename().string(), ".", plan.plan_sha256.substr(0, 16), ".cache");
}

bool write_all(int file, const char* data, std::size_t size) {
    while (size > 0) {
        const ssize_t written = ::write(file, data, size);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return false;
        data += written;
        size -= static_cast<std::size_t>(written);
    }
    return true;
}

}  // namespace

KernelCacheFile::KernelCacheFile(const PlanMetadata& plan, const std::optional<std::string>& folder)
    : file_(folder ? file_in(*folder, plan) : fs::path(plan.file.string() + ".cache")) {}

std::vector<char> KernelCacheFile::read() const {
    std::error_code missing;
    if (!fs::is_regular_file(file_, missing)) return {};
    std::vector<char> content(fs::file_size(file_));
    std::ifstream stream(file_, std::ios::binary);
    if (!stream.read(content.data(), static_cast<std::streamsize>(content.size()))) return {};
    return content;
}

void KernelCacheFile::write(const char* data, std::size_t size) const {
    std::string temporary = file_.string() + ".XXXXXX";
    const int file = mkstemp(temporary.data());
    bool good = file >= 0 && fchmod(file, 0644) == 0 && write_all(file, data, size);
    if (file >= 0) good = close(file) == 0 && good;
    good = good && std::rename(temporary.c_str(), file_.c_str()) == 0;
    if (good) return;
    const std::string reason = std::strerror(errno);
    if (file >= 0) unlink(temporary.c_str());
    throw_missing_requirement(file_.string(), " is not writable (", reason,
                              "); kernels are compiled again in each process");
}

}  // namespace msal_deploy
