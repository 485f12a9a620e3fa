// Bundle: the folder that msal-deploy writes. Its manifest holds the spec of the graphs and the SHA-256 of each file.
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "msal_deploy/segmenter.hpp"

namespace msal_deploy {

struct Bundle {
    std::filesystem::path path;
    Spec spec;
    std::map<std::string, std::string> artifacts;  // name -> SHA-256

    // Throws Failure where the folder is no bundle, or one that these programs cannot run.
    static Bundle read(const std::filesystem::path& folder);

    // Returns the path of an artifact whose content is still what the manifest says; throws Failure otherwise.
    std::filesystem::path file(const std::string& name) const;
};

// Throws Failure with one sentence unless the graph takes images of this shape.
void check_shape(const Spec& spec, const Shape& shape);

}  // namespace msal_deploy
