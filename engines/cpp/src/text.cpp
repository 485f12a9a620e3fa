#include "text.hpp"

namespace msal_deploy {

namespace {

constexpr std::size_t max_length = 400;  // the beginning of a message says what is wrong

}  // namespace

std::string join(const std::vector<std::string>& words, const std::string& separator) {
    std::string all;
    for (const std::string& word : words) all += (all.empty() ? "" : separator) + word;
    return all;
}

std::string one_line(const std::string& message) {
    std::istringstream words(message);
    std::string line;
    for (std::string word; words >> word && line.size() < max_length;) line += (line.empty() ? "" : " ") + word;
    return line.size() < max_length ? line : line + " …";
}

}  // namespace msal_deploy
