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

class Hash {
  public:
    Hash() { check(state_ && EVP_DigestInit_ex(state_.get(), EVP_sha256(), nullptr) == 1); }

    void add(std::string_view bytes) { check(EVP_DigestUpdate(state_.get(), bytes.data(), bytes.size()) == 1); }

    std::string digest() {
        unsigned char bytes[EVP_MAX_MD_SIZE];
        unsigned int size = 0;
        check(EVP_DigestFinal_ex(state_.get(), bytes, &size) == 1);
        return hex(bytes, size);
    }

  private:
    static void check(bool good) {
        if (!good) throw_missing_requirement("SHA-256 is not available in this OpenSSL; install a build that has it");
    }

    std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> state_{EVP_MD_CTX_new(), &EVP_MD_CTX_free};
};

}  // namespace

std::string sha256(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    if (!stream) throw_bad_input(file.string(), " is not readable (", std::strerror(errno), "); check its permissions");
    Hash hash;
    std::vector<char> block(1 << 20);
    while (stream) {
        stream.read(block.data(), static_cast<std::streamsize>(block.size()));
        hash.add({block.data(), static_cast<std::size_t>(stream.gcount())});
    }
    if (stream.bad()) {
        throw_bad_input(file.string(), " is not readable to its end (", std::strerror(errno), "); check the disk");
    }
    return hash.digest();
}

std::string sha256_of(std::string_view bytes) {
    Hash hash;
    hash.add(bytes);
    return hash.digest();
}

}  // namespace msal_deploy
