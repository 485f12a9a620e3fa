#include "kernel_cache_file.hpp"

#include <fstream>

#include "cache_file.hpp"
#include "failure.hpp"

namespace msal_deploy {

namespace {

namespace fs = std::filesystem;

// Bundles have plans of the same name; in one folder, their hashes tell them apart.
fs::path file_in(const fs::path& folder, const PlanMetadata& plan) {
    create_cache_folder(folder);
    return folder / concat(plan.file.filename().string(), ".", plan.plan_sha256.substr(0, 16), ".cache");
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
    const std::string reason = replace_content(file_, {data, size});
    if (reason.empty()) return;
    throw_missing_requirement(file_.string(), " is not writable (", reason,
                              "); kernels are compiled again in each process");
}

}  // namespace msal_deploy
