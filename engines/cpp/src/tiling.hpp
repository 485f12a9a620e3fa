// Computing an image of any size in overlapping tiles. The rules, and the order of the float operations, are those of
// Python's msal_deploy/runtimes/tiling.py, so both return the same bits.
#pragma once

#include "backend.hpp"
#include "msal_deploy/image.hpp"

namespace msal_deploy {

// Throws Failure unless the image has pixels, a possible number of bytes per row, and a size that fits in memory.
void check_size(const ImageView& image);

// Throws Failure for a null pointer, or if check_size does.
void check_image(const ImageView& image);

// Throws Failure if check_image does for one of the images, or for a null pointer in place of them.
void check_images(Span<const ImageView> images);

// Throws Failure unless graphs of this spec accept the tiles.
void check_tiling(const Spec& spec, const Tiling& tiling);

// An image, and where its image.height × image.width probabilities go.
struct TiledImage {
    ImageView image;
    float* probability;
};

// Writes the probabilities of the images. The caller has checked the images and the tiling. Throws.
void infer_tiles(Backend& backend, const Spec& spec, const std::vector<TiledImage>& images, const Tiling& tiling);

}  // namespace msal_deploy
