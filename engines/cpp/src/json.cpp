#include "json.hpp"

#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "failure.hpp"

namespace msal_deploy {

Document::Document(std::filesystem::path file, std::string remedy)
    : file_(std::move(file)), remedy_(std::move(remedy)) {
    std::ifstream stream(file_, std::ios::binary);
    value_ = std::make_unique<nlohmann::json>(nlohmann::json::parse(stream, nullptr, /*allow_exceptions=*/false));
    if (value_->is_discarded()) refuse("it is not JSON");
}

Document::~Document() = default;

Field Document::root() const {
    return {*this, *value_, ""};
}

void Document::refuse(const std::string& why) const {
    bad_input(file_.string(), " cannot be read (", why, "); ", remedy_);
}

Field::Field(const Document& document, const nlohmann::json& value, std::string name)
    : document_(document), value_(value), name_(std::move(name)) {}

void Field::wrong(const std::string& wanted) const {
    document_.refuse(name_ + " is not " + wanted);
}

Field Field::operator[](const std::string& key) const {
    const std::string name = name_.empty() ? key : name_ + "." + key;
    if (!has(key)) document_.refuse("it has no " + name);
    return {document_, value_.at(key), name};
}

Field Field::operator[](std::size_t index) const {
    const std::string name = name_ + "[" + std::to_string(index) + "]";
    if (!value_.is_array() || index >= value_.size()) document_.refuse("it has no " + name);
    return {document_, value_.at(index), name};
}

bool Field::has(const std::string& key) const {
    return value_.is_object() && value_.contains(key);
}

bool Field::is_object() const {
    return value_.is_object();
}

std::vector<std::string> Field::keys() const {
    if (!value_.is_object()) wrong("an object");
    std::vector<std::string> names;
    for (const auto& item : value_.items()) names.push_back(item.key());
    return names;
}

std::string Field::string() const {
    if (!value_.is_string()) wrong("a string");
    return value_.get<std::string>();
}

std::string Field::string_or(const std::string& instead_of_null) const {
    return value_.is_null() ? instead_of_null : string();
}

std::size_t Field::natural() const {
    if (!value_.is_number_unsigned()) wrong("a whole number");
    return value_.get<std::size_t>();
}

std::size_t Field::natural_or(const std::string& key, std::size_t instead_of_null) const {
    return has(key) && !value_.at(key).is_null() ? (*this)[key].natural() : instead_of_null;
}

double Field::number() const {
    if (!value_.is_number()) wrong("a number");
    return value_.get<double>();
}

bool Field::boolean() const {
    if (!value_.is_boolean()) wrong("true or false");
    return value_.get<bool>();
}

std::vector<std::string> Field::strings() const {
    if (!value_.is_array()) wrong("a list");
    std::vector<std::string> all;
    for (std::size_t index = 0; index < value_.size(); ++index) all.push_back((*this)[index].string());
    return all;
}

}  // namespace msal_deploy
