// Images of any size, regions, gaps between rows and BGR: each gives the bits of the RGB image without gaps. Buffers
// end with the last pixel, so that AddressSanitizer sees every byte read beyond. A Python test compares the results with
// Python's.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "golden.hpp"

using namespace msal_deploy;

namespace {

const Tiling small{64, 16, 1};

struct Rgb {
    std::size_t height, width;
    std::vector<std::uint8_t> bytes;

    std::uint8_t at(std::size_t y, std::size_t x, std::size_t channel) const {
        return bytes[(y * width + x) * 3 + channel];
    }
};

// What cv::Mat has: the members, and the type of `step`.
struct Mat {
    struct Step {
        std::size_t bytes;
        operator std::size_t() const { return bytes; }
    };
    std::uint8_t* data;
    int rows, cols;
    Step step;
};

// Returns the pixels from (top, left) of the first golden tile.
Rgb cut(const Golden& golden, std::size_t top, std::size_t left, std::size_t height, std::size_t width) {
    CHECK(top + height <= golden.shape.height && left + width <= golden.shape.width);
    Rgb image{height, width, {}};
    for (std::size_t y = top; y < top + height; ++y) {
        const auto row = golden.rgb.begin() + static_cast<std::ptrdiff_t>((y * golden.shape.width + left) * 3);
        image.bytes.insert(image.bytes.end(), row, row + static_cast<std::ptrdiff_t>(width * 3));
    }
    return image;
}

// Returns the bytes with `stride` bytes a row, filled with 7 between the rows but not after the last.
std::vector<std::uint8_t> spread(const Rgb& image, std::size_t stride, bool bgr) {
    std::vector<std::uint8_t> bytes((image.height - 1) * stride + image.width * 3, 7);
    for (std::size_t y = 0; y < image.height; ++y) {
        for (std::size_t x = 0; x < image.width * 3; ++x) {
            bytes[y * stride + x] = image.at(y, x / 3, bgr ? 2 - x % 3 : x % 3);
        }
    }
    return bytes;
}

std::vector<float> unwrap(const Result<std::vector<float>>& result) {
    if (!result) std::fprintf(stderr, "%s\n", result.error().message.c_str());
    CHECK(result);
    return result.value();
}

bool same(const std::vector<float>& one, const std::vector<float>& other) {
    return one.size() == other.size() && std::memcmp(one.data(), other.data(), one.size() * sizeof(float)) == 0;
}

void one_pass(const Segmenter& segmenter, const Rgb& image) {
    CHECK(image.height == 64 && image.width == 96);
    const std::vector<float> exact = unwrap(segmenter.segment(image.bytes, Shape{1, 64, 96}));
    CHECK(*std::max_element(exact.begin(), exact.end()) > *std::min_element(exact.begin(), exact.end()));
    CHECK(same(unwrap(segmenter.segment(image.bytes, 64, 96)), exact));
    CHECK(same(unwrap(segmenter.segment(ImageView(image.bytes.data(), 64, 96))), exact));
    const std::vector<std::uint8_t> bgr = spread(image, 96 * 3, true);  // goes through a copy
    CHECK(same(unwrap(segmenter.segment({bgr.data(), 64, 96, 0, PixelFormat::bgr})), exact));
}

void views(const Segmenter& segmenter, const Golden& golden, std::size_t height, std::size_t width) {
    const std::size_t top = 21, left = 13, stride = width * 3 + 5;
    const Rgb image = cut(golden, top, left, height, width);
    const std::vector<float> expected = unwrap(segmenter.segment({image.bytes.data(), height, width}, small));
    CHECK(expected.size() == height * width);

    const std::vector<std::uint8_t> gaps = spread(image, stride, false), bgr = spread(image, stride, true);
    CHECK(same(unwrap(segmenter.segment({gaps.data(), height, width, stride}, small)), expected));
    CHECK(same(unwrap(segmenter.segment({bgr.data(), height, width, stride, PixelFormat::bgr}, small)), expected));

    const std::size_t parent = golden.shape.width * 3;
    const std::uint8_t* first = golden.rgb.data() + top * parent + left * 3;
    CHECK(same(unwrap(segmenter.segment({first, height, width, parent}, small)), expected));

    std::vector<std::uint8_t> pixels = bgr;
    const Mat mat{pixels.data(), static_cast<int>(height), static_cast<int>(width), {stride}};
    const ImageView view(mat.data, mat.rows, mat.cols, mat.step, PixelFormat::bgr);
    CHECK(same(unwrap(segmenter.segment(view, small)), expected));

    std::vector<float> buffer(height * width + 1, -1.0F);
    CHECK(segmenter.segment(view, small, buffer));
    CHECK(buffer.back() == -1.0F);
    buffer.pop_back();
    CHECK(same(buffer, expected));
}

// 0 1 2 1 0 1 2 … for three pixels, by bouncing to and fro.
std::size_t bounce(std::size_t at, std::size_t size) {
    std::size_t position = 0;
    for (bool forward = true; at > 0 && size > 1; --at) {
        forward = position == 0 || (forward && position + 1 < size);
        position = forward ? position + 1 : position - 1;
    }
    return position;
}

void mirrored(const Segmenter& segmenter, const Golden& golden, std::size_t height, std::size_t width) {
    const Rgb image = cut(golden, 30, 40, height, width);
    Rgb whole{64, 64, {}};
    for (std::size_t index = 0; index < 64 * 64 * 3; ++index) {
        whole.bytes.push_back(image.at(bounce(index / 192, height), bounce(index / 3 % 64, width), index % 3));
    }
    const std::vector<float> padded = unwrap(segmenter.segment(whole.bytes, Shape{1, 64, 64}));
    std::vector<float> expected;
    for (std::size_t y = 0; y < height; ++y) {
        const auto row = padded.begin() + static_cast<std::ptrdiff_t>(y * 64);
        expected.insert(expected.end(), row, row + static_cast<std::ptrdiff_t>(width));
    }
    CHECK(same(unwrap(segmenter.segment(image.bytes, height, width)), expected));
}

// Another batch size changes the order of the sums in the graph, so the last bits may differ.
void batches(const Segmenter& segmenter, const Golden& golden) {
    const Rgb image = cut(golden, 0, 0, 150, 110);  // 3 × 2 tiles
    const ImageView view(image.bytes.data(), image.height, image.width);
    const std::vector<float> one = unwrap(segmenter.segment(view, small));
    const std::vector<float> four = unwrap(segmenter.segment(view, {64, 16, 4}));
    for (std::size_t at = 0; at < one.size(); ++at) CHECK(std::abs(one[at] - four[at]) < 1e-4F);
}

}  // namespace

int main(int count, char** words) {
    CHECK(count == 5);
    Options options;
    options.backend = words[4];
    const Segmenter segmenter = open_or_skip(words[1], words[3], options);
    const Golden golden(words[2]);
    one_pass(segmenter, cut(golden, 5, 6, 64, 96));
    views(segmenter, golden, 75, 130);
    views(segmenter, golden, 1, 200);
    for (const std::size_t width : {33, 64}) mirrored(segmenter, golden, 35, width);
    batches(segmenter, golden);
    return 0;
}
