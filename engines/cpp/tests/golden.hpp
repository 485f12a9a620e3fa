// The golden tiles of a package.
#pragma once

#include <cstdint>

#include "check.hpp"
#include "json.hpp"

struct Golden {
    msal_deploy::Json about;
    msal_deploy::Shape shape;
    std::vector<std::uint8_t> rgb;

    explicit Golden(const std::filesystem::path& folder)
        : about(msal_deploy::parse_json(folder / "golden.json")),
          shape{about.at("images").get<std::size_t>(), about.at("height").get<std::size_t>(),
                about.at("width").get<std::size_t>()} {
        for (std::size_t index = 0; index < shape.batch; ++index) {
            const std::vector<char> tile = bytes_of(folder / ("image-" + std::to_string(index) + ".rgb"));
            rgb.insert(rgb.end(), tile.begin(), tile.end());
        }
        CHECK(rgb.size() == pixels() * 3);
    }

    std::size_t pixels() const { return shape.batch * shape.height * shape.width; }
};
