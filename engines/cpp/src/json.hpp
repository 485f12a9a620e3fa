// Reading JSON that a user may have edited. A field that is missing or has the wrong type raises a Failure that names
// the file, the path of the field and what was expected. The build defines JSON_DIAGNOSTICS=1 for the paths.
#pragma once

#include <cstddef>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "failure.hpp"

namespace msal_deploy {

using Json = nlohmann::json;

// Returns the content of a file. Throws Json::exception if it is not JSON.
Json parse_json(const std::filesystem::path& file);

// Returns a whole number. Throws Json::exception for anything else: value.get<std::size_t>() would convert -1 and 1.5.
std::size_t whole_number(const Json& value);

// Returns a whole number that is not 0. Throws Json::exception for anything else.
std::size_t positive_number(const Json& value);

// Returns the message of an exception without nlohmann's error number: "(/spec/threshold) type must be number, …".
std::string explain(const Json::exception& error);

// Returns `read(<content of file>)`. Throws Failure if that raises a Json::exception.
//
// kind: what the file should be, such as "a valid manifest". remedy: such as "export the bundle again".
template <class Read>
auto read_json(const std::filesystem::path& file, const char* kind, const std::string& remedy, const Read& read) {
    try {
        return read(parse_json(file));
    } catch (const Json::exception& error) {
        throw_bad_input(file.string(), " is not ", kind, ": ", explain(error), "; ", remedy);
    }
}

}  // namespace msal_deploy
