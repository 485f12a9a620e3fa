// The smallest program that uses the library: reads an image of raw RGB and prints the share of nuclei.
//     embed MODEL_FOLDER PRECISION IMAGE.rgb HEIGHT WIDTH
#include <msal_deploy/segmenter.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>

int main(int count, char** words) {
    if (count != 6) return std::fputs("embed MODEL_FOLDER PRECISION IMAGE.rgb HEIGHT WIDTH\n", stderr), 2;

    auto segmenter = msal_deploy::Segmenter::open(words[1], words[2]);
    if (!segmenter) return std::fprintf(stderr, "%s\n", segmenter.error().message.c_str()), 2;

    std::ifstream file(words[3], std::ios::binary);
    const std::vector<unsigned char> rgb{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    const auto height = std::strtoul(words[4], nullptr, 10), width = std::strtoul(words[5], nullptr, 10);

    auto probability = segmenter->segment(rgb, height, width);
    if (!probability) return std::fprintf(stderr, "%s\n", probability.error().message.c_str()), 2;

    const float threshold = segmenter->spec().threshold;
    const auto nuclei =
        std::count_if(probability->begin(), probability->end(), [&](float p) { return p >= threshold; });
    std::printf("%s: %.2f %% nuclei\n", segmenter->engine().c_str(),
                100.0 * static_cast<double>(nuclei) / static_cast<double>(height * width));
}
