// Reading JSON that somebody may have changed: every field that is missing or of another type is an Error.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace msal_deploy {

class Document;

// A value inside of a Document, which must outlive it.
class Field {
  public:
    Field(const Document& document, const nlohmann::json& value, std::string name);

    Field operator[](const std::string& key) const;
    Field operator[](std::size_t index) const;
    bool has(const std::string& key) const;
    bool is_object() const;
    std::vector<std::string> keys() const;

    std::string string() const;
    std::string string_or(const std::string& instead_of_null) const;
    std::size_t natural() const;
    std::size_t natural_or(const std::string& key, std::size_t instead_of_null) const;
    double number() const;
    bool boolean() const;
    std::vector<std::string> strings() const;

  private:
    [[noreturn]] void wrong(const std::string& wanted) const;

    const Document& document_;
    const nlohmann::json& value_;
    std::string name_;
};

class Document {
  public:
    // remedy: what to do where the file cannot be read, such as "export the bundle again".
    Document(std::filesystem::path file, std::string remedy);
    ~Document();

    Field root() const;
    [[noreturn]] void refuse(const std::string& why) const;

  private:
    std::filesystem::path file_;
    std::string remedy_;
    std::unique_ptr<nlohmann::json> value_;
};

}  // namespace msal_deploy
