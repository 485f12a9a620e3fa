#include "arguments.hpp"

#include <CLI/CLI.hpp>
#include <filesystem>
#include <set>

using msal_deploy::Error;
using msal_deploy::ErrorCode;
using msal_deploy::Result;

namespace {

constexpr const char* description =
    "Segment the nuclei in RGB images with a graph of MODEL.\n"
    "Images may have any size from 16 × 16 px: they are computed in overlapping tiles.\n";

constexpr const char* footer =
    "Exit codes: 0 done, 1 a runtime failed, 2 bad input or usage, 3 missing requirement.\n"
    "Example: msal-segment model tissue.tif --mask mask.png --labels nuclei.png\n"
    "Backends in this build:";

void add_arguments(CLI::App& app, Arguments& given) {
    app.add_option("MODEL", given.model, "a bundle, or the `model` folder of a package")->required()->option_text(" ");
    app.add_option("IMAGE", given.images, "one or more PNG, JPEG or TIFF files")->required()->option_text(" ");
}

void add_options(CLI::App& app, Arguments& given) {
    const auto add = [&](const char* name, auto& variable, const char* value, const std::string& help) {
        return app.add_option(name, variable, help)->type_name(value)->option_text(value);
    };
    app.set_help_flag("--help", "print this help");
    app.option_defaults()->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    CLI::Option* mask = add("--mask", given.mask, "FILE", "write the mask of one image: nuclei 255, background 0");
    CLI::Option* masks = add("--masks", given.masks, "FOLDER", "write FOLDER/<image name>.png for each image");
    CLI::Option* probability = add("--probability", given.probability, "FILE",
                                   "write the probabilities of all images: float32, row by row, no header");
    CLI::Option* labels = add("--labels", given.labels, "FILE",
                              "write the nuclei of one image, 1 to N, background 0: 16 bits as .png, 32 as .tif");
    add("--precision", given.precision, "NAME", "fp32, fp16, int8 or bf16; required if MODEL has several graphs");
    add("--backend", given.options.backend, "NAME", "default: the first backend listed below");
    add("--threads", given.options.threads, "N", "CPU threads; default: the runtime's choice")
        ->check(CLI::Range(1, 1024));
    add("--streams", given.options.streams, "N", "tiles or images computed in parallel (openvino)")
        ->check(CLI::Range(1, 1024));
    const msal_deploy::Tiling tiling;
    const std::string tile_help = "largest side of a tile, a multiple of 32; default: " + std::to_string(tiling.tile);
    const std::string overlap_help =
        "pixels that neighbouring tiles share at least; default: " + std::to_string(tiling.overlap);
    CLI::Option* tile = add("--tile", given.tiling.tile, "N", tile_help)->check(CLI::Range(32, 4096));
    CLI::Option* overlap = add("--overlap", given.tiling.overlap, "N", overlap_help)->check(CLI::Range(0, 4095));
    add("--batch", given.batch, "N",
        "images per call, without tiles: they must have one size, in multiples of 32; default: 1")
        ->check(CLI::Range(1, 1024))
        ->excludes(tile, overlap);
    add("--threshold", given.threshold, "P", "lowest probability of a nucleus pixel; default: the model's threshold")
        ->check(CLI::Range(0.0, 1.0));
    add("--bench", given.bench, "N", "time N calls with the first batch, after a warm-up, and write nothing")
        ->check(CLI::Range(1, 1000000))
        ->excludes(mask, masks, probability, labels);
}

// Returns the first image name that occurs twice, whose masks would overwrite each other, or an empty string.
std::string duplicate_name(const std::vector<std::string>& images) {
    std::set<std::string> names;
    for (const std::string& image : images) {
        const std::string name = std::filesystem::path(image).stem().string();
        if (!names.insert(name).second) return name;
    }
    return "";
}

// Returns what is wrong with the combination of options, or an empty string.
std::string check(const Arguments& given) {
    if (given.threshold && !(*given.threshold >= 0))
        return "--threshold: Value nan not in range 0 to 1; see msal-segment --help";
    if (!given.mask.empty() && given.images.size() > 1) return "--mask accepts one image; use --masks FOLDER";
    if (!given.labels.empty() && given.images.size() > 1) return "--labels accepts one image; name one";
    const std::string type = std::filesystem::path(given.labels).extension().string();
    if (!given.labels.empty() && type != ".png" && type != ".tif" && type != ".tiff") {
        return "--labels: Expected a name that ends in .png, .tif or .tiff, got " + given.labels + "; choose one";
    }
    const std::string twice = given.masks.empty() ? "" : duplicate_name(given.images);
    if (!twice.empty()) return "Expected images with different names for --masks, got " + twice + " twice; rename one";
    const bool writes =
        !given.mask.empty() || !given.masks.empty() || !given.probability.empty() || !given.labels.empty();
    if (writes || given.bench > 0) return "";
    return "No output was requested; add --mask, --masks, --labels, --probability or --bench";
}

}  // namespace

Result<Arguments> parse(int count, const char* const* words) {
    Arguments given;
    CLI::App app(description, "msal-segment");
    add_arguments(app, given);
    add_options(app, given);
    try {
        app.parse(count, words);
    } catch (const CLI::CallForHelp&) {
        std::string text = footer;
        for (const std::string& name : msal_deploy::backends()) text += " " + name;
        Arguments only_help;
        only_help.help = app.footer(text)->help();
        return only_help;
    } catch (const CLI::ParseError& error) {
        return Error{ErrorCode::bad_input, std::string(error.what()) + "; see msal-segment --help"};
    }
    const std::string wrong = check(given);
    if (!wrong.empty()) return Error{ErrorCode::bad_input, wrong};
    return given;
}
