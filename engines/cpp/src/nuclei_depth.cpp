// CMakeLists.txt compiles this file with -ffp-contract=off: where std::fma stands, OpenCV rounds once, elsewhere twice.
#include "nuclei_depth.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace msal_deploy {

namespace {

// Lengths of the steps of the chamfer distance: to a neighbour, a diagonal one, and a knight's move.
constexpr float straight = 1.0F, diagonal = 1.4F, knight = 2.1969F;
constexpr float infinite = std::numeric_limits<float>::infinity();

// Distances, with a frame of two pixels that are infinitely far from everything.
class Chamfer {
  public:
    Chamfer(const std::vector<std::uint8_t>& mask, const MapSize& size)
        : size_(size), stride_(size.width + 4), distances_((size.height + 4) * stride_, infinite) {
        for (std::size_t y = 0; y < size.height; ++y) {
            for (std::size_t x = 0; x < size.width; ++x) {
                if (mask[y * size.width + x] == 0) distances_[at(y, x)] = 0;
            }
        }
    }

    // Each pixel takes the shortest way through the neighbours above it and to its left …
    void sweep_down() {
        for (std::size_t y = 0; y < size_.height; ++y) {
            for (std::size_t x = 0; x < size_.width; ++x) relax(at(y, x), std::size_t{0} - stride_, std::size_t{0} - 1);
        }
    }

    // … and then through those below it and to its right.
    void sweep_up() {
        for (std::size_t y = size_.height; y-- > 0;) {
            for (std::size_t x = size_.width; x-- > 0;) relax(at(y, x), stride_, 1);
        }
    }

    std::vector<float> pixels() const {
        std::vector<float> pixels;
        pixels.reserve(size_.pixels());
        for (std::size_t y = 0; y < size_.height; ++y) {
            const auto row = distances_.begin() + static_cast<std::ptrdiff_t>(at(y, 0));
            pixels.insert(pixels.end(), row, row + static_cast<std::ptrdiff_t>(size_.width));
        }
        return pixels;
    }

  private:
    std::size_t at(std::size_t y, std::size_t x) const { return (y + 2) * stride_ + x + 2; }

    // `row` and `column` are steps to the next row and column in the direction of the sweep's beginning. They wrap.
    void relax(std::size_t here, std::size_t row, std::size_t column) {
        const float* from = distances_.data();
        const auto to = [&](std::size_t step, float length) { return from[here + step] + length; };
        distances_[here] =
            std::min({from[here], to(2 * row - 1, knight), to(2 * row + 1, knight), to(row - 2, knight),
                      to(row - 1, diagonal), to(row, straight), to(row + 1, diagonal), to(row + 2, knight),
                      to(column, straight)});
    }

    MapSize size_;
    std::size_t stride_;
    std::vector<float> distances_;
};

// Returns the mask in a frame of zeros, one pixel wide.
std::vector<std::uint8_t> framed(const std::vector<std::uint8_t>& mask, const MapSize& size) {
    std::vector<std::uint8_t> wide((size.height + 2) * (size.width + 2));
    for (std::size_t y = 0; y < size.height; ++y) {
        std::copy_n(&mask[y * size.width], size.width, &wide[(y + 1) * (size.width + 2) + 1]);
    }
    return wide;
}

std::vector<float> without_frame(const std::vector<float>& wide, const MapSize& size) {
    std::vector<float> map(size.pixels());
    for (std::size_t y = 0; y < size.height; ++y) {
        std::copy_n(&wide[(y + 1) * (size.width + 2) + 1], size.width, &map[y * size.width]);
    }
    return map;
}

// Returns the weights from the centre outwards, of a kernel that sums to 1.
std::vector<float> gaussian(double sigma) {
    const std::size_t radius = (static_cast<std::size_t>(std::lrint(sigma * 8 + 1)) | 1) / 2;
    std::vector<double> weights(radius + 1, 1.0);
    double sum = 0;
    for (std::size_t at = radius; at > 0; --at) {
        weights[at] = std::exp(-0.125 / (sigma * sigma) * static_cast<double>(4 * at * at));
        sum += weights[at];
    }
    const double scale = 1 / (2 * sum + 1);
    std::vector<float> kernel;
    for (const double weight : weights) kernel.push_back(static_cast<float>(weight * scale));
    return kernel;
}

// The position in a line of `size` pixels that position `at` of its mirrored continuation shows: 2 1 0 1 2 … for -2.
std::size_t reflect(std::ptrdiff_t at, std::size_t size) {
    if (size == 1) return 0;
    const std::size_t period = 2 * size - 2;
    const std::size_t within = static_cast<std::size_t>(std::abs(at)) % period;
    return within < size ? within : period - within;
}

// OpenCV's vectors have fused multiply-adds; the last pixels of a row, which fill no vector, are computed without.
float add(bool fused, float a, float b, float sum) {
    return fused ? std::fma(a, b, sum) : a * b + sum;
}

// Returns the sum of 3 or 5 weighted pixels.
float short_sum(const float* centre, const std::vector<float>& kernel, bool fused) {
    const float pair = centre[-1] + centre[1];
    const float sum = add(fused, centre[0], kernel[0], pair * kernel[1]);
    return kernel.size() == 2 ? sum : add(fused, centre[-2] + centre[2], kernel[2], sum);
}

// Writes the sums along a row, from left to right. `line` is the row with `radius` mirrored pixels on either side.
void blur_row(const std::vector<float>& line, const std::vector<float>& kernel, float* row, std::size_t width) {
    const std::size_t radius = kernel.size() - 1;
    for (std::size_t x = 0; x < width; ++x) {
        if (radius <= 2) {
            row[x] = short_sum(&line[x + radius], kernel, x < width / 2 * 2);
            continue;
        }
        float sum = line[x] * kernel[radius];
        for (std::size_t k = 1; k <= 2 * radius; ++k) {
            sum = add(x < width / 4 * 4, line[x + k], kernel[k < radius ? radius - k : k - radius], sum);
        }
        row[x] = sum;
    }
}

void blur_rows(std::vector<float>& map, const MapSize& size, const std::vector<float>& kernel) {
    const auto radius = static_cast<std::ptrdiff_t>(kernel.size()) - 1;
    std::vector<float> line(size.width + 2 * kernel.size() - 2);
    for (std::size_t y = 0; y < size.height; ++y) {
        float* row = &map[y * size.width];
        for (std::size_t x = 0; x < line.size(); ++x) {
            line[x] = row[reflect(static_cast<std::ptrdiff_t>(x) - radius, size.width)];
        }
        blur_row(line, kernel, row, size.width);
    }
}

// Returns the sums along the columns, from the centre outwards.
std::vector<float> blurred_columns(const std::vector<float>& map, const MapSize& size,
                                   const std::vector<float>& kernel) {
    std::vector<float> sums(map.size());
    for (std::size_t y = 0; y < size.height; ++y) {
        float* row = &sums[y * size.width];
        const auto source = [&](std::ptrdiff_t k) {
            return &map[reflect(static_cast<std::ptrdiff_t>(y) + k, size.height) * size.width];
        };
        std::transform(source(0), source(0) + size.width, row, [&](float value) { return value * kernel[0]; });
        for (std::size_t k = 1; k < kernel.size(); ++k) {
            const auto away = static_cast<std::ptrdiff_t>(k);
            const float *above = source(-away), *below = source(away);
            for (std::size_t x = 0; x < size.width; ++x) {
                row[x] = add(x < size.width / 8 * 8, above[x] + below[x], kernel[k], row[x]);
            }
        }
    }
    return sums;
}

}  // namespace

std::vector<float> distances(const std::vector<std::uint8_t>& mask, const MapSize& size) {
    if (std::find(mask.begin(), mask.end(), 0) == mask.end()) {
        return without_frame(distances(framed(mask, size), {size.height + 2, size.width + 2}), size);
    }
    Chamfer chamfer(mask, size);
    chamfer.sweep_down();
    chamfer.sweep_up();
    return chamfer.pixels();
}

void blur(std::vector<float>& map, const MapSize& size, double sigma) {
    const std::vector<float> kernel = gaussian(sigma);
    if (kernel.size() == 1) return;
    blur_rows(map, size, kernel);
    map = blurred_columns(map, size, kernel);
}

}  // namespace msal_deploy
