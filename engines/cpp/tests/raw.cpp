// Lets Python, in its tests and benchmarks, give the library any bytes and time it in turn with itself. Reads lines
// from the standard input, each with an image of raw bytes and how to read them, and segments it:
//     "FILE" HEIGHT WIDTH ROW_BYTES rgb|bgr|rgba|bgra TILE OVERLAP BATCH "RESULT"
// Writes the probabilities to RESULT, float32 row by row, and prints the milliseconds of the call and the number of
// compilations so far (OpenVINO). What is logged goes to the standard error.
//     raw MODEL PRECISION BACKEND THREADS
#include <chrono>
#include <iomanip>
#include <iostream>
#include <map>
#include <mutex>

#include "check.hpp"

using namespace msal_deploy;

namespace {

const std::map<std::string, PixelFormat> formats{
    {"rgb", PixelFormat::rgb}, {"bgr", PixelFormat::bgr}, {"rgba", PixelFormat::rgba}, {"bgra", PixelFormat::bgra}};

const std::map<LogLevel, std::string> levels{
    {LogLevel::error, "error"}, {LogLevel::warning, "warning"}, {LogLevel::info, "info"}};

struct Request {
    std::string file, format, result;
    std::size_t height = 0, width = 0, row_bytes = 0;
    Tiling tiling;
};

bool read(Request& request) {
    std::cin >> std::quoted(request.file) >> request.height >> request.width >> request.row_bytes >> request.format;
    std::cin >> request.tiling.tile >> request.tiling.overlap >> request.tiling.batch >> std::quoted(request.result);
    return static_cast<bool>(std::cin);
}

// Returns the milliseconds of the call.
double segment(const Segmenter& segmenter, const Request& request) {
    const std::vector<char> bytes = bytes_of(request.file);
    const ImageView image(reinterpret_cast<const std::uint8_t*>(bytes.data()), request.height, request.width,
                          request.row_bytes, formats.at(request.format));
    CHECK(bytes.size() >= (image.height - 1) * image.row_bytes + image.width * bytes_per_pixel(image.format));
    const auto start = std::chrono::steady_clock::now();
    const auto result = segmenter.segment(image, request.tiling);
    const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
    if (!result) std::cerr << result.error().message << '\n';
    CHECK(result);
    std::ofstream(request.result, std::ios::binary)
        .write(reinterpret_cast<const char*>(result->data()),
               static_cast<std::streamsize>(result->size() * sizeof(float)));
    return time.count();
}

}  // namespace

int main(int count, char** words) {
    CHECK(count == 5);
    std::mutex logging;
    int compilations = 0;
    Options options;
    options.backend = words[3];
    options.threads = std::stoi(words[4]);
    options.log = [&](LogLevel level, std::string_view message) {
        const std::lock_guard<std::mutex> lock(logging);
        std::cerr << levels.at(level) << ": " << message << '\n';
        compilations += message.rfind("Compiling", 0) == 0;
    };
    const Segmenter segmenter = open_or_skip(words[1], words[2], options);
    for (Request request; read(request);) {
        std::cout << segment(segmenter, request) << ' ' << compilations << std::endl;
    }
    return 0;
}
