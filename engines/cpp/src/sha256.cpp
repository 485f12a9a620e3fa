#include "sha256.hpp"

#include <openssl/evp.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <memory>
#include <vector>

#include "failure.hpp"

namespace msal_deploy {

namespace {

std::string hex(const unsigned char* bytes, std::size_t size) {
    static constexpr char digits[] = "0123456789abcdef";
    std::string written;
    for (std::size_t index = 0; index < size; ++index) {
        written += digits[bytes[index] >> 4];
        written += digits[bytes[index] & 15];
    }
    return written;
}

}  // namespace

std::string sha256(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) throw_bad_input(file.string(), " is not readable (", std::strerror(errno), "); check its permissions");
    const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> state(EVP_MD_CTX_new(), &EVP_MD_CTX_free);
    bool good = state && EVP_DigestInit_ex(state.get(), EVP_sha256(), nullptr) == 1;
    std::vector<char> block(1 << 20);
    while (good && stream) {
        stream.read(block.data(), static_cast<std::streamsize>(block.size()));
        good = EVP_DigestUpdate(state.get(), block.data(), static_cast<std::size_t>(stream.gcount())) == 1;
    }
    if (stream.bad()) {
        throw_bad_input(file.string(), " is not readable to its end (", std::strerror(errno), "); check the disk");
    }
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    if (!good || EVP_DigestFinal_ex(state.get(), digest, &size) != 1) {
        throw_missing_requirement("SHA-256 is not available in this OpenSSL; install a build that has it");
    }
    return hex(digest, size);
}

}  // namespace msal_deploy
