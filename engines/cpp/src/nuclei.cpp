#include "msal_deploy/nuclei.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>

#include "failure.hpp"
#include "nuclei_depth.hpp"

namespace msal_deploy {

namespace {

using Mask = std::vector<std::uint8_t>;  // 0 or 1
using Index = std::uint32_t;             // of a pixel, in a map with a frame of one pixel
using Basin = std::uint32_t;             // from 1 on; 0 is the background

constexpr std::size_t max_pixels = std::numeric_limits<std::int32_t>::max();  // with the frame
constexpr double max_sigma = 1000;                                            // in pixels

void check_probabilities(Span<const float> probability) {
    if (probability.data() == nullptr) throw_bad_input("Expected probabilities, got a null pointer; pass a map");
    const float* end = probability.data() + probability.size();
    const float* found = std::find_if(probability.data(), end, [](float value) { return std::isnan(value); });
    if (found == end) return;
    throw_bad_input("Expected probabilities, got NaN at ", found - probability.data(), "; check what computed them");
}

void check_map(Span<const float> probability, std::size_t height, std::size_t width) {
    if (height == 0 || width == 0) {
        throw_bad_input("Expected at least one pixel, got a map of ", width, "×", height, " px; leave it out");
    }
    if (height > max_pixels || width > max_pixels || height + 2 > max_pixels / (width + 2)) {
        throw_bad_input("Expected fewer than 2^31 pixels, got a map of ", width, "×", height,
                        " px; cut it into smaller ones");
    }
    if (probability.data() != nullptr && probability.size() != height * width) {
        throw_bad_input("Expected ", height * width, " probabilities for ", width, "×", height, " px, got ",
                        probability.size(), "; check the sizes");
    }
    check_probabilities(probability);
}

void check_range(const char* name, double value, double above, double most) {
    if (value > above && value <= most) return;
    throw_bad_input("Expected ", name, " over ", above, " and up to ", most, ", got ", value, "; see nuclei.hpp");
}

void check_number(const char* name, double value) {
    if (std::isnan(value)) throw_bad_input("Expected a number for ", name, ", got NaN; see nuclei.hpp");
}

void check_parameters(const Separation& parameters) {
    check_number("threshold", static_cast<double>(parameters.threshold));
    for (const float level : parameters.levels) check_number("levels", static_cast<double>(level));
    check_range("microns_per_pixel", parameters.microns_per_pixel, 0, 1e6);
    check_range("smoothing", parameters.smoothing, 0, max_sigma * parameters.microns_per_pixel);
    check_number("min_area", parameters.min_area);
    check_number("max_hole", parameters.max_hole);
    check_number("saddle", parameters.saddle);
}

Mask at_least(Span<const float> probability, float threshold) {
    Mask mask(probability.size());
    std::transform(probability.data(), probability.data() + probability.size(), mask.begin(),
                   [&](float value) { return static_cast<std::uint8_t>(value >= threshold); });
    return mask;
}

// Finds the 8-connected regions of the background.
class Background {
  public:
    Background(const Mask& foreground, const MapSize& size) : size_(size), seen_(foreground) {}

    // Returns the region of a pixel, or nothing if the pixel was in an earlier region or is none of the background.
    std::vector<std::size_t> region(std::size_t start) {
        std::vector<std::size_t> pixels;
        touches_border_ = false;
        add(pixels, start);
        for (std::size_t next = 0; next < pixels.size(); ++next) add_neighbours(pixels, pixels[next]);
        return pixels;
    }

    bool touches_border() const { return touches_border_; }  // the last region

  private:
    void add(std::vector<std::size_t>& pixels, std::size_t pixel) {
        if (seen_[pixel] != 0) return;
        seen_[pixel] = 1;
        pixels.push_back(pixel);
    }

    void add_neighbours(std::vector<std::size_t>& pixels, std::size_t pixel) {
        const std::size_t y = pixel / size_.width, x = pixel % size_.width;
        const std::size_t top = y > 0 ? y - 1 : y, bottom = std::min(y + 1, size_.height - 1);
        const std::size_t left = x > 0 ? x - 1 : x, right = std::min(x + 1, size_.width - 1);
        touches_border_ |= y == 0 || x == 0 || y + 1 == size_.height || x + 1 == size_.width;
        for (std::size_t row = top; row <= bottom; ++row) {
            for (std::size_t column = left; column <= right; ++column) add(pixels, row * size_.width + column);
        }
    }

    MapSize size_;
    Mask seen_;
    bool touches_border_ = false;
};

// Fills regions of the background of at most `max_hole` pixels that do not touch the border.
void fill_holes(Mask& foreground, const MapSize& size, double max_hole) {
    Background background(foreground, size);
    for (std::size_t start = 0; start < size.pixels(); ++start) {
        if (foreground[start] != 0) continue;
        const std::vector<std::size_t> region = background.region(start);
        if (background.touches_border() || static_cast<double>(region.size()) > max_hole) continue;
        for (const std::size_t pixel : region) foreground[pixel] = 1;
    }
}

// Returns the distances to the edges of the foreground and of the levels in it, summed and smoothed.
std::vector<float> depth_of(Span<const float> probability, const Mask& foreground, const MapSize& size,
                            const Separation& parameters) {
    std::vector<float> depth = distances(foreground, size);
    for (const float level : parameters.levels) {
        Mask inside = at_least(probability, level);
        for (std::size_t at = 0; at < inside.size(); ++at) inside[at] &= foreground[at];
        const std::vector<float> more = distances(inside, size);
        std::transform(depth.begin(), depth.end(), more.begin(), depth.begin(), std::plus<>());
    }
    blur(depth, size, parameters.smoothing / parameters.microns_per_pixel);
    return depth;
}

// The depth of the foreground in a frame of one pixel: neighbours are at ±1 and ±stride. The background has 0.
struct Field {
    std::vector<float> depth;
    std::vector<Index> pixels;  // of the foreground, in scan order
    Index stride;
};

Field field_of(const std::vector<float>& depth, const Mask& foreground, const MapSize& size) {
    Field field{std::vector<float>((size.height + 2) * (size.width + 2)), {}, static_cast<Index>(size.width + 2)};
    for (std::size_t y = 0; y < size.height; ++y) {
        for (std::size_t x = 0; x < size.width; ++x) {
            if (foreground[y * size.width + x] == 0) continue;
            const auto here = static_cast<Index>((y + 1) * field.stride + x + 1);
            field.depth[here] = depth[y * size.width + x];
            field.pixels.push_back(here);
        }
    }
    return field;
}

// Returns the highest of a pixel and its four neighbours, the first of equals.
Index uphill(const Field& field, Index pixel) {
    Index highest = pixel;
    for (const Index neighbour : {pixel - field.stride, pixel - 1, pixel + 1, pixel + field.stride}) {
        if (field.depth[neighbour] > field.depth[highest]) highest = neighbour;
    }
    return highest;
}

// Returns where a path through `goals` ends, and shortens the path for the next one. Ends are their own goals.
Index end_of(std::vector<Index>& goals, Index pixel) {
    while (goals[pixel] != pixel) pixel = goals[pixel] = goals[goals[pixel]];
    return pixel;
}

// The basins of a field. Every pixel belongs to the peak that steepest ascent leads to.
struct Basins {
    std::vector<Basin> at;       // for each pixel of the field
    std::vector<float> heights;  // for each basin, numbered by the peaks in scan order
};

Basins basins_of(const Field& field) {
    std::vector<Index> goals(field.depth.size());
    for (const Index pixel : field.pixels) goals[pixel] = uphill(field, pixel);
    Basins basins{std::vector<Basin>(field.depth.size()), {0.0F}};
    for (const Index pixel : field.pixels) {
        if (goals[pixel] != pixel) continue;
        basins.at[pixel] = static_cast<Basin>(basins.heights.size());
        basins.heights.push_back(field.depth[pixel]);
    }
    for (const Index pixel : field.pixels) basins.at[pixel] = basins.at[end_of(goals, pixel)];
    return basins;
}

struct Saddle {
    float height;
    Basin first, second;  // first < second
};

// Returns the pairs of adjacent pixels in different basins, the highest first, then by basin.
std::vector<Saddle> saddles_of(const Field& field, const Basins& basins) {
    std::vector<Saddle> saddles;
    for (const Index here : field.pixels) {
        for (const Index there : {here + 1, here + field.stride}) {
            const Basin a = basins.at[here], b = basins.at[there];
            if (b == 0 || a == b) continue;
            saddles.push_back({std::min(field.depth[here], field.depth[there]), std::min(a, b), std::max(a, b)});
        }
    }
    std::sort(saddles.begin(), saddles.end(), [](const Saddle& a, const Saddle& b) {
        return std::tie(b.height, a.second, a.first) < std::tie(a.height, b.second, b.first);
    });
    return saddles;
}

// Returns the region of each basin. Basins are merged across shallow saddles, the highest first.
std::vector<Index> merged(const Field& field, const Basins& basins, double share) {
    std::vector<Index> parents(basins.heights.size());
    std::iota(parents.begin(), parents.end(), Index{0});
    std::vector<float> heights = basins.heights;
    for (const Saddle& saddle : saddles_of(field, basins)) {
        const Index a = end_of(parents, saddle.first), b = end_of(parents, saddle.second);
        const auto [low, high] = std::minmax(heights[a], heights[b]);
        if (a == b || static_cast<double>(saddle.height) < share * static_cast<double>(low)) continue;
        heights[a] = high;
        parents[b] = a;
    }
    for (Index& parent : parents) parent = end_of(parents, parent);
    return parents;
}

// Returns the number of each region, by its first pixel; 0 for those of fewer than `min_pixels`.
std::vector<std::int32_t> numbered(const Field& field, const std::vector<Index>& region_at, double min_pixels) {
    std::vector<std::size_t> areas(region_at.size());
    for (const Index pixel : field.pixels) ++areas[region_at[pixel]];
    std::vector<std::int32_t> numbers(areas.size());
    std::int32_t count = 0;
    for (const Index pixel : field.pixels) {
        const Index region = region_at[pixel];
        if (numbers[region] == 0 && static_cast<double>(areas[region]) >= min_pixels) numbers[region] = ++count;
    }
    return numbers;
}

std::vector<std::int32_t> separate(Span<const float> probability, const MapSize& size, const Separation& parameters) {
    const double pixel_area = parameters.microns_per_pixel * parameters.microns_per_pixel;
    Mask foreground = at_least(probability, parameters.threshold);
    fill_holes(foreground, size, parameters.max_hole / pixel_area);
    const Field field = field_of(depth_of(probability, foreground, size, parameters), foreground, size);
    Basins basins = basins_of(field);
    const std::vector<Index> regions = merged(field, basins, parameters.saddle);
    for (const Index pixel : field.pixels) basins.at[pixel] = regions[basins.at[pixel]];
    const std::vector<std::int32_t> numbers = numbered(field, basins.at, parameters.min_area / pixel_area);
    std::vector<std::int32_t> labels(size.pixels());
    for (const Index pixel : field.pixels) {
        labels[(pixel / field.stride - 1) * size.width + pixel % field.stride - 1] = numbers[basins.at[pixel]];
    }
    return labels;
}

}  // namespace

Result<std::vector<std::uint8_t>> mask(Span<const float> probability, float threshold) noexcept {
    try {
        check_probabilities(probability);
        check_number("threshold", static_cast<double>(threshold));
        return Result<std::vector<std::uint8_t>>(at_least(probability, threshold));
    } catch (...) {
        return current_error();
    }
}

Result<std::vector<std::int32_t>> labels(Span<const float> probability, std::size_t height, std::size_t width,
                                         const Separation& parameters) noexcept {
    try {
        check_map(probability, height, width);
        check_parameters(parameters);
        return Result<std::vector<std::int32_t>>(separate(probability, {height, width}, parameters));
    } catch (...) {
        return current_error();
    }
}

}  // namespace msal_deploy
