#include "json.hpp"

#include <fstream>

namespace msal_deploy {

namespace {

constexpr int type_error = 302;  // nlohmann's number for a value of the wrong type

}  // namespace

Json parse_json(const std::filesystem::path& file) {
    std::ifstream stream(file, std::ios::binary);
    return Json::parse(stream);
}

std::size_t whole_number(const Json& value) {
    if (value.is_number_unsigned()) return value.get<std::size_t>();
    const std::string found = value.is_number() ? value.dump() : value.type_name();
    throw Json::type_error::create(type_error, "type must be whole number, but is " + found, &value);
}

std::size_t positive_number(const Json& value) {
    const std::size_t number = whole_number(value);
    if (number > 0) return number;
    throw Json::type_error::create(type_error, "number must be positive, but is 0", &value);
}

std::string explain(const Json::exception& error) {
    std::string message = error.what();
    message.erase(0, message.find(' ') + 1);  // "[json.exception.type_error.302] "
    const std::string no_field = "cannot use at() with ";
    const std::size_t at = message.find(no_field);
    if (at != std::string::npos) message.replace(at, no_field.size(), "no such field, because its type is ");
    return one_line(message);
}

}  // namespace msal_deploy
