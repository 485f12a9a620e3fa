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

    // Reads the manifest. Throws Failure if the folder is not a bundle or its graphs have other inputs or outputs.
    static Bundle read(const std::filesystem::path& folder);

    // Returns the path of an artifact. Throws Failure if it is not in the manifest, leads outside the bundle, is
    // missing, or has changed since export.
    std::filesystem::path file(const std::string& name) const;
};

// Throws Failure unless `extent` is in the range of the axis and a multiple of axis.multiple.
void check_extent(const Axis& axis, std::size_t extent);

// Throws Failure unless the graph accepts images of this shape.
void check_shape(const Spec& spec, const Shape& shape);

}  // namespace msal_deploy
