// What a probability map means: mask() says which pixels are nuclei, labels() tells touching nuclei apart.
//
//     auto probability = segmenter->segment(view);
//     auto nuclei = msal_deploy::labels(*probability, height, width);  // 0: background, 1 to N: the nuclei
//
// labels() is Python's msal_deploy.instances.separate, with its steps, parameters and numbers.
//
// Lifetime: both return memory of their own and keep no pointer.
// Threads: any number of threads may call both at the same time.
// Errors: both return a Result and never throw; see result.hpp for the codes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "msal_deploy/export.hpp"
#include "msal_deploy/result.hpp"
#include "msal_deploy/span.hpp"

namespace msal_deploy {

// The parameters of labels(), in physical units, so that they hold at any resolution. The defaults are Python's.
struct Separation {
    float threshold = 0.5F;           // smallest probability of a nucleus; spec().threshold is the model's
    double microns_per_pixel = 0.25;  // resolution of the map, more than 0
    double min_area = 4.0;            // smallest nucleus, in µm²
    double max_hole = 30.0;           // largest hole that is filled, in µm²; those at the border of the map stay
    double smoothing = 0.4;           // standard deviation of the Gaussian over the depth, in µm, more than 0
    std::vector<float> levels{0.9F, 0.95F, 0.98F};  // probabilities whose edges also count in the depth
    double saddle = 0.95;  // 0 to 1: basins are one nucleus if the saddle has this share of the lower peak's depth
};

// Returns 1 for each probability of at least `threshold`, and 0 for the others.
//
// Errors: bad_input if `probability` is null, or a number in it or the threshold is NaN; missing_requirement if memory
// runs out.
[[nodiscard]] MSAL_DEPLOY_EXPORT Result<std::vector<std::uint8_t>> mask(Span<const float> probability,
                                                                        float threshold) noexcept;

// Returns the nuclei of a map, height × width, row by row: 0 for the background and 1 to N for the nuclei, numbered by
// their first pixel in scan order. Each nucleus is 4-connected. The call needs about 40 bytes per pixel.
//
// Errors: bad_input if the map has no pixel or 2³¹ and more, `probability` is null or has another length, a number in
// it is NaN, or a parameter is out of range; missing_requirement if memory runs out.
[[nodiscard]] MSAL_DEPLOY_EXPORT Result<std::vector<std::int32_t>> labels(Span<const float> probability,
                                                                          std::size_t height, std::size_t width,
                                                                          const Separation& parameters = {}) noexcept;

}  // namespace msal_deploy
