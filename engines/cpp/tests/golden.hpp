// The golden tiles of a package.
#pragma once

#include <cstdint>

#include "check.hpp"
#include "json.hpp"

struct Golden {
    msal_deploy::Document document;
    msal_deploy::Field about;
    msal_deploy::Shape shape;
    std::vector<std::uint8_t> rgb;

    explicit Golden(const std::filesystem::path& folder)
        : document(folder / "golden.json", "write the package again"),
          about(document.root()),
          shape{about["images"].natural(), about["height"].natural(), about["width"].natural()} {
        for (std::size_t index = 0; index < shape.number; ++index) {
            const std::vector<char> tile = bytes_of(folder / ("image-" + std::to_string(index) + ".rgb"));
            rgb.insert(rgb.end(), tile.begin(), tile.end());
        }
        CHECK(rgb.size() == pixels() * 3);
    }

    std::size_t pixels() const { return shape.number * shape.height * shape.width; }
};
