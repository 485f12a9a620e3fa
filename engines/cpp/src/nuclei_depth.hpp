// How far each pixel is inside a nucleus. The float operations and their order are those of OpenCV, which Python uses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace msal_deploy {

struct MapSize {
    std::size_t height, width;

    std::size_t pixels() const { return height * width; }
};

// Returns the distance of each pixel of a mask, 0 or 1, to the nearest 0; if there is none, to the border of the map.
std::vector<float> distances(const std::vector<std::uint8_t>& mask, const MapSize& size);

// Blurs a map with a Gaussian of the standard deviation `sigma`, in pixels. Beyond the borders the map is mirrored.
void blur(std::vector<float>& map, const MapSize& size, double sigma);

}  // namespace msal_deploy
