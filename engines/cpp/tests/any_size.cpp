// Images of any size, regions, gaps between rows, BGR, alpha and batches: each gives the bits of the RGB image without
// gaps and alone. Buffers
// end with the last pixel, so that AddressSanitizer sees every byte read beyond. A Python test compares the results
// with Python's.
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

// Where red, green and blue are in a pixel.
struct Layout {
    PixelFormat format;
    std::size_t size, red, green, blue;
};

const Layout rgb{PixelFormat::rgb, 3, 0, 1, 2}, bgr{PixelFormat::bgr, 3, 2, 1, 0};
const Layout rgba{PixelFormat::rgba, 4, 0, 1, 2}, bgra{PixelFormat::bgra, 4, 2, 1, 0};

// Returns the image with `row_bytes` bytes a row. Alpha and the bytes between the rows vary; none follow the last row.
std::vector<std::uint8_t> spread(const Rgb& image, std::size_t row_bytes, const Layout& layout) {
    std::vector<std::uint8_t> bytes((image.height - 1) * row_bytes + image.width * layout.size);
    for (std::size_t at = 0; at < bytes.size(); ++at) bytes[at] = static_cast<std::uint8_t>(at * 31);
    for (std::size_t y = 0; y < image.height; ++y) {
        for (std::size_t x = 0; x < image.width; ++x) {
            std::uint8_t* pixel = &bytes[y * row_bytes + x * layout.size];
            pixel[layout.red] = image.at(y, x, 0);
            pixel[layout.green] = image.at(y, x, 1);
            pixel[layout.blue] = image.at(y, x, 2);
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

// Another batch size changes the order of the sums in the graph, so the last bits may differ.
bool near(const std::vector<float>& one, const std::vector<float>& other) {
    return std::equal(one.begin(), one.end(), other.begin(), other.end(),
                      [](float a, float b) { return std::abs(a - b) < 1e-4F; });
}

void one_pass(const Segmenter& segmenter, const Rgb& image) {
    CHECK(image.height == 64 && image.width == 96);
    const std::vector<float> exact = unwrap(segmenter.segment(image.bytes, Shape{1, 64, 96}));
    CHECK(*std::max_element(exact.begin(), exact.end()) > *std::min_element(exact.begin(), exact.end()));
    CHECK(same(unwrap(segmenter.segment(image.bytes, 64, 96)), exact));
    CHECK(same(unwrap(segmenter.segment(ImageView(image.bytes.data(), 64, 96))), exact));
    for (const Layout& layout : {bgr, rgba, bgra}) {  // go through a copy
        const std::vector<std::uint8_t> bytes = spread(image, 96 * layout.size, layout);
        CHECK(same(unwrap(segmenter.segment({bytes.data(), 64, 96, 0, layout.format})), exact));
    }
}

void views(const Segmenter& segmenter, const Golden& golden, std::size_t height, std::size_t width) {
    const std::size_t top = 21, left = 13, row_bytes = width * 3 + 5;
    const Rgb image = cut(golden, top, left, height, width);
    const std::vector<float> expected = unwrap(segmenter.segment({image.bytes.data(), height, width}, small));
    CHECK(expected.size() == height * width);

    for (const Layout& layout : {rgb, bgr, rgba, bgra}) {
        const std::size_t with_gaps = width * layout.size + 7;
        const std::vector<std::uint8_t> bytes = spread(image, with_gaps, layout);
        CHECK(
            same(unwrap(segmenter.segment({bytes.data(), height, width, with_gaps, layout.format}, small)), expected));
    }

    const std::size_t parent = golden.shape.width * 3;
    const std::uint8_t* first = golden.rgb.data() + top * parent + left * 3;
    CHECK(same(unwrap(segmenter.segment({first, height, width, parent}, small)), expected));

    std::vector<std::uint8_t> pixels = spread(image, row_bytes, bgr);
    const Mat mat{pixels.data(), static_cast<int>(height), static_cast<int>(width), {row_bytes}};
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

// Images of different sizes, some of which have tiles of the same size.
void many_images(const Segmenter& segmenter, const Segmenter& parallel, const Golden& golden) {
    std::vector<Rgb> images;
    std::vector<ImageView> views;
    std::vector<std::vector<float>> alone;
    for (const auto& [height, width] : {std::pair{70, 41}, {64, 64}, {150, 110}, {1, 5}, {64, 64}, {75, 130}}) {
        images.push_back(
            cut(golden, images.size() * 3, 9, static_cast<std::size_t>(height), static_cast<std::size_t>(width)));
    }
    for (const Rgb& image : images) {
        views.emplace_back(image.bytes.data(), image.height, image.width);
        alone.push_back(unwrap(segmenter.segment(views.back(), small)));
    }
    const auto together = segmenter.segment(views, small);
    CHECK(together && together->size() == images.size());
    for (std::size_t at = 0; at < images.size(); ++at) CHECK(same((*together)[at], alone[at]));

    for (const std::size_t batch : {2, 3, 64}) {
        const auto batched = segmenter.segment(views, {64, 16, batch});
        CHECK(batched);
        for (std::size_t at = 0; at < images.size(); ++at) CHECK(near((*batched)[at], alone[at]));
        const auto one_by_one = parallel.segment(views, {64, 16, batch});
        CHECK(one_by_one);
        for (std::size_t at = 0; at < images.size(); ++at) CHECK(near((*one_by_one)[at], alone[at]));
    }
    CHECK(segmenter.segment(Span<const ImageView>(), small)->empty());
}

void batches(const Segmenter& segmenter, const Golden& golden) {
    const Rgb image = cut(golden, 0, 0, 150, 110);  // 3 × 2 tiles
    const ImageView view(image.bytes.data(), image.height, image.width);
    const std::vector<float> one = unwrap(segmenter.segment(view, small));
    const std::vector<float> four = unwrap(segmenter.segment(view, {64, 16, 4}));
    CHECK(near(four, one));
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
    if (options.backend == "openvino") options.streams = 2;
    many_images(segmenter, open_or_skip(words[1], words[3], options), golden);
    return 0;
}
