// CMakeLists.txt compiles this file with -ffp-contract=off: a fused multiply-add would round differently from NumPy.
#include "tiling.hpp"

#include <algorithm>
#include <limits>
#include <map>
#include <optional>
#include <utility>

#include "failure.hpp"

namespace msal_deploy {

namespace {

constexpr std::size_t max_side = std::numeric_limits<std::int32_t>::max();  // bounds the products below
constexpr std::size_t max_bytes = std::numeric_limits<std::ptrdiff_t>::max() / 2;

// The pixels of a tile that are kept, along one axis.
struct Kept {
    std::size_t start;           // of the tile, counted in the image
    std::size_t low, high;       // the pixels from `low` to before `high`, counted in the tile
    std::vector<float> weights;  // of these pixels, above 0
};

// Each pixel's distance from an edge of the tile. Where two tiles overlap, such weights blend them linearly. The edge
// of a tile without a neighbour is a border of the image, where nothing is blended.
float ramp(std::size_t shared, std::size_t distance, std::size_t pixels) {
    return shared > 0 ? static_cast<float>(distance) + 0.5F : static_cast<float>(pixels);
}

// The tiles along one axis: as few as possible, evenly spread, of which neighbours start at most `step` apart. An
// image that is shorter than one tile has one, which reaches beyond it.
class TiledAxis {
  public:
    TiledAxis(std::size_t extent, const Axis& axis, const Tiling& tiling)
        : extent_(extent), side_(std::min(tiling.tile, round_up(extent, axis))) {
        const std::size_t step = tiling.tile - tiling.overlap;
        missing_ = std::max(extent, side_) - side_;
        gaps_ = (missing_ + step - 1) / step;
    }

    std::size_t side() const { return side_; }
    std::size_t tiles() const { return gaps_ + 1; }
    std::size_t start(std::size_t index) const { return gaps_ > 0 ? index * missing_ / gaps_ : 0; }

    // The outer quarter of each overlap is dropped, because a network lacks context there. Padding is dropped too.
    Kept kept(std::size_t index) const {
        const std::size_t before = index > 0 ? shared(index - 1) : 0, after = index < gaps_ ? shared(index) : 0;
        Kept kept{start(index), before / 4, side_ - after / 4, {}};
        const std::size_t pixels = kept.high - kept.low;
        kept.high = std::min(kept.high, extent_ - kept.start);
        kept.weights.resize(kept.high - kept.low);
        for (std::size_t at = 0; at < kept.weights.size(); ++at) {
            kept.weights[at] = std::min(ramp(before, at, pixels), ramp(after, pixels - 1 - at, pixels));
        }
        return kept;
    }

  private:
    static std::size_t round_up(std::size_t extent, const Axis& axis) {
        return std::max(axis.min, (extent + axis.multiple - 1) / axis.multiple * axis.multiple);
    }

    // Pixels that the tile and the next one have in common.
    std::size_t shared(std::size_t index) const { return start(index) + side_ - start(index + 1); }

    std::size_t extent_, side_, missing_, gaps_;
};

// The position in a line of `size` pixels that position `at` of its mirrored continuation shows: 0 1 2 1 0 1 2 for 3.
std::size_t reflect(std::size_t at, std::size_t size) {
    if (at < size) return at;
    if (size == 1) return 0;
    const std::size_t period = 2 * size - 2, within = at % period;
    return within < size ? within : period - within;
}

// Copies the tile at row `top` and column `left` as RGB without gaps.
void copy_tile(const ImageView& image, std::size_t top, std::size_t left, const Shape& tile, std::uint8_t* rgb) {
    std::vector<std::size_t> columns(tile.width);  // in bytes from the beginning of a row
    const std::size_t step = bytes_per_pixel(image.format);
    for (std::size_t x = 0; x < tile.width; ++x) columns[x] = reflect(left + x, image.width) * step;
    const bool blue_first = image.format == PixelFormat::bgr || image.format == PixelFormat::bgra;
    const std::size_t red = blue_first ? 2 : 0, blue = 2 - red;
    for (std::size_t y = 0; y < tile.height; ++y) {
        const std::uint8_t* row = image.data + reflect(top + y, image.height) * image.row_bytes;
        for (const std::size_t column : columns) {
            *rgb++ = row[column + red];
            *rgb++ = row[column + 1];
            *rgb++ = row[column + blue];
        }
    }
}

// The weighted mean of tiles, updated tile by tile: where tiles agree, it is their value to the last bit.
class Blended {
  public:
    Blended(const ImageView& image, float* mean) : width_(image.width), mean_(mean), total_(image.height * width_) {
        std::fill_n(mean, total_.size(), 0.0F);
    }

    // Adds a tile, `width` pixels wide.
    void add(const float* probability, std::size_t width, const Kept& row, const Kept& column) {
        for (std::size_t y = row.low; y < row.high; ++y) {
            const std::size_t first = (row.start + y) * width_ + column.start + column.low;
            add_row(probability + y * width + column.low, row.weights[y - row.low], column.weights, first);
        }
    }

  private:
    void add_row(const float* probability, float row_weight, const std::vector<float>& weights, std::size_t first) {
        float *mean = mean_ + first, *total = total_.data() + first;
        for (std::size_t x = 0; x < weights.size(); ++x) {
            const float weight = row_weight * weights[x];
            total[x] += weight;
            mean[x] += (probability[x] - mean[x]) * (weight / total[x]);
        }
    }

    std::size_t width_;
    float* mean_;
    std::vector<float> total_;  // weights of the tiles so far
};

// Returns whether the graph can read the image where it is.
bool is_one_input(const ImageView& image, std::size_t height, std::size_t width) {
    return image.height == height && image.width == width && image.row_bytes == width * 3 &&
           image.format == PixelFormat::rgb;
}

// The tiles of an image, numbered row by row.
struct Tiles {
    Tiles(const TiledImage& tiled, const Spec& spec, const Tiling& tiling)
        : image(tiled.image),
          probability(tiled.probability),
          rows(image.height, spec.height, tiling),
          columns(image.width, spec.width, tiling) {}

    std::size_t count() const { return rows.tiles() * columns.tiles(); }

    void copy(std::size_t index, std::uint8_t* rgb) const {
        const std::size_t row = index / columns.tiles(), column = index % columns.tiles();
        copy_tile(image, rows.start(row), columns.start(column), {1, rows.side(), columns.side()}, rgb);
    }

    // Adds the probabilities of a tile. The first one makes the memory for blending, and the last one frees it.
    void add(std::size_t index, const float* tile) {
        const std::size_t row = index / columns.tiles(), column = index % columns.tiles();
        if (index == 0) blended.emplace(image, probability);
        blended->add(tile, columns.side(), rows.kept(row), columns.kept(column));
        if (index + 1 == count()) blended.reset();
    }

    ImageView image;
    float* probability;
    TiledAxis rows, columns;
    std::optional<Blended> blended;
};

struct Tile {
    Tiles* of;
    std::size_t index;
};

// Computes the tiles of images whose tiles have the same size, up to `most` in one inference.
void infer_group(Backend& backend, std::size_t height, std::size_t width, std::vector<Tiles>& group, std::size_t most) {
    std::vector<Tile> tiles;
    for (Tiles& of : group) {
        for (std::size_t index = 0; index < of.count(); ++index) tiles.push_back({&of, index});
    }
    const std::size_t pixels = height * width, batch = std::min(most, tiles.size());
    std::vector<std::uint8_t> rgb;
    std::vector<float> maps;
    for (std::size_t first = 0; first < tiles.size(); first += batch) {
        const std::size_t count = std::min(batch, tiles.size() - first);
        const Tiles& one = *tiles[first].of;
        if (batch == 1 && is_one_input(one.image, height, width)) {
            backend.infer(one.image.data, {1, height, width}, one.probability);
            continue;
        }
        rgb.resize(batch * pixels * 3);
        maps.resize(batch * pixels);
        for (std::size_t at = 0; at < count; ++at) {
            const Tile& tile = tiles[first + at];
            tile.of->copy(tile.index, &rgb[at * pixels * 3]);
        }
        backend.infer(rgb.data(), {count, height, width}, maps.data());
        for (std::size_t at = 0; at < count; ++at) {
            const Tile& tile = tiles[first + at];
            tile.of->add(tile.index, &maps[at * pixels]);
        }
    }
}

}  // namespace

void check_image(const ImageView& image) {
    if (image.data == nullptr) throw_bad_input("Expected an image, got a null pointer; pass its first pixel");
    check_size(image);
}

void check_images(Span<const ImageView> images) {
    if (images.data() == nullptr && images.size() > 0)
        throw_bad_input("Expected images, got a null pointer; pass them");
    for (std::size_t at = 0; at < images.size(); ++at) {
        try {
            check_image(images.data()[at]);
        } catch (const Failure& failure) {
            throw Failure(failure.code(), concat("Image ", at, ": ", failure.what()));
        }
    }
}

void check_size(const ImageView& image) {
    if (image.height == 0 || image.width == 0) {
        throw_bad_input("Expected at least one pixel, got an image of ", image.width, "×", image.height,
                        " px; leave it out");
    }
    if (image.height > max_side || image.width > max_side) {
        throw_bad_input("Expected sides up to ", max_side, " px, got an image of ", image.width, "×", image.height,
                        " px; cut it into smaller ones");
    }
    const std::size_t least = image.width * bytes_per_pixel(image.format);
    if (image.row_bytes < least) {
        throw_bad_input("Expected at least ", least, " bytes per row for ", image.width, " px, got ", image.row_bytes,
                        "; pass the bytes from one row to the next");
    }
    if (image.row_bytes > max_bytes / image.height) {
        throw_bad_input("Expected an image that fits in memory, got ", image.height, " rows of ", image.row_bytes,
                        " bytes; cut it into smaller ones");
    }
}

void check_tiling(const Spec& spec, const Tiling& tiling) {
    Axis height = spec.height, width = spec.width;
    height.name = width.name = "tile";
    check_extent(height, tiling.tile);
    check_extent(width, tiling.tile);
    check_extent(spec.batch, tiling.batch);
    if (tiling.overlap >= tiling.tile) {
        throw_bad_input("Expected an overlap from 0 to ", tiling.tile - 1, ", got ", tiling.overlap,
                        "; use one in that range");
    }
}

void infer_tiles(Backend& backend, const Spec& spec, const std::vector<TiledImage>& images, const Tiling& tiling) {
    std::map<std::pair<std::size_t, std::size_t>, std::vector<Tiles>> sizes;
    for (const TiledImage& one : images) {
        Tiles tiles(one, spec, tiling);
        sizes[{tiles.rows.side(), tiles.columns.side()}].push_back(std::move(tiles));
    }
    for (auto& [size, group] : sizes) infer_group(backend, size.first, size.second, group, tiling.batch);
}

}  // namespace msal_deploy
