// Computing an image of any size in overlapping tiles. The rules, and the order of the float operations, are those of
// Python's msal_deploy/runtimes/tiling.py, so both return the same bits.
#pragma once

#include "backend.hpp"
#include "msal_deploy/image.hpp"

namespace msal_deploy {

// Throws Failure unless the image has pixels, a possible stride, and a size that fits in memory.
void check_size(const ImageView& image);

// Throws Failure for a null pointer, or if check_size does.
void check_image(const ImageView& image);

// Throws Failure unless graphs of this spec accept the tiles.
void check_tiling(const Spec& spec, const Tiling& tiling);

// Writes image.height × image.width probabilities. The caller has checked the image and the tiling. Throws.
void infer_tiles(Backend& backend, const Spec& spec, const ImageView& image, const Tiling& tiling, float* probability);

}  // namespace msal_deploy
