#include "arguments.hpp"

#include <getopt.h>

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <set>

const char* const usage =
    R"(Usage: msal-segment MODEL IMAGE.png... [options]

Finds the nuclei in RGB images with the graph in the folder MODEL, a bundle or the `model` folder of a package.
Sides that are no multiple of 32 are continued by mirroring, and the result is cut to the image again.

  --mask FILE.png       write the mask of the one image: 255 where there is a nucleus, 0 elsewhere
  --masks FOLDER        write FOLDER/<name of the image>.png for each image
  --probability FILE    write the probabilities of all images, one after the other: float32, row by row, no header
  --precision NAME      fp32, fp16, int8 or bf16; needed where MODEL has more than one graph
  --backend NAME        the runtime; by default the first of those that were built, see below
  --threads N           CPU threads; by default as many as the runtime takes by itself
  --streams N           images computed side by side (openvino); use it with --batch
  --batch N             images in one call; they must have one size (1)
  --threshold P         a pixel is a nucleus where the probability is at least P; by default the model's
  --bench N             time N calls with the first batch of images, after warming up, and write nothing
  --help                this text

Exit codes: 0 done, 1 a runtime failed, 2 what was given cannot be used, 3 this machine lacks something.
Example: msal-segment model slide.png --mask mask.png)";

namespace {

enum Option : int {
    mask = 256,
    masks,
    probability,
    precision,
    backend,
    threads,
    streams,
    batch,
    threshold,
    bench,
    help
};

const option options[] = {
    {"mask", required_argument, nullptr, mask},
    {"masks", required_argument, nullptr, masks},
    {"probability", required_argument, nullptr, probability},
    {"precision", required_argument, nullptr, precision},
    {"backend", required_argument, nullptr, backend},
    {"threads", required_argument, nullptr, threads},
    {"streams", required_argument, nullptr, streams},
    {"batch", required_argument, nullptr, batch},
    {"threshold", required_argument, nullptr, threshold},
    {"bench", required_argument, nullptr, bench},
    {"help", no_argument, nullptr, help},
    {nullptr, 0, nullptr, 0},
};

// Reads a whole number.
template <class Number>
bool read(const char* word, Number least, Number most, Number& number) {
    const char* end = word + std::strlen(word);
    const auto [rest, error] = std::from_chars(word, end, number);
    return error == std::errc() && rest == end && number >= least && number <= most;
}

// By strtof: GCC reads no float with from_chars before version 11.
bool read_share(const char* word, float& number) {
    char* rest = nullptr;
    number = std::strtof(word, &rest);
    return rest != word && *rest == '\0' && number >= 0 && number <= 1;
}

std::string wrong_number(const char* name, const char* word, const char* wanted) {
    return std::string("--") + name + " takes " + wanted + ", not '" + word + "'";
}

// Returns what is wrong, or nothing.
std::string take(int which, const char* word, Arguments& given) {
    switch (which) {
        case mask:
            given.mask = word;
            return "";
        case masks:
            given.masks = word;
            return "";
        case probability:
            given.probability = word;
            return "";
        case precision:
            given.precision = word;
            return "";
        case backend:
            given.options.backend = word;
            return "";
        case threads:
            return read(word, 1, 1024, given.options.threads) ? "" : wrong_number("threads", word, "1 to 1024");
        case streams:
            return read(word, 1, 1024, given.options.streams) ? "" : wrong_number("streams", word, "1 to 1024");
        case batch:
            return read<std::size_t>(word, 1, 1024, given.batch) ? "" : wrong_number("batch", word, "1 to 1024");
        case bench:
            return read<std::size_t>(word, 1, 1000000, given.bench) ? "" : wrong_number("bench", word, "1 to 1000000");
        case threshold:
            given.threshold = 0.0F;
            return read_share(word, *given.threshold) ? "" : wrong_number("threshold", word, "0 to 1");
        default:
            given.help = true;
            return "";
    }
}

// Returns a name that two images have, whose masks would be one file; or nothing.
std::string name_of_two(const std::vector<std::string>& images) {
    std::set<std::string> names;
    for (const std::string& image : images) {
        const std::string name = std::filesystem::path(image).stem().string();
        if (!names.insert(name).second) return name;
    }
    return "";
}

std::string check(const Arguments& given) {
    if (given.model.empty()) return "The folder of the model is missing; see msal-segment --help";
    if (given.images.empty()) return "No image was given; see msal-segment --help";
    if (!given.mask.empty() && given.images.size() > 1) return "--mask takes one image; use --masks FOLDER for more";
    const std::string twice = given.masks.empty() ? "" : name_of_two(given.images);
    if (!twice.empty()) return "Two images are called " + twice + ", and --masks names the masks after them";
    const bool writes = !given.mask.empty() || !given.masks.empty() || !given.probability.empty();
    if (given.bench == 0 && !writes) return "Nothing would be written; give --mask, --masks, --probability or --bench";
    if (given.bench > 0 && writes) return "--bench writes nothing; leave out --mask, --masks and --probability";
    return "";
}

}  // namespace

std::string parse(int count, char** words, Arguments& given) {
    opterr = 0;  // the sentences here are our own
    for (int which; (which = getopt_long(count, words, ":", options, nullptr)) != -1;) {
        if (which == '?') return std::string("There is no option ") + words[optind - 1] + "; see msal-segment --help";
        if (which == ':') return std::string(words[optind - 1]) + " needs a value; see msal-segment --help";
        const std::string wrong = take(which, optarg, given);
        if (!wrong.empty()) return wrong;
        if (given.help) return "";
    }
    if (optind < count) given.model = words[optind++];
    given.images.assign(words + optind, words + count);
    return check(given);
}
